"""The decoder families: one row each, and the classes that follow from a row.

A row names a family of transformers and the projections whose output joins the residual stream; everything else
is the family's own. Supporting another family is adding a row, here or from your own code with
``loopway.register_family``. Knows nothing of recurrences.
"""

import difflib
from dataclasses import dataclass
from functools import cache

import transformers

from loopway.errors import FamilyError


@dataclass(frozen=True)
class Family:
    """One decoder family of transformers.

    Attributes:
        model_type: transformers' name of it, ``gpt_neox``; the recursive one is ``recursive_gpt_neox``.
        prefix: how its classes begin: ``GPTNeoX`` for ``GPTNeoXConfig``, ``GPTNeoXModel``, ``GPTNeoXForCausalLM``.
        residual_outputs: paths inside a layer of the linear maps whose output is added to the residual stream;
            their initial standard deviation shrinks with depth (paper, section 4).
    """

    model_type: str
    prefix: str
    residual_outputs: tuple[str, ...] = ("self_attn.o_proj", "mlp.down_proj")

    @property
    def config_class(self) -> type:
        return getattr(transformers, f"{self.prefix}Config")

    @property
    def model_class(self) -> type:
        return getattr(transformers, f"{self.prefix}Model")

    @property
    def causal_lm_class(self) -> type:
        return getattr(transformers, f"{self.prefix}ForCausalLM")

    @property
    def recursive_model_type(self) -> str:
        return f"recursive_{self.model_type}"


FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family("gpt_neox", "GPTNeoX", residual_outputs=("attention.dense", "mlp.dense_4h_to_h")),
        Family("llama", "Llama"),
        Family("qwen3", "Qwen3"),
        Family("mistral", "Mistral"),
        Family("olmo2", "Olmo2"),
    )
}


def register_family(family: Family) -> None:
    """Support another decoder family of transformers; its recursive classes are known to the Auto classes at once.

    Raises:
        FamilyError: if the name is taken, or transformers has no such classes.
    """
    from loopway.modeling.registration import register_config

    if family.model_type in FAMILIES:
        raise FamilyError(f"family {family.model_type!r} is registered already")
    missing = [
        name
        for name in (f"{family.prefix}{suffix}" for suffix in ("Config", "Model", "ForCausalLM"))
        if not hasattr(transformers, name)
    ]
    if missing:
        raise FamilyError(
            f"family {family.model_type!r} can't be registered: transformers {transformers.__version__} has no "
            f"{', '.join(missing)}; check the prefix {family.prefix!r}"
        )
    FAMILIES[family.model_type] = family
    register_config(family)


def family_named(model_type: str) -> Family:
    """The family with this model type.

    Raises:
        FamilyError: if it isn't supported; the message lists those that are and says how one is added.
    """
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    nearest = difflib.get_close_matches(model_type, FAMILIES, n=1)
    hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
    raise FamilyError(
        f"family {model_type!r} is not supported{hint}; supported: {', '.join(FAMILIES)}; add another with one "
        f"row: loopway.register_family(loopway.Family(model_type, prefix)), see CONTRIBUTING.md"
    )


@cache
def _class_names(model_types: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    return {
        f"Recursive{FAMILIES[model_type].prefix}{suffix}": (model_type, suffix)
        for model_type in model_types
        for suffix in ("Config", "Model", "ForCausalLM")
    }


def recursive_class(name: str) -> type | None:
    """The class called ``RecursiveLlamaConfig``, ``RecursiveLlamaModel`` or ``RecursiveLlamaForCausalLM``, or None."""
    model_type, suffix = _class_names(tuple(FAMILIES)).get(name, (None, None))
    if model_type is None:
        return None
    if suffix == "Config":
        from loopway.modeling.configuration import config_class

        return config_class(FAMILIES[model_type])
    from loopway.modeling.causal_lm import causal_lm_class, model_class

    return (model_class if suffix == "Model" else causal_lm_class)(FAMILIES[model_type])

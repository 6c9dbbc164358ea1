"""The supported decoder families, one row each.

A row names a family of transformers and the projections whose output joins the residual stream. Everything else comes
from the family's code. To support another family, add a row here, or register one from your own code with
``loopway.register_family``. Knows nothing of layouts, recurrences or the recursive classes made from a row.
"""

import difflib
from dataclasses import dataclass

import transformers

from loopway.errors import FamilyError


@dataclass(frozen=True)
class Family:
    """One decoder family of transformers.

    Attributes:
        model_type: transformers' model type, ``gpt_neox``; the recursive one is ``recursive_gpt_neox``.
        prefix: prefix of its class names: ``GPTNeoX`` for ``GPTNeoXConfig``, ``GPTNeoXModel``, ``GPTNeoXForCausalLM``.
        residual_outputs: paths inside a layer of the linear maps, or of the experts' weights, whose output is added to
            the residual stream; their initial standard deviation shrinks with depth (paper, section 4).
        causal_lm: name of the causal LM's class, if it isn't ``<prefix>ForCausalLM``.
        scales_embeddings: the family's code multiplies embeddings by sqrt(hidden_size), so Loopway doesn't.
    """

    model_type: str
    prefix: str
    residual_outputs: tuple[str, ...] = ("self_attn.o_proj", "mlp.down_proj")
    causal_lm: str | None = None
    scales_embeddings: bool = False

    @property
    def config_class(self) -> type:
        return getattr(transformers, f"{self.prefix}Config")

    @property
    def model_class(self) -> type:
        return getattr(transformers, f"{self.prefix}Model")

    @property
    def causal_lm_class(self) -> type:
        return getattr(transformers, self.causal_lm or f"{self.prefix}ForCausalLM")

    @property
    def has_experts(self) -> bool:
        """Whether its layers hold experts (mixture of experts)."""
        return any("experts" in path for path in self.residual_outputs)

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
        Family("qwen2", "Qwen2"),
        Family("phi3", "Phi3"),
        Family("granite", "Granite"),
        Family("smollm3", "SmolLM3"),
        Family("olmo3", "Olmo3"),
        Family("gemma3_text", "Gemma3Text", causal_lm="Gemma3ForCausalLM", scales_embeddings=True),
        Family(
            "qwen3_moe",
            "Qwen3Moe",
            residual_outputs=("self_attn.o_proj", "mlp.down_proj", "mlp.experts.down_proj"),
        ),
    )
}


def family_named(model_type: str) -> Family:
    """Return the family with this model type.

    Raises:
        FamilyError: it isn't supported; the message lists supported families and says how to add one.
    """
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    nearest = difflib.get_close_matches(model_type, FAMILIES, n=1)
    hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
    raise FamilyError(
        f"family {model_type!r} is not supported{hint}; supported: {', '.join(FAMILIES)}; add another with "
        f"loopway.register_family(loopway.Family(model_type, prefix)), see CONTRIBUTING.md"
    )

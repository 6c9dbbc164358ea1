"""Register another decoder family, after a check: one segment of a tiny model must give the family's logits and loss.

Knows no individual family.
"""

import warnings
from dataclasses import fields
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from loopway.checks import one_line
from loopway.errors import FamilyError
from loopway.modeling.as_vanilla import as_vanilla
from loopway.modeling.families import FAMILIES, Family
from loopway.modeling.initialization import residual_weights
from loopway.modeling.registration import register_names_of

_DEPTH = 6  # enough for layers of several kinds
_TINY = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "num_hidden_layers": _DEPTH,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "sliding_window": 5,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}


def register_family(family: Family) -> None:
    """Register another decoder family of transformers, and its recursive classes with the Auto classes.

    Raises:
        FamilyError: the name belongs to another row, transformers has no such classes, or a tiny recursive model gives
            other logits or another loss than the family's own model.
    """
    if FAMILIES.get(family.model_type) == family:
        return
    if family.model_type in FAMILIES:
        raise FamilyError(
            f"family {family.model_type!r} is registered already, as {FAMILIES[family.model_type]}; choose another name"
        )
    causal_lm = family.causal_lm or f"{family.prefix}ForCausalLM"
    names = (f"{family.prefix}Config", f"{family.prefix}Model", causal_lm)
    missing = [name for name in names if not hasattr(transformers, name)]
    if missing:
        raise FamilyError(
            f"family {family.model_type!r} can't be registered: transformers {transformers.__version__} has no "
            f"{', '.join(missing)}; check the prefix {family.prefix!r}"
        )
    own_type = family.config_class.model_type  # type: ignore[attr-defined]
    if own_type != family.model_type:
        raise FamilyError(
            f"family {family.model_type!r}: {family.prefix}Config is of model type {own_type!r}; give that type"
        )
    FAMILIES[family.model_type] = family
    try:
        check_family(family)
    except FamilyError:
        del FAMILIES[family.model_type]
        raise
    register_names_of(family)


@torch.no_grad()
def check_family(family: Family) -> None:
    """Compare a tiny recursive model of one segment with the family's own model, which shares its modules.

    If the family doesn't support a model that small, skip the comparison and warn.

    Raises:
        FamilyError: logits, loss or residual outputs differ from the family's; the message says which.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        try:
            own = _tiny_model(family)
            ids = torch.arange(3, 27).view(2, 12)
            expected = own(ids, labels=ids)
        except Exception as error:
            warnings.warn(
                f"family {family.model_type!r} is registered without a comparison with its own model, which can't be "
                f"built with hidden size {_TINY['hidden_size']}: {one_line(error)}",
                stacklevel=4,
            )
            return
        try:
            found = as_vanilla(own)
            differences = {
                "logits": _difference(found(ids).logits, expected.logits),
                "loss": _difference(found(ids, labels=ids).loss, expected.loss),
                "loss with skip_logits=True": _difference(
                    found(ids, labels=ids, skip_logits=True).loss, expected.loss
                ),
            }
            layers = list(own.base_model.layers)  # type: ignore[arg-type]
        except FamilyError:
            raise
        except Exception as error:
            raise FamilyError(
                f"family {family.model_type!r} doesn't fit: a tiny model of one segment fails with {one_line(error)}; the "
                f"family's base model needs a list `layers` whose members take and return hidden states"
            ) from error
    for what, difference in differences.items():
        if not difference < 1e-5:
            raise FamilyError(
                f"family {family.model_type!r} doesn't fit: a tiny model of one segment differs in {what} from "
                f"{family.causal_lm_class.__name__} (largest difference {difference:.1e}, expected none)"
            )
    for path in family.residual_outputs:
        if not any(residual_weights(layer, (path,)) for layer in layers):
            known = sorted(
                {n.removesuffix(".weight") for n, p in layers[-1].named_parameters() if p.ndim > 1}
            )
            raise FamilyError(
                f"family {family.model_type!r}: its layers have no {path!r}; set residual_outputs to the maps whose output joins "
                f"the residual stream, chosen from {', '.join(known)}"
            )


def _tiny_model(family: Family) -> PreTrainedModel:
    known = {field.name for field in fields(family.config_class)}  # type: ignore[arg-type]
    config: Any = family.config_class(**{name: value for name, value in _TINY.items() if name in known})
    model = family.causal_lm_class(config).eval()  # float32: expert products don't support float64
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.normal_(std=0.3, generator=generator)
    return model


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return (found.double() - expected.double()).abs().max().item()

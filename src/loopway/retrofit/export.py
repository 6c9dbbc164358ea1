"""Export of a recursive model as a plain decoder of its family, which any engine can serve.

A shared layer is repeated: the plain model has as many layers as the recursive one computes. Knows nothing of files.
"""

from dataclasses import fields

from transformers import PreTrainedConfig, PreTrainedModel

from loopway.errors import FamilyError, RecurrenceError
from loopway.modeling.configuration import RecursiveConfigMixin
from loopway.modeling.per_layer import dense_layers_moved, unrolled_layers
from loopway.modeling.stack import find_stack
from loopway.modeling.weights import Weights, model_with, weights_of

_NOT_OF_FAMILY = {"model_type", "architectures", "transformers_version"}


def export_model(model: PreTrainedModel, *, drop_recurrence: bool = False) -> PreTrainedModel:
    """Return the plain model that computes what a recursive model with recurrence ``base`` computes, bit for bit.

    The embedding scale is multiplied into the embeddings; they are then no longer tied to the head.

    Args:
        model: a recursive model; it isn't changed.
        drop_recurrence: export a model of another recurrence as if it were ``base``; its outputs change.

    Returns:
        The family's causal LM, in eval mode, with copies of the weights and the same generation config.

    Raises:
        FamilyError: the model isn't a recursive one.
        RecurrenceError: its recurrence isn't ``base``, and ``drop_recurrence`` isn't given.
    """
    config = model.config
    if not isinstance(config, RecursiveConfigMixin):
        raise FamilyError(f"{config.model_type}: is not a recursive model, and needs no export")
    if config.recurrence != "base" and not drop_recurrence:
        raise RecurrenceError(
            f"recurrence {config.recurrence!r} can't be exported exactly: a plain {config.family.model_type} model only has "
            f"'base'; to export the layers alone, with other outputs, give --drop-recurrence "
            f"(in Python, drop_recurrence=True)"
        )
    weights = weights_of(model)
    layers = [weights.layers[index] for stage in config.call_layout.stages for index in stage.layers]
    outside, plain = dict(weights.outside), _plain_config(config)
    if (scale := find_stack(model).embedding_scale) is not None:
        embeddings = model.get_input_embeddings()
        name = next(name for name, module in model.named_modules() if module is embeddings)
        outside[f"{name}.weight"] = outside[f"{name}.weight"] * scale
        plain.tie_word_embeddings = False
    return model_with(config.family.causal_lm_class, plain, Weights(outside, layers), like=model)


def _plain_config(config: PreTrainedConfig) -> PreTrainedConfig:
    ours = {field.name for field in fields(RecursiveConfigMixin)} | _NOT_OF_FAMILY
    values = {name: value for name, value in config.to_dict().items() if name not in ours}
    values |= dense_layers_moved(config, unrolled_layers(config.call_layout))  # type: ignore[attr-defined]
    return config.family.config_class(**values)  # type: ignore[attr-defined]

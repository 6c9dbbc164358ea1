"""Conversion of a pretrained decoder to a recursive model.

Unlooped segments keep the original's layers, in order; filling.py fills shared ones. Embeddings, final norm and head are the
original's. The embeddings aren't scaled: a pretrained model has that factor in its weights or in its forward. Knows nothing
of files.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from loopway.layout import Layout
from loopway.modeling.building import recursive_config
from loopway.modeling.causal_lm import causal_lm_class
from loopway.modeling.per_layer import dense_layers_moved, per_layer_lists, unrolled_layers
from loopway.modeling.stack import evaluating
from loopway.modeling.weights import Weights, model_with, weights_of
from loopway.recurrence import build_recurrence
from loopway.recurrence.mesh import MeSH
from loopway.retrofit.filling import fill_layers
from loopway.retrofit.highways import set_routers
from loopway.retrofit.suitability import check_fits


@dataclass(frozen=True)
class Retrofit:
    """A recursive model, and the original layers of each of its unique layers."""

    model: PreTrainedModel
    sources: tuple[tuple[int, ...], ...]


def retrofit_model(
    model: PreTrainedModel,
    *,
    layout: str,
    recurrence: str = "base",
    fill: str = "spaced",
    calibration: Tensor | None = None,
    router_gap: float | None = None,
    start_at_base: bool = True,
    **options: Any,
) -> PreTrainedModel:
    """Make a recursive model from a pretrained one.

    Args:
        model: a supported family's own causal LM, in float32, bfloat16 or float16; it isn't changed.
        layout: computes as many layers as the model has: ``6+9R2+6`` for 30.
        recurrence: ``base`` and ``mesh`` start at what the unrolled layers compute (``mesh`` within the leak of
            ``router_gap``), and so do ``static`` and ``dynamic``; the others change it.
        fill: how the shared layers are made: ``first``, ``last`` or ``spaced`` layers of those that a looped segment
            stands for, their ``average``, or by a calibration text the ``important`` ones or a ``least-squares`` fit.
        calibration: token ids ``[samples, seq]``, for the ways that need a text.
        router_gap: by how much MeSH's router biases prefer the slot that base recursion would use; None is the gap with
            which no more than 1e-4 of the states goes astray.
        start_at_base: whether MeSH's routers start at base recursion; else at random, as in pretraining.
        options: of the recursive config: ``num_slots``, ``transition_router_input``.

    Returns:
        The recursive causal LM, in eval mode, with copies of the weights and the original's generation config.

    Raises:
        FamilyError: an unsupported family, or layers that can't fold.
        LayoutError: a layout that doesn't fit; the message names some that do.
        RecurrenceError: a recurrence or slots that don't fit.
        ConfigError: an unknown way to fill, a missing text, quantised weights.
    """
    return convert(
        model,
        layout=layout,
        recurrence=recurrence,
        fill=fill,
        calibration=calibration,
        router_gap=router_gap,
        start_at_base=start_at_base,
        **options,
    ).model


def convert(
    model: PreTrainedModel,
    *,
    layout: str,
    recurrence: str,
    fill: str,
    calibration: Tensor | None,
    router_gap: float | None,
    start_at_base: bool = True,
    **options: Any,
) -> Retrofit:
    """Retrofit as :func:`retrofit_model` does; also return the sources of every layer."""
    parsed = Layout.parse(layout)
    check_fits(model.config, parsed)
    # The layers come with their values; only the family's own rule is left for what is reset later.
    unscaled = {"scale_embeddings": False, "depth_scaled_init": False}
    config = recursive_config(model.config, layout=layout, recurrence=recurrence, **{**unscaled, **options})
    states = build_recurrence(recurrence, config.recurrence_options)  # type: ignore[attr-defined]
    if isinstance(states, MeSH) and start_at_base:
        set_routers(states, router_gap)
    with evaluating(model):
        filled = fill_layers(model, parsed, fill, calibration)
    # A layer stays of its kind wherever it goes.
    sources = [layer.sources[0] for layer in filled]
    kinds: dict[str, Any] = {
        name: [values[sources[unique]] for unique in unrolled_layers(parsed)]
        for name, values in per_layer_lists(model.config).items()
    }
    for name, value in (kinds | dense_layers_moved(model.config, sources)).items():
        setattr(config, name, value)
    weights = Weights(weights_of(model).outside, [layer.weights for layer in filled])
    cls = causal_lm_class(config.family)  # type: ignore[attr-defined]
    recursive = model_with(cls, config, weights, states.state_dict(), like=model)
    return Retrofit(recursive, tuple(layer.sources for layer in filled))

"""The ways to fill a shared core from a pretrained model's layers.

A way is a function of a band, the layers that a looped segment stands for, and gives the weights of its shared layers.
Adding one is a function and its name in WAYS. Knows nothing of recurrences and of layers that aren't shared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from loopway.checks import not_among
from loopway.errors import ConfigError, FamilyError
from loopway.layout import Layout
from loopway.modeling.weights import layers_of, weights_of
from loopway.retrofit.calibration import importance
from loopway.retrofit.least_squares import calls_of, fit_layer


class Filled(NamedTuple):
    """A unique layer: which layers of the original it is made from, and its weights by their names inside it."""

    sources: tuple[int, ...]
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Band:
    """The original layers of a looped segment.

    Attributes:
        model: the pretrained model.
        weights: of each of its layers.
        layers: those that the segment computes, indices that follow one another.
        size: how many layers share them.
        calibration: token ids ``[samples, seq]``, or None.
    """

    model: PreTrainedModel
    weights: Sequence[dict[str, Tensor]]
    layers: range
    size: int
    calibration: Tensor | None

    @property
    def folds(self) -> list[tuple[int, ...]]:
        """For each shared layer, the layers at its position in every loop: (6, 15), (7, 16), … for 9 layers twice."""
        return [tuple(self.layers[position :: self.size]) for position in range(self.size)]

    def kept(self, layers: Sequence[int]) -> list[Filled]:
        """These layers of the original as they are."""
        return [Filled((layer,), self.weights[layer]) for layer in layers]


def keep_first(band: Band) -> list[Filled]:
    """The first layers of the band."""
    return band.kept(band.layers[: band.size])


def keep_last(band: Band) -> list[Filled]:
    """The last layers of the band."""
    return band.kept(band.layers[-band.size :])


def keep_spaced(band: Band) -> list[Filled]:
    """Layers at even distances, the band's first and last among them (its middle one, for a core of one layer)."""
    last = len(band.layers) - 1
    if band.size == 1:
        return band.kept([band.layers[last // 2]])
    return band.kept([band.layers[round(position * last / (band.size - 1))] for position in range(band.size)])


def average(band: Band) -> list[Filled]:
    """The mean of the layers that fold together."""
    return [Filled(fold, _mean([band.weights[layer] for layer in fold])) for fold in band.folds]


def keep_important(band: Band) -> list[Filled]:
    """The layers whose removal raises the calibration loss most, in their order; the others are dropped."""
    assert band.calibration is not None
    scores = importance(band.model, band.layers, band.calibration)
    most = sorted(band.layers, key=lambda layer: scores[layer], reverse=True)[: band.size]
    return band.kept(sorted(most))


def least_squares(band: Band) -> list[Filled]:
    """Layers whose linear maps fit those of the folded layers best on the calibration text."""
    assert band.calibration is not None
    layers = layers_of(band.model)
    calls = calls_of(band.model, band.layers, band.calibration)
    filled = []
    for fold, mean in zip(band.folds, average(band), strict=True):
        fitted = fit_layer([layers[layer] for layer in fold], [calls[layer] for layer in fold], mean.weights)
        filled.append(Filled(fold, fitted))
    return filled


WAYS: dict[str, Callable[[Band], list[Filled]]] = {
    "first": keep_first,
    "last": keep_last,
    "spaced": keep_spaced,
    "average": average,
    "important": keep_important,
    "least-squares": least_squares,
}
NEED_TEXT = ("important", "least-squares")


def check_way(way: str, layout: Layout, has_calibration: bool) -> None:
    """Raise ConfigError for an unknown way, or a missing text that it needs."""
    if way not in WAYS:
        raise not_among("fill", way, list(WAYS))
    if way in NEED_TEXT and layout.is_looped and not has_calibration:
        raise ConfigError(
            f"fill {way!r} needs a calibration text: give --calibration FILE (in Python, calibration=token ids), or "
            f"fill in one of the ways {', '.join(name for name in WAYS if name not in NEED_TEXT)}"
        )


def fill_layers(
    model: PreTrainedModel, layout: Layout, way: str, calibration: Tensor | None = None
) -> list[Filled]:
    """Return the unique layers of the layout: the model's own in unlooped segments, filled ones in a core.

    Args:
        model: a family's own, with as many layers as the layout computes.
        way: a name in WAYS.
        calibration: token ids ``[samples, seq]``, for the ways that need a text.

    Raises:
        ConfigError: no such way, or no calibration text for it.
    """
    check_way(way, layout, calibration is not None)
    weights = weights_of(model).layers
    filled: list[Filled] = []
    first = 0
    for segment in layout.segments:
        layers = range(first, first + segment.layers * segment.loops)
        band = Band(model, weights, layers, segment.layers, calibration)
        filled += WAYS[way](band) if segment.loops > 1 else band.kept(layers)
        first = layers.stop
    return filled


def _mean(layers: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of every weight, computed in float32 or better."""

    def mean(values: list[Tensor]) -> Tensor:
        precise = torch.promote_types(values[0].dtype, torch.float32)
        return torch.stack([value.to(precise) for value in values]).mean(0).to(values[0].dtype)

    if any(layer.keys() != layers[0].keys() for layer in layers):
        raise FamilyError(
            "layers that fold into one have different weights (experts in one, none in another), so they have no mean: choose "
            "a layout that folds layers of one kind"
        )
    return {name: mean([layer[name] for layer in layers]) for name in layers[0]}

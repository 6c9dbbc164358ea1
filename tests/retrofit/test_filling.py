"""Each way takes the layers that it says, and the fitted maps are the best there are."""

from typing import Any

import pytest
import torch
from pretrained import logits_of, pretrained

import loopway
from loopway.layout import Layout
from loopway.modeling.weights import layers_of
from loopway.retrofit.calibration import importance
from loopway.retrofit.filling import WAYS, fill_layers
from tests.modeling.tiny_models import random_ids


def sources(way: str, layout: str, depth: int) -> list[tuple[int, ...]]:
    filled = fill_layers(pretrained(depth=depth), Layout.parse(layout), way)
    return [layer.sources for layer in filled]


@pytest.mark.parametrize(
    ("way", "core"),
    [
        ("first", [(2,), (3,), (4,)]),
        ("last", [(5,), (6,), (7,)]),
        ("spaced", [(2,), (4,), (7,)]),
        ("average", [(2, 5), (3, 6), (4, 7)]),
    ],
)
def test_which_layers_a_core_is_made_from(way: str, core: list[tuple[int, ...]]) -> None:
    assert sources(way, "2+3R2+1", 9) == [(0,), (1,), *core, (8,)]


def test_a_core_of_one_layer_is_the_bands_middle_one_when_spaced() -> None:
    assert sources("spaced", "1+1R3+1", 5) == [(0,), (2,), (4,)]


def test_every_looped_segment_has_a_band_of_its_own() -> None:
    assert sources("last", "1R2+1+2R2", 7) == [(1,), (2,), (5,), (6,)]
    assert sources("average", "1R2+1+2R2", 7) == [(0, 1), (2,), (3, 5), (4, 6)]


def test_kept_layers_have_the_originals_bits_and_averages_are_means() -> None:
    model = pretrained(depth=4, dtype=torch.bfloat16)
    weights = [layer.state_dict() for layer in layers_of(model)]
    kept = fill_layers(model, Layout.parse("2R2"), "last")
    means = fill_layers(model, Layout.parse("2R2"), "average")
    for position in range(2):
        for name, value in weights[position].items():
            other = weights[position + 2][name]
            assert torch.equal(kept[position].weights[name], other)
            mean = ((value.double() + other.double()) / 2).bfloat16()
            assert means[position].weights[name].dtype == torch.bfloat16
            torch.testing.assert_close(means[position].weights[name], mean, rtol=0, atol=0)


@pytest.mark.parametrize("way", ["first", "last", "average", "least-squares"])
@pytest.mark.parametrize("family", ["gpt_neox", "qwen3"])
def test_where_the_folded_layers_are_alike_nothing_is_lost(family: str, way: str) -> None:
    model = pretrained(family, depth=6)
    layers = layers_of(model)
    for position in (1, 2):
        layers[position + 2].load_state_dict(layers[position].state_dict())
    recursive = loopway.retrofit_model(model, layout="1+2R2+1", fill=way, calibration=random_ids())
    torch.testing.assert_close(logits_of(recursive, random_ids(seed=1)), logits_of(model, random_ids(seed=1)))


def test_layers_that_do_nothing_are_dropped_first() -> None:
    model = pretrained("llama", depth=8, seed=3)
    idle = [2, 3, 5]
    with torch.no_grad():
        for layer in idle:
            for path in ("self_attn.o_proj", "mlp.down_proj"):
                layers_of(model)[layer].get_submodule(path).get_parameter("weight").zero_()
    text = model.generate(
        random_ids(2, 4), max_new_tokens=40, do_sample=False, eos_token_id=None
    )  # its own words
    scores = importance(model, range(8), text)
    assert all(scores[layer] == 0 for layer in idle)
    assert all(scores[layer] > 0 for layer in range(8) if layer not in idle)
    filled = fill_layers(model, Layout.parse("1+3R2+1"), "important", text)
    assert [layer.sources for layer in filled] == [(0,), (1,), (4,), (6,), (7,)]


def test_importance_is_the_rise_of_the_loss_of_a_model_without_the_layer() -> None:
    from pretrained import plain_model

    model, ids = pretrained("gpt_neox", depth=4), random_ids()
    scores = importance(model, [0, 2], ids)

    def loss(model: Any) -> float:
        with torch.no_grad():
            log_probabilities = model(ids).logits[:, :-1].log_softmax(-1)
        return float(-log_probabilities.gather(-1, ids[:, 1:, None]).mean())

    for layer in (0, 2):
        rest = [index for index in range(4) if index != layer]
        shorter = plain_model(model, rest, list(layers_of(model)))
        assert scores[layer] == pytest.approx(loss(shorter) - loss(model), abs=1e-10)


def test_a_way_that_needs_a_text_says_so_and_an_unknown_one_is_refused() -> None:
    model = pretrained(depth=4)
    for way in ("important", "least-squares"):
        with pytest.raises(
            loopway.LoopwayError, match=f"'{way}' needs a calibration text: give --calibration"
        ):
            loopway.retrofit_model(model, layout="1+1R2+1", fill=way)
        loopway.retrofit_model(model, layout="2+2", fill=way)  # nothing to fill
    with pytest.raises(loopway.LoopwayError, match=r"fill: got 'avrage'; did you mean average"):
        loopway.retrofit_model(model, layout="1+1R2+1", fill="avrage")
    assert set(WAYS) == {"first", "last", "spaced", "average", "important", "least-squares"}

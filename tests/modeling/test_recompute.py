"""Recomputation trades time for memory and changes no number."""

from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, gradients, random_ids, stack_of, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode

import loopway
from loopway.modeling.recompute import RECOMPUTE_LEVELS, run_layers


def loss_and_gradients(model: Any, **options: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    ids = random_ids()
    loss = model(ids, labels=ids, **options).loss
    loss.backward()
    return loss.detach(), gradients(model)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_level_gives_the_same_bits(family: str, attention: str) -> None:
    model = tiny_model("1+2R3+1", "mesh", family, attn_implementation=attention).train()
    expected_loss, expected = loss_and_gradients(model)
    for level in RECOMPUTE_LEVELS:
        loopway.set_recompute(model, level)
        for options in ({"use_cache": False}, {}):  # by default the family makes a KV cache, also in training
            loss, found = loss_and_gradients(model, **options)
            assert torch.equal(loss, expected_loss)
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in expected), level


@pytest.mark.parametrize("level", RECOMPUTE_LEVELS[1:])
def test_every_level_goes_with_autocast_which_casts_shared_weights_once(level: str) -> None:
    model = tiny_model("1+2R3+1", "mesh").float().train()

    def found() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(ids := random_ids(), labels=ids, use_cache=False).loss
        model.zero_grad()
        loss.backward()
        return loss.detach(), gradients(model)

    loss, expected = found()
    loopway.set_recompute(model, level)
    again, recomputed = found()
    assert torch.equal(loss, again)
    for name, gradient in expected.items():
        if level == "selective":  # adds up over the loops in float32
            assert (recomputed[name] - gradient).norm() <= 0.02 * gradient.norm() + 1e-6, name
        else:
            assert torch.equal(recomputed[name], gradient), name


@pytest.mark.parametrize("level", RECOMPUTE_LEVELS)
def test_every_level_goes_with_the_meta_device_which_has_no_autocast(level: str) -> None:
    states = torch.empty(2, 4, device="meta", requires_grad=True)
    assert run_layers([(torch.nn.Linear(4, 4, device="meta"), {})], states, level).shape == (2, 4)


class Counter(TorchDispatchMode):
    """How often matrix products and norms run."""

    def __init__(self) -> None:
        super().__init__()
        self.products = self.norms = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.products += func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        self.norms += func is torch.ops.aten.native_layer_norm.default
        return func(*args, **(kwargs or {}))


def test_each_level_runs_again_what_it_says() -> None:
    model = tiny_model("1+2R3+1", "mesh").train()
    ids = random_ids()
    counts = {}
    for level in RECOMPUTE_LEVELS:
        loopway.set_recompute(model, level)
        with Counter() as counter:
            model(ids, labels=ids, use_cache=False).loss.backward()
        counts[level] = (counter.products, counter.norms)
    products, norms = counts["none"]
    layers = model.config.num_hidden_layers
    assert counts["selective"] == (products, norms + 2 * layers)
    again = {level: counts[level][0] - products for level in ("layer", "stage")}
    assert counts["layer"][1] == counts["stage"][1] == norms + 2 * layers
    assert 2 * layers < again["layer"] <= again["stage"] <= 4 * layers  # a layer has four products


def test_a_level_is_checked_and_reached_through_wrappers() -> None:
    model = tiny_model()
    with pytest.raises(loopway.LoopwayError, match=r"recompute: got .layers."):
        loopway.set_recompute(model, "layers")
    loopway.set_recompute(torch.nn.Sequential(model), "stage")
    assert stack_of(model).recompute == "stage"


@pytest.mark.parametrize("level", RECOMPUTE_LEVELS)
def test_nothing_is_recomputed_outside_training(level: str) -> None:
    model = tiny_model()
    ids = random_ids()
    expected = model(ids).logits
    loopway.set_recompute(model, level)
    output = model(ids, use_cache=True)
    assert torch.equal(output.logits, expected)
    assert output.past_key_values.get_seq_length() == ids.shape[1]


@pytest.mark.parametrize("level", RECOMPUTE_LEVELS)
def test_compiled_code_recomputes_to_the_same_gradients(level: str) -> None:
    torch.compiler.reset()
    model = tiny_model("1+1R2+1", "mesh").train()
    expected_loss, expected = loss_and_gradients(model, use_cache=False)
    loopway.set_recompute(model, level)
    compiled: Any = torch.compile(model, fullgraph=True, backend="aot_eager")
    model.zero_grad()
    ids = random_ids()
    loss = compiled(ids, labels=ids, use_cache=False).loss
    loss.backward()
    torch.testing.assert_close(loss.detach(), expected_loss, rtol=0.0, atol=1e-12)
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0.0, atol=1e-12)


def test_a_cache_that_holds_tokens_is_refused_where_stages_are_recomputed() -> None:
    model, ids = tiny_model("1+1R2+1", "mesh"), random_ids()
    with torch.no_grad():
        past = model(ids, use_cache=True).past_key_values
    loopway.set_recompute(model.train(), "layer")
    with pytest.raises(loopway.LoopwayError, match="a KV cache that holds tokens"):
        model(ids, past_key_values=past)

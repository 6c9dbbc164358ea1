"""The cache that is written in its place holds what transformers' own holds, whatever is done to it."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, random_ids, tiny_model
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from loopway.modeling.growing_cache import GrowingLayer


def states(tokens: int, batch: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, tokens, 4, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_it_grows_as_transformers_own_cache_does_through_crops_and_beams() -> None:
    growing, plain = GrowingLayer(), DynamicLayer()
    steps: list[Any] = [5, 1, 1, ("crop", -3), 1, 100, 1, ("reorder_cache", torch.tensor([1, 1])), 1, 1]
    steps += [
        ("batch_repeat_interleave", 2),
        ("batch_select_indices", torch.tensor([3, 0])),
        2,
        ("reset",),
        4,
        1,
    ]
    for number, step in enumerate(steps):
        for layer in (growing, plain):
            if isinstance(step, int):
                layer.update(states(step, seed=number), states(step, seed=100 + number))
            else:
                getattr(layer, step[0])(*step[1:])
        assert growing.get_seq_length() == plain.get_seq_length()
        if plain.is_initialized:
            assert torch.equal(growing.keys, plain.keys), step  # type: ignore[arg-type]
            assert torch.equal(growing.values, plain.values), step  # type: ignore[arg-type]


@torch.no_grad()
def test_a_token_is_written_without_copying_those_before_it() -> None:
    layer = GrowingLayer()
    keys, _ = layer.update(states(1000), states(1000))
    place = keys.data_ptr()
    for number in range(200):
        keys, _ = layer.update(states(1, seed=number), states(1, seed=number))
        assert keys.data_ptr() == place
    assert keys.shape[-2] == 1200


def test_with_gradients_nothing_is_written_over() -> None:
    layer = GrowingLayer()
    new = states(3).requires_grad_()
    first, _ = layer.update(new, new)
    loss = (first**2).sum()
    second, _ = layer.update(states(1), states(1))
    (loss + second.sum()).backward()
    torch.testing.assert_close(new.grad, 2 * new.detach() + 1)


@torch.no_grad()
@pytest.mark.parametrize("dtypes", [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)])
def test_another_precision_is_taken_as_transformers_own_cache_takes_it(
    dtypes: tuple[torch.dtype, torch.dtype],
) -> None:
    growing, plain = GrowingLayer(), DynamicLayer()
    for tokens, dtype in ((5, dtypes[0]), (1, dtypes[1]), (1, dtypes[1]), (1, dtypes[0])):
        new = states(tokens).to(dtype)
        for layer in (growing, plain):
            layer.update(new, new)
        assert torch.equal(growing.keys, plain.keys)  # type: ignore[arg-type]
        assert growing.keys.dtype == plain.keys.dtype  # type: ignore[union-attr]


@torch.no_grad()
def test_a_cache_from_inference_mode_is_continued_outside_it() -> None:
    layer = GrowingLayer()
    with torch.inference_mode():
        layer.update(states(3), states(3))
    keys, _ = layer.update(states(1), states(1))
    assert torch.equal(keys, torch.cat([states(3), states(1)], dim=-2))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_generation_grows_its_cache_in_place_and_finds_the_same_tokens(family: str) -> None:
    model = tiny_model(family=family)
    ids = random_ids(2, 5)
    options: dict[str, Any] = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None}
    options |= {"attention_mask": torch.ones_like(ids), "return_dict_in_generate": True}
    ours = model.generate(ids, **options)
    assert any(type(layer) is GrowingLayer for layer in ours.past_key_values.layers) != (
        family == "mistral_sliding"
    )
    own = DynamicCache(config=model.config)
    theirs = model.generate(ids, past_key_values=own, **options)
    assert theirs.past_key_values is own  # a cache that is given is used
    assert torch.equal(ours.sequences, theirs.sequences)
    layers: Any = zip(ours.past_key_values.layers, own.layers, strict=True)
    for here, there in layers:
        torch.testing.assert_close(here.keys, there.keys, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@torch.no_grad()
def test_a_copy_is_transformers_own_layer_without_spare_room(copied: Callable[[Any], Any]) -> None:
    layer = GrowingLayer()
    layer.update(states(5), states(5, seed=1))
    copy_of_it = copied(layer)
    assert type(copy_of_it) is DynamicLayer
    assert vars(copy_of_it).keys() == vars(layer).keys() - {"_blocks"}
    for name in ("keys", "values"):
        tensor = getattr(copy_of_it, name)
        assert torch.equal(tensor, getattr(layer, name))
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    copy_of_it.update(states(1), states(1))
    assert (copy_of_it.get_seq_length(), layer.get_seq_length()) == (6, 5)
    assert type(copied(GrowingLayer())) is DynamicLayer

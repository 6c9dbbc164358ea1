"""Decoding with a KV cache gives what a full forward pass gives, for every family and every way of calling it."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, VOCABULARY, random_ids, tiny_model
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache
from transformers.cache_utils import StaticLayer

import loopway
from loopway.modeling import few_rows

EXACT: dict[str, Any] = {"rtol": 0.0, "atol": 1e-9}
SCHEMES = [
    ("1+2R3+1", "mesh"),
    ("1+2R3+1", "anchor"),
    ("1+2R3+1", "base"),
    ("1+2+1+1", "mesh"),
    ("2R2", "mesh"),
]
LENGTH = 12


def cache_for(kind: str, model: Any) -> DynamicCache | StaticCache:
    if kind == "static":
        return StaticCache(config=model.config, max_cache_len=LENGTH + 4)
    return DynamicCache(config=model.config)


def decode(model: Any, ids: Tensor, mask: Tensor, cache: Any, chunks: list[int]) -> Tensor:
    """The logits of ``ids`` read in chunks of the given lengths."""
    position_ids = (mask.cumsum(-1) - 1).clamp(min=0)
    logits, start = [], 0
    for length in chunks:
        end = start + length
        output = model(
            ids[:, start:end],
            attention_mask=mask[:, :end],
            position_ids=position_ids[:, start:end],
            past_key_values=cache,
            use_cache=True,
        )
        assert output.past_key_values is cache
        logits.append(output.logits)
        start = end
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize(("layout", "recurrence"), SCHEMES)
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_cached_decoding_equals_uncached(family: str, layout: str, recurrence: str, kind: str) -> None:
    model = tiny_model(layout, recurrence, family)
    ids = random_ids(2, LENGTH)
    unpadded = torch.ones_like(ids)
    left_padded = unpadded.clone()
    left_padded[0, :4] = 0
    for mask in (unpadded, left_padded):
        position_ids = (mask.cumsum(-1) - 1).clamp(min=0)
        expected = model(ids, attention_mask=mask, position_ids=position_ids, use_cache=False).logits
        for chunks in ([1] * LENGTH, [6, 1, 1, 1, 1, 1, 1], [5, 4, 3]):
            actual = decode(model, ids, mask, cache_for(kind, model), chunks)
            seen = mask.bool()
            torch.testing.assert_close(actual[seen], expected[seen], **EXACT)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_left_padding_changes_nothing(family: str) -> None:
    model = tiny_model(family=family)
    ids = random_ids(1, 8)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], dim=1)
    mask = (padded != 0).long()
    position_ids = (mask.cumsum(-1) - 1).clamp(min=0)
    alone = model(ids).logits
    together = model(padded, attention_mask=mask, position_ids=position_ids).logits[:, 3:]
    torch.testing.assert_close(together, alone, **EXACT)


@torch.no_grad()
def test_every_iteration_of_a_shared_layer_has_cache_entries_of_its_own() -> None:
    model = tiny_model("1+2R3+1", "mesh", "llama")
    cache = model(random_ids(2, 7), use_cache=True).past_key_values
    assert len(cache.layers) == model.config.num_hidden_layers == 8
    keys = [layer.keys for layer in cache.layers]
    assert all(key.shape == (2, 2, 7, 8) for key in keys)
    assert len({key.data_ptr() for key in keys}) == 8
    assert not any(torch.equal(keys[n], keys[m]) for n in range(8) for m in range(n))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_greedy_generation_is_a_loop_of_argmax(family: str) -> None:
    model = tiny_model(family=family)
    ids = random_ids(2, 5)
    expected = ids
    for _ in range(7):
        expected = torch.cat([expected, model(expected).logits[:, -1:].argmax(-1)], dim=1)
    options = {
        "max_new_tokens": 7,
        "do_sample": False,
        "attention_mask": torch.ones_like(ids),
        "eos_token_id": None,
    }
    assert torch.equal(model.generate(ids, **options), expected)
    assert torch.equal(model.generate(ids, use_cache=False, **options), expected)


@torch.no_grad()
def test_generation_with_a_static_cache_is_the_same() -> None:
    model = tiny_model()
    ids = random_ids(2, 5)
    options = {
        "max_new_tokens": 7,
        "do_sample": False,
        "attention_mask": torch.ones_like(ids),
        "eos_token_id": None,
    }
    static = model.generate(ids, cache_implementation="static", disable_compile=True, **options)
    assert torch.equal(static, model.generate(ids, **options))


@torch.no_grad()
def test_generation_of_a_left_padded_batch_equals_one_by_one() -> None:
    model = tiny_model()
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    first, second = random_ids(1, 8, seed=1), random_ids(1, 5, seed=2)
    batch = torch.cat([first, torch.cat([torch.zeros(1, 3, dtype=torch.long), second], dim=1)])
    together = model.generate(batch, attention_mask=(batch != 0).long(), **options)
    for row, prompt in enumerate((first, second)):
        alone = model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
        assert torch.equal(together[row, -6:], alone[0, -6:])


@pytest.mark.parametrize("recurrence", ["mesh", "anchor"])
@torch.no_grad()
def test_beams_find_sequences_at_least_as_likely_as_greedy_search(recurrence: str) -> None:
    model = tiny_model(recurrence=recurrence)
    ids = random_ids(2, 5)

    def log_likelihood(sequences: Tensor) -> Tensor:
        scores = model(sequences).logits.log_softmax(-1)[:, 4:-1]
        return scores.gather(-1, sequences[:, 5:, None]).sum((1, 2))

    options = {
        "max_new_tokens": 4,
        "do_sample": False,
        "attention_mask": torch.ones_like(ids),
        "eos_token_id": None,
    }
    beams = model.generate(ids, num_beams=VOCABULARY, **options)
    assert beams.shape == (2, 9)
    assert (log_likelihood(beams) >= log_likelihood(model.generate(ids, **options)) - 1e-9).all()
    # Beams are reordered in every stage's cache: without a cache the same sequences come out.
    assert torch.equal(beams, model.generate(ids, num_beams=VOCABULARY, use_cache=False, **options))


@torch.no_grad()
def test_sampling_follows_the_seed() -> None:
    model = tiny_model()
    ids = random_ids(2, 5)

    def sample(seed: int) -> Tensor:
        torch.manual_seed(seed)
        options = {"do_sample": True, "temperature": 2.0, "max_new_tokens": 10, "num_return_sequences": 3}
        return model.generate(ids, attention_mask=torch.ones_like(ids), eos_token_id=None, **options)

    assert sample(0).shape == (6, 15)
    assert torch.equal(sample(0), sample(0))
    assert not torch.equal(sample(0), sample(1))


@torch.no_grad()
def test_only_the_logits_that_are_asked_for_are_computed() -> None:
    model = tiny_model()
    ids = random_ids(2, 6)
    everything = model(ids).logits
    torch.testing.assert_close(model(ids, logits_to_keep=2).logits, everything[:, -2:], **EXACT)
    chosen = torch.tensor([0, 3])
    torch.testing.assert_close(model(ids, logits_to_keep=chosen).logits, everything[:, chosen], **EXACT)
    with_loss = model(ids, labels=ids, logits_to_keep=1)
    torch.testing.assert_close(with_loss.logits, everything[:, -1:], **EXACT)
    torch.testing.assert_close(with_loss.loss, model(ids, labels=ids).loss, **EXACT)


@pytest.mark.skipif(not shutil.which("g++"), reason="compiling for a CPU needs a C++ compiler")
@torch.no_grad()
def test_compiled_decoding_finds_the_same_tokens_with_one_entry_a_stage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(few_rows, "_SMALL", 0)
    model = tiny_model("1R2", dtype=torch.float32)
    ids = random_ids(2, 5)
    options: dict[str, Any] = {"max_new_tokens": 7, "do_sample": False, "eos_token_id": None}
    options |= {"attention_mask": torch.ones_like(ids), "return_dict_in_generate": True}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        compiled: Any = model.generate(ids, **options, **loopway.compiled_decoding(model))
    if few_rows._has_onednn():
        assert "loopway::few_rows_linear" in {event.key for event in profile.key_averages()}
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    assert torch.equal(compiled.sequences, model.generate(ids, **options).sequences)
    layers: Any = compiled.past_key_values.layers
    assert all(isinstance(layer, StaticLayer) for layer in layers)
    assert len({layer.keys.data_ptr() for layer in layers}) == len(layers) == 2


def test_without_a_compiler_compiled_decoding_says_what_is_missing() -> None:
    from torch._inductor import config

    # Not by monkeypatch, which would lose the setting on its way back.
    with (
        config.patch("cpp.cxx", ("no-such-compiler",)),
        pytest.raises(loopway.LoopwayError, match="needs a C\\+\\+ compiler"),
    ):
        loopway.compiled_decoding(tiny_model())


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_folder_that_is_opened_with_more_loops_generates(family: str, tmp_path: Path) -> None:
    tiny_model("1+2R2+1", "base", family, dtype=torch.float32).save_pretrained(tmp_path)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path, layout="1+2R4+1")
    expected = tiny_model("1+2R4+1", "base", family, dtype=torch.float32)
    lists = {key: value for key, value in expected.config.to_dict().items() if isinstance(value, list)}
    assert {key: model.config.to_dict()[key] for key in lists} == lists
    assert model.config.num_hidden_layers == 10
    ids = random_ids(length=5)
    options: Any = {"max_new_tokens": 4, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    assert torch.equal(model.generate(ids, **options), expected.generate(ids, **options))

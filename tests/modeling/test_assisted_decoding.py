"""Drafted tokens (assistant models, prompt lookup) are those of plain decoding, and rejected ones leave every cache."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from tiny_models import FAMILIES, MIXED, family_config, random_ids, randomize, tiny_model
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig

from loopway.data.tokenizer import train_tokenizer
from loopway.errors import ConfigError
from loopway.modeling import few_rows

WINDOWED = ("mistral_sliding", *MIXED)
NEW_TOKENS = 20
GREEDY: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": None}


@pytest.fixture
def drafts_beyond_windows(request: pytest.FixtureRequest) -> None:
    if request.getfixturevalue("family") in WINDOWED and Version(transformers.__version__) < Version("5.18"):
        pytest.skip(
            "its sliding caches return more than the mask allows for, of the family's own models, too"
        )


@torch.no_grad()
def resembling(model: Any, scale: float = 0.01) -> Any:
    """A model some of whose greedy tokens are the given model's."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(3)
    for parameter in other.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.add_(scale * noise.to(parameter.dtype))
    return other


def plain_model(family: str, **fields: Any) -> Any:
    """The family's own model of two layers."""
    config = family_config(family, num_hidden_layers=2, **fields)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
    randomize(model, seed=5)
    return model


def generate(model: Any, ids: Tensor, **options: Any) -> Any:
    return model.generate(ids, attention_mask=torch.ones_like(ids), **{**GREEDY, **options})


@pytest.mark.usefixtures("drafts_beyond_windows")
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_rejected_drafts_leave_every_stages_cache(family: str) -> None:
    model = tiny_model(family=family)
    assistant = resembling(model)
    lengths: list[int] = []
    hook = model.register_forward_hook(lambda _, __, output: lengths.append(output.logits.shape[1]))
    ids = random_ids(1, 5)
    drafted = generate(model, ids, assistant_model=assistant, return_dict_in_generate=True)
    hook.remove()
    assert len(lengths) < NEW_TOKENS < sum(lengths)  # some drafts were accepted, some rejected
    expected = generate(model, ids, return_dict_in_generate=True)
    assert torch.equal(drafted.sequences, expected.sequences)
    layers: Any = zip(drafted.past_key_values.layers, expected.past_key_values.layers, strict=True)
    for here, there in layers:
        assert type(here) is type(there)
        torch.testing.assert_close(here.keys, there.keys, rtol=0.0, atol=1e-9)
        torch.testing.assert_close(here.values, there.values, rtol=0.0, atol=1e-9)


@pytest.mark.usefixtures("drafts_beyond_windows")
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_recursive_and_plain_models_draft_for_each_other(family: str) -> None:
    recursive, smaller = tiny_model(family=family), tiny_model("1R2", "base", family)
    plain = plain_model(family)
    ids = random_ids(1, 8)
    for model, assistant in ((recursive, smaller), (recursive, plain), (plain, smaller)):
        assert torch.equal(generate(model, ids, assistant_model=assistant), generate(model, ids))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_prompt_lookup_finds_the_same_tokens(family: str) -> None:
    model = tiny_model(family=family)
    ids = random_ids(1, 4).repeat(1, 3)
    assert torch.equal(generate(model, ids, prompt_lookup_num_tokens=3), generate(model, ids))


@pytest.mark.parametrize("kind", ["assistant", "lookup"])
@torch.no_grad()
def test_sampling_with_drafts_follows_the_seed(kind: str) -> None:
    model = tiny_model()

    def sample(seed: int) -> Tensor:
        torch.manual_seed(seed)
        # Not one assistant for all: transformers adapts the number of its drafts from call to call.
        drafts = (
            {"prompt_lookup_num_tokens": 3} if kind == "lookup" else {"assistant_model": resembling(model)}
        )
        return generate(model, random_ids(1, 5), do_sample=True, temperature=2.0, **drafts)

    assert torch.equal(sample(0), sample(0))
    assert not torch.equal(sample(0), sample(1))


@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
@torch.no_grad()
def test_an_assistant_with_another_tokenizer_drafts(family: str) -> None:
    tokenizer = train_tokenizer(["the state of a loop is what one pass hands to the next " * 20], 280)
    other = train_tokenizer(["a highway carries it, and a model reads the state again " * 20], 300)
    model = tiny_model(family=family, vocab_size=len(tokenizer))
    ids = tokenizer("the state of a highway", return_tensors="pt").input_ids
    tokenizers = {"tokenizer": tokenizer, "assistant_tokenizer": other}
    for assistant in (
        tiny_model("1R2", "base", family, vocab_size=len(other)),
        plain_model(family, vocab_size=len(other)),
    ):
        drafted = generate(model, ids, assistant_model=assistant, **tokenizers)
        assert torch.equal(drafted, generate(model, ids))


@pytest.mark.skipif(not few_rows._has_onednn(), reason="this build of torch has no oneDNN")
@torch.no_grad()
def test_drafts_are_verified_with_fast_products_of_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few_rows, "_SMALL", 0)
    rows: set[int] = set()
    product = few_rows._product

    def watched(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows.add(input.numel() // input.shape[-1])
        return product(input, weight, bias)

    monkeypatch.setattr(few_rows, "_product", watched)
    model = tiny_model(dtype=torch.float32)
    ids = random_ids(1, 1)
    drafted = generate(model, ids, assistant_model=model)  # both put the products back
    assert max(rows) > 1
    assert torch.equal(drafted, generate(model, ids))
    assert not few_rows._users


@torch.no_grad()
def test_a_static_cache_with_drafts_raises_transformers_own_error() -> None:
    model = tiny_model()
    for target in (model, plain_model("gpt_neox")):
        with pytest.raises(ValueError, match="not supported with Static cache"):
            generate(target, random_ids(1, 5), assistant_model=model, cache_implementation="static")


@pytest.mark.parametrize("family", FAMILIES)
def test_drafting_with_fewer_layers_is_refused_and_leaves_the_model_as_it_was(family: str) -> None:
    model = tiny_model("1+2R2+1", "mesh", family)
    ids = random_ids(1)
    greedy = generate(model, ids)
    config = model.config.to_dict()
    asked = GenerationConfig.from_dict({**model.generation_config.to_dict(), "assistant_early_exit": 2})
    for settings in ({"assistant_early_exit": 2}, {"generation_config": asked}):
        with pytest.raises(ConfigError, match=r"assistant_early_exit=2: .*omit it"):
            model.generate(ids, max_new_tokens=4, **settings)
    assert model.config.to_dict() == config
    assert torch.equal(generate(model, ids), greedy)


def test_a_folder_that_asks_for_drafting_with_fewer_layers_is_refused(tmp_path: Path) -> None:
    model = tiny_model()
    model.generation_config.assistant_early_exit = 2
    model.save_pretrained(tmp_path)
    opened: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"assistant_early_exit=2: .*omit it"):
        opened.generate(random_ids(1), max_new_tokens=4)

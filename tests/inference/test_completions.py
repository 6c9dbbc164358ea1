"""Several texts at once, and options under transformers' names; tests/training/test_generation.py has trained models."""

from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loopway.errors import ConfigError
from loopway.inference.generation import Completion, complete, generate, prompt_ids, token_limit
from loopway.options import Sampling
from tests.inference.conftest import CONTEXT

Opened = tuple[PreTrainedModel, PreTrainedTokenizerBase]
PROMPTS = ["the cat", "the", "a house under the tree and then the dog", "", "dog runs"]


def completed(opened: Opened, prompts: list[str], sampling: Sampling, **options: Any) -> list[Completion]:
    model, tokenizer = opened
    ids = [prompt_ids(tokenizer, prompt, model.config) for prompt in prompts]
    return [*complete(model, tokenizer, ids, sampling, **options)]


@pytest.mark.parametrize("penalty", [None, 1.3])
def test_a_batch_gives_the_texts_of_its_prompts_one_by_one(opened: Opened, penalty: float | None) -> None:
    sampling = Sampling(max_new_tokens=40, greedy=True, repetition_penalty=penalty)
    alone = [completed(opened, [prompt], sampling)[0] for prompt in PROMPTS]
    for size in (2, 8):
        together = completed(opened, PROMPTS, sampling, batch_size=size)
        assert [each.prompt_index for each in together] == [0, 1, 2, 3, 4]
        assert [(each.text, each.completion_tokens) for each in together] == [
            (each.text, each.completion_tokens) for each in alone
        ]
    assert len({each.text for each in alone}) == len(PROMPTS)


@pytest.fixture
def endless(opened: Opened) -> Opened:
    """The model without an end token."""
    opened[0].generation_config.eos_token_id = None  # type: ignore[union-attr]
    return opened


def test_short_prompts_beside_a_long_one_end_where_they_end_alone(endless: Opened) -> None:
    prompts = ["the cat " * 40, "the", "dog"]
    sampling = Sampling(max_new_tokens=150, greedy=True)
    alone = [completed(endless, [prompt], sampling)[0] for prompt in prompts]
    positions: list[int] = []
    endless[0].register_forward_pre_hook(
        lambda module, args, kwargs: positions.append(int(kwargs["position_ids"].max())), with_kwargs=True
    )
    together = completed(endless, prompts, sampling)
    assert max(positions) < CONTEXT
    assert [each.text for each in together] == [each.text for each in alone]
    assert alone[0].prompt_tokens + alone[0].completion_tokens == CONTEXT
    assert (alone[1].completion_tokens, alone[1].finish_reason) == (150, "length")


def test_the_seed_decides_every_text(opened: Opened) -> None:
    def texts(seed: int) -> list[str]:
        sampling = Sampling(max_new_tokens=15, seed=seed)
        return [each.text for each in completed(opened, ["the", "the"], sampling, num_return_sequences=3)]

    assert texts(1) == texts(1) != texts(2)
    assert len(set(texts(1))) == 6


def test_texts_of_a_prompt_are_numbered(opened: Opened) -> None:
    found = completed(
        opened, ["the", "a", "dog"], Sampling(max_new_tokens=2), num_return_sequences=2, batch_size=2
    )
    numbers = [(each.prompt_index, each.sequence_index) for each in found]
    assert numbers == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]


def test_a_text_ends_before_its_stop_string(endless: Opened) -> None:
    (whole,) = completed(endless, ["the"], Sampling(max_new_tokens=40, greedy=True))
    stop = whole.text[10:13]
    sampling = Sampling(max_new_tokens=40, greedy=True, stop_strings=[stop])
    cut, other = completed(endless, ["the", "dog runs"], sampling)
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert (cut.finish_reason, whole.finish_reason) == ("stop", "length")
    assert 0 < cut.completion_tokens < whole.completion_tokens
    assert other.completion_tokens == 40
    assert generate(*endless, "the", sampling) == "the" + cut.text


def test_a_stop_string_in_the_prompt_ends_nothing(opened: Opened) -> None:
    sampling = Sampling(max_new_tokens=5, greedy=True, stop_strings=["the cat"])
    assert completed(opened, ["the cat"], sampling)[0].completion_tokens == 5


def test_an_end_token_ends_a_text(opened: Opened) -> None:
    model, tokenizer = opened
    (whole,) = completed(opened, ["the"], Sampling(max_new_tokens=20, greedy=True))
    model.generation_config.eos_token_id = [  # type: ignore[union-attr]
        int(tokenizer(" the", add_special_tokens=False).input_ids[0]),
        int(str(greedy_tokens(opened, "the")[3])),
    ]
    (ended,) = completed(opened, ["the"], Sampling(max_new_tokens=20, greedy=True))
    assert (ended.finish_reason, ended.completion_tokens) == ("stop", 4)
    assert whole.text.startswith(ended.text)


def greedy_tokens(opened: Opened, prompt: str, count: int = 8, **options: float) -> list[int]:
    model, tokenizer = opened
    ids = torch.tensor([prompt_ids(tokenizer, prompt, model.config)])
    output = model.generate(ids, do_sample=False, max_new_tokens=count, **options)  # type: ignore[operator]
    return output[0, ids.shape[1] :].tolist()


def test_the_text_is_that_of_transformers(opened: Opened) -> None:
    (found,) = completed(opened, ["the cat"], Sampling(max_new_tokens=8, do_sample=False))
    assert found.text == opened[1].decode(greedy_tokens(opened, "the cat"))


def test_omitted_options_are_those_of_the_model_s_generation_config(opened: Opened) -> None:
    settings = opened[0].generation_config
    assert settings is not None
    ours = {"temperature": 2.5, "top_k": 3, "top_p": 0.7, "min_p": 0.02, "repetition_penalty": 1.4}
    (given,) = completed(opened, ["the"], Sampling(max_new_tokens=12, **ours))  # type: ignore[arg-type]
    (plain,) = completed(opened, ["the"], Sampling(max_new_tokens=12))
    settings.update(max_new_tokens=12, do_sample=True, **ours)
    (default,) = completed(opened, ["the"], Sampling())
    assert default == given != plain
    (overridden,) = completed(
        opened, ["the"], Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0)
    )
    assert overridden == plain
    (greedy,) = completed(opened, ["the"], Sampling(greedy=True, repetition_penalty=1.0))
    likeliest = greedy_tokens(opened, "the", 12, repetition_penalty=1.0)
    assert greedy.text == opened[1].decode(likeliest, skip_special_tokens=True)
    settings.update(do_sample=False)
    assert completed(opened, ["the"], Sampling(repetition_penalty=1.0)) == [greedy]
    assert completed(opened, ["the"], Sampling(do_sample=True)) == [given]


@pytest.mark.parametrize("settings, limit", [({}, 182), ({"max_new_tokens": 3}, 3), ({"max_length": 30}, 20)])
def test_a_limit_of_the_model_s_settings_holds(opened: Opened, settings: dict, limit: int) -> None:
    model, _ = opened
    model.generation_config.update(**settings)  # type: ignore[union-attr]
    assert token_limit(model, Sampling(), 10) == limit  # 182 of the 200 fit the context of 192
    assert token_limit(model, Sampling(max_new_tokens=7), 10) == 7


def test_several_texts_without_sampling_are_an_error(opened: Opened) -> None:
    opened[0].generation_config.do_sample = False  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"generation_config.json says do_sample: false.*add --do-sample"):
        completed(opened, ["the"], Sampling(), num_return_sequences=2)


def test_a_prompt_that_is_too_long_is_named(opened: Opened) -> None:
    model, tokenizer = opened
    with pytest.raises(
        ConfigError, match=r"many.jsonl, line 3 has \d+ tokens and the model reads 192 at most"
    ):
        prompt_ids(tokenizer, "the cat " * CONTEXT, model.config, "many.jsonl, line 3")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "--temperature: got -1.0"),
        ({"top_p": 3.0}, "--top-p: got 3.0"),
        ({"top_k": -5}, "--top-k: got -5"),
        ({"repetition_penalty": -1.0}, "--repetition-penalty: got -1.0"),
    ],
)
def test_a_value_of_the_models_own_settings_is_checked_as_an_option(
    opened: Opened, settings: dict[str, float], message: str
) -> None:
    of_model: Any = opened[0].generation_config
    for name, value in settings.items():
        setattr(of_model, name, value)
    with pytest.raises(ConfigError, match=f"generation_config.json: {message}"):
        generate(*opened, "the cat")

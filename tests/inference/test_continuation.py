from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from loopway.data.tokenizer import train_tokenizer
from loopway.inference.continuation import Continuation, Continuing


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(["the cat sees the dog"], 300)


def grown(tokenizer: PreTrainedTokenizerFast, text: str, **options: Any) -> tuple[Continuation, list[str]]:
    """The continuation of a prompt by a text, byte by byte, and what it wrote."""
    written: list[str] = []
    row = Continuation(tokenizer, [5], 1000, write=written.append, **options)
    alphabet = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for character in alphabet.pre_tokenize_str(text)[0][0]:
        row.add(tokenizer.get_vocab()[character])
    return row, written


def test_half_a_character_waits_for_its_other_half(tokenizer: PreTrainedTokenizerFast) -> None:
    row, written = grown(tokenizer, "aé東 🦫b")
    assert written == ["a", "é", "東", " ", "🦫", "b"] and row.text == "aé東 🦫b"


def test_what_may_begin_a_stop_string_is_held_back(tokenizer: PreTrainedTokenizerFast) -> None:
    row, written = grown(tokenizer, "a the dot. the dog runs", stop_strings=["the dog", "cat"])
    assert row.text == "".join(written) == "a the dot. "
    assert row.finish_reason == "stop" and len(row.tokens) == len("a the dot. the dog")
    assert written[:4] == ["a", " ", "the do", "t."]


def test_the_first_of_several_stop_strings_ends_the_text(tokenizer: PreTrainedTokenizerFast) -> None:
    row = Continuation(tokenizer, [5], 9, stop_strings=["t", "he"])
    row.add(tokenizer("the", add_special_tokens=False).input_ids[0])
    assert (row.text, row.finish_reason) == ("", "stop")


def test_at_the_limit_everything_is_written(tokenizer: PreTrainedTokenizerFast) -> None:
    written: list[str] = []
    row = Continuation(tokenizer, [5], 2, stop_strings=["dog"], write=written.append)
    for token in tokenizer("do", add_special_tokens=False).input_ids[:1] * 3:
        row.add(token)
    assert (row.finish_reason, len(row.tokens)) == ("length", 2)
    assert row.text == "".join(written) == tokenizer.decode(row.tokens)


def test_special_tokens_end_a_text_and_are_not_part_of_it(tokenizer: PreTrainedTokenizerFast) -> None:
    end = int(str(tokenizer.eos_token_id))
    for options in ({"end_tokens": [end]}, {"stop_strings": ["<|endoftext|>"]}):
        row, _ = grown(tokenizer, "ab", **options)
        row.add(end)
        row.add(7)
        assert (row.text, row.finish_reason, row.tokens[-1]) == ("ab", "stop", end)
    row, _ = grown(tokenizer, "ab")
    row.add(end)
    assert (row.text, row.finish_reason) == ("ab", None)


def test_a_space_that_depends_on_the_token_before_is_kept() -> None:
    words = Tokenizer(models.WordLevel({"▁the": 0, "▁cat": 1, "s": 2}, unk_token="s"))
    words.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    row = Continuation(tokenizer, [0], 9)
    for token in (1, 2, 0):
        row.add(token)
    assert tokenizer.decode([1, 2, 0]) == "cats the" and row.text == " cats the"


def test_each_row_ends_for_itself(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [Continuation(tokenizer, [5], limit) for limit in (1, 3)]
    criterion = Continuing(rows, width=2)
    assert criterion(torch.tensor([[0, 5, 6], [5, 5, 7]]), None).tolist() == [True, False]
    assert criterion(torch.tensor([[0, 5, 6, 9, 9], [5, 5, 7, 8, 9]]), None).tolist() == [True, True]
    assert [row.tokens for row in rows] == [[6], [7, 8, 9]]

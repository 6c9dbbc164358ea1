"""Tokens one by one are the text that they are together, whatever the tokenizer does with bytes and spaces."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from loopway.probing.token_texts import token_texts


@pytest.fixture
def bytewise() -> PreTrainedTokenizerFast:
    """A token a byte, as rare characters have in every byte-level BPE, and one token for "Ġthe"."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "t"), ("h", "e"), ("Ġt", "he")]
    vocabulary = {
        letter: number for number, letter in enumerate([*letters, *("".join(pair) for pair in merges)])
    }
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_parts_of_a_character_are_that_character_numbered(bytewise: PreTrainedTokenizerFast) -> None:
    ids = bytewise("é日 the\n🙂").input_ids
    assert token_texts(ids, bytewise) == [
        "é₁",
        "é₂",
        "日₁",
        "日₂",
        "日₃",
        " the",
        "\n",
        "🙂₁",
        "🙂₂",
        "🙂₃",
        "🙂₄",
    ]


def test_bytes_that_are_no_character_are_one_mark_each(bytewise: PreTrainedTokenizerFast) -> None:
    ids = bytewise("日").input_ids
    assert token_texts(ids[:2], bytewise) == ["\N{REPLACEMENT CHARACTER}"] * 2
    assert token_texts([ids[1], *bytewise("ab").input_ids], bytewise)[1:] == ["a", "b"]


def test_a_tokenizer_that_drops_the_first_space_keeps_all_others() -> None:
    tokenizer = Tokenizer(models.WordLevel({"▁a": 0, "▁b": 1, "c": 2}, unk_token="c"))
    tokenizer.decoder = decoders.Metaspace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    assert token_texts([0, 1, 2, 0], fast) == ["a", " b", "c", " a"]


def test_no_tokens_have_no_text(bytewise: PreTrainedTokenizerFast) -> None:
    assert token_texts([], bytewise) == []

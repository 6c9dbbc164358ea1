"""A calibration text is read as training text is, and no more of it than is asked for."""

import json
from pathlib import Path

import pytest
from pretrained import TEXTS

import loopway
from loopway.data.beginnings import set_beginning
from loopway.data.tokenizer import train_tokenizer
from loopway.retrofit.text import read_calibration


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 300)


def test_documents_follow_one_another_each_with_its_end(tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[:20]))
    expected = [
        token
        for text in TEXTS[:20]
        for token in [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    ]
    ids = read_calibration([tmp_path / "a.jsonl"], tokenizer, tokens=70, length=16)
    assert ids.shape == (4, 16) and ids.flatten().tolist() == expected[:64]
    everything = read_calibration([tmp_path / "a.jsonl"], tokenizer, tokens=10**9, length=10)
    assert everything.flatten().tolist() == expected[: len(expected) // 10 * 10]
    assert read_calibration([tmp_path / "a.jsonl"], tokenizer, tokens=10**9, length=10**6).shape == (
        1,
        len(expected),
    )


def test_documents_begin_as_the_tokenizer_begins_a_text(tmp_path: Path) -> None:
    beginning = train_tokenizer(TEXTS, 300)
    set_beginning(beginning, [7])
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[:3]))
    expected = [token for text in TEXTS[:3] for token in [*beginning(text).input_ids, beginning.eos_token_id]]
    ids = read_calibration([tmp_path / "a.jsonl"], beginning, tokens=10**9, length=10**6)
    assert ids.flatten().tolist() == expected and expected.count(7) == 3


def test_several_files_are_read_in_order(tokenizer, tmp_path: Path) -> None:
    for name, text in (("b.txt", "the river"), ("c.txt", "a stone")):
        (tmp_path / name).write_text(text)
    ids = read_calibration([tmp_path / "b.txt", tmp_path / "c.txt"], tokenizer, tokens=100, length=100)
    assert tokenizer.decode(ids[0]) == "the river<|endoftext|>a stone<|endoftext|>"


def test_a_text_that_cannot_be_read_is_named(tokenizer, tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n{"txt": "b"}\n')
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "blank.jsonl").write_text("\n\n")
    for name, message in (
        ("gone.txt", "--calibration: .*gone.txt' does not exist"),
        ("broken.jsonl", r"--calibration: .*broken.jsonl, line 2: no field 'text'"),
        ("empty.txt", "--calibration: .*empty.txt: the file is empty"),
        ("blank.jsonl", "--calibration: the text has fewer than two tokens"),
    ):
        with pytest.raises(loopway.LoopwayError, match=message):
            read_calibration([tmp_path / name], tokenizer, tokens=100, length=100)


def test_a_tokenizer_without_an_end_of_text_is_refused(tokenizer, tmp_path: Path) -> None:
    endless = train_tokenizer(TEXTS, 300)
    endless.eos_token = None
    (tmp_path / "a.txt").write_text("the river")
    with pytest.raises(loopway.LoopwayError, match="end-of-text token; set its eos_token"):
        read_calibration([tmp_path / "a.txt"], endless, tokens=100, length=100)

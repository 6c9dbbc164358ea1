"""A whole look at token files finds any damage, and the documents that are in both splits."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from corpora import jsonl, make_corpus, make_texts

from loopway.data import PreparationConfig, TokenFile, prepare, write_token_file
from loopway.data.inspection import duplicates, inspect
from loopway.errors import DataError


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    corpus = make_corpus(tmp_path / "corpus")
    prepare(
        PreparationConfig(train=[str(corpus)], validation_fraction=0.2, vocab_size=300), tmp_path / "data"
    )
    monkeypatch.chdir(tmp_path)
    return Path("data")


def test_whole_files_are_said_to_be_whole(prepared: Path) -> None:
    train, validation, none = inspect(["data"]).splitlines()
    file = TokenFile.open(prepared / "train")
    assert train == f"data/train: {file.num_documents} documents, {file.num_tokens:,} tokens, whole"
    assert validation.startswith("data/validation (validation): ") and validation.endswith(" tokens, whole")
    assert none == "0 training documents are also validation documents"


def change_byte(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("place", [0, 101, -1])
def test_a_single_wrong_bit_is_found(prepared: Path, split: str, place: int) -> None:
    change_byte(prepared / f"{split}.bin", place)
    with pytest.raises(
        DataError, match=rf"{split}(.bin: its SHA-256 is not the manifest's|: token \d+ has the id)"
    ):
        inspect(["data"])


def test_every_wrong_byte_of_an_index_is_found(prepared: Path) -> None:
    content = (prepared / "train.idx").read_bytes()
    for place in range(len(content)):
        change_byte(prepared / "train.idx", place)
        with pytest.raises(DataError):
            inspect(["data"])
        (prepared / "train.idx").write_bytes(content)


@pytest.mark.parametrize(
    "name", ["train.bin", "train.idx", "validation.bin", "validation.idx", "manifest.json"]
)
def test_a_missing_or_short_file_is_named(prepared: Path, name: str) -> None:
    shutil.copytree(prepared, "short")
    os.truncate(Path("short", name), 90)
    with pytest.raises(DataError, match=f"{name.split('.')[0]}"):
        inspect(["short"])
    (prepared / name).unlink()
    with pytest.raises(DataError, match="'data' is neither" if name == "manifest.json" else name):
        inspect(["data"])


def test_files_of_elsewhere_are_checked_against_a_vocabulary(tmp_path: Path) -> None:
    write_token_file(tmp_path / "x", [range(50), range(50, 70)], 300)
    name = str(tmp_path / "x.bin")
    assert inspect([name]) == f"{tmp_path / 'x'}: 2 documents, 70 tokens, whole"
    inspect([name], vocab_size=70)
    with pytest.raises(DataError, match=r"x: token 69 has the id 69, outside 0..68"):
        inspect([name], vocab_size=69)


def test_a_negative_id_is_found_without_a_vocabulary(tmp_path: Path) -> None:
    write_token_file(tmp_path / "x", [range(50)], 100_000)
    ids = np.fromfile(tmp_path / "x.bin", "<i4")
    ids[30] = -1
    ids.tofile(tmp_path / "x.bin")
    with pytest.raises(DataError, match="x: token 30 has the id -1"):
        inspect([str(tmp_path / "x.bin")])


def test_a_file_beside_prepared_ones_is_checked_too(prepared: Path) -> None:
    write_token_file(prepared / "more", [range(50)], 300)
    change_byte(prepared / "more.idx", 50)
    with pytest.raises(DataError, match=r"more"):
        inspect(["data/more.bin"])


def test_documents_on_both_sides_are_reported_by_file_and_number(tmp_path: Path) -> None:
    documents = [[1, 2, 3], [4], [5, 6], [4], [1, 2]]
    train = write_token_file(tmp_path / "train", documents, 300)
    more = write_token_file(tmp_path / "more", [[9], [5, 6]], 100_000)
    held = write_token_file(tmp_path / "held", [[4], [7], [5, 6], [4]], 300)
    expected = [
        (f"{tmp_path}/train, document 1", f"{tmp_path}/held, document 0"),
        (f"{tmp_path}/train, document 2", f"{tmp_path}/held, document 2"),
        (f"{tmp_path}/train, document 3", f"{tmp_path}/held, document 0"),
        (f"{tmp_path}/more, document 1", f"{tmp_path}/held, document 2"),
    ]
    assert list(duplicates([train, more], [held])) == expected
    found = inspect([str(tmp_path / "train.bin"), str(tmp_path / "more.bin")], [str(tmp_path / "held.bin")])
    shown = [f"  {document} is {other}" for document, other in expected]
    assert found.splitlines()[3:] == ["4 training documents are also validation documents", *shown]


def test_of_many_duplicates_some_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    write_token_file(tmp_path / "train", [[4]] * 5000, 300)
    write_token_file(tmp_path / "held", [[4]], 300)
    found = inspect([str(tmp_path / "train.bin")], [str(tmp_path / "held.bin")])
    assert "5,000 training documents are also validation documents" in found
    assert found.count(" is ") == 10 and found.endswith("and 4,990 more")


def test_a_preparation_leaves_no_duplicates(tmp_path: Path) -> None:
    texts = make_texts(30)
    (tmp_path / "a.jsonl").write_bytes(jsonl(texts * 3))
    (tmp_path / "v.jsonl").write_bytes(jsonl(texts[:5]))
    split = PreparationConfig(train=[str(tmp_path / "a.jsonl")], validation_fraction=0.3, vocab_size=300)
    given = split.model_copy(update={"validation": [str(tmp_path / "v.jsonl")]})
    for number, config in enumerate((split, given)):
        prepare(config, tmp_path / str(number))
        found = inspect([str(tmp_path / str(number))])
        assert found.endswith("\n0 training documents are also validation documents")
    both = inspect([str(tmp_path / "0")], [str(tmp_path / "0" / "train.bin")])
    count = TokenFile.open(tmp_path / "0" / "train").num_documents
    assert f"\n{count} training documents are also validation documents" in both

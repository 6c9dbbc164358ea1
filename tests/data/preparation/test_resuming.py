"""A preparation that was interrupted goes on: to the same bytes, without doing again what was done, or it says why not."""

import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import (
    KINDS,
    contents,
    jsonl,
    make_corpus,
    make_source,
    make_texts,
    stop_at_unit,
    texts_of,
    watching,
    zstd,
)

from loopway.data import PreparationConfig, PreparedData, prepare
from loopway.data.preparation.encoding import Encoder
from loopway.data.tokenizer import train_tokenizer
from loopway.errors import ConfigError, DataError
from tests.command_line import run_main
from tests.processes import Processes

pytestmark = pytest.mark.usefixtures("small_pieces")

MANY_OF_EACH = ["txt", "jsonl", "jsonl.gz", "parquet", "dataset"]


def config_of(*train: Any, **fields: Any) -> PreparationConfig:
    return PreparationConfig(train=list(train), **{"validation_fraction": 0.3, "vocab_size": 270} | fields)


def corpus_of(kind: str, folder: Path) -> PreparationConfig:
    """Two sources of a kind, with some text twice."""
    if kind == "long_txt":
        texts = [*make_texts(3, words=700), *make_texts(2, seed=1)]
    else:
        texts = make_texts(9 if kind == "txt" else 20)
    first, second = make_source(kind, folder / "a", texts), make_source(kind, folder / "b", texts[:5])
    return config_of(first, second)


def quietly(config: PreparationConfig, folder: Path, **options: Any) -> PreparedData:
    return prepare(config, folder, **{"processes": 1, "progress": False} | options)


def check_killed_at_any_moment(config: PreparationConfig, folder: Path) -> tuple[PreparedData, int]:
    """Prepares text, and goes on from each state of the folder in between; returns the data and the number of states."""
    partial, copies = folder / "whole.incomplete", [folder / "0.incomplete"]
    copies[0].mkdir()

    def copy(event: str, path: str) -> None:
        new = folder / f"{len(copies)}.incomplete"
        now = contents(partial)
        # until there is a unit, all moments are alike
        is_new = len(copies) < 2 or any(name.startswith("units/") for name in now) or "manifest.json" in now
        if is_new and now != contents(copies[-1]):
            shutil.copytree(partial, new)
            copies.append(new)

    with watching(partial, copy):
        prepared = quietly(config, folder / "whole")
    whole = contents(prepared.folder)
    for number in range(len(copies)):
        assert contents(quietly(config, folder / str(number)).folder) == whole
    assert not list(folder.glob("*.incomplete"))
    return prepared, len(copies)


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(tmp_path: Path, kind: str) -> None:
    _, moments = check_killed_at_any_moment(corpus_of(kind, tmp_path), tmp_path)
    assert moments > 8


def test_killed_with_validation_text_given_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    texts = [*make_texts(3, words=700), *make_texts(4, seed=1)]
    train = make_source("long_txt", tmp_path / "train", texts)
    held_out = make_source("jsonl", tmp_path / "held_out", [texts[1], texts[4], "something else"])
    config = config_of(train, validation=[held_out])
    prepared, _ = check_killed_at_any_moment(config, tmp_path)
    assert prepared.manifest["left_out"] == {"duplicates": 2, "unreadable": 0}
    assert texts_of(prepared, "train") == [texts[number] for number in (0, 2, 3, 5, 6)]


def test_interrupted_at_any_line_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """At every 29th one of the modules that know how far the work is."""
    config = config_of(
        make_source("jsonl", tmp_path / "a", make_texts(12)), str(make_corpus(tmp_path / "b", 3))
    )
    whole = contents(quietly(config, tmp_path / "whole").folder)
    modules = ("assembly.py", "units.py", "split.py", "writer.py", "files.py", "prepare.py")
    lines, left = 0, 0

    def interrupt(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.endswith(modules) or "loopway" not in frame.f_code.co_filename:
            return None
        left -= event == "line"
        if left == 0:
            sys.settrace(None)
            raise KeyboardInterrupt
        return interrupt

    while left <= 0:
        lines += 29
        left = lines
        sys.settrace(interrupt)
        try:
            quietly(config, tmp_path / "data")
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        assert contents(quietly(config, tmp_path / "data").folder) == whole
        shutil.rmtree(tmp_path / "data")
    assert lines > 500


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The documents that were encoded, by source and number."""
    documents: list[tuple[str, int]] = []
    encode = Encoder.encode

    def counting(self: Encoder, piece: Any) -> Any:
        result = encode(self, piece)
        documents.extend((piece.source, number) for number in result.documents["number"].tolist())
        return result

    monkeypatch.setattr(Encoder, "encode", counting)
    return documents


def test_what_was_done_is_not_done_again(tmp_path: Path, encoded: list[tuple[str, int]]) -> None:
    config = config_of(make_source("jsonl", tmp_path / "a", make_texts(40)))
    stop_at_unit(config, tmp_path / "data", 6)
    done = len(encoded)
    assert 6 <= done <= 30
    tokenizer = tmp_path / "data.incomplete" / "tokenizer" / "tokenizer.json"
    written = tokenizer.stat().st_mtime_ns
    quietly(config, tmp_path / "data")
    assert len(encoded) == len({*encoded}) == 40
    assert (tmp_path / "data" / "tokenizer" / "tokenizer.json").stat().st_mtime_ns == written


def test_neither_processes_nor_interruption_change_the_bytes(tmp_path: Path) -> None:
    sources = [make_source(kind, tmp_path / "a", make_texts(9, seed)) for seed, kind in enumerate(KINDS[:6])]
    config = config_of(*sources)
    whole = contents(quietly(config, tmp_path / "whole", processes=1).folder)
    stop_at_unit(config, tmp_path / "data", 10, processes=2)
    assert contents(quietly(config, tmp_path / "data", processes=2).folder) == whole


SMALL_UNITS = """
import loopway.data.preparation.units as units
from loopway.cli import main

units.UNIT_BYTES = 100_000
if __name__ == "__main__":
    main()
"""


def test_a_killed_command_goes_on_and_its_processes_end(
    tmp_path: Path,
    tokenizer_folder: Path,
    processes: Processes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    texts = make_texts(4000, words=200)
    sources = [
        make_source("jsonl.gz", tmp_path / "a", texts),
        make_source("parquet", tmp_path / "b", texts[::2]),
    ]
    fields = {"tokenizer": str(tokenizer_folder), "validation_fraction": 0.05, "vocab_size": 4096}
    whole = contents(quietly(config_of(*sources, **fields), tmp_path / "whole").folder)
    arguments = [
        *sources,
        "--out",
        str(tmp_path / "data"),
        "--tokenizer",
        str(tokenizer_folder),
        "--processes",
        "2",
    ]
    units = tmp_path / "data.incomplete" / "units"
    (script := tmp_path / "small_units.py").write_text(SMALL_UNITS)
    ours, theirs = os.pipe()
    with processes.start("prepare", *arguments, script=script, output=theirs) as process:
        os.close(theirs)
        while process.poll() is None and len(list(units.glob("*.json"))) < 3:
            time.sleep(0.01)
    with open(ours) as said:
        said.read()  # returns when all processes that write to this pipe have ended
    assert len(list(units.glob("*.json"))) >= 3 and not (tmp_path / "data").exists()
    monkeypatch.setattr("loopway.data.preparation.units.UNIT_BYTES", 100_000)
    assert run_main(monkeypatch, "prepare", *arguments) == 0
    assert "documents" in capsys.readouterr().out
    assert contents(tmp_path / "data") == whole


def test_a_line_that_can_not_be_read_is_corrected_and_nothing_is_lost(
    tmp_path: Path, tokenizer_folder: Path
) -> None:
    texts = make_texts(30)
    lines = jsonl(texts).splitlines(keepends=True)
    path, fields = tmp_path / "a.jsonl", {"tokenizer": str(tokenizer_folder)}
    path.write_bytes(b"".join([*lines[:20], b'{"text": 3}\n', *lines[21:]]))
    with pytest.raises(DataError, match=r"a.jsonl, line 21: .* \(data.skip_unreadable: true skips"):
        quietly(config_of(str(path), **fields), tmp_path / "data")
    assert list((tmp_path / "data.incomplete" / "units").glob("*.json"))
    path.write_bytes(b"".join(lines))
    prepared = quietly(config_of(str(path), **fields), tmp_path / "data")
    assert sorted(texts_of(prepared, "train") + texts_of(prepared, "validation")) == sorted(texts)
    assert contents(prepared.folder) == contents(
        quietly(config_of(str(path), **fields), tmp_path / "new").folder
    )


def broken_jsonl() -> bytes:
    lines = jsonl(make_texts(30)).splitlines(keepends=True)
    return b"".join([*lines[:9], b"{\n", *lines[9:20], b'{"text": "\xff"}\n', *lines[20:]])


@pytest.mark.parametrize(
    ("name", "content", "unreadable"),
    [
        ("a.jsonl", broken_jsonl(), ["a.jsonl, line 10", "a.jsonl, line 22"]),
        ("a.jsonl.zst", zstd(broken_jsonl()), ["a.jsonl.zst, line 10", "a.jsonl.zst, line 22"]),
        ("a.jsonl.zst", zstd(jsonl(make_texts(30)))[:-20], ["a.jsonl.zst"]),
        ("a.jsonl", b"", ["a.jsonl"]),
        ("a.parquet", b"PAR1 and no more", ["a.parquet"]),
        ("a.txt", b"", ["a.txt"]),
        ("a.txt", b"\xff" + b"x" * 2000, ["a.txt"]),
    ],
)
def test_skipping_may_be_asked_for_after_the_error_and_all_that_is_left_out_is_listed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, unreadable: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content)
    make_source("jsonl", Path("0"), make_texts(10, seed=1))
    make_source("jsonl", Path("z"), make_texts(10, seed=2))
    sources = ["0.jsonl", name, "z.jsonl"]
    with pytest.raises(DataError, match=name):
        quietly(config_of(*sources), Path("data"))
    skipping = config_of(*sources, skip_unreadable=True)
    copies: list[Path] = []

    def copy(event: str, path: str) -> None:
        if event == "os.rename" and "/units/" in path:
            copies.append(Path(f"{len(copies)}.incomplete"))
            shutil.copytree("data.incomplete", copies[-1])

    with watching(Path("data.incomplete"), copy):
        whole = contents(quietly(skipping, Path("data")).folder)
    left_out = [json.loads(line) for line in whole["left_out.jsonl"].splitlines()]
    assert [entry["record"] for entry in left_out] == unreadable
    assert all(name in entry["why"] for entry in left_out)
    assert json.loads(whole["manifest.json"])["left_out"] == {"duplicates": 0, "unreadable": len(unreadable)}
    for number in range(len(copies)):
        assert contents(quietly(skipping, Path(str(number))).folder) == whole


def test_what_lies_behind_unreadable_rows_is_read_once(tmp_path: Path) -> None:
    texts, path = make_texts(60), tmp_path / "a.parquet"
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(pa.table({"text": texts}), path, row_group_size=10, **plain)
    content = path.read_bytes()
    at = content.index(texts[40].encode())
    path.write_bytes(content[: at - 30] + bytes(30) + content[at:])  # without the header of a page
    config = config_of(str(path), skip_unreadable=True)
    stop_at_unit(config, tmp_path / "data", 12)
    prepared = quietly(config, tmp_path / "data")
    found = texts_of(prepared, "train") + texts_of(prepared, "validation")
    assert sorted(found) == sorted(texts[:40])
    assert prepared.manifest["left_out"]["unreadable"] == 1


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
@pytest.mark.parametrize("is_trained", [True, False])
def test_units_of_a_source_that_changes_are_made_again(
    tmp_path: Path, tokenizer_folder: Path, kind: str, is_trained: bool
) -> None:
    fields = {} if is_trained else {"tokenizer": str(tokenizer_folder)}
    config = corpus_of(kind, tmp_path).model_copy(update=fields)
    stop_at_unit(config, tmp_path / "data", 5)
    make_source(kind, tmp_path / "edited", make_texts(9, seed=3))
    shutil.rmtree(tmp_path / f"a.{kind}") if kind == "txt" else (tmp_path / f"a.{kind}").unlink()
    (tmp_path / f"edited.{kind}").rename(tmp_path / f"a.{kind}")
    prepared = quietly(config, tmp_path / "data")
    assert contents(prepared.folder) == contents(quietly(config, tmp_path / "new").folder)


def test_a_source_that_changes_while_it_is_read_is_refused_and_read_again(tmp_path: Path) -> None:
    config = corpus_of("txt", tmp_path)
    names = iter(["a.txt/007.txt"])

    def edit(event: str, path: str) -> None:
        if path.endswith("train.idx.incomplete") and (name := next(names, None)):
            (tmp_path / name).write_text("something else")

    with (
        watching(tmp_path / "data.incomplete", edit),
        pytest.raises(DataError, match=r"a.txt/007.txt: was changed while it was read"),
    ):
        quietly(config, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    prepared = quietly(config, tmp_path / "data")
    assert contents(prepared.folder) == contents(quietly(config, tmp_path / "new").folder)


@pytest.mark.parametrize("change", ["add", "remove", "rename"])
def test_files_may_be_added_and_removed_before_it_goes_on(
    tmp_path: Path, tokenizer_folder: Path, change: str
) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    config = config_of(str(corpus), tokenizer=str(tokenizer_folder))
    stop_at_unit(config, tmp_path / "data", 5)
    if change == "add":
        (corpus / "05b.txt").write_text("more of it")
    elif change == "remove":
        (corpus / "05.txt").unlink()
    else:
        (corpus / "05.txt").rename(corpus / "15b.txt")
    prepared = quietly(config, tmp_path / "data")
    assert contents(prepared.folder) == contents(quietly(config, tmp_path / "new").folder)


def test_files_added_behind_those_that_were_read_leave_their_units_as_they_are(
    tmp_path: Path, tokenizer_folder: Path, encoded: list[tuple[str, int]]
) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    config = config_of(str(corpus), tokenizer=str(tokenizer_folder))
    stop_at_unit(config, tmp_path / "data", 5)
    assert len(encoded) > 8
    (corpus / "99.txt").write_text("more of it")
    quietly(config, tmp_path / "data")
    assert len(encoded) == len({*encoded}) == 21


def test_a_file_of_the_future_is_a_file_like_any_other(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    future = time.time() + 10**6
    os.utime(corpus / "03.txt", (future, future))
    stop_at_unit(config_of(str(corpus)), tmp_path / "data", 5)
    prepared = quietly(config_of(str(corpus)), tmp_path / "data")
    assert quietly(config_of(str(corpus)), tmp_path / "data").manifest == prepared.manifest


@pytest.mark.parametrize("change", [{"seed": 1}, {"validation_fraction": 0.1}, {"vocab_size": 280}])
def test_another_config_begins_anew_and_what_was_done_is_kept(
    tmp_path: Path, change: dict[str, Any], encoded: list[tuple[str, int]]
) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    stop_at_unit(config_of(str(corpus)), tmp_path / "data", 5)
    done = len(encoded)
    stop_at_unit(config_of(str(corpus), **change), tmp_path / "data", 3)
    before = len(encoded)
    prepared = quietly(config_of(str(corpus)), tmp_path / "data")
    assert before > done > 8 and len(encoded) - before == 20 - done
    assert contents(prepared.folder) == contents(quietly(config_of(str(corpus)), tmp_path / "new").folder)


def test_with_a_given_tokenizer_another_split_needs_no_work(
    tmp_path: Path, tokenizer_folder: Path, encoded: list[tuple[str, int]]
) -> None:
    config = config_of(str(make_corpus(tmp_path / "corpus")), tokenizer=str(tokenizer_folder))
    stop_at_unit(config, tmp_path / "data", 5)
    other = config.model_copy(update={"validation_fraction": 0.5})
    prepared = quietly(other, tmp_path / "data")
    assert len(encoded) == len({*encoded}) == 20
    assert contents(prepared.folder) == contents(quietly(other, tmp_path / "new").folder)


def test_another_tokenizer_at_the_same_path_encodes_anew(tmp_path: Path, tokenizer_folder: Path) -> None:
    corpus, tokenizer = make_corpus(tmp_path / "corpus"), tmp_path / "tokenizer"
    shutil.copytree(tokenizer_folder, tokenizer)
    config = config_of(str(corpus), tokenizer=str(tokenizer))
    stop_at_unit(config, tmp_path / "data", 5)
    train_tokenizer(["something else"], 300).save_pretrained(tokenizer)
    prepared = quietly(config, tmp_path / "data")
    assert contents(prepared.folder) == contents(quietly(config, tmp_path / "new").folder)


def test_what_an_earlier_version_has_begun_starts_anew_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, partial = config_of(str(make_corpus(tmp_path / "corpus"))), tmp_path / "data.incomplete"
    partial.mkdir()
    for name in ("checkpoint.json", "request.json", "train.bin", "train.lengths", "left_out.jsonl"):
        (partial / name).write_text("{}")
    prepared = quietly(config, tmp_path / "data")
    (line,) = caplog.messages
    assert line == f"{partial}: was begun by an earlier version of Loopway; it restarts from the beginning"
    assert contents(prepared.folder) == contents(quietly(config, tmp_path / "new").folder)


def test_a_damaged_unit_says_what_to_delete(tmp_path: Path) -> None:
    config = config_of(str(make_corpus(tmp_path / "corpus")))
    stop_at_unit(config, tmp_path / "data", 5)
    arrays = min((tmp_path / "data.incomplete" / "units").glob("*.json")).with_suffix(".npz")
    arrays.write_bytes(arrays.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"\.npz: damaged; delete .*\.json and rerun the same command"):
        quietly(config, tmp_path / "data")
    arrays.with_suffix(".json").unlink()
    prepared = quietly(config, tmp_path / "data")
    assert contents(prepared.folder) == contents(quietly(config, tmp_path / "new").folder)


@pytest.mark.parametrize("damage", ["", "{", "[1]", "{}", '{"end": 1}'])
def test_a_damaged_marker_of_a_unit_says_what_to_delete(tmp_path: Path, damage: str) -> None:
    config = config_of(str(make_corpus(tmp_path / "corpus")))
    stop_at_unit(config, tmp_path / "data", 5)
    marker = min((tmp_path / "data.incomplete" / "units").glob("*.json"))
    marker.write_text(damage)
    with pytest.raises(DataError, match=r"\.json: damaged; delete it and rerun the same command"):
        quietly(config, tmp_path / "data")
    marker.unlink()
    prepared = quietly(config, tmp_path / "data")
    assert contents(prepared.folder) == contents(quietly(config, tmp_path / "new").folder)


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    errors: list[str] = []

    def prepare_too(event: str, path: str) -> None:
        if not errors and "/units/" in path:
            with pytest.raises(ConfigError) as caught:
                quietly(config_of(str(corpus)), tmp_path / "data")
            errors.append(str(caught.value))

    with watching(tmp_path / "data.incomplete", prepare_too):
        quietly(config_of(str(corpus)), tmp_path / "data")
    assert errors == [
        f"another process is preparing {tmp_path / 'data'}; wait for it, or choose another folder"
    ]


@contextmanager
def longest_file(size: int) -> Iterator[None]:
    """Writing fails, as on a full disk, where a file would become longer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [500, 2_000, 12_000, 20_000])
def test_a_full_disk_leaves_nothing_that_looks_whole_and_it_goes_on_once_there_is_room(
    tmp_path: Path,
    tokenizer_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    size: int,
) -> None:
    """Full while the tokenizer is saved, at the first documents, and later."""
    from loopway.cli import main

    sources = [make_source("jsonl", tmp_path / "a", make_texts(200)), str(make_corpus(tmp_path / "b", 10))]
    arguments = [*sources, "--out", str(tmp_path / "data"), "--tokenizer", str(tokenizer_folder)]
    monkeypatch.setattr(sys, "argv", ["loopway", "prepare", *arguments])
    with longest_file(size), pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    output, errors = capfd.readouterr()
    assert (output, len(errors.splitlines())) == ("", 1)
    assert errors.startswith("loopway: ") and "File too large" in errors
    assert not (tmp_path / "data").exists()
    assert not list(tmp_path.glob("data.incomplete/manifest.json")) + list(
        tmp_path.glob("data.incomplete/*.idx")
    )
    assert (tmp_path / "data.incomplete").exists() == (size > 10_000)
    with pytest.raises(SystemExit, match="0"):
        main()
    fields = {"tokenizer": str(tokenizer_folder), "validation_fraction": 0.05, "vocab_size": 4096}
    assert contents(tmp_path / "data") == contents(
        quietly(config_of(*sources, **fields), tmp_path / "new").folder
    )

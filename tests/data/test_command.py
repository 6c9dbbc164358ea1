"""`loopway prepare` says what there is now; a mistake is one line and exit code 2, and nothing is left behind."""

import gzip
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from corpora import contents, jsonl, make_corpus, make_source, make_texts, texts_of, watching

from loopway.cli import main
from loopway.data import PreparedData, write_token_file

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs `loopway prepare ARGUMENTS` where there is some text; gives exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    make_corpus(tmp_path / "texts")
    (tmp_path / "more.jsonl").write_bytes(jsonl(make_texts(5, seed=7)))
    (tmp_path / "bad.jsonl").write_bytes(jsonl(make_texts(5, seed=8)) + b'{"text": 1}\n')
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "letter.txt").write_text("dear reader")

    def run_main(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["loopway", "prepare", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        output = capfd.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    return run_main


def test_text_is_prepared_and_again_nothing_is_done(run: Run) -> None:
    arguments = [
        "texts",
        "more.jsonl",
        "--out",
        "data",
        "--vocab-size",
        "300",
        "--validation-fraction",
        "0.2",
    ]
    code, output, errors = run(*arguments)
    assert (code, errors) == (0, "")
    train, validation, where = output.splitlines()
    prepared = PreparedData.open(Path("data"))
    counts = prepared.manifest["train"]
    assert train == (
        f"train: {counts['documents']} documents, {counts['tokens']:,} tokens "
        f"({counts['bytes'] / counts['tokens']:.2f} bytes each), 0.0 MB of text"
    )
    assert validation.startswith(f"validation: {25 - counts['documents']} documents, ")
    assert where.startswith("in data after ") and where.endswith(" s; train on it with data.train=data")
    assert prepared.vocab_size == 300 and prepared.manifest["config"]["train"] == ["texts", "more.jsonl"]
    before = contents(Path("data"))
    assert run(*arguments)[:1] == (0,) and contents(Path("data")) == before


def test_options_are_fields_of_the_config(run: Run, tokenizer_folder: Path) -> None:
    Path("body.jsonl").write_text(json.dumps({"body": "some text"}) + '\n{"text": "other"}\n')
    code, output, errors = run(
        *(
            "body.jsonl",
            "--out",
            "data",
            "--text-field",
            "body",
            "--validation",
            "held-1",
            "--validation",
            "held-2",
        ),
        *("--tokenizer", str(tokenizer_folder), "--seed", "3", "--skip-unreadable", "--processes", "1"),
    )
    assert (code, "held-1' does not exist" in errors) == (2, True)
    for number in (1, 2):
        Path(f"held-{number}.jsonl").write_text(json.dumps({"body": f"held out {number}"}))
    code, output, _ = run(
        *("body.jsonl", "--out", "data", "--text-field", "body", "--validation", "held-1.jsonl"),
        *(
            "--validation",
            "held-2.jsonl",
            "--tokenizer",
            str(tokenizer_folder),
            "--seed",
            "3",
            "--skip-unreadable",
        ),
    )
    assert code == 0
    assert (
        "left out: 0 training documents that are validation documents, 1 unreadable records; see data"
        in output
    )
    prepared = PreparedData.open(Path("data"))
    assert texts_of(prepared, "train") == ["some text"]
    assert texts_of(prepared, "validation") == ["held out 1", "held out 2"]
    assert prepared.manifest["config"]["seed"] == 3


@pytest.mark.parametrize("streaming", [[], ["--streaming"]])
def test_a_dataset_is_prepared(run: Run, streaming: list[str]) -> None:
    texts = make_texts(30)
    make_source("dataset", Path("rows"), texts)
    arguments = [
        "--dataset",
        "rows.dataset",
        *streaming,
        "--out",
        "data",
        "--vocab-size",
        "300",
        "--processes",
        "1",
    ]
    code, output, _ = run(*arguments)
    assert code == 0 and "documents" in output
    prepared = PreparedData.open(Path("data"))
    assert sorted(texts_of(prepared, "train") + texts_of(prepared, "validation")) == sorted(texts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to prepare; name files, folders or globs, or give --dataset"),
        (["texts"], "give --out, the folder to create"),
        (["gone.txt", "--out", "new"], "data.train: 'gone.txt' does not exist (relative paths start at "),
        (["gone/*.txt", "--out", "new"], "data.train: no file matches 'gone/*.txt'"),
        (["taken/letter.txt", "--out", "new"], "the training text is a single document"),
        (["empty.txt", "more.jsonl", "--out", "new"], "empty.txt: the file is empty"),
        (["bad.jsonl", "--out", "new"], "bad.jsonl, line 6: field 'text' must be a string, got a number"),
        (["texts", "--out", "taken"], "taken: exists and was not prepared by loopway; choose another folder"),
        (["texts", "--out", "texts/00.txt"], "texts/00.txt: exists and was not prepared by loopway"),
        (["texts", "--out", "done", "--vocab-size", "300", "--seed", "1"], "done: was prepared with data.seed = 0, not 1"),
        (["texts", "--out", "new", "--tokenizer", "./nowhere"], "data.tokenizer: the folder './nowhere' does not"),
        (["texts", "--out", "new", "--vocab-size", "20"], "--vocab-size: got 20, expected at least"),
        (["texts", "--out", "new", "--validation-fraction", "1"], "--validation-fraction: got 1.0, expected"),
        (["texts", "--out", "new", "--seed", "-1"], "--seed: got -1, expected"),
        (["texts", "--out", "new", "--text-field", ""], "--text-field: got ''"),
        (["texts", "--out", "new", "--processes", "0"], "processes: got 0, expected at least 1"),
        (["texts", "--out", "new", "--validation", "texts"], "every document is also a validation document"),
        (["--dataset", "./gone", "--out", "new"], "dataset ./gone, split train: "),
        (["texts", "--out", "new", "--split", "test"], "--dataset is missing"),
        (["--check"], "nothing to check; name prepared folders or .bin files"),
        (["--check", "texts"], "data.train: 'texts' is neither a .bin file nor a folder of loopway prepare"),
        (["--check", "gone.bin"], "data.train: 'gone.bin' does not exist"),
        (["--check", "broken"], "broken/train.bin: its SHA-256 is not the manifest's"),
        (["--check", "done", "--validation", "texts"], "data.validation: 'texts' is neither a .bin file nor"),
        (["--check", "wide.bin", "--tokenizer", "done/tokenizer"], "wide: token 300 has the id 300, outside 0..299"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2_and_leaves_nothing_behind(
    run: Run, tmp_path: Path, arguments: list[str], message: str
) -> None:
    for name in ("done", "broken"):
        assert run("texts", "--out", name, "--vocab-size", "300")[0] == 0
    ids = Path("broken/train.bin").read_bytes()
    Path("broken/train.bin").write_bytes(ids[2:4] + ids[:2] + ids[4:])
    write_token_file(Path("wide"), [range(301)], 301)
    before = contents(tmp_path)
    code, output, errors = run(*arguments)
    assert (code, output) == (2, "")
    assert len(errors.splitlines()) == 1, errors
    assert errors.startswith("loopway: ") and message in errors
    assert contents(tmp_path) == before


def test_files_are_checked(run: Run) -> None:
    run("texts", "--out", "data", "--vocab-size", "300")
    write_token_file(Path("x"), [[1, 2], [3, 4]], 300)
    write_token_file(Path("held"), [[3, 4]], 300)
    code, output, errors = run("--check", "data")
    assert (code, errors) == (0, "") and output.count("whole") == 2
    code, output, _ = run("--check", "x.bin", "--validation", "held.bin", "--tokenizer", "data/tokenizer")
    assert code == 0
    assert "1 training documents are also validation documents" in output
    assert "x, document 1 is held, document 0" in output


def test_ctrl_c_is_exit_code_130_and_the_same_command_goes_on(run: Run, tmp_path: Path) -> None:
    arguments = ["texts", "more.jsonl", "--out", "data", "--vocab-size", "300"]

    def interrupt(event: str, path: str) -> None:
        if path.endswith("train.idx.incomplete"):
            os.kill(os.getpid(), signal.SIGINT)

    with watching(tmp_path / "data.incomplete", interrupt):
        code, output, errors = run(*arguments)
    assert (code, output) == (130, "") and "Traceback" not in errors
    assert list(Path("data.incomplete/units").glob("*.json")) and not Path("data").exists()
    assert run(*arguments)[0] == 0 and run(*arguments[:-3], "whole", *arguments[-2:])[0] == 0
    assert contents(Path("data")) == contents(Path("whole"))


def test_progress_is_told_on_the_way(run: Run, monkeypatch: pytest.MonkeyPatch, small_pieces: None) -> None:
    monkeypatch.setattr("loopway.data.preparation.progress._SECONDS_BETWEEN_LINES", -1.0)
    code, _, errors = run("texts", "more.jsonl", "--out", "data", "--vocab-size", "300")
    assert code == 0
    lines = [line for line in errors.splitlines() if line.startswith("tokenising: ")]
    assert len(lines) >= 8
    assert all(" of " in line and "/s" in line for line in lines)


def test_files_are_read_whatever_their_names_case_and_those_that_are_not_are_counted(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    Path("mixed").mkdir()
    for number, name in enumerate(["a.jsonl", "b.JSONL", "c.ndjson", "d.TXT", "e.Jsonl.GZ"]):
        content = jsonl(make_texts(5, seed=number))
        packed = gzip.compress(content) + b"\0" * 512  # zeros behind the end, as tapes leave them
        Path("mixed", name).write_bytes(packed if name.endswith("GZ") else content)
    for name in ("f.pdf", "g.pdf", "notes"):
        Path("mixed", name).write_text("not read")
    assert run("mixed", "--out", "new", "--vocab-size", "300", "--validation-fraction", "0.3")[0] == 0
    assert "3 files of other types are ignored: 2 .pdf, 1 notes (supported: .txt" in caplog.text
    counts = json.loads(Path("new/manifest.json").read_text())
    assert sum(counts[split]["documents"] for split in ("train", "validation")) == 4 * 5 + 1


def test_a_saved_dataset_is_told_from_a_folder_of_text(run: Run) -> None:
    Path("saved").mkdir()
    Path("saved/state.json").write_text("{}")
    code, _, errors = run("saved", "--out", "new")
    assert code == 2 and "give --dataset saved, or in YAML {dataset: saved}" in errors
    Path("saved/a.jsonl").write_bytes(jsonl(make_texts(20, seed=1)))  # a state.json of something else
    assert run("saved", "--out", "new", "--vocab-size", "300")[0] == 0

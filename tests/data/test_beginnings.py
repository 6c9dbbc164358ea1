"""What a document begins with is chosen once, kept in the tokenizer, and the same wherever a text is read."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from corpora import make_texts
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from loopway.data import DataConfig, PreparationConfig, PreparedData, open_data, prepare
from loopway.data.beginnings import beginning_of, set_beginning
from loopway.data.tokenizer import train_tokenizer
from loopway.errors import DataError

TEXTS = make_texts(12)
BOS, END = 300, 0


def make_tokenizer(template: str, tokenizer_class: str | None = None) -> PreTrainedTokenizerFast:
    tokenizer = train_tokenizer(TEXTS, 300)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    names = [name for name in template.split() if name != "$A"]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(  # type: ignore[attr-defined]
        single=template, special_tokens=[(name, tokenizer.get_vocab()[name]) for name in names]
    )
    assert len(tokenizer) == BOS + 1
    return tokenizer


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder holds texts, and tokenizers with and without a bos_token before a text."""
    monkeypatch.chdir(tmp_path)
    for name, template in (("bos", "<s> $A"), ("plain", "$A"), ("both", "<s> $A <|endoftext|>")):
        make_tokenizer(template).save_pretrained(name)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    Path("texts.jsonl").write_text(lines)


pytestmark = pytest.mark.usefixtures("there")


def prepared_with(tokenizer: str, folder: str = "data", **fields: Any) -> PreparedData:
    config = PreparationConfig(train=["texts.jsonl"], tokenizer=tokenizer, validation_fraction=0.2, **fields)
    return prepare(config, folder, processes=1, progress=False)


def documents(prepared: PreparedData) -> list[list[int]]:
    assert prepared.validation is not None
    return [ids.tolist() for file in (prepared.train, prepared.validation) for ids in file.documents()]


@pytest.mark.parametrize(
    ("tokenizer", "add_bos_token", "beginning"),
    [
        ("bos", None, [BOS]),
        ("bos", False, []),
        ("bos", True, [BOS]),
        ("both", None, [BOS]),
        ("plain", None, []),
        ("plain", True, [BOS]),
    ],
)
def test_documents_begin_as_chosen_and_the_saved_tokenizer_begins_texts_so(
    tokenizer: str, add_bos_token: bool | None, beginning: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    prepared = prepared_with(tokenizer, add_bos_token=add_bos_token)
    saved = AutoTokenizer.from_pretrained("data/tokenizer")
    assert sorted(saved.decode(ids[len(beginning) : -1]) for ids in documents(prepared)) == sorted(TEXTS)
    for ids in documents(prepared):
        assert ids == [*saved(saved.decode(ids[len(beginning) : -1])).input_ids, END]
    for opened in (saved, prepared.tokenizer):
        assert (
            opened("the cat").input_ids == beginning + opened("the cat", add_special_tokens=False).input_ids
        )
    assert prepared.beginning == beginning
    is_other = (tokenizer, add_bos_token) in (("bos", False), ("plain", True))
    assert ("the tokenizer begins a text with" in caplog.text) == is_other


def test_a_long_document_begins_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("reading", "units"):
        monkeypatch.setattr(f"loopway.data.preparation.{module}.UNIT_BYTES", 500)
    monkeypatch.setattr("loopway.data.preparation.reading.PIECE_BYTES", 400)
    Path("long.txt").write_text(" ".join(TEXTS))
    config = PreparationConfig(train=["long.txt"], tokenizer="bos", validation_fraction=0)
    file = prepare(config, "data", processes=1, progress=False).train
    ids = file.read(0, file.num_tokens).tolist()
    assert ids[0] == BOS and ids.count(BOS) == 1 and ids[-1] == END and ids.count(END) == 1


def test_a_family_s_class_does_not_take_the_choice_back() -> None:
    settings = Path("plain/tokenizer_config.json")
    settings.write_text(
        json.dumps(json.loads(settings.read_text()) | {"tokenizer_class": "GPTNeoXTokenizer"})
    )
    prepared_with("plain", add_bos_token=True)
    assert beginning_of(AutoTokenizer.from_pretrained("data/tokenizer")) == [BOS]


def test_a_beginning_needs_a_token() -> None:
    train_tokenizer(TEXTS, 300).save_pretrained("none")
    settings = Path("none/tokenizer_config.json")
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"bos_token": None}))
    with pytest.raises(DataError, match=r"data\.add_bos_token: got true, but the tokenizer has no bos_token"):
        prepared_with("none", add_bos_token=True)


def test_a_folder_of_an_earlier_version_stays_as_it_is() -> None:
    """It holds no bos_token, whatever its tokenizer says."""
    before = documents(prepared_with("bos", add_bos_token=False))
    shutil.rmtree("data/tokenizer")
    shutil.copytree("bos", "data/tokenizer")
    manifest = json.loads(Path("data/manifest.json").read_text())
    del manifest["config"]["add_bos_token"]
    Path("data/manifest.json").write_text(json.dumps(manifest))
    prepared = prepared_with("bos")
    assert documents(prepared) == before and beginning_of(prepared.tokenizer) == []


def test_data_prepared_with_a_choice_are_not_those_without_one() -> None:
    prepared_with("plain", add_bos_token=True)
    with pytest.raises(DataError, match=r"was prepared with data\.add_bos_token = True, not None"):
        prepared_with("plain")


def opened(*folders: str, **fields: Any) -> Any:
    return open_data(DataConfig(train=list(folders), sequence_length=16, **fields), "unused")


def test_a_run_s_tokenizer_begins_texts_as_its_documents_do(caplog: pytest.LogCaptureFixture) -> None:
    prepared_with("plain", "without")
    prepared_with("bos", "with")
    assert beginning_of(opened("with").tokenizer) == [BOS]
    assert not caplog.records
    assert beginning_of(opened("without", tokenizer="bos").tokenizer) == []
    assert (
        "without: documents begin with no special token, but the tokenizer begins a text with <s>"
        in caplog.text
    )
    with pytest.raises(DataError, match="documents of with begin differently from those of without"):
        opened("without", "with")
    with pytest.raises(
        DataError, match=r"data\.add_bos_token: got true, but without was prepared with another value"
    ):
        opened("without", add_bos_token=True)
    assert beginning_of(opened("without/train.bin", tokenizer="bos", add_bos_token=False).tokenizer) == []


def test_a_choice_that_changes_nothing_leaves_a_tokenizer_as_it_is() -> None:
    tokenizer = make_tokenizer("<s> $A")
    before = tokenizer.backend_tokenizer.to_str()
    set_beginning(tokenizer, [BOS])
    assert tokenizer.backend_tokenizer.to_str() == before

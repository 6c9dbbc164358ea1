"""A tokenizer trained here loses nothing, is the same every time, and opens like any other."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import loopway
from loopway.data.tokenizer import END_OF_TEXT, fingerprint, load_tokenizer, train_tokenizer, vocabulary_size
from loopway.errors import DataError

TEXTS = ["the cat sat on the mat. " * 20, "a dog and the cat ran. " * 20]
TOKENIZER = train_tokenizer(TEXTS, 270)


def test_training_is_deterministic() -> None:
    assert train_tokenizer(TEXTS, 270).backend_tokenizer.to_str() == TOKENIZER.backend_tokenizer.to_str()


def test_a_word_without_end_is_learned_from_in_pieces() -> None:
    """The time of training grows with the square of a word's length."""
    tokenizer = train_tokenizer(["a" * 20_000], 300)
    assert max(map(len, tokenizer.get_vocab())) <= 2048
    assert tokenizer.backend_tokenizer.pre_tokenizer.__getstate__() == TOKENIZER.backend_tokenizer.pre_tokenizer.__getstate__()  # fmt: skip
    assert b"ByteLevel" in tokenizer.backend_tokenizer.pre_tokenizer.__getstate__()
    assert tokenizer.decode(tokenizer("a" * 20_000).input_ids) == "a" * 20_000


def test_a_small_corpus_gives_a_smaller_vocabulary() -> None:
    assert len(TOKENIZER) == 270
    assert 257 <= len(train_tokenizer(["ab"], 300)) < 300


def test_a_saved_tokenizer_opens_with_the_auto_class(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    for opened in (AutoTokenizer.from_pretrained(str(tmp_path)), load_tokenizer(str(tmp_path))):
        assert opened("the cat")["input_ids"] == TOKENIZER("the cat")["input_ids"]
        assert opened.eos_token == END_OF_TEXT and len(opened) == 270


def test_a_tokenizer_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_tokenizer(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="no tokenizer could be loaded") as caught:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.fixture
def with_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A tokenizer's folder with code beside it; nobody may be asked whether to run it."""

    def asked(question: str = "") -> str:
        raise AssertionError(question)

    monkeypatch.setattr("builtins.input", asked)
    (tmp_path / "own.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'it-ran')!r}).touch()\nclass Own: ...\n"
    )
    TOKENIZER.save_pretrained(tmp_path)
    yield tmp_path
    assert not (tmp_path / "it-ran").exists()


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | changes))


CODE = {"AutoConfig": "own.Own", "AutoTokenizer": ["own.Own", "own.Own"]}


@pytest.mark.parametrize(
    ("tokenizer", "config"),
    [
        ({"tokenizer_class": "Own", "auto_map": CODE}, {}),
        ({"tokenizer_class": "AutoTokenizer"}, {"model_type": "own", "auto_map": CODE}),
        ({"tokenizer_class": "AutoTokenizer", "auto_map": CODE}, {}),
        (
            {"tokenizer_class": None},
            {"model_type": "own", "auto_map": CODE, "tokenizer_class": "AutoTokenizer"},
        ),
        ({"tokenizer_class": "AutoModelForCausalLM"}, {}),
        ({"vocab_file": "/etc/passwd"}, {}),
    ],
)
def test_a_tokenizer_that_reaches_for_more_than_its_settings_is_refused_without_a_question(
    tokenizer: dict[str, Any], config: dict[str, Any], with_code: Path
) -> None:
    edit(with_code / "tokenizer_config.json", **tokenizer)
    edit(with_code / "config.json", **config)
    with pytest.raises(DataError, match=r"tokenizer_config\.json: |config\.json: tokenizer_class") as caught:
        load_tokenizer(str(with_code))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "own", "auto_map": CODE},  # a tokenizer of transformers' beside a model of someone's
        {"model_type": "gpt_neox", "num_labels": 10**9},
        {"model_type": "gpt_neox", "quantization_config": {"quant_method": "awq"}},
        {"model_type": ["gpt_neox"], "validate": None},
        {"model_type": "recursive_llama", "layout": "1R1000000000"},
    ],
)
def test_a_tokenizer_opens_whatever_model_lies_beside_it(config: dict[str, Any], with_code: Path) -> None:
    edit(with_code / "config.json", **config)
    assert fingerprint(load_tokenizer(str(with_code))) == fingerprint(TOKENIZER)


def test_there_is_one_door_for_what_comes_from_elsewhere() -> None:
    """Nothing else opens a folder by an Auto class."""
    package = Path(loopway.__file__).parent
    call = re.compile(r"^(?!tokenizer = |model = ).*\bAuto\w+\.from_pretrained\(", re.MULTILINE)
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if call.search(path.read_text())
    }
    assert found == {"modeling/pretrained_folder.py", "modeling/vetting.py"}


def test_a_tokenizer_without_an_end_of_text_token_is_refused(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, 270)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(DataError, match="has no end-of-text token"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_that_drops_merges_at_random_uses_all_of_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train_tokenizer(TEXTS, 300).save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["dropout"] = 0.5
    path.write_text(json.dumps(content))
    tokenizer = load_tokenizer(str(tmp_path))
    assert len({tuple(tokenizer.encode(TEXTS[0] * 20)) for _ in range(5)}) == 1
    assert "drops merges at random (dropout 0.5)" in caplog.text


def test_a_fingerprint_is_of_what_ids_mean(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    assert fingerprint(load_tokenizer(str(tmp_path))) == fingerprint(TOKENIZER)
    assert fingerprint(train_tokenizer(TEXTS[:1], 270)) != fingerprint(TOKENIZER)
    other = load_tokenizer(str(tmp_path))
    other.eos_token = "the"
    assert fingerprint(other) != fingerprint(TOKENIZER)


def test_a_vocabulary_is_as_large_as_its_largest_id_asks_for() -> None:
    assert vocabulary_size(TOKENIZER) == len(TOKENIZER) == 270


def test_ids_that_leave_gaps_count_too() -> None:
    words = models.WordLevel({"a": 0, "b": 9, "end": 5}, unk_token="a")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), eos_token="end")
    assert (vocabulary_size(tokenizer), len(tokenizer)) == (10, 3)

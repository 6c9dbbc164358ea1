"""A tokenizer trained here loses nothing, is the same every time, and opens like any other."""

import contextlib
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from loopway.data.tokenizer import END_OF_TEXT, fingerprint, load_tokenizer, train_tokenizer, vocabulary_size
from loopway.errors import DataError

TEXTS = ["the cat sat on the mat. " * 20, "a dog and the cat ran. " * 20]
TOKENIZER = train_tokenizer(TEXTS, 270)


def test_training_is_deterministic() -> None:
    assert train_tokenizer(TEXTS, 270).backend_tokenizer.to_str() == TOKENIZER.backend_tokenizer.to_str()


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


def test_code_that_a_tokenizer_brings_along_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "tokenization_own.py").write_text(
        "from pathlib import Path\n"
        "from transformers import PreTrainedTokenizerFast\n"
        f"Path({str(tmp_path / 'it-ran')!r}).touch()\n"
        "class OwnTokenizer(PreTrainedTokenizerFast): ...\n"
    )
    TOKENIZER.save_pretrained(tmp_path)
    settings_file = tmp_path / "tokenizer_config.json"
    own = {
        "tokenizer_class": "OwnTokenizer",
        "auto_map": {"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]},
    }
    settings_file.write_text(json.dumps(json.loads(settings_file.read_text()) | own))
    with contextlib.suppress(DataError):
        load_tokenizer(str(tmp_path))
    assert not (tmp_path / "it-ran").exists()


def test_a_tokenizer_without_an_end_of_text_token_is_refused(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, 270)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(DataError, match="has no end-of-text token"):
        load_tokenizer(str(tmp_path))


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

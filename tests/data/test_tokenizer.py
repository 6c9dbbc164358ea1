"""A tokenizer trained here loses nothing, is the same every time, and opens like any other."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from loopway.data.tokenizer import END_OF_TEXT, encode_documents, load_tokenizer, train_tokenizer
from loopway.errors import DataError

TEXTS = ["the cat sat on the mat. " * 20, "a dog and the cat ran. " * 20]
TOKENIZER = train_tokenizer(TEXTS, 270)


@given(st.text())
def test_any_text_survives_encoding_and_decoding(text):
    (ids,) = encode_documents(TOKENIZER, [text])
    assert ids[-1] == TOKENIZER.eos_token_id
    assert TOKENIZER.decode(ids[:-1]) == text


def test_training_is_deterministic():
    assert train_tokenizer(TEXTS, 270).backend_tokenizer.to_str() == TOKENIZER.backend_tokenizer.to_str()


def test_a_small_corpus_gives_a_smaller_vocabulary():
    assert len(TOKENIZER) == 270
    assert 257 <= len(train_tokenizer(["ab"], 300)) < 300


def test_a_document_can_not_end_itself():
    (ids,) = encode_documents(TOKENIZER, [f"the {END_OF_TEXT} cat"])
    assert [token == TOKENIZER.eos_token_id for token in ids].count(True) == 1
    assert TOKENIZER.decode(ids[:-1]) == f"the {END_OF_TEXT} cat"


def test_batches_keep_the_order_of_documents():
    texts = [f"document {number}" for number in range(10)]
    by_three = list(encode_documents(TOKENIZER, texts, batch_size=3))
    assert [TOKENIZER.decode(ids[:-1]) for ids in by_three] == texts


def test_a_saved_tokenizer_opens_with_the_auto_class(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    for opened in (AutoTokenizer.from_pretrained(str(tmp_path)), load_tokenizer(str(tmp_path))):
        assert opened("the cat")["input_ids"] == TOKENIZER("the cat")["input_ids"]
        assert opened.eos_token == END_OF_TEXT and len(opened) == 270


def test_a_tokenizer_that_is_not_there_is_one_clear_line(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        load_tokenizer(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="no tokenizer could be loaded") as caught:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_code_that_a_tokenizer_brings_along_is_never_run(tmp_path):
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


def test_a_tokenizer_without_an_end_of_text_token_is_refused(tmp_path):
    tokenizer = train_tokenizer(TEXTS, 270)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(DataError, match="has no end-of-text token"):
        load_tokenizer(str(tmp_path))

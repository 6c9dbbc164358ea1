"""Texts become tokens that lose nothing, end with the end-of-text token alone, and don't depend on how they are cut."""

from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from corpora import jsonl, make_texts
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from loopway.data.preparation import encoding, reading
from loopway.data.preparation.documents import Piece, Position, digest_of
from loopway.data.preparation.encoding import Encoded, Encoder, Encoding, cut_text
from loopway.data.preparation.reading import read_text
from loopway.data.tokenizer import END_OF_TEXT, train_tokenizer

TEXTS = [*make_texts(10), "The cat's  sat,\n\n on the  mat... 12345 times!   And it was 'fine'.\t\tYes" * 5]
TOKENIZER = train_tokenizer(TEXTS, 400)
ENCODING = Encoding(TOKENIZER.backend_tokenizer.to_str(), int(str(TOKENIZER.eos_token_id)), "text", seed=0)
ENCODER = Encoder(ENCODING)
END = ENCODING.end_of_text

# Letters, digits and punctuation that merge, and every kind of white space between them.
anything = st.text() | st.text(
    st.sampled_from("cats'.,1é€\U0001f600 \n\t\r\x0b\x1c\x85\u00a0\u2028\u3000"), max_size=60
)
words = st.lists(st.text(st.sampled_from("cat's.,1é€"), min_size=1, max_size=8), min_size=1)


def lines(texts: list[str], first: int = 1) -> Piece:
    return Piece("a.jsonl", "lines", Position(0, first - 1), jsonl(texts))


def text_piece(text: str) -> Piece:
    return Piece("a.txt", "text", Position(), text.encode())


def documents_of(encoded: Encoded) -> list[np.ndarray]:
    return np.split(encoded.ids, np.cumsum(encoded.documents["tokens"])[:-1])


def ids_of(text: str) -> list[int]:
    """As the library itself encodes a text."""
    return TOKENIZER(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]  # type: ignore[return-value]


@given(st.lists(anything, max_size=5))
def test_any_text_survives_encoding_and_decoding(texts: list[str]) -> None:
    texts = [text for text in texts if text.strip()]
    encoded = ENCODER.encode(lines(texts))
    assert len(encoded.documents) == len(texts) and encoded.documents["tokens"].sum() == len(encoded.ids)
    for text, ids, size in zip(
        texts, documents_of(encoded), encoded.documents["text_bytes"], strict=bool(texts)
    ):
        assert ids[-1] == END and END not in ids[:-1]
        assert TOKENIZER.decode(ids[:-1]) == text
        assert size == len(text.encode())
    assert encoded.documents["digest"].tobytes() == b"".join(digest_of(text, 0) for text in texts)


def test_a_document_can_not_end_itself() -> None:
    text = f"the {END_OF_TEXT} cat"
    ids = ENCODER.encode(text_piece(text)).ids
    assert (ids == END).tolist().count(True) == 1 and ids[-1] == END
    assert TOKENIZER.decode(ids[:-1]) == text


def test_what_the_tokenizer_says_of_length_and_padding_is_left_aside() -> None:
    tokenizer = train_tokenizer(TEXTS, 400).backend_tokenizer
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=100)
    encoder = Encoder(Encoding(tokenizer.to_str(), END, "text", seed=0))
    assert (
        encoder.encode(text_piece(TEXTS[0])).ids.tolist() == ENCODER.encode(text_piece(TEXTS[0])).ids.tolist()
    )


@given(anything, st.integers(2, 30))
def test_a_cut_between_words_changes_no_token(text: str, longest: int) -> None:
    parts = list(cut_text(text, longest))
    assert "".join(parts) == text and max(map(len, parts)) <= longest
    is_between = [
        not before[-1].isspace() and after[0] == " " and not after[1:2].isspace()
        for before, after in pairwise(parts)
    ]
    assume(all(is_between))
    assert [token for part in parts for token in ids_of(part)] == ids_of(text)


@given(words, st.integers(20, 60))
def test_text_is_cut_between_words(words: list[str], longest: int) -> None:
    parts = list(cut_text(" ".join(words), longest))
    assert all(part.startswith(" ") for part in parts[1:])


def test_text_without_words_is_cut_anyway() -> None:
    assert list(cut_text("x" * 25, 10)) == ["x" * 10, "x" * 10, "x" * 5]
    assert list(cut_text("", 10)) == [""] and list(cut_text("x" * 10, 10)) == ["x" * 10]


@given(words.map(" ".join) | anything.map(lambda text: (text + " words and more of them, and spaces ") * 9))
def test_a_long_file_has_the_tokens_of_the_whole_text(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    assume("\0" not in text and text.strip())
    path = tmp_path_factory.getbasetemp() / "long.txt"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "UNIT_BYTES", 50)
        patch.setattr(reading, "PIECE_BYTES", 100)
        pieces = list(read_text(path, "a.txt", Position(), 0))
    encoded = [ENCODER.encode(piece) for piece in pieces]
    assert b"".join(piece.content for piece in pieces if isinstance(piece.content, bytes)) == text.encode()
    whole = ENCODER.encode(text_piece(text))
    assert {part.documents["digest"].tobytes() for part in encoded} == {whole.documents["digest"].tobytes()}
    assert sum(part.documents["text_bytes"][0] for part in encoded) == whole.documents["text_bytes"][0]
    assert np.concatenate([part.ids for part in encoded]).tolist() == whole.ids.tolist()


def _marking(kind: str) -> Encoder:
    """An encoder whose tokenizer puts a mark before every text."""
    bpe = Tokenizer(models.BPE(unk_token="?"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    if kind == "byte_level":
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = [*"▁Ġcats'.,1\n", "end"]
    trainer = trainers.BpeTrainer(vocab_size=80, special_tokens=["?", "end"], initial_alphabet=alphabet, show_progress=False, max_token_length=6)  # fmt: skip
    bpe.train_from_iterator([*TEXTS, "cat cats 1. a c t s, ' " * 9], trainer)
    if kind == "prepend":  # as of Llama 2: nothing is split into words
        bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        bpe.pre_tokenizer = None
    return Encoder(Encoding(bpe.to_str(), 1, "text", seed=0))


MARKING = {kind: _marking(kind) for kind in ("prepend", "metaspace", "byte_level")}


@pytest.mark.parametrize("kind", MARKING)
@given(st.lists(st.text(st.sampled_from("cats'.,1"), min_size=1, max_size=8), min_size=20, max_size=40))
def test_a_mark_before_every_text_comes_once_a_document(
    tmp_path_factory: pytest.TempPathFactory, kind: str, words: list[str]
) -> None:
    encoder, text = MARKING[kind], " ".join(words)
    path = tmp_path_factory.getbasetemp() / "marked.txt"
    path.write_text(text)
    whole = encoder.encode(text_piece(text)).ids.tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "cut_text", partial(cut_text, longest=20))
        assert encoder.encode(text_piece(text)).ids.tolist() == whole
        patch.setattr(reading, "UNIT_BYTES", 50)
        patch.setattr(reading, "PIECE_BYTES", 40)
        parts = [encoder.encode(piece).ids for piece in read_text(path, "a.txt", Position(), 0)]
    assert len(parts) == 1 or np.concatenate(parts).tolist() == whole


@pytest.mark.parametrize("kind", MARKING)
def test_a_mark_before_every_text_is_not_put_into_a_word(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, text = MARKING[kind], "cats" * 30
    monkeypatch.setattr(encoding, "cut_text", partial(cut_text, longest=9))
    tokens = [encoder.tokenizer.id_to_token(number) for number in encoder.encode(text_piece(text)).ids]
    assert "".join(map(str, tokens)).lstrip("▁Ġ") == text + "end"


@given(st.integers(1, 60))
def test_a_long_file_without_words_is_cut_between_characters(
    tmp_path_factory: pytest.TempPathFactory, size: int
) -> None:
    path, text = tmp_path_factory.getbasetemp() / "long.txt", "é€\U0001f600" * size
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "UNIT_BYTES", 8)
        patch.setattr(reading, "PIECE_BYTES", 10)
        pieces = list(read_text(path, "a.txt", Position(), 0))
    parts = [ENCODER.encode(piece) for piece in pieces]
    assert not any(part.unreadable for part in parts)
    ids = np.concatenate([part.ids for part in parts])
    assert TOKENIZER.decode(ids[:-1]) == text and ids[-1] == END


def test_a_field_of_another_name_is_the_text() -> None:
    encoder = Encoder(Encoding(ENCODING.tokenizer, END, "body", seed=0))
    piece = Piece("a.jsonl", "lines", Position(), b'{"body": "cat", "text": 3}')
    assert TOKENIZER.decode(encoder.encode(piece).ids[:-1]) == "cat"


def test_numbers_of_documents_are_those_of_their_lines() -> None:
    content = b'\n{"text": "a"}\n{"text": " "}\n{}\n{"text": "b"}\n'
    piece = Piece("a.jsonl", "lines", Position(70, 10), content)
    encoded = ENCODER.encode(piece)
    assert encoded.documents["number"].tolist() == [12, 15]
    assert [record.record for record in encoded.unreadable] == ["a.jsonl, line 14"]


def test_modules_of_an_encoding_process_are_light(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, loopway.data.preparation.units; "
        "sys.exit(' '.join({'torch', 'transformers', 'datasets', 'pyarrow', 'pydantic'} & sys.modules.keys()) or None)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr.strip()) == (0, "")

"""Encode pieces of sources as token ids.

Every document ends with the end-of-text token. A special token's name inside a text is encoded as ordinary text. Long
documents are encoded in parts, with the same tokens as the whole. Knows nothing of splits or of the tokens'
destination. Imports nothing heavy, since every encoding process imports this module.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from tokenizers import Tokenizer

from loopway.data.preparation.documents import Document, Piece, Unreadable, digest_of, read_documents

DOCUMENT = np.dtype(
    [("tokens", "<i8"), ("text_bytes", "<i8"), ("number", "<i8"), ("source", "<i4"), ("digest", "<u8", 2)]
)
"""Record of a document: number of tokens, including special ones before and after the text; UTF-8 bytes; line or row in
its source; index of the source, set by code that reads several; digest."""
_LONGEST_TEXT = 2**20
"""Maximum number of characters encoded at a time; this takes about a hundred times as many bytes of memory."""
_CONTEXTS = ("a", "\n", ".")
"""Contexts in front of a part of a text when it is encoded: a letter suits a part that begins with a space, the others
a part that begins within a word."""
_BETWEEN_WORDS = re.compile(r"(?<=\S)(?= \S)")

T = TypeVar("T")


@dataclass(frozen=True)
class Encoding:
    """Settings of encoding, small enough to be sent to every process."""

    tokenizer: str
    """A ``tokenizers.Tokenizer`` as JSON."""
    end_of_text: int
    text_field: str
    seed: int
    """Seed of the documents' digests."""
    beginning: tuple[int, ...] = ()
    """Ids that every document begins with."""


@dataclass(frozen=True)
class Encoded:
    """The encoded documents of a piece, and its unreadable records."""

    ids: np.ndarray
    """Concatenated token ids of all documents, int32[tokens]."""
    documents: np.ndarray
    """:data:`DOCUMENT` [documents]; for a part of a text, one record that describes the part."""
    unreadable: list[Unreadable]


class Encoder:
    """Encodes pieces in this process."""

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding
        self.tokenizer = Tokenizer.from_str(encoding.tokenizer)
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.tokenizer.encode_special_tokens = True  # treat a special token's name as ordinary text
        self._contexts = [(text, self._ids(text)) for text in _CONTEXTS] if self._marks_beginnings() else []

    def encode(self, piece: Piece) -> Encoded:
        records = list(read_documents(piece, self.encoding.text_field))
        texts = [record for record in records if isinstance(record, Document)]
        start = np.array(self.encoding.beginning if piece.is_first else [], np.int32)
        end = np.array([self.encoding.end_of_text] if piece.is_last else [], np.int32)
        documents, ids = np.zeros(len(texts), DOCUMENT), [end[:0]]
        for number, (document, inner) in enumerate(zip(texts, self._encode(texts, piece), strict=True)):
            ids += [start, inner, end]
            size, text_bytes = len(start) + len(inner) + len(end), len(document.text.encode())
            digest = piece.digest or digest_of(document.text, self.encoding.seed)
            documents[number] = size, text_bytes, document.number, 0, np.frombuffer(digest, "<u8")
        unreadable = [record for record in records if isinstance(record, Unreadable)]
        return Encoded(np.concatenate(ids), documents, unreadable)

    def _encode(self, texts: list[Document], piece: Piece) -> Iterator[np.ndarray]:
        """Yield the token ids of each text, int32[tokens]."""
        parts = [list(cut_text(document.text)) for document in texts]
        ids: list[np.ndarray] = []
        for batch in neighbours((part for of_text in parts for part in of_text), len, _LONGEST_TEXT):
            encodings = self.tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            ids += [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
        remaining = iter(ids)
        for of_text in parts:
            yield np.concatenate(
                [
                    self._placed(next(remaining), part, piece.is_first and not at)
                    for at, part in enumerate(of_text)
                ]
            )

    def _placed(self, alone: np.ndarray, part: str, is_first: bool) -> np.ndarray:
        """Return the tokens of a part within its text, int32[tokens]; ``alone`` are its tokens as a separate text."""
        for context, before in [] if is_first else self._contexts:
            ids = self._ids(context + part)
            if np.array_equal(ids[: len(before)], before):
                return ids[len(before) :]
        return alone

    def _ids(self, text: str) -> np.ndarray:
        return np.array(self.tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int32)

    def _marks_beginnings(self) -> bool:
        """Return whether the tokenizer encodes the beginning of a text differently, as Llama 2's does."""
        start = self._prepared("a")
        return any(self._prepared("a" + text) != start + self._prepared(text) for text in ("b", " b"))

    def _prepared(self, text: str) -> str:
        """Return the text after normalisation and pre-tokenisation, as the tokenizer's model receives it."""
        normalizer, words = self.tokenizer.normalizer, self.tokenizer.pre_tokenizer
        text = normalizer.normalize_str(text) if normalizer is not None else text
        return "".join(word for word, _ in words.pre_tokenize_str(text)) if words is not None else text


def cut_text(
    text: str, longest: int = _LONGEST_TEXT, places: re.Pattern[str] = _BETWEEN_WORDS
) -> Iterator[str]:
    """Cut a text into parts of at most ``longest`` characters.

    Cuts at the last match of ``places`` in the second half of a part, if there is one. The default, before a single
    space between two words, changes no tokens of a byte-level BPE.
    """
    start = 0
    while len(text) - start > longest:
        window = text[start + longest // 2 : start + longest + 1]
        found = [match.start() for match in places.finditer(window)]
        cut = start + (longest // 2 + found[-1] if found else longest)
        yield text[start:cut]
        start = cut
    yield text[start:]


def neighbours(items: Iterable[T], size_of: Callable[[T], float], most: float) -> Iterator[list[T]]:
    """Group consecutive items up to a total size of ``most``; a larger item forms a group alone."""
    group: list[T] = []
    size = 0.0
    for item in items:
        if group and size + size_of(item) > most:
            yield group
            group, size = [], 0.0
        group.append(item)
        size += size_of(item)
    if group:
        yield group

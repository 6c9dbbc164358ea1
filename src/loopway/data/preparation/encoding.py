"""From pieces of sources to token ids.

Every document ends with the end-of-text token; a special token's name inside a text is encoded as ordinary text, so a
document can't end itself. Long documents are encoded in parts, to the tokens of the whole. Knows nothing of splits and of
where tokens go. Imports nothing heavy: every encoding process imports this module.
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
"""What is known of a document beside its tokens: their number, those before and behind the text included; UTF-8 bytes;
line or row in its source; number of the source, which whoever has several sets; digest."""
_LONGEST_TEXT = 2**20
"""Characters that are encoded in one go; the memory of it is some hundred times that."""
_CONTEXTS = ("a", "\n", ".")
"""Contexts that a part of a text is encoded behind: a letter fits before a space, the others within words."""
_BETWEEN_WORDS = re.compile(r"(?<=\S)(?= \S)")

T = TypeVar("T")


@dataclass(frozen=True)
class Encoding:
    """How texts become tokens; small enough to be sent to every process."""

    tokenizer: str
    """A ``tokenizers.Tokenizer`` as JSON."""
    end_of_text: int
    text_field: str
    seed: int
    """Of the documents' digests."""
    beginning: tuple[int, ...] = ()
    """Ids that every document begins with."""


@dataclass(frozen=True)
class Encoded:
    """The documents of a piece; those that can't be read, apart."""

    ids: np.ndarray
    """Token ids of all documents, one after the other, int32[tokens]."""
    documents: np.ndarray
    """:data:`DOCUMENT` [documents]; of a part of a text one, with what the part has."""
    unreadable: list[Unreadable]


class Encoder:
    """Encodes pieces in this process."""

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding
        self.tokenizer = Tokenizer.from_str(encoding.tokenizer)
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.tokenizer.encode_special_tokens = True  # a special token's name is text like any other
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
        """int32[tokens] of each text."""
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
        """The tokens of a part in its text, int32[tokens]; ``alone``: its tokens if it were the text."""
        for context, before in [] if is_first else self._contexts:
            ids = self._ids(context + part)
            if np.array_equal(ids[: len(before)], before):
                return ids[len(before) :]
        return alone

    def _ids(self, text: str) -> np.ndarray:
        return np.array(self.tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int32)

    def _marks_beginnings(self) -> bool:
        """Whether the tokenizer takes the beginning of a text for more than what stands there, as Llama 2's does."""
        start = self._prepared("a")
        return any(self._prepared("a" + text) != start + self._prepared(text) for text in ("b", " b"))

    def _prepared(self, text: str) -> str:
        """The text as the tokenizer's model gets it."""
        normalizer, words = self.tokenizer.normalizer, self.tokenizer.pre_tokenizer
        text = normalizer.normalize_str(text) if normalizer is not None else text
        return "".join(word for word, _ in words.pre_tokenize_str(text)) if words is not None else text


def cut_text(
    text: str, longest: int = _LONGEST_TEXT, places: re.Pattern[str] = _BETWEEN_WORDS
) -> Iterator[str]:
    """Cut a text into parts of at most ``longest`` characters.

    Cut at the last of ``places`` in the second half of a part, where there is one. The default, before a lone space
    between two words, changes no tokens of a byte-level BPE.
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
    """Group items with their neighbours: of together at most ``most``, or one that is larger alone."""
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

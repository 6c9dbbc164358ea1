"""From pieces of sources to token ids, in this process or in several, always in the order of the pieces.

Every document ends with the end-of-text token; a special token's name inside a text is encoded as ordinary text, so a
document can't end itself. Long documents are encoded in parts, to the tokens of the whole. Knows nothing of splits and of
where tokens go. Imports nothing heavy: every encoding process imports this module.
"""

import multiprocessing
import os
import re
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from tokenizers import Tokenizer

from loopway.data.preparation.documents import Document, Piece, Unreadable, read_documents
from loopway.data.preparation.reading import PIECE_BYTES
from loopway.data.preparation.splitting import digest_of
from loopway.errors import DataError

_MOST_IN_FLIGHT = 64 * 2**20
"""Bytes of text that are read ahead; more only if a single piece is that long."""
_LONGEST_TEXT = 2**20
"""Characters that are encoded in one go; the memory of it is some hundred times that."""
_CONTEXTS = ("a", "\n", ".")
"""Contexts that a part of a text is encoded behind: a letter fits before a space, the others within words."""
_BETWEEN_WORDS = re.compile(r"(?<=\S)(?= \S)")


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
    lengths: np.ndarray
    """Tokens of each document, those before and behind the text included, int64[documents]."""
    numbers: np.ndarray
    """Line or row of each document, int64[documents]."""
    digests: bytes
    """Digest of each document, 16 bytes each."""
    text_bytes: np.ndarray
    """UTF-8 bytes of each document, int64[documents]."""
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
        documents = [record for record in records if isinstance(record, Document)]
        encoded = self._encode([document.text for document in documents], begins=piece.is_first)
        ends = piece.kind != "part" or piece.is_last
        end = np.array([self.encoding.end_of_text] if ends else [], dtype=np.int32)
        start = np.array(self.encoding.beginning if piece.is_first else [], dtype=np.int32)
        lengths = np.array([len(start) + len(ids) + len(end) for ids in encoded], dtype=np.int64)
        ids = [part for ids in encoded for part in (start, ids, end)]
        if piece.kind == "part":
            digests = piece.digest
        else:
            digests = b"".join(digest_of(document.text, self.encoding.seed) for document in documents)
        return Encoded(
            ids=np.concatenate(ids) if ids else end[:0],
            lengths=lengths,
            numbers=np.array([document.number for document in documents], dtype=np.int64),
            digests=digests,
            text_bytes=np.array([len(document.text.encode()) for document in documents], dtype=np.int64),
            unreadable=[record for record in records if isinstance(record, Unreadable)],
        )

    def _encode(self, texts: list[str], *, begins: bool) -> list[np.ndarray]:
        """int32[tokens] of each text; ``begins``: each is the beginning of a document."""
        parts = [list(cut_text(text)) for text in texts]
        ids: list[np.ndarray] = []
        for batch in _batches([part for of_text in parts for part in of_text], len, _LONGEST_TEXT):
            encodings = self.tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            ids += [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
        remaining = iter(ids)
        return [
            _joined(
                [self._placed(next(remaining), part, begins and not at) for at, part in enumerate(of_text)]
            )
            for of_text in parts
        ]

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
    """A text in parts of at most ``longest`` characters.

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


def encode_in_order(
    pieces: Iterable[tuple[int, Piece]], encoding: Encoding, processes: int
) -> Generator[tuple[int, Piece, Encoded]]:
    """Each numbered piece with what it gives, in order, encoded in ``processes`` processes (1: in this one).

    Few pieces are read ahead, so memory doesn't depend on how many there are. Raises :class:`DataError` where reading
    does, after all that came before has been given, and if a process dies.
    """
    if processes == 1:
        encoder = Encoder(encoding)
        for number, piece in pieces:
            yield number, piece, encoder.encode(piece)
        return
    context = multiprocessing.get_context("spawn")  # a fork would inherit locked threads
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_start, initargs=(encoding,))
    waiting: deque[tuple[list[tuple[int, Piece]], Future[list[Encoded]]]] = deque()
    batches = _batches(pieces, lambda numbered: _size(numbered[1]), PIECE_BYTES)
    failure: DataError | None = None
    is_read, in_flight = False, 0
    try:
        while waiting or not is_read:
            while not is_read and len(waiting) <= 2 * processes and in_flight < _MOST_IN_FLIGHT:
                try:
                    batch = next(batches, None)
                except DataError as error:
                    batch, failure = None, error
                if batch is None:
                    is_read = True
                else:
                    waiting.append((batch, pool.submit(_encode, [piece for _, piece in batch])))
                    in_flight += sum(_size(piece) for _, piece in batch)
            if waiting:
                batch, future = waiting.popleft()
                in_flight -= sum(_size(piece) for _, piece in batch)
                for (number, piece), encoded in zip(batch, future.result(), strict=True):
                    yield number, piece, encoded
        if failure is not None:
            raise failure
    except BrokenProcessPool:
        raise DataError(
            "a process that tokenises was killed, perhaps for want of memory; rerun the same command to resume, with "
            "fewer processes (in a script of your own, call it under if __name__ == '__main__', or with processes=1)"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


T = TypeVar("T")


def _batches(items: Iterable[T], size_of: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """Neighbours of together at most ``most``, or one alone. What is collected goes out before an error is raised."""
    batch: list[T] = []
    size = 0
    try:
        for item in items:
            if batch and size + size_of(item) > most:
                yield batch
                batch, size = [], 0
            batch.append(item)
            size += size_of(item)
    except DataError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def _size(piece: Piece) -> int:
    if isinstance(piece.content, bytes):
        return len(piece.content)
    return sum(len(value) if isinstance(value, str) else 100 for value in piece.content)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


_encoder: Encoder
"""Of an encoding process."""


def _start(encoding: Encoding) -> None:
    global _encoder
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # processes share the cores already
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the first one decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _encoder = Encoder(encoding)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _encode(pieces: list[Piece]) -> list[Encoded]:
    return [_encoder.encode(piece) for piece in pieces]

"""Extract the texts of documents from a piece of a source.

A piece is sent from the reading process to the encoding ones: some lines, rows or files, not parsed yet. Errors name a
record's file and line. Imports nothing heavy, since every encoding process imports this module.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from loopway.errors import DataError

Kind = Literal["text", "lines", "records", "rows"]
"""``text``: a document; ``lines``: JSONL; ``records``: a JSON list; ``rows``: the text column of a table."""
BINARY = "{}: holds NUL bytes, so it is a binary file; give text in UTF-8"
_JSON_TYPES = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}


class Position(NamedTuple):
    """A place between two records of a source, or in a long text, at which reading can begin."""

    offset: int = 0
    """Uncompressed bytes before it; 0 for a source with rows."""
    records: int = 0
    """Lines or rows before it."""


@dataclass(frozen=True)
class Piece:
    """Consecutive records of one source, or one part of a text too long for memory."""

    source: str
    """The source's name."""
    kind: Kind
    start: Position
    content: bytes | Sequence[Any]
    progress: float = 0.0
    """Bytes of the source, as stored on disk, that have been read by the end of this piece."""
    is_first: bool = True
    """Whether the text begins here; only for a text, as ``is_last``."""
    is_last: bool = True
    digest: bytes = b""
    """Digest of the whole text; only for a part of one."""
    error: str | None = None
    """Why the rest of the source, from here on, can't be read."""

    @property
    def size(self) -> int:
        """Approximate memory in bytes."""
        content = self.content
        return len(content) if isinstance(content, bytes) else sum(len(str(value)) + 100 for value in content)


class Document(NamedTuple):
    """A text and its number in the source: a line (from 1) or row (from 0)."""

    number: int
    text: str


class Unreadable(NamedTuple):
    """An unreadable record: its name in messages, and the whole message."""

    record: str
    reason: str


def digest_of(text: str, seed: int) -> bytes:
    """Return the digest of a document, 16 bytes: a keyed hash of its text."""
    digest = new_digest(seed)
    digest.update(text.encode())
    return digest.digest()


def new_digest(seed: int) -> "hashlib.blake2b":
    """Return a hash object for a document's UTF-8 bytes."""
    return hashlib.blake2b(digest_size=16, key=str(seed).encode())


def place_of(source: str, kind: Kind, number: int) -> str:
    """Return a record's name in messages: ``a.jsonl, line 3``."""
    return source if kind == "text" else f"{source}, {kind[:-1]} {number}"


def read_documents(piece: Piece, text_field: str) -> Iterator[Document | Unreadable]:
    """Yield the documents of a piece in order, without blank ones."""
    if piece.error is not None:
        yield Unreadable(piece.source, piece.error)
        return
    if not isinstance(piece.content, bytes):
        records = piece.content
    else:  # at newlines only: splitlines also splits at carriage returns, which files contain
        records = piece.content.split(b"\n") if piece.kind == "lines" else [piece.content]
    for number, record in enumerate(records, start=piece.start.records + (piece.kind != "rows")):
        if piece.kind == "lines" and not record.strip():
            continue
        place = place_of(piece.source, piece.kind, number)
        try:
            text = _text(record, piece, number, place, text_field)
        except DataError as error:
            yield Unreadable(place, str(error))
        else:
            if text.strip() or piece.digest:
                yield Document(number, text)


def not_utf8(name: str, error: UnicodeDecodeError, first_line: int) -> DataError:
    """Return the DataError for a decoding ``error`` in text whose first line has the number ``first_line``."""
    line = first_line + error.object[: error.start].count(b"\n")
    return DataError(
        f"{name}, line {line}: byte 0x{error.object[error.start]:02x} is not valid UTF-8; convert the file to UTF-8"
    )


def _text(record: Any, piece: Piece, number: int, place: str, text_field: str) -> str:
    if piece.kind == "rows":
        try:  # tables may hold UTF-8 as plain bytes
            text = record.decode() if isinstance(record, bytes) else record
        except UnicodeDecodeError as error:
            raise DataError(f"{place}: byte 0x{record[error.start]:02x} is not valid UTF-8") from None
        return _field({text_field: text}, text_field, place)
    if piece.kind == "records":
        return _field(record, text_field, place)
    begins_file = number == 1 and piece.is_first
    try:
        text = record.decode("utf-8-sig" if begins_file else "utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(piece.source, error, number) from None
    if piece.kind == "lines":
        return _field(parsed(text, place), text_field, place)
    if "\0" in text:
        raise DataError(BINARY.format(place))
    return text


def parsed(text: str, place: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        DataError: invalid JSON; the message names ``place``.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f", line {error.lineno}" if "\n" in text.strip() else ""
        raise DataError(f"{place}{where}: not valid JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:  # too many digits or nested brackets
        raise DataError(f"{place}: JSON that can't be read: {error}") from None


def _field(record: Any, text_field: str, place: str) -> str:
    if not isinstance(record, dict):
        kind = _JSON_TYPES.get(type(record), "a number")
        raise DataError(f"{place}: expected an object with the field {text_field!r}, got {kind}")
    if text_field not in record:
        fields = ", ".join(map(repr, record)) or "none"
        raise DataError(f"{place}: no field {text_field!r}; there are {fields}; set data.text_field")
    value = record[text_field]
    if not isinstance(value, str):
        kind = _JSON_TYPES.get(type(value), "a number")
        raise DataError(f"{place}: field {text_field!r} must be a string, got {kind}")
    try:
        value.encode()
    except UnicodeEncodeError:
        reason = "holds half of a UTF-16 surrogate pair; fix its escapes"
        raise DataError(f"{place}: field {text_field!r} {reason}") from None
    return value

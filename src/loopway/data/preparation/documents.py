"""From a piece of a source, as it was read, to the texts of its documents.

A piece is what travels from the process that reads to those that encode: some lines, rows or files, not parsed yet.
What is wrong with a record is named with its file and line. Knows nothing of how pieces are read, nor of tokenizers;
imports nothing heavy, since every encoding process imports it.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from loopway.errors import DataError

EMPTY = "{}: the file is empty; give a file with text, or leave it out"
BINARY = "{}: holds NUL bytes, so it is a binary file; give text in UTF-8"
DIGEST_BYTES = 16
_RECORDS = {"lines": "line", "rows": "row", "records": "record"}
_JSON_TYPES = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}

Kind = Literal["text", "lines", "rows", "records"]
"""``text``: a document; ``lines``: JSONL; ``rows``: the text column of a table; ``records``: parsed JSON values."""


class Position(NamedTuple):
    """A place between two records of a source, or in a long text: reading can begin there."""

    offset: int = 0
    """Bytes before it, unpacked; 0 where a source has rows or records."""
    records: int = 0
    """Lines, rows or records before it."""


@dataclass(frozen=True)
class Piece:
    """Records of one source that follow one another, or one part of a text too long to be held."""

    source: str
    """The source's name."""
    kind: Kind
    start: Position
    content: bytes | Sequence[Any]
    progress: float = 0.0
    """Bytes of the source, as it lies on disk, that have been read by the end of this piece."""
    is_first: bool = True
    """Whether the text begins here; only of a text."""
    is_last: bool = True
    """Whether the text ends here; only of a text."""
    digest: bytes = b""
    """Digest of the whole text; only of a part of one."""
    error: str | None = None
    """Why the rest of the source, from here on, can't be read."""

    @property
    def size(self) -> int:
        """About how many bytes it takes in memory."""
        if isinstance(self.content, bytes):
            return len(self.content)
        return sum(len(str(value)) + 100 for value in self.content)


class Document(NamedTuple):
    """A text and its number in the source: a line or record (from 1) or row (from 0)."""

    number: int
    text: str


class Unreadable(NamedTuple):
    """A record that can't be read: how messages name it, and the whole message."""

    record: str
    reason: str


def digest_of(text: str, seed: int) -> bytes:
    """Return the digest of a document, 16 bytes: a keyed hash of its text."""
    digest = new_digest(seed)
    digest.update(text.encode())
    return digest.digest()


def new_digest(seed: int) -> "hashlib.blake2b":
    """Return a hash object for a document's UTF-8 bytes."""
    return hashlib.blake2b(digest_size=DIGEST_BYTES, key=str(seed).encode())


def place_of(source: str, kind: Kind, number: int) -> str:
    """Return how a message names a record: ``a.jsonl, line 3``."""
    return f"{source}, {_RECORDS[kind]} {number}" if kind in _RECORDS else source


def read_documents(piece: Piece, text_field: str) -> Iterator[Document | Unreadable]:
    """Yield the documents of a piece in order; blank ones are left out."""
    if piece.error is not None:
        yield Unreadable(piece.source, piece.error)
        return
    first = piece.start.records + (piece.kind != "rows")
    for number, content in enumerate(_records_of(piece), start=first):
        if piece.kind == "lines" and not content.strip():
            continue
        place = place_of(piece.source, piece.kind, number)
        try:
            text = _text(piece, number, content, place, text_field)
        except DataError as error:
            yield Unreadable(place, str(error))
        else:
            if text.strip() or piece.digest:
                yield Document(number, text)


def _records_of(piece: Piece) -> Sequence[Any]:
    if not isinstance(piece.content, bytes):
        return piece.content
    # At newlines only: splitlines would also split at carriage returns, which JSON strings may not hold but files do.
    return piece.content.split(b"\n") if piece.kind == "lines" else [piece.content]


def _text(piece: Piece, number: int, content: Any, place: str, text_field: str) -> str:
    if piece.kind == "text":
        if not piece.digest and not content.strip():
            raise DataError(EMPTY.format(piece.source))
        if b"\0" in content:
            raise DataError(BINARY.format(piece.source))
        return _decode(content, piece, number)
    if piece.kind == "lines":
        content = parse_json(_decode(content, piece, number), place)
    elif piece.kind == "rows":
        content = {text_field: _row_text(content, place)}
    return _field(content, text_field, place)


def _row_text(value: Any, place: str) -> Any:
    """Tables may hold UTF-8 as plain bytes."""
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: byte 0x{value[error.start]:02x} is not valid UTF-8") from None


def _decode(content: bytes, piece: Piece, first_line: int) -> str:
    begins_file = first_line == 1 and piece.is_first
    try:
        return content.decode("utf-8-sig" if begins_file else "utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(piece.source, error, first_line) from None


def not_utf8(name: str, error: UnicodeDecodeError, first_line: int) -> DataError:
    """Return the error for text of which ``error`` was raised, and whose first line has the number ``first_line``."""
    line = first_line + error.object[: error.start].count(b"\n")
    return DataError(
        f"{name}, line {line}: byte 0x{error.object[error.start]:02x} is not valid UTF-8; convert the file to UTF-8"
    )


def parse_json(text: str, place: str) -> Any:
    """Return the value of a JSON text. Raises :class:`DataError` that names ``place``."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f", line {error.lineno}" if "\n" in text.strip() else ""
        raise DataError(f"{place}{where}: not valid JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:  # thousands of digits, a thousand nested brackets
        raise DataError(f"{place}: JSON that can't be read: {error}") from None


def _field(record: Any, text_field: str, place: str) -> str:
    if not isinstance(record, dict):
        raise DataError(
            f"{place}: expected an object with the field {text_field!r}, got {_json_type(record)}"
        )
    if text_field not in record:
        fields = ", ".join(map(repr, record)) or "none"
        raise DataError(f"{place}: no field {text_field!r}; there are {fields}; set data.text_field")
    value = record[text_field]
    if not isinstance(value, str):
        raise DataError(f"{place}: field {text_field!r} must be a string, got {_json_type(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{place}: field {text_field!r} holds half of a UTF-16 surrogate pair; repair the escapes"
        ) from None
    return value


def _json_type(value: Any) -> str:
    return _JSON_TYPES.get(type(value), "a number")

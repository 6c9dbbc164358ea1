"""From a piece of a source, as it was read, to the texts of its documents.

A piece is what travels from the process that reads to those that encode: some lines, rows or files, not parsed yet.
What is wrong with a record is named with its file and line. Knows nothing of how pieces are read, of splits and
tokenizers; imports nothing heavy, since every encoding process imports it.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

from loopway.errors import DataError

EMPTY = "{}: the file is empty; give a file with text, or leave it out"
BINARY = "{}: holds NUL bytes, so it is a binary file; give text in UTF-8"


class Position(NamedTuple):
    """A place between two records of a source: where reading can go on."""

    offset: int = 0
    """Bytes before it, unpacked; rows where a source has rows."""
    records: int = 0
    """Lines or rows before it."""


@dataclass(frozen=True)
class Piece:
    """Records of one source that follow one another, or one part of a text too long to be held."""

    source: str
    """The source's name."""
    kind: Literal["text", "part", "lines", "records", "rows", "unreadable"]
    """``text``: a whole document; ``part``: of a long one; ``lines``: JSONL; ``records``: parsed JSON values; ``rows``:
    the text column of a table; ``unreadable``: why the rest of the source can't be read."""
    content: bytes | str | Sequence[Any]
    first: int
    """Number of the first line or record (from 1) or row (from 0)."""
    end: Position | None
    """Where the next piece begins; None: the source ends here."""
    progress: float
    """Bytes of the source, as it lies on disk, that have been read by the end of this piece."""
    is_first: bool = True
    """Whether the document begins here; only of a part."""
    is_last: bool = True
    """Whether the document ends here; only of a part."""
    digest: bytes = b""
    """Digest of the whole document; only of a part."""


class Document(NamedTuple):
    """A text and its number (line or row) in the source."""

    number: int
    text: str


class Unreadable(NamedTuple):
    """A record that can't be read: its number in the source, and the whole message."""

    number: int
    reason: str


def read_documents(piece: Piece, text_field: str) -> Iterator[Document | Unreadable]:
    """The documents of a piece in order; blank ones are left out."""
    if piece.kind == "unreadable":
        yield Unreadable(piece.first, cast(str, piece.content))
        return
    if piece.kind == "lines":
        records = _lines(piece)
    elif piece.kind in ("rows", "records"):
        records = ((number, content) for number, content in enumerate(piece.content, start=piece.first))
    else:
        records = [(piece.first, piece.content)]
    for number, content in records:
        try:
            text = _text(piece, number, content, text_field)
        except DataError as error:
            yield Unreadable(number, str(error))
        else:
            if text.strip() or piece.kind == "part":
                yield Document(number, text)


def place_of(piece: Piece, number: int) -> str:
    """How a message names a record: ``a.jsonl, line 3``."""
    if piece.kind in ("text", "unreadable"):
        return piece.source
    unit = {"rows": "row", "records": "record"}.get(piece.kind, "line")
    return f"{piece.source}, {unit} {number}"


def _lines(piece: Piece) -> Iterator[tuple[int, bytes]]:
    assert isinstance(piece.content, bytes)
    # At newlines only: splitlines would also split at carriage returns, which JSON strings may not hold but files do.
    for number, line in enumerate(piece.content.split(b"\n"), start=piece.first):
        if line.strip():
            yield number, line


def _text(piece: Piece, number: int, content: Any, text_field: str) -> str:
    place = place_of(piece, number)
    if piece.kind == "lines":
        content = parse_json(_decode(content, piece, number), place)
    elif piece.kind in ("text", "part"):
        content = {text_field: _file_text(content, piece)}
    elif piece.kind == "rows":
        content = {text_field: _row_text(content, place)}
    return _field(content, text_field, place)


def _file_text(content: bytes, piece: Piece) -> str:
    if piece.kind == "text" and not content.strip():
        raise DataError(EMPTY.format(piece.source))
    if b"\0" in content:
        raise DataError(BINARY.format(piece.source))
    return _decode(content, piece, piece.first)


def _row_text(value: Any, place: str) -> Any:
    """Tables may hold UTF-8 as plain bytes."""
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: byte 0x{value[error.start]:02x} is not valid UTF-8") from None


def _decode(content: bytes, piece: Piece, first_line: int) -> str:
    try:
        return content.decode("utf-8-sig" if first_line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(piece.source, error, first_line) from None


def not_utf8(name: str, error: UnicodeDecodeError, first_line: int) -> DataError:
    """The error for text of which ``error`` was raised, and whose first line has the number ``first_line``."""
    line = first_line + error.object[: error.start].count(b"\n")
    return DataError(
        f"{name}, line {line}: byte 0x{error.object[error.start]:02x} is not valid UTF-8; convert the file to UTF-8"
    )


def parse_json(text: str, place: str) -> Any:
    """The value of a JSON text; raises :class:`DataError` that names ``place``."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f", line {error.lineno}" if "\n" in text.strip() else ""
        raise DataError(f"{place}{where}: not valid JSON: {error.msg} at column {error.colno}") from None
    except (
        ValueError,
        RecursionError,
    ) as error:  # a number of thousands of digits, a thousand nested brackets
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
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")

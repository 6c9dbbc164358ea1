"""Read files piece by piece in bounded memory: text, JSON, JSONL (plain, gzip, zstandard), parquet.

A reader yields the :class:`Piece` objects of one file from a position on, which depend only on the file. If reading
fails, the last piece holds the error. Single records are checked later.
"""

import codecs
import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from loopway.data.preparation.documents import (
    BINARY,
    Kind,
    Piece,
    Position,
    new_digest,
    not_utf8,
    parsed,
)
from loopway.errors import DataError

PIECE_BYTES = 2**20
"""Approximate size of a piece of text."""
UNIT_BYTES = 4 * 2**20
"""Approximate size of a unit of text; larger text files are read in parts."""
LONGEST_LINE = 256 * 2**20
"""Maximum bytes of a line; a file with longer lines isn't JSONL."""
LONGEST_LIST = 64 * 2**20
"""Maximum bytes of a .json file, which can only be read whole."""
ROWS = 16
"""Rows of a table, or records of a list, per piece."""
_CUT_WINDOW = 2**16
_GZIP = b"\x1f\x8b"
_BETWEEN_WORDS = re.compile(rb"(?<=\S)(?= \S)")


def read_text(path: Path, name: str, start: Position, seed: int) -> Iterator[Piece]:
    """Read a text file: one document, in parts if it is long. ``seed`` is that of its digest."""
    size = path.stat().st_size
    if size <= UNIT_BYTES:
        yield Piece(name, "text", start, path.read_bytes(), size)
        return
    try:
        digest = _digest_of_long_text(path, name, seed)
    except DataError as error:
        yield _unreadable(name, "text", start, error, size)
        return
    with path.open("rb") as file:
        file.seek(start.offset)
        (offset, lines), rest = start, b""
        while block := file.read(PIECE_BYTES):
            content = rest + block
            is_last = offset + len(content) == size
            cut = len(content) if is_last else _place_to_cut(content)
            part, rest = content[:cut], content[cut:]
            begin, offset = Position(offset, lines), offset + cut
            yield Piece(name, "text", begin, part, offset, begin.offset == 0, is_last, digest)
            lines += part.count(b"\n")


def _digest_of_long_text(path: Path, name: str, seed: int) -> bytes:
    """Read the whole file once and return its digest; this reports errors before the first token is written."""
    digest, decoder, line = new_digest(seed), codecs.getincrementaldecoder("utf-8-sig")(), 1
    with path.open("rb") as file:
        while block := file.read(PIECE_BYTES):
            if b"\0" in block:
                raise DataError(BINARY.format(name))
            try:
                text = decoder.decode(block)
            except UnicodeDecodeError as error:
                raise not_utf8(name, error, line) from None
            digest.update(text.encode())
            line += block.count(b"\n")
    if decoder.getstate()[0]:
        raise DataError(f"{name}, line {line}: not valid UTF-8; the file ends within a character")
    return digest.digest()


def _place_to_cut(content: bytes) -> int:
    """Return where to cut: before a single space between words, else at a line's end, else between characters."""
    start = max(len(content) - _CUT_WINDOW, 1)
    places = [match.start() for match in _BETWEEN_WORDS.finditer(content, start)]
    if places:
        return places[-1]
    newline = content.rfind(b"\n", start)
    if newline > 0:
        return newline
    place = len(content)
    while place > 1 and 0x80 <= content[place - 1] < 0xC0:  # after the last complete character
        place -= 1
    return place - 1


def read_lines(path: Path, name: str, compression: str | None, start: Position) -> Iterator[Piece]:
    """Read a JSONL file: as many whole lines per piece as fit, at least one."""
    size = path.stat().st_size
    offset, lines = start
    try:
        with _unpacked(path, name, compression, offset) as (file, raw):
            for content in _whole_lines(file, name):
                begin = Position(offset, lines)
                offset, lines = offset + len(content), lines + content.count(b"\n")
                progress = offset if compression is None else raw.tell()
                yield Piece(name, "lines", begin, content, min(progress, size))
    except DataError as error:
        yield _unreadable(name, "lines", Position(offset, lines), error, size)


def _whole_lines(file: Any, name: str) -> Iterator[bytes]:
    """Yield the rest of a file, cut after newlines."""
    blocks: list[bytes] = []
    while block := file.read(PIECE_BYTES):
        end = block.rfind(b"\n") + 1
        if end:
            yield b"".join([*blocks, block[:end]])
            blocks = []
        blocks.append(block[end:])
        if sum(map(len, blocks)) > LONGEST_LINE:
            raise DataError(f"{name}: a line of more than {LONGEST_LINE:,} bytes; write one object per line")
    if rest := b"".join(blocks):
        yield rest


@contextmanager
def _unpacked(
    path: Path, name: str, compression: str | None, offset: int
) -> Iterator[tuple[IO[bytes] | Any, IO[bytes]]]:
    """Yield the decompressed file from ``offset`` on, and the file on disk, whose position shows the progress."""
    with path.open("rb") as raw:
        if compression is None:
            if offset == 0 and raw.read(2) == _GZIP:
                raise DataError(f"{name}: is packed with gzip; name it .jsonl.gz")
            raw.seek(offset)
            yield raw, raw
            return
        try:
            with _unpacking(raw, compression) as file:
                while offset and (block := file.read(min(offset, PIECE_BYTES))):
                    offset -= len(block)
                yield file, raw
        except (OSError, EOFError, zlib.error) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise DataError(f"{name}: can't be unpacked as {compression}: {error}") from None


def _unpacking(raw: IO[bytes], compression: str) -> Any:
    if compression == "gzip":  # Python's gzip accepts zeros after the end, as tapes leave them
        return gzip.GzipFile(fileobj=raw)
    import pyarrow

    return pyarrow.input_stream(raw, compression=compression)


def read_json(path: Path, name: str, start: Position) -> Iterator[Piece]:
    """Read a JSON file that holds a list of objects."""
    size = path.stat().st_size
    try:
        if size > LONGEST_LIST:
            raise DataError(
                f"{name}: a .json file has {size:,} bytes, and the limit is {LONGEST_LIST:,}, since it is read whole; write one "
                f"object per line and name it .jsonl"
            )
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise not_utf8(name, error, 1) from None
        if text.startswith("{") and "}\n{" in text:
            raise DataError(f"{name}: holds one object per line; name it .jsonl")
        records = parsed(text, name)
        if not isinstance(records, list):
            raise DataError(
                f"{name}: a .json file must hold a list of objects; for one object per line, name it .jsonl"
            )
    except DataError as error:
        yield _unreadable(name, "records", start, error, size)
        return
    for at in range(start.records, len(records), ROWS):
        content = records[at : at + ROWS]
        progress = size * (at + len(content)) / len(records)
        yield Piece(name, "records", Position(records=at), content, progress)


def read_parquet(path: Path, name: str, text_field: str, start: Position) -> Iterator[Piece]:
    """Read the text column of a parquet file, some rows per piece."""
    import pyarrow
    from pyarrow import parquet

    size, rows = path.stat().st_size, 0
    try:
        # With a buffer, columns are read in pages instead of whole row groups.
        with parquet.ParquetFile(path, buffer_size=PIECE_BYTES, pre_buffer=False) as file:
            columns = file.schema_arrow.names
            if text_field not in columns:
                raise DataError(
                    f"{name}: no column {text_field!r}; there are {', '.join(columns)}; set data.text_field"
                )
            total = file.metadata.num_rows
            for number in range(file.num_row_groups):
                group = file.metadata.row_group(number)
                if rows + group.num_rows <= start.records:
                    rows += group.num_rows
                    continue
                at_once = _rows_at_once(group, text_field)
                for batch in file.iter_batches(at_once, row_groups=[number], columns=[text_field]):
                    done = min(max(start.records - rows, 0), batch.num_rows)
                    values = _values(batch.column(0).slice(done))
                    yield from in_pieces(name, rows + done, values, size / total)
                    rows += batch.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        failure = DataError(f"{name}: can't be read as parquet: {reason}")
        yield _unreadable(name, "rows", Position(records=max(rows, start.records)), failure, size)


def in_pieces(name: str, first: int, values: list[Any], row_bytes: float) -> Iterator[Piece]:
    """Yield pieces of consecutive rows; a long row forms a piece alone."""
    size = sum(len(value) for value in values if isinstance(value, str | bytes))
    step = 1 if size > PIECE_BYTES else max(len(values), 1)
    for at in range(0, len(values), step):
        begin, content = first + at, values[at : at + step]
        yield Piece(name, "rows", Position(records=begin), content, row_bytes * (begin + len(content)))


def _rows_at_once(group: Any, text_field: str) -> int:
    """Return the number of rows of a row group to read together: fewer if they are long."""
    columns = [group.column(number) for number in range(group.num_columns)]
    size = sum(column.total_uncompressed_size for column in columns if column.path_in_schema == text_field)
    return min(max(PIECE_BYTES * group.num_rows // max(size, 1), 1), ROWS)


def _values(column: Any) -> list[Any]:
    """Return the texts of a column; as bytes if any isn't UTF-8."""
    import pyarrow

    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return column.cast(pyarrow.large_binary()).to_pylist()


def _unreadable(name: str, kind: Kind, start: Position, error: DataError, size: float) -> Piece:
    """Return a piece that stands for the unreadable rest of a source."""
    return Piece(name, kind, start, b"", size, error=str(error))

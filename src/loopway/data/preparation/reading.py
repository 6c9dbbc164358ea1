"""Reads files piece by piece, so that memory doesn't grow with a file: text, JSONL (plain, gzip, zstandard), parquet.

A reader yields the :class:`Piece` objects of one file from a position on; what it yields depends on the file alone.
Where a file can't be read on, the last piece says why; what single records hold is looked at later. Knows nothing of
splits and tokenizers.
"""

import codecs
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from loopway.data.preparation.documents import BINARY, EMPTY, Piece, Position, not_utf8, parse_json
from loopway.errors import DataError

PIECE_BYTES = 2**20
"""About so much text makes a piece."""
LONG_TEXT = 4 * 2**20
"""A text file of more bytes is read in parts."""
LONGEST_JSON = 64 * 2**20
"""A .json file of more bytes is refused: it can only be read whole."""
LONGEST_LINE = 256 * 2**20
"""A line of more bytes is refused: the file isn't JSONL."""
ROWS = 16
"""Rows of a table, or records of a .json file, a piece."""
_CUT_WINDOW = 2**16
_BETWEEN_WORDS = re.compile(rb"(?<=\S)(?= \S)")


class Hash(Protocol):
    """What hashlib's objects can do."""

    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


def read_text(path: Path, name: str, new_hash: Callable[[], Hash]) -> Iterator[Piece]:
    """A text file: one document, in parts if it is long."""
    size = path.stat().st_size
    if size <= LONG_TEXT:
        yield Piece(name, "text", path.read_bytes(), 1, None, size)
        return
    try:
        digest = _digest_of_long_text(path, name, new_hash())
    except DataError as error:
        yield _unreadable(name, str(error), 1, size)
        return
    with path.open("rb") as file:
        offset, line, rest = 0, 1, b""
        while block := file.read(PIECE_BYTES):
            content = rest + block
            is_last = offset + len(content) == size
            cut = len(content) if is_last else _place_to_cut(content)
            part, rest = content[:cut], content[cut:]
            is_first, offset = offset == 0, offset + len(part)
            end = None if is_last else Position(offset)
            yield Piece(name, "part", part, line, end, offset, is_first, is_last, digest)
            line += part.count(b"\n")


def _digest_of_long_text(path: Path, name: str, digest: Hash) -> bytes:
    """Reads the file once before any of it is used: a document is known whole, and its mistakes are, before its end."""
    decoder, line = codecs.getincrementaldecoder("utf-8-sig")(), 1
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
    """Where tokens don't notice: before a lone space between two words, at a line's end, at least between characters."""
    start = max(len(content) - _CUT_WINDOW, 1)
    places = [match.start() for match in _BETWEEN_WORDS.finditer(content, start)]
    if places:
        return places[-1]
    newline = content.rfind(b"\n", start)
    if newline > 0:
        return newline
    place = len(content)
    while place > 1 and 0x80 <= content[place - 1] < 0xC0:  # behind the last whole character
        place -= 1
    return place - 1


def read_lines(path: Path, name: str, compression: str | None, start: Position) -> Iterator[Piece]:
    """A JSONL file: as many whole lines a piece as fit, at least one."""
    size = path.stat().st_size
    offset, lines = start
    try:
        with _unpacked(path, name, compression, offset) as (file, raw):
            for content in _whole_lines(file, name):
                first, offset, lines = lines + 1, offset + len(content), lines + content.count(b"\n")
                progress = offset if compression is None else raw.tell()
                yield Piece(name, "lines", content, first, Position(offset, lines), min(progress, size))
    except DataError as error:
        yield _unreadable(name, str(error), lines + 1, size)
        return
    if offset == 0:
        yield _unreadable(name, EMPTY.format(name), 1, size)


def _whole_lines(file: Any, name: str) -> Iterator[bytes]:
    """The rest of a file, cut behind newlines."""
    blocks: list[bytes] = []
    size = 0
    while block := file.read(PIECE_BYTES):
        end = block.rfind(b"\n") + 1
        if end:
            yield b"".join([*blocks, block[:end]])
            blocks, size = [block[end:]], len(block) - end
        else:  # within a line that is longer than a block
            blocks.append(block)
            size += len(block)
            if size > LONGEST_LINE:
                raise DataError(
                    f"{name}: a line of more than {LONGEST_LINE:,} bytes; write one object a line"
                )
    if rest := b"".join(blocks):
        yield rest


def prefix_digest(path: Path, name: str, compression: str | None, length: int, digest: Hash) -> bytes:
    """The digest of a JSONL file's first ``length`` bytes, unpacked."""
    with _unpacked(path, name, compression, 0) as (file, _):
        while length and (block := file.read(min(length, PIECE_BYTES))):
            digest.update(block)
            length -= len(block)
    return digest.digest()


@contextmanager
def _unpacked(
    path: Path, name: str, compression: str | None, offset: int
) -> Iterator[tuple[IO[bytes] | Any, IO[bytes]]]:
    """The file unpacked from ``offset`` on, and the file as it lies on disk, whose position tells how far it was read."""
    with path.open("rb") as raw:
        if compression is None:
            raw.seek(offset)
            yield raw, raw
            return
        import pyarrow

        try:
            with pyarrow.input_stream(raw, compression=compression) as file:
                while offset and (block := file.read(min(offset, PIECE_BYTES))):
                    offset -= len(block)
                yield file, raw
        except OSError as error:
            if error.errno is not None:
                raise
            raise DataError(f"{name}: can't be unpacked as {compression}: {error}") from None


def read_json(path: Path, name: str, start: Position) -> Iterator[Piece]:
    """A JSON file that holds a list of objects, some of them a piece; it is read whole."""
    size = path.stat().st_size
    if size > LONGEST_JSON:
        raise DataError(
            f"{name}: a .json file of {size:,} bytes would be read whole; up to {LONGEST_JSON:,} are; "
            "write one object a line and name it .jsonl"
        )
    try:
        records = _json_list(path.read_bytes(), name)
    except DataError as error:
        yield _unreadable(name, str(error), 1, size)
        return
    for first in range(start.records, len(records), ROWS):
        content = records[first : first + ROWS]
        end = first + len(content)
        yield Piece(name, "records", content, first + 1, Position(records=end), size * end / len(records))


def _json_list(content: bytes, name: str) -> list[Any]:
    if not content.strip():
        raise DataError(EMPTY.format(name))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_utf8(name, error, 1) from None
    records = parse_json(text, name)
    if not isinstance(records, list):
        raise DataError(
            f"{name}: a .json file must hold a list of objects; for one object a line, name it .jsonl"
        )
    return records


def read_parquet(path: Path, name: str, text_field: str, start: Position) -> Iterator[Piece]:
    """The text column of a parquet file, some rows a piece."""
    import pyarrow
    from pyarrow import parquet

    size, rows = path.stat().st_size, 0
    try:
        # A buffer makes columns be read in pages and not in whole row groups.
        with parquet.ParquetFile(path, buffer_size=PIECE_BYTES, pre_buffer=False) as file:
            columns = file.schema_arrow.names
            if text_field not in columns:
                raise DataError(
                    f"{name}: no column {text_field!r}; there are {', '.join(columns)}; set data.text_field"
                )
            total = file.metadata.num_rows
            for group in range(file.num_row_groups):
                in_group = (metadata := file.metadata.row_group(group)).num_rows
                if rows + in_group <= start.records:
                    rows += in_group
                    continue
                for batch in file.iter_batches(
                    _rows_at_once(metadata, text_field), row_groups=[group], columns=[text_field]
                ):
                    read = _values(batch.column(0))[max(start.records - rows, 0) :]
                    rows += batch.num_rows - len(read)
                    for values in in_pieces(read):
                        first, rows = rows, rows + len(values)
                        yield Piece(name, "rows", values, first, Position(records=rows), size * rows / total)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        yield _unreadable(name, f"{name}: can't be read as parquet: {reason}", rows, size)


def in_pieces(values: list[Any]) -> list[list[Any]]:
    """The values of neighbouring rows as pieces: one, or one each where they are long."""
    size = sum(len(value) for value in values if isinstance(value, str | bytes))
    return [[value] for value in values] if size > PIECE_BYTES or not values else [values]


def _rows_at_once(group: Any, text_field: str) -> int:
    """Rows of a row group that are read together: fewer of those that are long."""
    columns = [group.column(number) for number in range(group.num_columns)]
    size = sum(column.total_uncompressed_size for column in columns if column.path_in_schema == text_field)
    return min(max(PIECE_BYTES * group.num_rows // max(size, 1), 1), ROWS)


def _values(column: Any) -> list[Any]:
    """The texts of a column; bytes, if there are some that aren't UTF-8."""
    import pyarrow

    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return column.cast(pyarrow.large_binary()).to_pylist()


def _unreadable(name: str, reason: str, first: int, size: float) -> Piece:
    """What is left of a source from record ``first`` on."""
    return Piece(name, "unreadable", reason, first, None, size)

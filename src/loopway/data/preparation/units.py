"""Units: parts of the text that are encoded together and stored atomically, which allows a preparation to resume.

A unit is some small sources or a range of a large one: about 4 MiB of text, some seconds of work. ``<name>.npz`` holds
its tokens and records of its documents. ``<name>.json``, its marker, is written once that file is on disk. The name is
a hash of everything that the tokens depend on: the encoding, the sources' names and stamps, and where the unit begins.
After any change, exactly the units that are still valid are reused. Knows nothing of splits. Imports nothing heavy,
since every encoding process imports this module.
"""

import hashlib
import json
import math
import multiprocessing
import os
import signal
from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from loopway.children import end_with
from loopway.data.preparation.documents import Piece, Position
from loopway.data.preparation.encoding import Encoder, Encoding, neighbours
from loopway.data.preparation.reading import UNIT_BYTES
from loopway.errors import DataError
from loopway.files import damage_told, write_atomically

if TYPE_CHECKING:
    from loopway.data.preparation.sources import TextSource


class Place(NamedTuple):
    """The beginning of a unit: an index into the sources that are read together, and a position in that source."""

    source: int = 0
    position: Position = Position()


@dataclass(frozen=True)
class Unit:
    """One unit; its files are on disk once it is finished."""

    path: Path
    """Path of its marker."""
    pieces: Sequence[Piece] = ()
    """Its content; empty if the unit was finished earlier."""
    end: Place | None = None
    """Where the next one begins; None: these sources end here."""
    read: float = 0.0
    """Bytes on disk, of the sources read together, that have been read by the unit's end."""
    before: float = 0.0
    """Bytes of all earlier sources."""
    split: str = ""
    """The split that its text is for."""

    @cached_property
    def marker(self) -> dict[str, Any]:
        """The marker of a finished unit: ``end``, ``read``, and results of its encoding.

        ``sources``: [name, kind] of each source; ``unreadable``: [record, reason] of each unreadable record; ``ends``:
        whether the last document ends here.
        """
        with damage_told(self.path, "delete it and rerun the same command", DataError):
            marker = json.loads(self.path.read_text(encoding="utf-8"))
            return {key: marker[key] for key in ("end", "read", "sources", "unreadable", "ends")}

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of a finished unit, unsigned [tokens], and its documents, :data:`DOCUMENT` [documents]."""
        path = self.path.with_suffix(".npz")
        try:
            with np.load(path) as arrays:
                return arrays["ids"], arrays["documents"]
        except (OSError, ValueError, BadZipFile):
            raise DataError(f"{path}: damaged; delete {self.path} and rerun the same command") from None

    def finish(self, encoder: Encoder) -> None:
        """Encode the pieces and sync the results to disk."""
        encoded = [encoder.encode(piece) for piece in self.pieces]
        sources = list(dict.fromkeys((piece.source, piece.kind) for piece in self.pieces))
        for piece, part in zip(self.pieces, encoded, strict=True):
            part.documents["source"] = sources.index((piece.source, piece.kind))
        ids, documents = (
            np.concatenate([getattr(part, of) for part in encoded]) for of in ("ids", "documents")
        )
        if self.pieces[0].digest:  # parts of one text
            for name in ("tokens", "text_bytes"):
                documents[name][:1] = documents[name].sum()
            documents = documents[:1]
        with self.path.with_suffix(".npz").open("wb") as file:
            np.savez(file, ids=ids.astype(np.min_scalar_type(ids.max(initial=0))), documents=documents)
            file.flush()
            os.fsync(file.fileno())
        marker = {
            "end": self.end,
            "read": self.read,
            "sources": sources,
            "unreadable": [record for part in encoded for record in part.unreadable],
            "ends": self.pieces[-1].is_last,
        }
        write_atomically(self.path, json.dumps(marker))


def finished_units(
    sources: "Mapping[str, Sequence[TextSource]]", folder: Path, encoding: Encoding, processes: int
) -> Generator[Unit]:
    """Yield every unit of the sources, by split and in order, as soon as it is finished.

    Units whose files exist in ``folder`` are reused. Few units are read ahead, so memory doesn't grow with their number.

    Args:
        sources: the sources of each split.
        folder: where units are stored.
        encoding: how texts are encoded.
        processes: number of encoding processes; 1 encodes in this process.

    Raises:
        DataError: reading fails, after all earlier units have been yielded; or an encoding process died.
    """
    units = _units(sources, folder, encoding)
    if processes == 1:
        encoder = Encoder(encoding)
        for unit in units:
            if unit.pieces:
                unit.finish(encoder)
            yield unit
        return
    context = multiprocessing.get_context("spawn")  # a fork would inherit locked threads
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_start, initargs=(encoding,))
    try:
        yield from _in_order(units, pool, 2 * processes)
    except BrokenProcessPool:
        raise DataError(
            "a tokenising process was killed, perhaps out of memory; rerun the same command with fewer processes to "
            "resume (in your own script, call it under if __name__ == '__main__', or with processes=1)"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _units(sources: "Mapping[str, Sequence[TextSource]]", folder: Path, encoding: Encoding) -> Iterator[Unit]:
    """Yield every unit in order."""
    how, before, twins = short_hash(asdict(encoding)), 0.0, Counter[str]()
    for split in sources:
        for together in neighbours(sources[split], _size, UNIT_BYTES):
            what = [[source.name, source.stamp()] for source in together]
            twins[str(what)] += 1  # the same text may be named twice; its units need different names
            for unit in _cut(together, folder, [how, what, twins[str(what)]], encoding.seed):
                yield replace(unit, split=split, before=before)
            before += sum(source.size or 0 for source in together)


def _cut(sources: "Sequence[TextSource]", folder: Path, key: list[Any], seed: int) -> Iterator[Unit]:
    """Yield the units of sources that are read together; after a finished unit, reading continues at its end."""
    start, runs = Place(), None
    while start is not None:
        path = folder / f"{short_hash([*key, start])}.json"
        if path.exists():
            unit, runs = Unit(path), None
            end = unit.marker["end"]
            start = end and Place(end[0], Position(*end[1]))
            yield unit
        else:
            runs = runs or _runs(sources, start, seed)
            pieces, read, start = next(runs, ((), 0.0, None))
            if pieces:
                yield Unit(path, pieces, start, read)


def _size(source: "TextSource") -> float:
    return math.inf if source.size is None else source.size


def short_hash(value: Any) -> str:
    """Return the hash of a JSON value, 32 hexadecimal digits."""
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()


def _runs(
    sources: "Sequence[TextSource]", start: Place, seed: int
) -> Iterator[tuple[list[Piece], float, Place | None]]:
    """Yield, from a place on, each unit's pieces, the bytes read by its end, and where the next unit begins."""
    run: list[Piece] = []
    size, read, position = 0, 0.0, start.position
    before = sum(source.size or 0 for source in sources[: start.source])
    for number, source in enumerate(sources[start.source :], start=start.source):
        for piece in source.pieces(position, seed=seed):
            if run and size + piece.size > UNIT_BYTES:
                yield run, read, Place(number, piece.start)
                run, size = [], 0
            run.append(piece)
            size, read = size + piece.size, before + piece.progress
        position, before = Position(), before + (source.size or 0)
    if run:
        yield run, before, None


def _in_order(units: Iterator[Unit], pool: ProcessPoolExecutor, most: int) -> Iterator[Unit]:
    waiting: deque[tuple[Unit, Future[None] | None]] = deque()
    unit, failure = None, None
    while True:
        try:
            unit = next(units, None)
        except DataError as error:
            unit, failure = None, error
        if unit is not None:
            waiting.append((unit, pool.submit(_finish, unit) if unit.pieces else None))
        while waiting and (unit is None or len(waiting) > most):
            done, future = waiting.popleft()
            if future is not None:
                future.result()
            yield done
        if failure is not None:
            raise failure
        if unit is None:
            return


_encoder: Encoder
"""The encoder of an encoding process."""


def _start(encoding: Encoding) -> None:
    global _encoder
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes already use all cores
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # Ctrl-C reaches every process; this one ends without a traceback
    end_with(None)
    _encoder = Encoder(encoding)


def _finish(unit: Unit) -> None:
    unit.finish(_encoder)

"""Units are made in order, the same ones by any number of processes, and little is held of what is read ahead."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from corpora import jsonl, make_texts

from loopway.data.preparation.documents import Kind, Piece, Position
from loopway.data.preparation.encoding import Encoding
from loopway.data.preparation.units import finished_units
from loopway.data.tokenizer import train_tokenizer
from loopway.errors import DataError

TOKENIZER = train_tokenizer(make_texts(10), 400)
ENCODING = Encoding(TOKENIZER.backend_tokenizer.to_str(), int(str(TOKENIZER.eos_token_id)), "text", seed=0)


@dataclass
class Pieces:
    """A source of given pieces, too large to be read together with others."""

    make: Callable[[], Iterator[Piece]]
    name: str = "a.jsonl"
    kind: Kind = "lines"
    size: int | None = None

    def stamp(self) -> Any:
        return None

    def pieces(self, start: Position, *, seed: int) -> Iterator[Piece]:
        return (piece for piece in self.make() if piece.start >= start)


def many_pieces(texts: list[str], size: int = 50) -> list[Piece]:
    starts = range(0, len(texts), size)
    return [
        Piece("a.jsonl", "lines", Position(start, start), jsonl(texts[start : start + size]))
        for start in starts
    ]


def made(folder: Path, make: Callable[[], Iterator[Piece]], processes: int) -> Iterator[list[Any]]:
    """What each unit holds."""
    folder.mkdir(exist_ok=True)
    for unit in finished_units({"train": [Pieces(make)]}, folder, ENCODING, processes):  # type: ignore[list-item]
        ids, documents = unit.load()
        yield [ids.tolist(), documents.tobytes(), unit.marker]


def test_several_processes_give_what_one_gives_in_the_same_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loopway.data.preparation.units.UNIT_BYTES", 50_000)
    pieces = many_pieces(make_texts(600))
    pieces.insert(3, Piece("b.jsonl", "lines", Position(150), b'{"text": 7}\n{"text": "x"}\n'))
    pieces.insert(5, Piece("c.gz", "lines", Position(200), b"", error="c.gz: broken"))
    pieces.insert(9, Piece("d.parquet", "rows", Position(350), ["a b c", None, "d"]))
    pieces.append(Piece("e.txt", "text", Position(600), b"the end " * 3000))
    one, three = (list(made(tmp_path / str(count), lambda: iter(pieces), count)) for count in (1, 3))
    assert one == three and len(one) > 5
    assert [reason for _, _, marker in one for _, reason in marker["unreadable"]] == [
        "b.jsonl, line 1: field 'text' must be a string, got a number",
        "c.gz: broken",
        "d.parquet, row 1: field 'text' must be a string, got null",
    ]


@pytest.mark.parametrize("processes", [1, 2])
def test_what_was_read_before_an_error_is_given_before_it_is_raised_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    monkeypatch.setattr("loopway.data.preparation.units.UNIT_BYTES", 50_000)
    pieces = many_pieces(make_texts(600))

    def broken() -> Iterator[Piece]:
        yield from pieces
        raise DataError("the disk is gone")

    given: list[Any] = []
    with pytest.raises(DataError, match="the disk is gone"):
        for unit in made(tmp_path, broken, processes):
            given.append(unit)
    whole = list(made(tmp_path, lambda: iter(pieces), 1))
    assert given == whole[:-1] and len(whole) > 4


def test_little_is_read_ahead_and_closing_ends_the_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loopway.data.preparation.units.UNIT_BYTES", 1)  # a piece is a unit
    read, given, most = 0, 0, 0

    def reading() -> Iterator[Piece]:
        nonlocal read, most
        for number in range(200):
            read += 1
            most = max(most, read - given)
            yield Piece("a.txt", "text", Position(number), b"some text")

    units = finished_units({"train": [Pieces(reading)]}, tmp_path, ENCODING, 2)  # type: ignore[list-item]
    for _ in units:
        given += 1
        if given == 100:
            break
    assert multiprocessing.active_children()
    units.close()
    assert not multiprocessing.active_children()
    assert most <= 7 and read < 120


def test_a_process_that_is_killed_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loopway.data.preparation.units.UNIT_BYTES", 1)

    def killing() -> Iterator[Piece]:
        for number in range(1000):
            if number == 50:
                victim = multiprocessing.active_children()[0].pid
                assert victim is not None
                os.kill(victim, signal.SIGKILL)
            if number > 50:
                time.sleep(0.01)
            yield Piece("a.txt", "text", Position(number), b"some text")

    given = 0
    with pytest.raises(DataError, match="a tokenising process was killed") as caught:
        for _ in made(tmp_path, killing, 2):
            given += 1
    assert "\n" not in str(caught.value)
    assert 40 < given < 1000


def test_a_source_that_is_named_twice_is_encoded_twice_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loopway.data.preparation.units.UNIT_BYTES", 60_000)
    twins = [Pieces(lambda: iter(many_pieces(make_texts(300)))) for _ in range(2)]
    units = finished_units({"train": twins}, tmp_path, ENCODING, 2)  # type: ignore[dict-item]
    tokens = [len(unit.load()[0]) for unit in units]
    half = len(tokens) // 2
    assert tokens[:half] == tokens[half:] and len(list(tmp_path.glob("*.npz"))) == len(tokens) >= 4

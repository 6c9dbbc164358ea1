"""Small corpora of every kind that can be prepared, and what is looked at afterwards."""

import gzip
import json
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loopway.data import PreparationConfig, PreparedData, prepare
from loopway.data.preparation.split import SplitWriter
from loopway.data.preparation.units import Unit

WORDS = [f"{a}{b}" for a in ("quar", "lem", "dro", "fint", "sol") for b in ("ix", "on", "ame", "urt", "ey")]
KINDS = ["txt", "long_txt", "jsonl", "jsonl.gz", "jsonl.zst", "parquet", "dataset", "streamed"]


def make_texts(documents: int, seed: int = 0, words: int = 60) -> list[str]:
    """Texts of a few words each, so that each leaves its mark on a tokenizer."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(rng.sample(WORDS, 4), k=words)) for _ in range(documents)]


def make_corpus(folder: Path, documents: int = 20, seed: int = 0) -> Path:
    """A folder of .txt files."""
    folder.mkdir()
    for number, text in enumerate(make_texts(documents, seed)):
        (folder / f"{number:02}.txt").write_text(text)
    return folder


def jsonl(texts: Sequence[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


def make_source(kind: str, path: Path, texts: Sequence[str]) -> Any:
    """Writes texts as one source at `path`, to which its suffix is added; returns the entry of a config."""
    path = path.with_name(f"{path.name}.{kind}")
    if kind in ("txt", "long_txt"):
        path.mkdir()
        for number, text in enumerate(texts):
            (path / f"{number:03}.txt").write_text(text)
    elif kind == "jsonl":
        path.write_bytes(jsonl(texts))
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress(jsonl(texts), mtime=0))
    elif kind == "jsonl.zst":
        path.write_bytes(zstd(jsonl(texts)))
    elif kind == "parquet":
        pq.write_table(pa.table({"number": range(len(texts)), "text": texts}), path, row_group_size=10)
    else:
        datasets.Dataset.from_dict({"text": list(texts)}).save_to_disk(str(path))
        return {"dataset": str(path), "streaming": kind == "streamed"}
    return str(path)


def texts_of(prepared: PreparedData, split: str) -> list[str]:
    file = getattr(prepared, split)
    texts = []
    for number in range(file.num_documents):
        ids = file.sequence(number).tolist()
        assert ids[-1] == prepared.tokenizer.eos_token_id
        assert prepared.tokenizer.eos_token_id not in ids[:-1]
        texts.append(str(prepared.tokenizer.decode(ids[:-1])))
    return texts


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


_watchers: dict[str, Callable[[str, str], None]] = {}


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watchers or event not in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"):
        return
    if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
        return
    path = str(arguments[1] if event == "os.rename" else arguments[0])
    for folder, watcher in list(_watchers.items()):
        if path.startswith(folder):
            del _watchers[folder]  # what it does itself isn't watched
            try:
                watcher(event, path)
            finally:
                _watchers[folder] = watcher


sys.addaudithook(_audit)


@contextmanager
def watching(folder: Path, watcher: Callable[[str, str], None]) -> Iterator[None]:
    """Calls `watcher(event, path)` before whatever this process is about to do to files of a folder."""
    _watchers[str(folder)] = watcher
    try:
        yield
    finally:
        del _watchers[str(folder)]


def stop_at_unit(config: PreparationConfig, folder: Path, number: int, **options: Any) -> None:
    """Ctrl-C when this many units are finished."""
    seen, take = 0, SplitWriter.take

    def interrupt(writer: SplitWriter, unit: Unit) -> int:
        nonlocal seen
        seen += 1
        if seen == number:
            signal.raise_signal(signal.SIGINT)
        return take(writer, unit)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SplitWriter, "take", interrupt)
        prepare(config, folder, **{"processes": 1, "progress": False} | options)

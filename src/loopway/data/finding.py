"""Finds the token files that a data config names: prepared folders, and ``.bin`` files of any origin."""

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopway.data.config import HubDataset, TokenSource
from loopway.data.folder import PreparedData, is_prepared
from loopway.data.tokens.file import TokenFile
from loopway.errors import DataError

Entry = str | HubDataset | TokenSource


@dataclass(frozen=True)
class FoundTokens:
    """The token files of one entry, and the prepared folders that they belong to, if any."""

    name: str
    files: list[TokenFile]
    folders: list[PreparedData]
    weight: float | None = None

    @property
    def foreign(self) -> list[TokenFile]:
        """The files that no manifest tells about."""
        known = {prepared.folder / split for prepared in self.folders for split in ("train", "validation")}
        return [file for file in self.files if file.prefix not in known]

    def identity(self) -> list[dict[str, Any]]:
        """Return what tells its tokens from others, wherever they lie."""
        return [{"tokens": file.num_tokens, "fingerprint": file.fingerprint()} for file in self.files]

    def check_ids(self, vocab_size: int) -> None:
        """Raise :class:`DataError` if a token lies outside a model's vocabulary.

        Files that Loopway made say so themselves; of others that are large, only some places are looked at here.
        """
        for prepared in self.folders:
            counts = prepared.manifest["train"], prepared.manifest["validation"]
            largest = max(count["largest_id"] for count in counts if count)
            if largest >= vocab_size:
                raise DataError(
                    f"{prepared.folder}: holds token {largest}, outside the model's vocabulary of {vocab_size}; "
                    "leave model.vocab_size out, or make it larger"
                )
        for file in self.foreign:
            file.check_ids(vocab_size)


def names_tokens(entry: Entry) -> bool:
    """Whether an entry is of tokens; else it is of text."""
    if isinstance(entry, str):
        return entry.endswith(".bin") or is_prepared(Path(entry).expanduser())
    return isinstance(entry, TokenSource)


def find_tokens(entry: Entry, *, field: str) -> FoundTokens:
    """Open the token files of an entry; of a prepared folder, the split that ``field`` (``data.train``) asks for.

    Raises :class:`DataError` where there are none, or where they are damaged.
    """
    assert not isinstance(entry, HubDataset)
    name, weight = (entry, None) if isinstance(entry, str) else (entry.tokens, entry.weight)
    path = Path(name).expanduser()
    if is_prepared(path):
        prepared = PreparedData.open(path)
        file = prepared.train if field == "data.train" else prepared.validation
        if file is None:
            raise DataError(
                f"{field}: {name} was prepared without a validation set; to validate on its training text, name "
                f"{path / 'train.bin'}"
            )
        return FoundTokens(name, [file], [prepared], weight)
    paths = [str(path)] if path.exists() else sorted(glob.glob(str(path), recursive=True))
    if not paths:
        raise DataError(f"{field}: {name!r} does not exist (relative paths start at {Path.cwd()})")
    for found in paths:
        if not found.endswith(".bin"):
            raise DataError(f"{field}: {found!r} is neither a .bin file nor a folder of loopway prepare")
    files = {file.prefix: file for file in map(TokenFile.open, paths)}  # the shards of a file are one
    shards = sum(file.num_shards for file in files.values())
    if len(paths) not in (1, shards):
        raise DataError(
            f"{field}: {name!r} matches {len(paths)} of {shards} shards; a token file is read whole, so match all of them"
        )
    folders = [
        PreparedData.open(at) for at in dict.fromkeys(prefix.parent for prefix in files) if is_prepared(at)
    ]
    for prepared in folders:
        if field == "data.train" and prepared.validation and prepared.validation.prefix in files:
            raise DataError(
                f"{field}: {name!r} matches the validation set of {prepared.folder}; name the folder, or its train.bin"
            )
    return FoundTokens(name, list(files.values()), folders, weight)

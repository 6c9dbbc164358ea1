"""A prepared folder: a tokenizer, token files and a manifest of what they were made from.

    tokenizer/  train.bin  train.idx  validation.bin  validation.idx  left_out.jsonl  manifest.json (last)

Opens and checks such folders. Knows nothing of how they are made.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from transformers import PreTrainedTokenizerFast

from loopway.data.beginnings import set_beginning
from loopway.data.tokenizer import fingerprint, load_tokenizer, vocabulary_size
from loopway.data.tokens.file import TokenFile
from loopway.errors import DataError
from loopway.files import sha256_of

FORMAT = 2
MANIFEST = "manifest.json"
LEFT_OUT = "left_out.jsonl"


def is_prepared(folder: Path) -> bool:
    """Return whether a folder is a prepared folder."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a prepared folder.

    Raises:
        DataError: it is no manifest, or another version's.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict) or not {"format", "config", "train"} <= manifest.keys():
        raise DataError(f"{path}: not a manifest that loopway wrote; choose another folder")
    if manifest["format"] != FORMAT:
        raise DataError(
            f"{folder}: prepared by another version of loopway; choose another folder, or delete this one"
        )
    return manifest


@dataclass(frozen=True)
class PreparedData:
    """An open prepared folder."""

    folder: Path
    tokenizer: PreTrainedTokenizerFast
    train: TokenFile
    validation: TokenFile | None
    manifest: dict[str, Any]
    missing: tuple[str, ...] = ()
    """Entries of its config that no longer exist."""

    @property
    def notice(self) -> str | None:
        """One line about missing entries; None if there are none."""
        if not self.missing:
            return None
        more = f" and {len(self.missing) - 3} more" if len(self.missing) > 3 else ""
        return f"{self.folder}: using the prepared tokens; their text is gone: {', '.join(self.missing[:3])}{more}"

    @property
    def beginning(self) -> list[int]:
        """Ids of the special tokens that every document begins with; the tokenizer puts the same before a text."""
        return self.manifest["tokenizer"].get("beginning", [])

    @property
    def vocab_size(self) -> int:
        """Vocabulary size of the tokenizer, including the end-of-text token; a model's may be larger."""
        return vocabulary_size(self.tokenizer)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a prepared folder. To check the files' content too, call :meth:`verify`.

        Raises:
            DataError: a file is missing or truncated, or doesn't match the manifest.
        """
        manifest = read_manifest(folder)
        tokenizer = load_tokenizer(str((folder / "tokenizer").absolute()))
        if fingerprint(tokenizer) != manifest["tokenizer"]["fingerprint"]:
            raise DataError(
                f"{folder / 'tokenizer'}: not the tokenizer that the token files were made with; put it back, or "
                "prepare the text again"
            )
        train, validation = (_open_split(folder, split, manifest) for split in ("train", "validation"))
        assert train is not None
        prepared = cls(folder, tokenizer, train, validation, manifest)
        set_beginning(tokenizer, prepared.beginning)  # earlier versions didn't save it with the tokenizer
        return prepared

    def verify(self) -> None:
        """Read all files and compare them with the manifest.

        Raises:
            DataError: a file is damaged or differs from the manifest.
        """
        for file in filter(None, (self.train, self.validation)):
            file.verify(self.vocab_size)
            for suffix, key in ((".bin", "sha256"), (".idx", "index_sha256")):
                path = file.prefix.with_suffix(suffix)
                if sha256_of(path) != self.manifest[file.prefix.name][key]:
                    raise DataError(
                        f"{path}: its SHA-256 is not the manifest's: the file has changed since it was written"
                    )


def _open_split(folder: Path, split: str, manifest: dict[str, Any]) -> TokenFile | None:
    counts = manifest.get(split)
    if counts is None:
        return None
    file = TokenFile.open(folder / split)
    for unit, number in (("documents", file.num_documents), ("tokens", file.num_tokens)):
        if number != counts[unit]:
            raise DataError(
                f"{folder / split}.bin: {number:,} {unit}, but {MANIFEST} says {counts[unit]:,}; put the file back, or "
                "prepare the text again"
            )
    return file

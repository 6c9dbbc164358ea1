"""tokens.json: the tokens that a run began with, and the paths of its token files.

A run resumes only with these tokens, wherever they are by then. Knows nothing of how text or token files are opened.
"""

import glob
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from loopway.data.config import DataConfig, TokenSource
from loopway.data.token_sources import Entry, names_tokens
from loopway.errors import DataError
from loopway.files import damage_told, write_json


class NoTokensError(DataError):
    """The tokens that a run began with no longer exist."""


@dataclass(frozen=True)
class TokensNote:
    """Fingerprints of a run's tokens, by part, and their places."""

    tokenizer: str
    train: list[list[dict[str, Any]]]
    validation: list[list[dict[str, Any]]]
    places: dict[str, str] = field(default_factory=dict)
    """Absolute paths of token files and their tokenizer's folder, by the names that the config gives them."""
    sha256: dict[str, str] = field(default_factory=dict)
    """Digests by part, as far as the config pins them; they were verified when the note was written."""

    @classmethod
    def read(cls, path: Path | None) -> Self | None:
        """Return the note, or None if there is none.

        Raises:
            DataError: the note is damaged.
        """
        if path is None or not path.exists():
            return None
        with damage_told(path, "put it back, or choose another folder", DataError):
            return cls(**json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    def differs_in(self, now: Self) -> str | None:
        """Return the first part whose tokens differ from the present ones, or None."""
        parts = ("tokenizer", "train", "validation")
        return next((part for part in parts if getattr(self, part) != getattr(now, part)), None)


def locate(config: DataConfig, places: Mapping[str, str]) -> tuple[DataConfig, dict[str, str]]:
    """Replace names in the config by noted places, if they exist. Return the new config and the present places.

    Places are absolute paths of token files and their tokenizer's folder, by the names in the original config.

    Raises:
        NoTokensError: nothing exists at a noted place or under the name itself.
    """
    now: dict[str, str] = {}
    changed: dict[str, Any] = {}
    for part in ("train", "validation"):
        if (given := getattr(config, part)) is not None:
            changed[part] = locate_entries(given, places, part)
            pairs = zip(given, changed[part], strict=True)
            now |= {_name(entry): _absolute(_name(there)) for entry, there in pairs if names_tokens(there)}
    if config.tokenizer is not None:
        changed["tokenizer"] = tokenizer = _locate(config.tokenizer, places, "tokenizer")
        if now and Path(tokenizer).expanduser().is_dir():
            now[config.tokenizer] = _absolute(tokenizer)
    return config.model_copy(update=changed), now


def locate_entries(entries: Sequence[Entry], places: Mapping[str, str], part: str) -> list[Entry]:
    """Return the entries of one part with names replaced by noted places; raises as :func:`locate`."""
    found: list[Entry] = []
    for entry in entries:
        if isinstance(entry, str):
            entry = _locate(entry, places, part)
        elif isinstance(entry, TokenSource):
            entry = entry.model_copy(update={"tokens": _locate(entry.tokens, places, part)})
        found.append(entry)
    return found


def _locate(name: str, places: Mapping[str, str], part: str) -> str:
    if name not in places:
        return name
    for place in (places[name], name):
        path = Path(place).expanduser()
        if path.exists() or any(True for _ in glob.iglob(str(path), recursive=True)):
            return place
    raise NoTokensError(
        f"data.{part}: {name!r} is neither here nor at {places[name]}, where the run found it; put it back"
    )


def _name(entry: str | TokenSource) -> str:
    return entry if isinstance(entry, str) else entry.tokens


def _absolute(name: str) -> str:
    return os.path.abspath(Path(name).expanduser())

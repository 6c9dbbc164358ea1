"""Whether a prepared folder is what a config asks for: the same options, tokenizer and text, as far as they are there.

Knows nothing of how a folder is prepared.
"""

from collections.abc import Sequence
from pathlib import Path

from loopway.data.config import HubDataset, PreparationConfig
from loopway.data.folder import MANIFEST, differing_key, read_manifest
from loopway.data.preparation.assembly import request_of
from loopway.data.preparation.sources import NoSourceError, TextSource, find_sources, is_of_entry
from loopway.data.tokenizer import fingerprint, load_tokenizer
from loopway.errors import DataError


def check_same(folder: Path, config: PreparationConfig) -> list[str]:
    """Return the entries of the config that name nothing any more.

    Raises :class:`DataError` naming the first thing in which the folder differs from what is wanted.
    """
    manifest, advice = read_manifest(folder), "choose another folder, or delete this one"
    before, now = manifest["config"], request_of(config, None)["config"]
    if (key := differing_key(before, now)) is not None:
        raise DataError(
            f"{folder}: was prepared with data.{key} = {before.get(key)!r}, not {now.get(key)!r}; {advice}"
        )
    if config.tokenizer is not None and Path(config.tokenizer).expanduser().exists():
        given = fingerprint(load_tokenizer(config.tokenizer))
        if given != manifest["tokenizer"]["fingerprint"]:
            raise DataError(
                f"{folder}: was prepared with another tokenizer than {config.tokenizer}; {advice}"
            )
    written = (folder / MANIFEST).stat().st_mtime_ns
    missing: list[str] = []
    for split, entries in (("train", config.train), ("validation", config.validation or [])):
        wanted, gone = _find_those_there(entries, config.text_field, field=f"data.{split}")
        missing += gone
        if not wanted:
            continue  # of a folder that was moved between machines, even names may differ
        there = [
            source
            for source in manifest["sources"][split]
            if not any(is_of_entry(source["name"], entry) for entry in gone)
        ]
        names = {"there": [source["name"] for source in there], "now": [source.name for source in wanted]}
        if names["there"] != names["now"]:
            differing = sorted(set(names["there"]) ^ set(names["now"])) or ["order"]
            raise DataError(
                f"{folder}: data.{split} has changed since it was prepared ({differing[0]}); {advice}"
            )
        for source, identity in zip(wanted, there, strict=True):
            if not source.is_same(identity, written):
                raise DataError(
                    f"{folder}: data.{split} has changed since it was prepared ({source.name}); {advice}"
                )
    return missing


def _find_those_there(
    entries: Sequence[str | HubDataset], text_field: str, *, field: str
) -> tuple[list[TextSource], list[str]]:
    """The sources that are there, and the entries that name nothing."""
    sources: list[TextSource] = []
    missing: list[str] = []
    for entry in entries:
        try:
            sources += find_sources([entry], text_field, field=field)
        except NoSourceError:
            missing.append(entry.dataset if isinstance(entry, HubDataset) else entry)
    return sources, missing

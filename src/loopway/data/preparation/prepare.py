"""Prepare a folder from text: read, split by document, train or load the tokenizer, write token files.

Work happens in ``<folder>.incomplete``, unit by unit; the complete folder is renamed. After an interruption, repeat the
call to resume. The resulting bytes don't depend on the number of processes or on interruptions. Knows nothing of
models, runs and samples.
"""

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from loopway.data.config import HubDataset, PreparationConfig
from loopway.data.folder import MANIFEST, PreparedData, is_prepared, read_manifest
from loopway.data.preparation.assembly import SINGLE_DOCUMENT, Assembly, request_of
from loopway.data.preparation.progress import Meter
from loopway.data.preparation.reading import PIECE_BYTES
from loopway.data.preparation.sources import (
    NoSourceError,
    TextSource,
    find_sources,
    is_of_entry,
    not_read_in,
)
from loopway.data.tokenizer import fingerprint, load_tokenizer
from loopway.errors import DataError
from loopway.files import INCOMPLETE, locked

logger = logging.getLogger(__name__)

_WORTH_PROCESSES = 16 * PIECE_BYTES
"""Bytes of text from which on several processes are faster than one."""


def prepare(
    config: PreparationConfig,
    folder: Path | str,
    *,
    processes: int | None = None,
    progress: bool | None = None,
) -> PreparedData:
    """Prepare the text of ``config`` in ``folder``, or open the folder if that is already done.

    A prepared folder doesn't need its text: existing text is compared, text that no longer exists is listed as
    ``missing``. Nothing is overwritten.

    Args:
        config: the text sources, and how they are split and tokenised.
        folder: a folder that doesn't exist, is empty, or was prepared with the same config.
        processes: number of encoding processes; None means one per core, or only this one for little text. It doesn't
            change the result.
        progress: None shows a bar if standard error is a terminal, else occasional lines; False shows nothing.

    Raises:
        DataError: text is missing or unreadable, a split would be empty, or the folder holds anything else.
        ConfigError: another process is preparing the folder.
    """
    folder = Path(folder)
    if is_prepared(folder):
        missing = check_request(folder, config)
        return replace(PreparedData.open(folder), missing=tuple(missing))
    train = find_sources(config.train, config.text_field, field="data.train")
    validation = find_sources(config.validation or [], config.text_field, field="data.validation")
    is_single = config.validation_fraction and not validation and [each.kind for each in train] == ["text"]
    if (
        is_single and (train[0].size or 0) > _WORTH_PROCESSES
    ):  # with a short text, this error comes soon anyway
        raise DataError(SINGLE_DOCUMENT)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: exists and was not prepared by loopway; choose another folder")
    place = folder.resolve()  # what a link points to
    if place == Path.cwd() or place.is_mount():
        raise DataError(f"{folder}: is the current folder or a mount point; name a folder inside it")
    partial, meter = place.with_name(f"{place.name}{INCOMPLETE}"), Meter(progress)
    given = load_tokenizer(config.tokenizer) if config.tokenizer else None
    if others := not_read_in([*config.train, *(config.validation or [])]):
        logger.warning("%s", others)
    processes = _processes(processes, [*train, *validation])
    partial.mkdir(parents=True, exist_ok=True)
    with locked(partial / ".lock", f"another process is preparing {folder}"), meter:
        if is_prepared(folder):  # by another process in the meantime
            shutil.rmtree(partial)
            return prepare(config, folder)
        if is_prepared(partial):  # interrupted just before it was renamed
            check_request(partial, config)
        Assembly(partial, config, train, validation, given, meter).run(processes)
    (partial / ".lock").unlink()
    partial.rename(place)  # perhaps over an empty folder
    prepared = PreparedData.open(folder)
    left_out = prepared.manifest["left_out"]
    if left_out["duplicates"]:
        logger.warning(
            "%d training documents are also validation documents and were omitted", left_out["duplicates"]
        )
    if left_out["unreadable"]:
        logger.warning("%d records could not be read and were skipped", left_out["unreadable"])
    return prepared


def _processes(wanted: int | None, sources: Sequence[TextSource]) -> int:
    if wanted is not None:
        if wanted < 1:
            raise DataError(f"processes: got {wanted}, expected at least 1")
        return wanted
    sizes = [source.size for source in sources]
    if None not in sizes and sum(size or 0 for size in sizes) < _WORTH_PROCESSES:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_request(folder: Path, config: PreparationConfig) -> list[str]:
    """Check that a folder was prepared as the config says; return the entries that no longer exist.

    Raises:
        DataError: the folder differs; the message names the first difference.
    """
    manifest, advice = read_manifest(folder), "choose another folder, or delete this one"
    before, now = manifest["config"], request_of(config, None)["config"]
    for key in {**now, **before}:
        if before.get(key) != now.get(key):
            raise DataError(
                f"{folder}: was prepared with data.{key} = {before.get(key)!r}, not {now.get(key)!r}; {advice}"
            )
    if config.tokenizer is not None and Path(config.tokenizer).expanduser().exists():
        given = fingerprint(load_tokenizer(config.tokenizer))
        if given != manifest["tokenizer"]["fingerprint"]:
            raise DataError(
                f"{folder}: was prepared with another tokenizer than {config.tokenizer}; {advice}"
            )
    written, missing = (folder / MANIFEST).stat().st_mtime_ns, list[str]()
    for split, entries in (("train", config.train), ("validation", config.validation or [])):
        wanted, gone = _find_those_there(entries, config.text_field, field=f"data.{split}")
        missing += gone
        if not wanted:
            continue  # in a folder moved between machines, even names may differ
        there = [
            identity
            for identity in manifest["sources"][split]
            if not any(is_of_entry(identity["name"], entry) for entry in gone)
        ]
        names = [identity["name"] for identity in there], [source.name for source in wanted]
        if names[0] != names[1]:
            changed = sorted({*names[0]} ^ {*names[1]}) or ["order"]
        else:
            pairs = zip(wanted, there, strict=True)
            changed = [source.name for source, identity in pairs if not source.is_same(identity, written)]
        if changed:
            raise DataError(
                f"{folder}: data.{split} has changed since it was prepared ({changed[0]}); {advice}"
            )
    return missing


def _find_those_there(
    entries: Sequence[str | HubDataset], text_field: str, *, field: str
) -> tuple[list[TextSource], list[str]]:
    """Return the sources that exist, and the entries that don't."""
    sources: list[TextSource] = []
    missing: list[str] = []
    for entry in entries:
        try:
            sources += find_sources([entry], text_field, field=field)
        except NoSourceError:
            missing.append(entry.dataset if isinstance(entry, HubDataset) else entry)
    return sources, missing

"""From text to a prepared folder: reads, splits by document, trains or loads the tokenizer, writes token files.

Work happens in ``<folder>.incomplete``, with a checkpoint every few seconds, and the folder is renamed once it is whole.
Interrupted, the same call resumes from the checkpoint; the bytes are the same, whatever the number of processes and
wherever it was interrupted. Knows nothing of models, runs and samples.
"""

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from loopway.data.config import HubDataset, PreparationConfig
from loopway.data.folder import FORMAT, MANIFEST, PreparedData, differing_key, is_prepared, read_manifest
from loopway.data.preparation.assembly import Assembly
from loopway.data.preparation.progress import Meter
from loopway.data.preparation.reading import PIECE_BYTES
from loopway.data.preparation.sides import SINGLE_DOCUMENT
from loopway.data.preparation.sources import NoSourceError, TextSource, find_sources, is_of_entry
from loopway.data.tokenizer import fingerprint, load_tokenizer
from loopway.errors import DataError
from loopway.files import locked

logger = logging.getLogger(__name__)

_WORTH_PROCESSES = 16 * PIECE_BYTES
"""Less text than this is encoded sooner than other processes have started."""


def prepare(
    config: PreparationConfig,
    folder: Path | str,
    *,
    processes: int | None = None,
    progress: bool | None = None,
) -> PreparedData:
    """Prepares the text of ``config`` in ``folder``, or opens it where that is done already.

    A folder that is prepared needs no text: what is there is compared, what isn't there is listed as ``missing``.

    Args:
        config: what text, and how it is split and tokenised.
        folder: must not exist, be empty, or be of the same config.
        processes: that encode; None: one a core, or none beside this one for little text. No matter for the result.
        progress: None shows a bar if standard error is a terminal, else a line now and then; False nothing.

    Raises:
        DataError: text that is missing or unreadable, a validation set that would be empty, a folder that holds
            anything else; nothing is overwritten.
        ConfigError: another process is at work on the folder.
    """
    folder = Path(folder)
    if is_prepared(folder):
        missing = _check_same(folder, config)
        return replace(PreparedData.open(folder), missing=tuple(missing))
    train = find_sources(config.train, config.text_field, field="data.train")
    validation = find_sources(config.validation or [], config.text_field, field="data.validation")
    is_single = len(train) == 1 and train[0].name.endswith(".txt")
    if (
        is_single
        and config.validation_fraction
        and not validation
        and (train[0].size or 0) > _WORTH_PROCESSES
    ):
        raise DataError(SINGLE_DOCUMENT)  # of a short text it is found out as soon
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: exists and was not prepared by loopway; choose another folder")
    place = folder.resolve()  # what a link points to
    if place == Path.cwd() or place.is_mount():
        raise DataError(f"{folder}: is where you are or a mount point; name a folder inside it")
    partial, meter = place.with_name(f"{place.name}.incomplete"), Meter(progress)
    given = load_tokenizer(config.tokenizer) if config.tokenizer else None
    processes = _processes(processes, [*train, *validation])
    assembly = Assembly(partial, request_of(config, given), config, train, validation, meter)
    partial.mkdir(parents=True, exist_ok=True)
    with locked(partial / ".lock", f"another process is preparing {folder}"), meter:
        if is_prepared(folder):  # by another process, since it was looked for
            shutil.rmtree(partial)
            return prepare(config, folder)
        if is_prepared(partial):  # interrupted just before it was renamed
            _check_same(partial, config)
        assembly.run(given, processes)
    (partial / ".lock").unlink()
    if place.exists():
        place.rmdir()  # empty, as checked; on Windows a rename can't replace it
    partial.rename(place)
    prepared = PreparedData.open(folder)
    left_out = prepared.manifest["left_out"]
    if left_out["duplicates"]:
        logger.warning(
            "%d training documents are validation documents too and were left out", left_out["duplicates"]
        )
    if left_out["unreadable"]:
        logger.warning("%d records could not be read and were left out", left_out["unreadable"])
    return prepared


def request_of(config: PreparationConfig, given: PreTrainedTokenizerFast | None) -> dict[str, Any]:
    """Return all that a prepared folder depends on, beside the content of its sources."""
    # Whether unreadable records are skipped makes no difference as long as there are none, and may change after one.
    fields = config.model_dump(mode="json", exclude={"skip_unreadable"})
    if config.add_bos_token is None:  # as before there was this key
        del fields["add_bos_token"]
    return {
        "format": FORMAT,
        "config": fields,
        "given_tokenizer": fingerprint(given) if given is not None else None,
    }


def _processes(wanted: int | None, sources: Sequence[TextSource]) -> int:
    if wanted is not None:
        if wanted < 1:
            raise DataError(f"processes: got {wanted}, at least 1 is needed")
        return wanted
    sizes = [source.size for source in sources]
    if None not in sizes and sum(size or 0 for size in sizes) < _WORTH_PROCESSES:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_same(folder: Path, config: PreparationConfig) -> list[str]:
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
    for half, entries in (("train", config.train), ("validation", config.validation or [])):
        wanted, gone = _find_those_there(entries, config.text_field, field=f"data.{half}")
        missing += gone
        if not wanted:
            continue  # of a folder that was moved between machines, even names may differ
        there = [
            source
            for source in manifest["sources"][half]
            if not any(is_of_entry(source["name"], entry) for entry in gone)
        ]
        names = {"there": [source["name"] for source in there], "now": [source.name for source in wanted]}
        if names["there"] != names["now"]:
            differing = sorted(set(names["there"]) ^ set(names["now"])) or ["order"]
            raise DataError(
                f"{folder}: data.{half} has changed since it was prepared ({differing[0]}); {advice}"
            )
        for source, identity in zip(wanted, there, strict=True):
            if not source.is_same(identity, written):
                raise DataError(
                    f"{folder}: data.{half} has changed since it was prepared ({source.name}); {advice}"
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

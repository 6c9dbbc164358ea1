"""From text to a prepared folder: reads, splits by document, trains or loads the tokenizer, writes token files.

Work happens in ``<folder>.incomplete``, unit by unit, and the folder is renamed once it is whole. Interrupted, the same
call makes the units that are missing; the bytes are the same, whatever the number of processes and wherever it was
interrupted. Knows nothing of models, runs and samples.
"""

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from loopway.data.config import PreparationConfig
from loopway.data.folder import PreparedData, is_prepared
from loopway.data.preparation.assembly import Assembly
from loopway.data.preparation.progress import Meter
from loopway.data.preparation.reading import PIECE_BYTES
from loopway.data.preparation.reuse import check_same
from loopway.data.preparation.sources import INCOMPLETE, TextSource, find_sources
from loopway.data.tokenizer import load_tokenizer
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
    """Prepare the text of ``config`` in ``folder``, or open it where that is done already.

    A folder that is prepared needs no text: what is there is compared, what isn't there is listed as ``missing``.

    Args:
        config: what text, and how it is split and tokenised.
        folder: must not exist, be empty, or be of the same config.
        processes: that encode; None: one a core, or none beside this one for little text. No matter for the result.
        progress: None shows a bar if standard error is a terminal, else a line now and then; False nothing.

    Raises:
        DataError: text that is missing or unreadable, a split that would be empty, a folder that holds
            anything else; nothing is overwritten.
        ConfigError: another process is at work on the folder.
    """
    folder = Path(folder)
    if is_prepared(folder):
        missing = check_same(folder, config)
        return replace(PreparedData.open(folder), missing=tuple(missing))
    train = find_sources(config.train, config.text_field, field="data.train")
    validation = find_sources(config.validation or [], config.text_field, field="data.validation")
    if config.validation_fraction and not validation and [source.kind for source in train] == ["text"]:
        raise DataError(
            "data.validation_fraction: the training text is a single document, so the validation set would be empty; "
            "give data.validation, or more documents, or set data.validation_fraction to 0"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: exists and was not prepared by loopway; choose another folder")
    place = folder.resolve()  # what a link points to
    if place == Path.cwd() or place.is_mount():
        raise DataError(f"{folder}: is where you are or a mount point; name a folder inside it")
    partial, meter = place.with_name(f"{place.name}{INCOMPLETE}"), Meter(progress)
    given = load_tokenizer(config.tokenizer) if config.tokenizer else None
    processes = _processes(processes, [*train, *validation])
    partial.mkdir(parents=True, exist_ok=True)
    with locked(partial / ".lock", f"another process is preparing {folder}"), meter:
        if is_prepared(folder):  # by another process, since it was looked for
            shutil.rmtree(partial)
            return prepare(config, folder)
        if is_prepared(partial):  # interrupted just before it was renamed
            check_same(partial, config)
        Assembly(partial, config, train, validation, given, meter).run(processes)
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


def _processes(wanted: int | None, sources: Sequence[TextSource]) -> int:
    if wanted is not None:
        if wanted < 1:
            raise DataError(f"processes: got {wanted}, at least 1 is needed")
        return wanted
    sizes = [source.size for source in sources]
    if None not in sizes and sum(size or 0 for size in sizes) < _WORTH_PROCESSES:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

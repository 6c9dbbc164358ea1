"""Removal of runs: only of folders that Loopway made, and in them only of what a run writes.

Knows the parts of a run's folder; nothing of how a run is trained.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from loopway.errors import ConfigError
from loopway.files import INCOMPLETE, aside_of, remove
from loopway.training.run_folder import RunFolder


def remove_results(runs: Sequence[RunFolder]) -> None:
    """Remove what runs wrote except their config and prepared text; they count as not begun then.

    Locks all runs before it removes anything.

    Raises:
        ConfigError: a folder that Loopway didn't make, a link, or a run that another process trains.
    """
    with _locked(runs):
        for run in runs:
            remove(*_results(run))


def remove_runs(runs: Sequence[RunFolder]) -> None:
    """Remove runs with their prepared text and their folders. A folder that holds other files stays, with these.

    Locks all runs before it removes anything.

    Raises:
        ConfigError: a folder that Loopway didn't make, a link, or a run that another process trains.
    """
    with _locked(runs):
        for run in runs:
            data = (run.data, run.data.with_name(f"{run.data.name}{INCOMPLETE}"))
            remove(*_results(run), *data, run.config, run.lock)
            with contextlib.suppress(OSError):  # it holds other files
                run.path.resolve().rmdir()


def check_own(run: RunFolder) -> None:
    """Raise ConfigError unless Loopway made the folder: a run's config in full, and its lock file."""
    if run.path.is_symlink():
        raise ConfigError(f"{run.path}: is a link; name the folder that it points to")
    try:
        is_own = "plugins" in run.read_config() and run.lock.exists()
    except ConfigError:
        is_own = False
    if not is_own:
        raise ConfigError(
            f"{run.path}: not recognised as a folder that loopway train made, so nothing was deleted; delete it "
            f"yourself, or choose another folder"
        )


def _locked(runs: Sequence[RunFolder]) -> contextlib.ExitStack:
    for run in runs:
        check_own(run)
    with contextlib.ExitStack() as locks:
        for run in runs:
            locks.enter_context(run.locked())
        return locks.pop_all()


def _results(run: RunFolder) -> list[Path]:
    """The summary first: without it the run isn't finished, however far a removal comes."""
    files = [run.summary, run.metrics, run.probes, run.validation_losses, run.original, run.tokens]
    files.append(run.provenance)
    folders = [run.checkpoints, run.model, run.tensorboard, run.plugins, run.model_aside]
    return [*files, *map(aside_of, files), *folders]

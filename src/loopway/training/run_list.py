"""List runs below a folder: steps, losses and sizes, read from their files.

Imports neither torch nor transformers. Knows nothing of how a run is done.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import typer
import yaml
from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Column, Table

from loopway.console import screen
from loopway.errors import ConfigError
from loopway.options import RunsOptions
from loopway.training.checkpoint import steps_of
from loopway.training.config.differences import config_differences
from loopway.training.metrics_log import read_metrics
from loopway.training.removal import remove_runs
from loopway.training.run_folder import RunFolder


@dataclass(frozen=True)
class RunState:
    """One run.

    Attributes:
        folder: of the run.
        state: ``finished``, ``begun``, or ``damaged`` where its config can't be read.
        layout, recurrence: of the model; None if a preset or a pretrained model sets it.
        step: of the last logged line or the newest checkpoint.
        max_steps: None if they follow from epochs.
        train_loss, validation_loss: the last logged ones, in nats per token.
        bytes: size of the folder.
        changed: time of the last logged metric, ISO 8601.
    """

    folder: str
    state: str
    layout: str | None
    recurrence: str | None
    step: int
    max_steps: int | None
    train_loss: float | None
    validation_loss: float | None
    bytes: int
    changed: str

    @classmethod
    def of(cls, run: RunFolder) -> "RunState":
        """Read config and metrics of a run."""
        try:
            config: dict[str, Any] = yaml.safe_load(run.config.read_text(encoding="utf-8"))
            model, max_steps = config["model"], config["training"].get("max_steps")
            named = [model.get("layout"), model.get("recurrence")]
            if not isinstance(max_steps, int | None) or not all(
                isinstance(name, str | None) for name in named
            ):
                raise TypeError("not as loopway wrote it")
            state = "finished" if run.is_finished else "begun"
        except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError):
            model, max_steps, state = {}, None, "damaged"
        last: dict[str, Any] = {}
        for line in read_metrics(run.metrics):
            last |= line
        told = run.metrics if run.metrics.exists() else run.config
        return cls(
            folder=str(run.path),
            state=state,
            layout=model.get("layout"),
            recurrence=model.get("recurrence"),
            step=max([last.get("step", 0), *steps_of(run.checkpoints)]),
            max_steps=max_steps,
            train_loss=last.get("loss"),
            validation_loss=last.get("validation_loss"),
            bytes=sum(path.lstat().st_size for path in run.path.rglob("*")),
            changed=datetime.fromtimestamp(told.stat().st_mtime).astimezone().isoformat(timespec="seconds"),
        )


def runs_command(folders: list[Path], options: RunsOptions, *, as_json: bool = False) -> None:
    """List, compare or delete the runs below folders.

    Raises:
        ConfigError: a missing folder, fewer than two runs to compare, or a run to delete that another process trains (the
            runs before it are deleted).
    """
    if options.compare and options.delete:
        raise ConfigError("give --compare or --delete, not both")
    if options.compare:
        compare_runs(folders, as_json=as_json)
        return
    found = list_runs(folders, as_json=as_json)
    if options.delete and found and (options.yes or _is_confirmed(found)):
        remove_runs(found)


def compare_runs(folders: list[Path], *, as_json: bool = False, console: Console | None = None) -> None:
    """Print the config keys in which runs differ, and their last losses, with a column for each run.

    Args:
        folders: searched with their subfolders.
        as_json: print a JSON object instead: ``runs`` holds their states, ``keys`` the differing values in that order.
        console: where the table goes; None is standard output.

    Raises:
        ConfigError: a folder that isn't there, fewer than two runs, or a config that can't be read.
    """
    runs = _runs_in(folders)
    if len(runs) < 2:
        raise ConfigError(
            f"--compare needs two runs or more, and {', '.join(map(str, folders))} holds {len(runs)}"
        )
    keys, states = config_differences([run.read_config() for run in runs]), [*map(RunState.of, runs)]
    if as_json:
        print(json.dumps({"runs": [asdict(state) for state in states], "keys": keys}, indent=2))
        return
    names = [Path(state.folder).name for state in states]
    if len({*names}) < len(names):
        names = [state.folder for state in states]
    columns = (Column(name, overflow="fold", justify="right") for name in names)
    table = Table(Column("", no_wrap=True), *columns)
    for key, values in keys.items():
        table.add_row(key, *("–" if value is None else str(value) for value in values))
    for name, values in (
        ("train loss", [state.train_loss for state in states]),
        ("validation loss", [state.validation_loss for state in states]),
    ):
        table.add_row(name, *map(_loss, values))
    (console or screen()).print(table)


def find_runs(folder: Path) -> Iterator[RunFolder]:
    """Yield the runs in a folder and below it, sorted by path; no run lies in another."""
    if (folder / "config.yaml").is_file() and not (folder / "comparison.json").is_file():
        yield RunFolder(folder)
        return
    inner = [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    for path in sorted(inner):
        yield from find_runs(path)


def list_runs(
    folders: list[Path], *, as_json: bool = False, console: Console | None = None
) -> list[RunFolder]:
    """Print the runs below folders as a table, or as a JSON list of :class:`RunState`; return them.

    Raises:
        ConfigError: a folder that isn't there.
    """
    found = _runs_in(folders)
    runs = [*map(RunState.of, found)]
    console = console or screen()
    if as_json:
        print(json.dumps([asdict(run) for run in runs], indent=2))
    elif not runs:
        console.print(f"no runs in {', '.join(map(str, folders))}", markup=False, highlight=False)
    else:
        console.print(runs_table(runs))
    return found


def runs_table(runs: list[RunState]) -> Table:
    """One row for each run; fits 80 columns."""
    columns = [Column(name, no_wrap=True) for name in ("model", "steps")]
    columns += [Column(name, justify="right", no_wrap=True) for name in ("train", "val.", "size", "changed")]
    table = Table(Column("run", overflow="fold"), *columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for run in runs:
        model = " ".join(filter(None, [run.layout, run.recurrence])) or "–"
        state = {
            "finished": "",
            "damaged": " damaged",
            "begun": f" of {run.max_steps:,}" if run.max_steps else " begun",
        }[run.state]
        steps = f"{run.step:,}{state}"
        losses = map(_loss, (run.train_loss, run.validation_loss))
        changed = datetime.fromisoformat(run.changed).strftime("%m-%d")
        table.add_row(run.folder, model, steps, *losses, decimal(run.bytes), changed)
    return table


def _is_confirmed(runs: list[RunFolder]) -> bool:
    return typer.confirm(f"Delete these runs ({len(runs)})?", err=True)


def _runs_in(folders: list[Path]) -> list[RunFolder]:
    """Every run once; raises ConfigError for a missing folder."""
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder; runs lie in runs/ unless --out said otherwise")
    return [*{run.path.resolve(): run for folder in folders for run in find_runs(folder)}.values()]


def _loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"

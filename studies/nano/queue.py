"""Train what is missing of the nano studies: `python -m studies.nano.queue [--status] [--only STUDY]`.

One run at a time, on one core, at the lowest priority. Stop it at any moment and start it again: a run resumes from its
last checkpoint, and a finished one is in its study's result file at once. On a GPU machine `--out FOLDER --minutes 5
--processes auto` trains several side by side and writes each finished run to FOLDER, from where `--collect FOLDER` adds it.
Knows nothing of what is done in a run.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table

from loopway.comparison.config import CompareConfig, run_name
from loopway.comparison.run_process import worker_command
from loopway.errors import ConfigError, DataError, exit_on_error
from loopway.files import locked, write_atomically
from loopway.training.measurements import device_name
from loopway.training.metrics_log import read_metrics
from loopway.training.run_folder import RunFolder
from studies.nano.collect import MANIFEST, collect, folder_of, read
from studies.nano.plan import NANO, Place, Run, Studies

ROOT = Path(__file__).parents[2]
#: Measured on one core of an AMD EPYC in float32 (2026-11-27) and on an H100 that a dozen runs share (2026-11-26).
FLOPS_PER_SECOND = {"cpu": 4.5e10, "cuda": 1.6e12}
_WORTH = 1.1  # more processes must be faster by this factor, or there are enough
_POLL_SECONDS = 1.0
_SHOWN = 30  # runs in the table of --status
SMALL = ("config.yaml", "run.json", "tokens.json", "metrics.jsonl", "validation_losses.json", "summary.json")


def here() -> Place:
    """Return this machine's kind of device and the precision in which runs are trained on it."""
    if torch.cuda.is_available():
        return Place(device_name(torch.device("cuda")), "tf32")
    return Place("cpu", "float32")


@dataclass
class Child:
    """A run in a process of its own."""

    run: Run
    folder: RunFolder
    process: subprocess.Popen
    started: float

    @property
    def tokens_per_second(self) -> float | None:
        """The latest speed that the run has logged; None before its first line."""
        lines = read_metrics(self.folder.metrics)
        return next(
            (line["tokens_per_second"] for line in reversed(lines) if "tokens_per_second" in line), None
        )


@dataclass
class Queue:
    """Trains runs and hands on what is finished.

    Attributes:
        runs: folder of all comparisons, one a study.
        finished: what to do with a run that is finished.
        processes: how many runs at once; None: as many as it is faster with.
        until: `time.monotonic()` at which it ends; runs that would take longer aren't begun.
        overrides: laid over every run's config.
        is_last: whether runs get only what no other process wants of the machine.
    """

    runs: Path
    finished: Callable[[Run, RunFolder], None]
    processes: int | None = 1
    until: float = float("inf")
    overrides: tuple[str, ...] = ()
    is_last: bool = False
    children: list[Child] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    _rates: dict[int, float] = field(default_factory=dict)

    def train(self, todo: list[Run]) -> None:
        """Train these runs in this order, or resume them. Raises what a signal raises, when all runs have saved."""
        todo, wanted = list(todo), self.processes or 1
        try:
            while (todo and self._is_time_for_another()) or self.children:
                while todo and len(self.children) < wanted and self._is_time_for_another():
                    self._start(todo.pop(0))
                time.sleep(_POLL_SECONDS)
                for child in [child for child in self.children if child.process.poll() is not None]:
                    self._end(child)
                if self.processes is None:
                    wanted = self._wanted(wanted)
                if time.monotonic() > self.until:
                    break
        finally:
            self._stop()

    def _is_time_for_another(self) -> bool:
        longest = max(self.seconds, default=0.0)
        return time.monotonic() + longest < self.until

    def _start(self, run: Run) -> None:
        place = self.runs / run.study.stem
        folder = folder_of(place, run.variant, run.seed)
        config = place / "variants" / f"{run_name(run.variant, run.seed)}.yaml"
        config.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(config, run.config(self.overrides).to_yaml())
        log = place / "logs" / f"{run_name(run.variant, run.seed)}.log"
        log.parent.mkdir(exist_ok=True)
        command = worker_command(config, folder.path, place / "data", run.name)
        with log.open("a") as output:
            # A session of its own: Ctrl-C in a terminal must not reach it twice, and Linux shares out cores by session.
            process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        if self.is_last:
            let_others_first(process.pid)
        self.children.append(Child(run, folder, process, time.monotonic()))
        print(f"{run.name}: begun ({run.place}); its log is {log}", flush=True)
        self._note()

    def _end(self, child: Child) -> None:
        self.children.remove(child)
        if child.process.returncode == 0 and child.folder.is_finished:
            self.seconds.append(time.monotonic() - child.started)
            self.finished(child.run, child.folder)
            print(f"{child.run.name}: finished", flush=True)
        else:
            self.failed.append(child.run.name)
            print(
                f"{child.run.name}: failed (exit code {child.process.returncode}); its log says why",
                flush=True,
            )
        self._note()

    def _wanted(self, wanted: int) -> int:
        """Double the number of processes, as long as all together are faster with more."""
        speeds = [child.tokens_per_second for child in self.children]
        if len(speeds) < wanted or None in speeds or wanted in self._rates:
            return wanted
        self._rates[wanted] = sum(speed for speed in speeds if speed)
        fewer = self._rates.get(wanted // 2, 0.0)
        is_worth = self._rates[wanted] > _WORTH * fewer
        print(f"{wanted} at once: {self._rates[wanted]:,.0f} tokens/s", flush=True)
        return min(2 * wanted, os.cpu_count() or 1) if is_worth else wanted

    def _stop(self) -> None:
        for child in self.children:
            child.process.send_signal(signal.SIGTERM)  # which saves
        for child in self.children:
            child.process.wait()
        self.children.clear()
        self._note()

    def _note(self) -> None:
        """Tell `--status` what runs."""
        names = [child.run.name for child in self.children]
        self.runs.mkdir(parents=True, exist_ok=True)
        content = {"pid": os.getpid(), "running": names, "failed": self.failed}
        write_atomically(self.runs / "queue.json", json.dumps(content) + "\n")


def add_result(studies: Studies, manifest: dict[str, Any], run: Run, folder: RunFolder) -> None:
    """Add a finished run to its study's result file."""
    known = studies.result(run.study.stem)
    plan = CompareConfig.load(run.study, [f"seeds=[{run.seed}]"])
    result = collect(plan, run.study.stem, folder.path.parents[1], manifest, known)
    _write(studies.result_file(run.study.stem), result)


def add_exported(studies: Studies, manifest: dict[str, Any], folder: Path) -> list[str]:
    """Add all runs that `--out FOLDER` wrote to their studies' result files; return their names."""
    names = []
    for path in sorted(folder.glob("*/runs/*-seed*")):
        if path.name.startswith("."):  # half written
            continue
        study, (variant, _, seed) = path.parents[1].name, path.name.rpartition("-seed")
        if not seed.isdecimal():
            raise ConfigError(f"{path}: not a run's name, which is VARIANT-seedN; rename or remove it")
        if study not in studies.files:
            raise ConfigError(f"{path}: there is no study {study!r}; there are {', '.join(studies.files)}")
        run = Run(studies.files[study], variant, int(seed), here())
        add_result(studies, manifest, run, RunFolder(path))
        names.append(run.name)
    return names


def add_twin(studies: Studies, run: Run) -> bool:
    """Add a run that another study has already; False if none has."""
    if (found := studies.twin(run)) is None:
        return False
    study, variant = found
    other = studies.result(study)
    assert other is not None
    corpus = {key: other[key] for key in ("domains", "targets")}
    result = studies.result(run.study.stem) or {"study": run.study.stem, **corpus, "variants": {}}
    there = other["variants"][variant]
    kept = {key: value for key, value in there.items() if key not in ("seeds", "unpaired")}
    seeds = result["variants"].setdefault(run.variant, kept).setdefault("seeds", {})
    seeds[str(run.seed)] = there["seeds"][str(run.seed)]
    _write(studies.result_file(run.study.stem), result)
    return True


def _write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(result, separators=(",", ":")) + "\n")


def export(out: Path, run: Run, folder: RunFolder) -> None:
    """Copy what `collect` needs of a finished run to OUT/STUDY/runs/NAME, whole or not at all."""
    place = exported(out, run)
    aside = place.with_name(f".{place.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for name in SMALL:
        shutil.copyfile(folder.path / name, aside / name)
    shutil.rmtree(place, ignore_errors=True)
    aside.rename(place)


def exported(out: Path, run: Run) -> Path:
    """Return the folder in which `export` puts a run."""
    return folder_of(out / run.study.stem, run.variant, run.seed).path


def status(studies: Studies, runs: Path, todo: list[Run], place: Place) -> Table:
    """Return a table of what is done, running and next, with estimated hours."""
    running = _running(runs)
    table = Table(title=f"this machine: {place}", title_justify="left")
    for heading in ("run", "where", "hours", "state"):
        table.add_column(heading, justify="right" if heading == "hours" else "left")
    done = sum(len(variant["seeds"]) for study in studies.files for variant in studies.stored(study).values())
    total = 0.0
    for number, run in enumerate(todo):
        hours = run.flops / _rate(run.place) / 3600
        begun = read_metrics(folder_of(runs / run.study.stem, run.variant, run.seed).metrics)
        share = begun[-1]["tokens"] / run.tokens if begun else 0.0
        state = (
            "running"
            if run.name in running
            else "waits for that device"
            if run.place.device != place.device
            else "next"
        )
        if share:
            state += f", {share:.0%} done"
        if run.place.device == place.device:
            total += hours * (1 - share)
        if number < _SHOWN:
            table.add_row(run.name, str(run.place), f"{hours:.1f}", state)
    if len(todo) > _SHOWN:
        table.add_row(f"{len(todo) - _SHOWN} more", "", "", "")
    table.caption = (
        f"{done} runs done, {len(todo)} to do, of which those for this machine take {total:.0f} hours"
    )
    return table


def _running(runs: Path) -> list[str]:
    path = runs / "queue.json"
    if not path.exists():
        return []
    content = json.loads(path.read_text(encoding="utf-8"))
    return content["running"] if psutil.pid_exists(content["pid"]) else []


def _rate(place: Place) -> float:
    return FLOPS_PER_SECOND["cpu" if place.device == "cpu" else "cuda"]


def let_others_first(pid: int) -> None:
    """Give a process that has a session of its own what no other process wants of the machine."""
    os.setpriority(os.PRIO_PROCESS, pid, 19)
    if sys.platform == "linux":
        os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
        # Both count among the processes of one session only, where the kernel groups them so.
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/autogroup").write_text("19")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--status", action="store_true", help="what is done, running and next; trains nothing"
    )
    parser.add_argument("--only", help="one study, by the name of its file")
    parser.add_argument("--studies", type=_path, default=NANO, help="folder of the studies' YAML files")
    parser.add_argument(
        "--runs", type=_path, default=ROOT / "runs" / "studies", help="where runs are trained"
    )
    parser.add_argument(
        "--collect", type=_path, metavar="FOLDER", help="add the runs that --out FOLDER wrote; trains nothing"
    )
    parser.add_argument("--out", type=_path, help="write finished runs here, and no result file")
    parser.add_argument("--manifest", type=_path, default=MANIFEST, help="of the corpus")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin and end within this time")
    parser.add_argument("--processes", default="1", help="runs at once; auto: as many as it is faster with")
    parser.add_argument("--first", type=int, metavar="N", help="no more than the first N runs")
    parser.add_argument("--priority", choices=("lowest", "normal"), default="lowest", help="without --out")
    parser.add_argument(
        "overrides", nargs="*", help="training.max_steps=10 and the like, to try it out; with --out"
    )
    given = parser.parse_args()
    with exit_on_error():
        _run(given)


def _path(text: str) -> Path:
    return Path(text).expanduser().resolve()


def _run(given: argparse.Namespace) -> None:
    until = time.monotonic() + 60 * given.minutes
    if given.overrides and given.out is None:
        raise ConfigError(f"{given.overrides[0]}: would not be the study's run; give --out to keep it apart")
    if not given.processes.isdecimal() and given.processes != "auto":
        raise ConfigError(f"--processes: got {given.processes!r}, expected a number or auto")
    os.chdir(ROOT)  # where the studies' paths begin
    studies, place = Studies(given.studies), here()
    todo = studies.missing(place, given.only)
    if given.out is not None:
        todo = [run for run in todo if not exported(given.out, run).exists()]
    if given.status:
        Console().print(status(studies, given.runs, todo, place))
        return
    manifest = read(given.manifest, {"domains"})
    if given.collect is not None:
        print(f"added: {', '.join(add_exported(studies, manifest, given.collect)) or 'nothing'}")
        return
    hand_on = partial(add_result, studies, manifest) if given.out is None else partial(export, given.out)
    given.runs.mkdir(parents=True, exist_ok=True)
    with locked(given.runs / ".queue.lock", f"another queue is training in {given.runs}"):
        if given.out is None:
            todo = [run for run in todo if not add_twin(studies, run)]
        todo = [run for run in todo if run.place.device == place.device]
        todo = todo[: given.first]
        if not todo:
            print("nothing to train on this machine; --status shows what waits for another")
            return
        tokens = Path(str(todo[0].config().data.train[0]))
        if not tokens.exists():
            raise DataError(f"{tokens}: no such folder; make nano-data makes it (docs/studies.md)")
        os.environ["OMP_NUM_THREADS"] = "1"
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        processes = None if given.processes == "auto" else int(given.processes)
        is_last = given.out is None and given.priority == "lowest"
        queue = Queue(given.runs, hand_on, processes, until, tuple(given.overrides), is_last)
        queue.train(todo)
    if queue.failed:
        sys.exit(f"failed: {', '.join(queue.failed)}")


if __name__ == "__main__":
    main()

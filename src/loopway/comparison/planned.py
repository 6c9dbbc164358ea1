"""One run of a comparison: its place, its state and its process.

Knows nothing of the other runs and of the report.
"""

import json
import os
import signal
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from loopway.comparison.run_process import worker_command
from loopway.comparison.workers import Workers
from loopway.console import say, screen
from loopway.errors import LoopwayError
from loopway.files import damage_told, write_atomically
from loopway.signals import signals_handled
from loopway.training.config.run_config import RunConfig
from loopway.training.run_folder import RunFolder
from loopway.training.summary import RunSummary

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class PlannedRun:
    """One variant with one seed, and its place in the comparison's folder."""

    name: str
    config: RunConfig
    comparison: Path

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.comparison / "runs" / self.name)

    def check_folder(self, workers: int | None) -> None:
        """Raise ConfigError if the folder holds a run of another config.

        Args:
            workers: that will train the comparison's unfinished runs, all with this step size; None: all runs are finished.
        """
        if self.folder.config.exists():
            self.folder.check_same(self.config.to_dict(), self.config.plugins, workers)

    def train(self, data: Path, workers: Workers) -> None:
        """Train or resume the run, unless it is finished. Its config file can also train it alone.

        Raises:
            LoopwayError: it failed.
            KeyboardInterrupt: it was interrupted.
            SystemExit: it was terminated.
        """
        config = self.comparison / "variants" / f"{self.name}.yaml"
        wanted = workers.is_first and not self.folder.is_finished
        if wanted:
            config.parent.mkdir(exist_ok=True)
            write_atomically(config, self.config.to_yaml())
        meeting = workers.meeting(self.name, wanted=wanted)
        if meeting is None:
            return
        run = partial(_run_in_process, config, self.folder.path, data, self.name, meeting)
        if received := workers.agree(self.name, run):
            if workers.is_first:
                say(
                    screen(stderr=True),
                    f"{self.folder.path}: finished; the comparison stops here; rerun to resume",
                )
            raise _ended_by(received)

    @property
    def summary(self) -> RunSummary:
        return RunSummary.read(self.folder.summary)

    @property
    def validation_losses(self) -> tuple[np.ndarray, np.ndarray]:
        """Summed loss and number of targets per held-out sample, [samples] each, in the set's order."""
        path = self.folder.validation_losses
        again = "training resumes from the newest checkpoint, if there is one, and measures them"
        with damage_told(path, f"delete {self.folder.summary} and rerun: {again}"):
            content = json.loads(path.read_text(encoding="utf-8"))
            return np.array(content["sums"], float), np.array(content["targets"], int)


def _run_in_process(config: Path, folder: Path, data: Path, title: str, meeting: dict[str, str]) -> int:
    """Train in a separate process, which saves and stops when this one receives a signal.

    Returns:
        A signal that came too late to stop the run, which is finished then; no other run should begin. Else 0.

    Raises:
        LoopwayError: it failed; KeyboardInterrupt, SystemExit: it was interrupted or terminated.
    """
    # A separate process group: else Ctrl-C in a terminal reaches it twice.
    environment = os.environ | meeting
    command = worker_command(config, folder, data, title)
    received: list[int] = []

    def hand_on(number: int, _: object) -> None:
        received.append(number)
        process.send_signal(number)

    with (
        subprocess.Popen(command, process_group=0, env=environment) as process,
        signals_handled(_FORWARDED, hand_on),
    ):
        code = process.wait()
    for number in _FORWARDED:
        if code in (-number, 128 + number):
            raise _ended_by(number)
    if code:
        raise LoopwayError(f"{title}: training failed (exit code {code}); what was done is in {folder}")
    return received[0] if received else 0


def _ended_by(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)

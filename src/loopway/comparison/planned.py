"""One run of a comparison: its place, whether it is done, and a process of its own to do it in.

Knows nothing of the other runs and of what is made of them.
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
        """Raise ConfigError if a run of another config has the place, before anything is trained.

        Args:
            workers: that are to train the comparison's unfinished runs, whose steps must be as large; None without any.
        """
        if self.folder.config.exists():
            self.folder.check_same(self.config.to_dict(), self.config.plugins, workers)

    def train(self, data: Path, workers: Workers) -> None:
        """Train, or go on, unless it is finished. The config file also serves to train this run alone.

        Raises:
            LoopwayError: it failed.
            KeyboardInterrupt, SystemExit: it was interrupted or terminated, perhaps when it was about to finish.
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
    """Train in a process of its own, which saves and stops when this one is told to.

    Returns:
        The signal that came too late to stop it, or 0: the run is finished, and no other should begin.

    Raises:
        LoopwayError: it failed; KeyboardInterrupt, SystemExit: it was interrupted or terminated.
    """
    # A process group of its own, or Ctrl-C in a terminal would reach it twice.
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

"""Does a run that is killed at any moment lose anything?

    python benchmarks/kills.py [--kills 25]

A small run with frequent checkpoints is killed (SIGKILL) at random moments, some of them within a save, and started again
each time; in the end its weights are held against those of a run that nobody disturbed. The last line is JSON.
"""

import random
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import common

from loopway.training.checkpoint import ASIDE, steps_of
from loopway.training.run_folder import RunFolder

CONFIG = """
model: {{preset: pythia-14m, layout: 1+2R2+1, recurrence: mesh, hidden_size: 128, num_attention_heads: 2}}
data: {{train: {text}, sequence_length: 64, vocab_size: 2048}}
training: {{max_steps: {steps}, global_batch_size: 16, save_steps: 4, eval_steps: 40, logging_steps: 4, use_cpu: true}}
"""
PATIENCE = 600  # seconds for a whole run
_WITHIN_A_SAVE = 3  # every so many kills wait for a save


class Started:
    """`loopway train` in a process of its own."""

    def __init__(self, config: Path, run: RunFolder) -> None:
        command = [sys.executable, "-m", "loopway", "train", str(config), "--out", str(run.path)]
        self.run = run
        self.log = run.path.with_suffix(".log")
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def finish(self) -> None:
        code = self.process.wait(PATIENCE)
        assert code == 0, f"exit code {code}: {self.log.read_text()[-2000:]}"

    def wait_for_step(self, step: int) -> None:
        self._wait(lambda: newest_step(self.run) >= step)

    def wait_for_save(self) -> None:
        self._wait((self.run.checkpoints / ASIDE).exists)

    def _wait(self, reached: Any) -> None:
        give_up = time.monotonic() + PATIENCE
        while not reached() and self.process.poll() is None:
            assert time.monotonic() < give_up, self.log.read_text()[-2000:]
            time.sleep(0.002)

    def kill(self) -> bool:
        """Whether it was still at work."""
        was_running = self.process.poll() is None
        self.process.kill()
        self.process.wait()
        return was_running


def newest_step(run: RunFolder) -> int:
    return next(iter(steps_of(run.checkpoints)), 0)


def killed(kills: int, steps: int) -> dict[str, Any]:
    choose = random.Random(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        text, config = common.write_text(folder / "text.jsonl", 0.3 * common.MB), folder / "run.yaml"
        config.write_text(CONFIG.format(text=text, steps=steps))
        undisturbed, run = RunFolder(folder / "undisturbed"), RunFolder(folder / "killed")
        started = time.monotonic()
        Started(config, undisturbed).finish()
        seconds = time.monotonic() - started
        done = within_saves = 0
        moments = sorted(choose.uniform(0, steps * 0.9) for _ in range(kills))
        for number, moment in enumerate(moments):
            sitting = Started(config, run)
            sitting.wait_for_step(int(moment))
            if number % _WITHIN_A_SAVE == 0:
                sitting.wait_for_save()
            time.sleep(choose.uniform(0, 0.02 if number % _WITHIN_A_SAVE == 0 else seconds / steps * 4))
            done += sitting.kill()
            within_saves += (run.checkpoints / ASIDE).exists()
        Started(config, run).finish()
        names = ("model/model.safetensors", "validation_losses.json")
        return {
            "kills": done,
            "within_a_save": within_saves,
            "steps": steps,
            "equal_bits": all(
                (run.path / name).read_bytes() == (undisturbed.path / name).read_bytes() for name in names
            ),
            "seconds_undisturbed": common.middle([seconds]),
            "seconds_in_all": common.middle([time.monotonic() - started - seconds]),
        }


def main() -> None:
    parser = common.arguments(__doc__, rounds=None)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    if options.quick:
        options.kills, options.steps = 3, 24
    common.report({"one_process": partial(killed, options.kills, options.steps)})


if __name__ == "__main__":
    main()

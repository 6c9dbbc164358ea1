"""Does a run that is killed at any moment lose anything?

    python benchmarks/kills.py [--kills 25]

A small run with frequent checkpoints, of one process and of two, is killed (SIGKILL) at random moments, some of them within
a save, and started again each time; in the end its weights are held against those of a run that nobody disturbed. Of two
processes sometimes only one is killed, and the other has to end by itself. The last line is JSON.
"""

import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import common
from safetensors.torch import load_file

from loopway.training.checkpoint import ASIDE, steps_of
from loopway.training.run_folder import RunFolder

CONFIG = """
model: {{preset: pythia-14m, layout: 1+2R2+1, recurrence: mesh, hidden_size: 128, num_attention_heads: 2}}
data: {{train: {text}, sequence_length: 64, vocab_size: 2048}}
training: {{max_steps: {steps}, global_batch_size: 16, save_steps: 4, eval_steps: 40, logging_steps: 4, use_cpu: true,
           ddp_timeout: 60}}
"""
PATIENCE = 600  # seconds for a whole run
_WITHIN_A_SAVE = 3  # every so many kills wait for a save


class Started:
    """`loopway train` in processes of its own."""

    def __init__(self, config: Path, run: RunFolder, workers: int = 1) -> None:
        command = ["-m", "loopway", "train", str(config), "--out", str(run.path)]
        self.run = run
        self.log = run.path.with_suffix(".log")
        port = str(_free_port())
        self.workers = []
        for rank in range(workers):
            environment = {} if workers == 1 else worker_environment(rank, workers, port)
            with self.log.open("a") as log:
                self.workers.append(
                    subprocess.Popen(
                        [sys.executable, *command],
                        env=os.environ | environment,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                )

    def finish(self) -> None:
        codes = [worker.wait(PATIENCE) for worker in self.workers]
        assert not any(codes), f"exit codes {codes}: {self.log.read_text()[-2000:]}"

    def wait_for_step(self, step: int) -> None:
        self._wait(lambda: newest_step(self.run) >= step)

    def wait_for_save(self) -> None:
        self._wait((self.run.checkpoints / ASIDE).exists)

    def _wait(self, reached: Any) -> None:
        give_up = time.monotonic() + PATIENCE
        while not reached() and self.workers[0].poll() is None:
            assert time.monotonic() < give_up, self.log.read_text()[-2000:]
            time.sleep(0.002)

    def kill(self, first: int = 0) -> bool:
        """All workers from that one on; whether they were still at work."""
        was_running = self.workers[-1].poll() is None
        for worker in self.workers[first:]:
            worker.kill()
        for worker in self.workers:
            worker.wait(PATIENCE)
        return was_running


def worker_environment(rank: int, workers: int, port: str) -> dict[str, str]:
    """What a launcher sets."""
    ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(workers), "OMP_NUM_THREADS": "1"}
    return ranks | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def newest_step(run: RunFolder) -> int:
    return next(iter(steps_of(run.checkpoints)), 0)


def killed(workers: int, kills: int, steps: int) -> dict[str, Any]:
    choose = random.Random(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        text, config = common.write_text(folder / "text.jsonl", 0.3 * common.MB), folder / "run.yaml"
        config.write_text(CONFIG.format(text=text, steps=steps))
        undisturbed, run = RunFolder(folder / "undisturbed"), RunFolder(folder / "killed")
        started = time.monotonic()
        Started(config, undisturbed, workers).finish()
        seconds = time.monotonic() - started
        done = within_saves = 0
        moments = sorted(choose.uniform(0, steps * 0.9) for _ in range(kills))
        for number, moment in enumerate(moments):
            sitting = Started(config, run, workers)
            sitting.wait_for_step(int(moment))
            if number % _WITHIN_A_SAVE == 0:
                sitting.wait_for_save()
            time.sleep(choose.uniform(0, 0.02 if number % _WITHIN_A_SAVE == 0 else seconds / steps * 4))
            done += sitting.kill(first=choose.randrange(workers))
            within_saves += (run.checkpoints / ASIDE).exists()
        assert done, "no process was at work when it was to be killed: more --steps"
        Started(config, run, workers).finish()
        names = ("model/model.safetensors", "validation_losses.json")
        return {
            "kills": done,
            "within_a_save": within_saves,
            "steps": steps,
            "equal_bits": all(
                (run.path / name).read_bytes() == (undisturbed.path / name).read_bytes() for name in names
            ),
            "largest_difference": largest_difference(run.model, undisturbed.model),
            "seconds_undisturbed": common.middle([seconds]),
            "seconds_in_all": common.middle([time.monotonic() - started - seconds]),
        }


def largest_difference(*models: Path) -> float:
    """Of any weight, relative to the largest one of its tensor."""
    one, other = (load_file(model / "model.safetensors") for model in models)
    assert one.keys() == other.keys()
    return max(
        float((one[name] - other[name]).abs().max() / one[name].abs().max().clamp_min(1e-30)) for name in one
    )


def main() -> None:
    parser = common.arguments(__doc__, rounds=None)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    if options.quick:
        options.kills, options.steps = 1, 22  # killed within the save of step 20
    counts = {"one_process": 1} if options.quick else {"one_process": 1, "two_processes": 2}
    common.report(
        {name: partial(killed, count, options.kills, options.steps) for name, count in counts.items()}
    )


if __name__ == "__main__":
    main()

"""Cost of training and decoding on a GPU. The most valuable parts first, as many as there is time for.

    python benchmarks/gpu.py --minutes 6 --out gpu.json
    python benchmarks/gpu.py --device cpu --quick --out gpu.json
    python benchmarks/gpu.py --table gpu.json

The result is rewritten after every part, so a run that is killed leaves all that it finished. The minutes count from the
start of the process. `--table` measures nothing: it prints the tables of docs/performance.md from a result.
"""

import argparse
import contextlib
import datetime
import faulthandler
import importlib.util
import json
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import common
import gpu_parts
import psutil
import torch
from gpu_parts import SIZE_160M, SIZE_410M, SIZE_1400M, Bench, Steps, free_memory, one_line
from gpu_table import tables

import loopway
from loopway.files import write_atomically
from loopway.training.measurements import device_name

_CLOSING = 5  # seconds that the process takes to end
_HUNG = 20  # seconds after its time at which a process that nothing interrupts is ended from outside Python
_REPEAT = 5  # seconds after which an interruption that was swallowed comes again


@dataclass(frozen=True)
class Part:
    """`seconds` are those that it takes on one H100, code that it compiles included."""

    run: Callable[[Bench, dict[str, Any]], None]
    seconds: float
    package: str | None = None
    not_quick: str | None = None


PARTS = {
    "step_160m": Part(Steps(SIZE_160M), 45),
    "compiled_160m": Part(Steps(SIZE_160M, (("base", "mesh"),), compiled=True), 90),
    "recompute": Part(gpu_parts.recompute, 20),
    "decoding": Part(gpu_parts.decoding, 45),
    "mixing": Part(gpu_parts.mixing, 30),
    "loss_chunks": Part(gpu_parts.loss_chunks, 12),
    "step_410m": Part(Steps(SIZE_410M, sequences=4, rounds=12, steps_a_round=2), 35),
    "step_1.4b": Part(
        Steps(SIZE_1400M, (("base", "mesh"), ("hugging_face",), ("vanilla",)), 4, rounds=10, steps_a_round=1),
        50,
    ),
    "flash": Part(Steps(replace(SIZE_160M, attention="flash_attention_2")), 40, package="flash_attn"),
    "litgpt": Part(Steps(SIZE_160M, (("hugging_face", "litgpt"),)), 30, package="litgpt"),
    "compiled_others": Part(Steps(SIZE_160M, (("hugging_face", "vanilla"),), compiled=True), 90),
    "decoding_compiled": Part(
        gpu_parts.decoding_compiled, 180, not_quick="code is compiled for every shape, half a minute each"
    ),
}


class OutOfTime(BaseException):
    """End of a part's time. Not an Exception: no library may catch it as an error of its own."""


@contextlib.contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Raises OutOfTime within the block, once Python runs again: at the end of a kernel, for example."""

    def interrupt(*_: Any) -> None:
        raise OutOfTime(f"it took more than {seconds:.0f} s")

    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, _REPEAT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@dataclass
class Run:
    """Parts one after the other, each within its limit, and the file that holds what they found."""

    bench: Bench
    minutes: float
    out: Path
    estimated: float = 0.0
    taken: float = 0.0

    def __post_init__(self) -> None:
        self.result: dict[str, Any] = {
            "date": datetime.date.today().isoformat(),
            "machine": machine(self.bench.device),
            "minutes": self.minutes,
            "quick": self.bench.quick,
            "parts": {},
            "skipped": {},
        }

    def save(self) -> None:
        write_atomically(self.out, json.dumps(self.result, indent=2) + "\n")

    def all_parts(self) -> None:
        self.save()
        for name, part in PARTS.items():
            expected, left = self.expected_seconds(part), self.seconds_left()
            reason = self.reason_against(part)
            if not reason and left <= expected:
                reason = f"it takes about {expected:.0f} s, and {max(left, 0):.0f} s were left"
            if reason:
                self.result["skipped"][name] = reason
                print(f"{name}: skipped: {reason}", file=sys.stderr)
            else:
                self.one_part(name, part, left if self.bench.quick else min(left, 2 * expected))
            self.save()

    def one_part(self, name: str, part: Part, limit: float) -> None:
        figures: dict[str, Any] = {}
        self.result["parts"][name] = {"error": "the process ended while this part ran"}
        self.save()
        started = time.monotonic()
        self.bench.until = started + 0.8 * limit
        try:
            with interrupted_after(limit):
                part.run(self.bench, figures)
        except (Exception, OutOfTime) as error:
            figures["error"] = one_line(error)
            says_how_fast = isinstance(error, OutOfTime)
        else:
            says_how_fast = True
        free_memory()
        taken = time.monotonic() - started
        if says_how_fast:
            self.estimated, self.taken = self.estimated + part.seconds, self.taken + taken
        figures["part_seconds"] = round(taken, 1)
        self.result["parts"][name] = figures
        print(name, json.dumps(figures, indent=2), file=sys.stderr)

    def expected_seconds(self, part: Part) -> float:
        """Estimate of a part's time, scaled by how long earlier parts took against theirs; 0 in a quick run."""
        if self.bench.quick:
            return 0
        return part.seconds * (max(0.5, self.taken / self.estimated) if self.estimated else 1)

    def seconds_left(self) -> float:
        return 60 * self.minutes - _CLOSING - (time.time() - psutil.Process().create_time())

    def reason_against(self, part: Part) -> str | None:
        if part.package and not importlib.util.find_spec(part.package):
            return f"{part.package} isn't installed"
        return part.not_quick if self.bench.quick else None


def machine(device: torch.device) -> dict[str, Any]:
    on_gpu = device.type == "cuda"
    memory = torch.cuda.get_device_properties(device).total_memory if on_gpu else None
    return common.machine() | {
        "device": device_name(device),
        "device_memory_gb": memory and round(memory / common.GB, 1),
        "driver": driver() if on_gpu else None,
        "cuda": torch.version.cuda if on_gpu else None,
        "python": platform.python_version(),
        "loopway": loopway.__version__,
        **{package: version(package) for package in ("torch", "transformers", "accelerate")},
    }


def driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=30).stdout.split("\n")[0] or None
    except (OSError, subprocess.TimeoutExpired):
        return None


def main() -> None:
    parser = common.arguments(__doc__, rounds=None)
    parser.add_argument("--minutes", type=float, default=6, help="from the start of the process to its end")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--out", type=Path, metavar="FILE", help="the result, rewritten after every part")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the tables of a result instead")
    options = parser.parse_args()
    if options.table:
        print(tables(json.loads(options.table.read_text(encoding="utf-8"))))
        return
    check(parser, options)
    faulthandler.dump_traceback_later(60 * options.minutes + _HUNG, exit=True)
    run = Run(Bench(options.device, options.quick), options.minutes, options.out)
    run.all_parts()
    print(json.dumps(run.result))
    faulthandler.cancel_dump_traceback_later()


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if not options.out:
        parser.error("--out is missing: name the file for the result")
    if options.device.type == "cuda" and not torch.cuda.is_available():
        parser.error("this machine has no CUDA device: try --device cpu --quick")


if __name__ == "__main__":
    main()

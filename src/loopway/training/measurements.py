"""Measurements of a run: seconds per step, the machine's speed at matrix products, peak memory.

Knows nothing of models and data.
"""

import contextlib
import re
import resource
import statistics
import sys
import time
from pathlib import Path

import torch

WARMUP_STEPS = 3


class StepTimer:
    """Seconds of each optimizer step, including data loading, without evaluation, logging and saving."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._mark = time.perf_counter()

    def restart(self) -> None:
        """Discard the time since the last step."""
        self._mark = time.perf_counter()

    def step_done(self) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self._mark)
        self._mark = now

    def steps_per_second(self, first: int = 0) -> float | None:
        """Mean speed of the steps from `first` on; None before there are any."""
        counted = self.seconds[first:]
        return len(counted) / sum(counted) if counted else None

    def settled_steps_per_second(self) -> float | None:
        """The median step's speed, without the first steps, which warm caches up and compile."""
        counted = self.seconds[min(WARMUP_STEPS, max(len(self.seconds) - 1, 0)) :]
        return 1 / statistics.median(counted) if counted else None


def reset_peak_memory(device: torch.device) -> None:
    """Reset the peak, for several runs in one process (on Linux and CUDA)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory held so far: allocated by torch on CUDA, resident of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":  # ru_maxrss would begin at the peak of the process that started this one
        peak = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        if peak:
            return int(peak[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def product_flops_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the floating-point operations per second of large matrix products, the best of a few.

    Takes a tenth of a second, and draws no random numbers.
    """
    size = 8192 if device.type == "cuda" else 1024
    matrix = torch.ones(size, size, device=device, dtype=dtype)
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # which waits for the device
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

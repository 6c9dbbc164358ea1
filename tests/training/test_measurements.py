import subprocess
import sys

import pytest

from loopway.training.measurements import WARMUP_STEPS, StepTimer


def test_the_settled_speed_is_that_of_the_median_step_whatever_the_first_and_the_slowest_took() -> None:
    timer = StepTimer()
    assert timer.settled_steps_per_second() is None
    timer.seconds = [30.0] * WARMUP_STEPS + [0.5, 0.25, 0.25, 0.25, 60.0]
    assert timer.settled_steps_per_second() == 4.0


def test_of_a_run_shorter_than_its_warmup_the_last_step_counts() -> None:
    timer = StepTimer()
    timer.seconds = [2.0, 0.5]
    assert timer.settled_steps_per_second() == 2.0


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of the parent is inherited on Linux")
def test_the_peak_is_not_that_of_the_process_that_started_this_one() -> None:
    measure = (
        "import torch; from loopway.training.measurements import peak_memory_bytes as peak;"
        "print(peak(torch.device('cpu')))"
    )
    held = (
        "import os, sys; block = bytearray(1 << 30); block[::4096] = b'1' * len(block[::4096]);"
        f"os.execv(sys.executable, [sys.executable, '-c', {measure!r}])"
    )
    output = subprocess.run([sys.executable, "-c", held], capture_output=True, text=True, check=True).stdout
    assert int(output) < 800 << 20

"""Freed memory is kept for small models and given back by large ones, unless the user has said how it is handled."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from loopway.training.allocator import SMALL_MODEL

PROGRAM = """
import sys
import torch
from pathlib import Path
from loopway.training.allocator import LARGE_BLOCK, set_up_allocator

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

for parameters in sys.argv[1:]:
    print(set_up_allocator(int(parameters)))
    before = resident()
    blocks = [torch.ones(LARGE_BLOCK // 4) for _ in range(20)]
    del blocks[::2]
    print((resident() - before) / LARGE_BLOCK)
    del blocks
    print((resident() - before) / LARGE_BLOCK)
"""
Run = Callable[..., tuple[str, ...]]


@pytest.fixture
def run() -> Run:
    def of(*parameters: int, **environment: str) -> tuple[str, ...]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        output = subprocess.run(
            [sys.executable, "-c", PROGRAM, *map(str, parameters)],
            env=clean | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert output.returncode == 0, output.stderr
        return tuple(output.stdout.split())

    return of


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")


@pytest.mark.parametrize(
    "parameters, half_freed, all_freed", [(SMALL_MODEL, 20, 20), (SMALL_MODEL + 1, 10, 0)]
)
def test_small_models_keep_freed_blocks_and_large_ones_return_them(
    run: Run, parameters: int, half_freed: int, all_freed: int
) -> None:
    done, half, everything = run(parameters)
    assert done == "True"
    assert float(half) == pytest.approx(half_freed, abs=0.5)
    assert float(everything) == pytest.approx(all_freed, abs=0.5)


def test_a_large_model_after_a_small_one_in_the_same_process(run: Run) -> None:
    *_, half, everything = run(SMALL_MODEL + 1, SMALL_MODEL, SMALL_MODEL + 1)
    # The small one's kept blocks are there to begin with, and go back with what the large one frees beside them.
    assert float(half) < 10.5 and float(everything) < 0.5


@pytest.mark.parametrize("parameters", [SMALL_MODEL, SMALL_MODEL + 1])
def test_the_users_own_setting_is_left(run: Run, parameters: int) -> None:
    kept = str(2**40)
    done, half, _ = run(parameters, MALLOC_MMAP_THRESHOLD_=kept, MALLOC_TRIM_THRESHOLD_=kept)
    assert done == "False"
    assert float(half) == pytest.approx(20, abs=0.5)
    assert run(parameters, MALLOC_ARENA_MAX="2")[0] == "True"

"""Freed memory is kept for small models and given back by large ones, unless the user has said how it is handled."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from loopway.training.allocator import SMALL_MODEL, set_up_allocator

PROGRAM = """
import sys
import torch
from pathlib import Path
from loopway.training.allocator import LARGE_BLOCK, set_up_allocator

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

before = resident()
for count, parameters in zip((20, 60), sys.argv[1:]):
    print(set_up_allocator(int(parameters)))
    blocks = [torch.ones(LARGE_BLOCK // 4) for _ in range(count)]
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
        )
        assert output.returncode == 0, output.stderr
        return tuple(output.stdout.split())

    return of


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")


def test_small_models_keep_freed_blocks_and_large_ones_return_them_in_either_order(run: Run) -> None:
    small, large = SMALL_MODEL, SMALL_MODEL + 1
    done, half, everything, *_, half_after, everything_after = run(large, small)
    assert done == "True"
    assert (float(half), float(everything)) == (pytest.approx(10, abs=0.5), pytest.approx(0, abs=0.5))
    assert (float(half_after), float(everything_after)) == (
        pytest.approx(60, abs=0.5),
        pytest.approx(60, abs=0.5),
    )
    done, half, everything, *_, everything_after = run(small, large)
    assert done == "True"
    assert (float(half), float(everything)) == (pytest.approx(20, abs=0.5), pytest.approx(20, abs=0.5))
    assert float(everything_after) < 30  # no more than the 20 that the small one kept, and not all 60


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_"])
def test_the_users_own_setting_is_left(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1000000")
    assert not set_up_allocator(SMALL_MODEL)
    assert not set_up_allocator(SMALL_MODEL + 1)


def test_other_settings_of_the_user_do_not_matter(run: Run) -> None:
    assert run(SMALL_MODEL, MALLOC_ARENA_MAX="2")[0] == "True"

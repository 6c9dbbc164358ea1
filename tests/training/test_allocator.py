"""Large blocks go back to the system when they are freed, unless the user has said how memory is to be handled."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import torch
from pathlib import Path
from loopway.training.allocator import LARGE_BLOCK, return_large_blocks

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

print(return_large_blocks())
before = resident()
blocks = [torch.ones(LARGE_BLOCK // 4) for _ in range(20)]
del blocks[::2]
print((resident() - before) / LARGE_BLOCK)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_blocks_are_returned_and_the_users_own_setting_is_left() -> None:
    def run(**environment: str) -> tuple[str, float]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        output = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=clean | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert output.returncode == 0, output.stderr
        done, blocks = output.stdout.split()
        return done, float(blocks)

    done, blocks = run()
    assert done == "True"
    assert blocks == pytest.approx(10, abs=0.5)
    kept = str(2**40)
    done, blocks = run(MALLOC_MMAP_THRESHOLD_=kept, MALLOC_TRIM_THRESHOLD_=kept)
    assert done == "False"
    assert blocks == pytest.approx(20, abs=0.5)

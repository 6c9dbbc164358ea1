"""A process that ends takes with it those that it began, however it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux does it")

LOADS = """
import multiprocessing, os, sys, time
from loopway.children import end_with, parent_in

def load(parent):
    end_with(parent)
    print("began", flush=True)
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    context.Process(target=load, args=(parent_in(context),)).start()
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_killed_process_takes_those_with_it_that_it_began(method: str, tmp_path: Path) -> None:
    script = tmp_path / "loads.py"
    script.write_text(LOADS)
    with subprocess.Popen([sys.executable, script, method], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"began\n"
        process.kill()
        assert process.stdout.read() == b""  # which comes when all that could write have ended


def test_a_process_whose_parent_has_ended_before_ends_too() -> None:
    script = f"from loopway.children import end_with; end_with({os.getpid()} + 1)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL


def test_a_run_of_a_comparison_ends_with_the_process_that_began_it(tmp_path: Path) -> None:
    script = (
        "import subprocess; from pathlib import Path; from loopway.comparison.run_process import worker_command; "
        "subprocess.Popen(worker_command(Path('none.yaml'), Path('run'), Path('data'), 'run')); print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.kill()
        assert process.stderr.read() == b""  # else: that there is no none.yaml

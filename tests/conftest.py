"""What every test shares: few threads, no network, and properties tried on the same examples everywhere."""

import os

# Before torch is imported. Tests run side by side; more threads than this only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import gc
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.processes import Processes

# Started in the background or by nohup, a process ignores these, and so do those that it starts.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)

# No verdict depends on how fast the machine is. What hangs is ended by `timeout` in pyproject.toml, and by nothing else.
settings.register_profile(
    "loopway", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("loopway")


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden vectors, made by an independent float64 implementation that builds the buffer."""
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    """Begins processes that are real ones, and take no time to import."""
    processes = Processes()
    yield processes
    processes.close()


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of published numbers."""
    return Path(__file__).parent / "reference"


def pytest_collection_finish() -> None:
    """Exclude from garbage collection what the imports made."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what the tests cost, in all of their processes."""
    spent = os.times()
    seconds = spent.user + spent.system + spent.children_user + spent.children_system
    terminalreporter.write_line(f"{seconds / 60:.1f} core-minutes")

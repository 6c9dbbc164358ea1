"""What every test shares: few threads, no network, and properties tried on the same examples everywhere."""

import os

# Before torch is imported. Tests run side by side; more threads than this only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("loopway", deadline=None, derandomize=True)
settings.load_profile("loopway")


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden vectors, made by an independent float64 implementation that builds the buffer."""
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of published numbers."""
    return Path(__file__).parent / "reference"

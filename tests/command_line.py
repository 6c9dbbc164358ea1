"""The command line, and the runs of a comparison, in this process, whose imports are done."""

import sys
from pathlib import Path

import pytest

from loopway.cli import main
from loopway.training.config.run_config import RunConfig
from loopway.training.run import train


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of `loopway ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["loopway", *arguments])
    monkeypatch.setenv("LOOPWAY_QUIET", "")  # what --quiet sets ends with the test
    with pytest.raises(SystemExit) as ended:
        main()
    code = ended.value.code
    return code if isinstance(code, int) else 0


def train_here(config: Path, folder: Path, data: Path, title: str, meeting: dict[str, str]) -> int:
    """In place of a process of its own, which each run of a comparison has: tests/comparison/test_compare.py."""
    train(RunConfig.load(config), folder, data_folder=data, title=title)
    return 0

"""The command line in this process, whose imports are done. Knows nothing of any verb."""

import sys

import pytest

from loopway.cli import main


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of `loopway ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["loopway", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    code = ended.value.code
    return code if isinstance(code, int) else 0

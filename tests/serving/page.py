"""What docs/serving.md shows, for the tests that run it."""

import shlex
from pathlib import Path

from tests.test_readme import command_lines, fenced_blocks

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


def command(beginning: str) -> list[str]:
    """The words of the page's first command with this beginning."""
    lines = [
        line for b in fenced_blocks(PAGE.read_text()) if b.language == "bash network" for line in command_lines(b)
    ]  # fmt: skip
    return shlex.split(next(line for line in lines if line.startswith(beginning)), comments=True)


def python_block() -> str:
    """The page's first Python: a client of the server."""
    return next(b.text for b in fenced_blocks(PAGE.read_text()) if b.language == "python network")

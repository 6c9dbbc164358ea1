"""Runs the tutorial's notebook, cell by cell and made small; docs/tutorial.md is what it is made from.

Knows nothing of the numbers that the page shows.
"""

import re
from pathlib import Path

import pytest

from docs.site.notebook import NOTEBOOK, PAGE, code, dumps, notebook
from tests.command_line import train_here
from tests.test_readme import SMALL, Block, command_lines, fenced_blocks, run_command, run_python

SMALL_TRAINING = ["training.max_steps=2", "training.global_batch_size=4", "data.sequence_length=64"]
SMALL_TRAINING += ["training.per_device_train_batch_size=4", "data.validation_samples=4"]
SMALL_TUTORIAL = SMALL | {"prepare": ["--vocab-size", "300"]}
SMALL_TUTORIAL |= dict.fromkeys(["check", "compare", "train"], SMALL_TRAINING)


def cells() -> list[str]:
    """The code of the notebook's cells, in order."""
    page = PAGE.read_text(encoding="utf-8")
    return ["".join(cell["source"]) for cell in notebook(page)["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_is_made_from_the_page() -> None:
    made = dumps(PAGE.read_text(encoding="utf-8"))
    assert NOTEBOOK.read_text(encoding="utf-8") == made, "run `python docs/site/notebook.py`"


def test_every_block_that_the_page_shows_is_a_cell() -> None:
    shown = [block for block in fenced_blocks(PAGE.read_text(encoding="utf-8")) if block.language != "text"]
    assert {block.language for block in shown} == {"bash", "python", "yaml"}
    assert [code(block.language, block.text.rstrip("\n")) for block in shown] == cells()


def test_the_notebook_runs_from_its_first_cell_to_its_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # a notebook imports files that lie beside it
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr("loopway.comparison.planned._run_in_process", train_here)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for cell in cells():
        first, _, rest = cell.partition("\n")
        if file := re.fullmatch(r"%%writefile (.+)", first):
            (tmp_path / file[1]).write_text(rest + "\n")
        elif first == "%%bash":
            for command in command_lines(Block("bash", rest, 0)):
                run_command(command, SMALL_TUTORIAL)
        else:
            run_python(Block("python", cell, 1), namespace, PAGE)

"""Make the tutorial's notebook from its page: `python docs/site/notebook.py` writes docs/tutorial.ipynb.

The page is the only source. A block that names a file in its first line becomes a cell that writes that file, bash and Python
become cells that run, and everything else stays text. Knows nothing of what the cells do.
"""

import json
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "tutorial.md"
NOTEBOOK = PAGE.with_suffix(".ipynb")
_BLOCK = re.compile(r"^```(bash|python|yaml)\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
_FILE_NAME = re.compile(r"# *([\w-]+\.\w+)\n")


def code(language: str, text: str) -> str:
    """Return what a code cell holds for a block of the page."""
    if named := _FILE_NAME.match(text):
        return f"%%writefile {named[1]}\n{text}"
    if language == "yaml":
        raise ValueError(f"a yaml block must begin with `# <file name>`, this one begins {text[:40]!r}")
    return f"%%bash\n{text}" if language == "bash" else text


def notebook(page: str) -> dict[str, Any]:
    """Return a page as a notebook, in the format that Jupyter calls 4.5."""
    cells: list[dict[str, Any]] = []

    def add(kind: str, source: str, **more: Any) -> None:
        if source.strip():
            lines = source.strip("\n").splitlines(keepends=True)
            cells.append(
                {"cell_type": kind, "id": f"cell-{len(cells)}", "metadata": {}, **more, "source": lines}
            )

    end = 0
    for block in _BLOCK.finditer(page):
        add("markdown", page[end : block.start()])
        add("code", code(block[1], block[2]), execution_count=None, outputs=[])
        end = block.end()
    add("markdown", page[end:])
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def dumps(page: str) -> str:
    """Return the notebook's file for a page's text."""
    return json.dumps(notebook(page), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    NOTEBOOK.write_text(dumps(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

"""Lay out what the documentation site is made of: `python docs/site/stage.py build/site-source`, which `make docs` runs.

The Markdown keeps its place and its relative links, which must work on a code host, too. Every other file that a page links
to becomes a page of its own; images and notebooks are copied. Knows nothing of the generator.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "docs/**/*.md"]
COPIED = {".css", ".ipynb", ".png", ".svg"}
LANGUAGES = {".cff": "yaml", ".json": "json", ".py": "python", ".sbatch": "bash", ".yaml": "yaml"}
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)(?=[)#])")
_WORDS_AFTER_LANGUAGE = re.compile(r"^( *```\w+) .*$", re.MULTILINE)  # "bash network" is for the tests


def pages() -> list[Path]:
    """The Markdown files that are pages, relative to the repository's root."""
    return sorted(path.relative_to(ROOT) for pattern in PAGES for path in ROOT.glob(pattern))


def stage(out: Path) -> None:
    """Write every page, and what the pages link to, below `out`, which is emptied first."""
    shutil.rmtree(out, ignore_errors=True)
    for copied in (ROOT / "docs").rglob("*"):
        if copied.suffix in COPIED:
            _write(out / copied.relative_to(ROOT), copied.read_bytes())
    shown = set(pages())
    linked: set[Path] = set()
    for page in pages():
        text = _WORDS_AFTER_LANGUAGE.sub(r"\1", (ROOT / page).read_text(encoding="utf-8"))
        text = _LINK.sub(lambda link, page=page: _towards(link[1], page.parent, shown, linked), text)
        _write(out / page, text.encode())
    for path in linked.union(*map(_below, linked)):
        _write(out / _page_of(path), _source_page(path).encode())


def _towards(link: str, folder: Path, shown: set[Path], linked: set[Path]) -> str:
    """A link of a page in `folder`, or its like to the page made of a file; adds such files to `linked`."""
    target = Path(os.path.normpath(folder / link))
    if not (ROOT / target).exists():
        raise FileNotFoundError(f"a page in {folder}/ links to {link}, which doesn't exist")
    if target in shown or target.suffix in COPIED:
        return link
    linked.add(target)
    return os.path.relpath(_page_of(target), folder)


def _page_of(path: Path) -> Path:
    return path / "index.md" if (ROOT / path).is_dir() else path.with_name(path.name + ".md")


def _below(path: Path) -> Iterator[Path]:
    """Every file and folder below a folder."""
    for found in sorted((ROOT / path).rglob("*")):
        if "__pycache__" not in found.parts and (found.is_dir() or found.suffix in LANGUAGES):
            yield found.relative_to(ROOT)


def _source_page(path: Path) -> str:
    """Markdown that shows a file, or lists a folder; the search leaves it out."""
    header = f"---\nsearch:\n  exclude: true\n---\n\n# {path.as_posix()}\n\n"
    if (ROOT / path).is_dir():
        inside = [below for below in _below(path) if below.parent == path]
        return header + "".join(f"- [{each.name}]({_page_of(each).relative_to(path)})\n" for each in inside)
    language = LANGUAGES.get(path.suffix, "text")
    return f"{header}````````{language}\n{(ROOT / path).read_text(encoding='utf-8')}````````\n"


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


if __name__ == "__main__":
    stage(Path(sys.argv[1]))

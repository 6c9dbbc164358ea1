"""What the documentation site is made of: its pages, its navigation, its API reference. `make docs` builds it.

Knows nothing of the generator.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import loopway
from docs.site.stage import ROOT, pages, stage
from tests.test_package import links


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "source"
    stage(folder)
    return folder


def entries(navigation: Any) -> Iterator[str]:
    """The pages of a navigation, as deep as it goes."""
    if isinstance(navigation, str):
        yield navigation
    else:
        for entry in navigation.values() if isinstance(navigation, dict) else navigation:
            yield from entries(entry)


def test_the_navigation_has_every_page_once() -> None:
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert sorted(entries(navigation)) == sorted(page.as_posix() for page in pages())


def test_the_reference_has_every_public_name() -> None:
    lines = [
        line for page in (ROOT / "docs/reference").glob("*.md") for line in page.read_text().splitlines()
    ]
    missing = {name for name in loopway.__all__ if f"::: loopway.{name}" not in lines}
    assert missing == {"__version__"}


def test_every_relative_link_of_a_staged_page_leads_to_a_staged_file(staged: Path) -> None:
    for page in staged.rglob("*.md"):
        for link in links(page.read_text()):
            if ":" not in link and not link.startswith("#"):
                assert (page.parent / link.split("#")[0]).is_file(), f"{page.relative_to(staged)}: {link}"


def test_a_linked_source_is_a_page_that_shows_all_of_it(staged: Path) -> None:
    assert (ROOT / ".ci/run").read_text() in (staged / ".ci/run.md").read_text()
    assert "(base.yaml.md)" in (staged / "studies/nano/index.md").read_text()
    assert (staged / "studies/nano/base.yaml.md").is_file()


def test_no_staged_block_has_words_that_only_tests_read(staged: Path) -> None:
    assert "```bash network" in (ROOT / "README.md").read_text()
    assert not [page for page in staged.rglob("*.md") if "```bash network" in page.read_text()]

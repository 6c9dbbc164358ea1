"""What a user installs and what the repository holds: the wheel, its data files, the pins, the hygiene of files.

Knows nothing of what the package computes.
"""

import importlib.util
import itertools
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LARGEST_FILE = 1024 * 1024  # bytes


def run(*command: str | Path, cwd: Path) -> str:
    """The standard output of a command that must succeed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution as a release is, with the build backend installed here."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts folder of a clean environment with the wheel and, by reference, this one's dependencies.

    A line in a .pth file adds a folder without reading that folder's own .pth files, so an editable install of
    the package in the environment that runs the tests stays invisible.
    """
    folder = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(folder, symlinks=True)
    scripts = folder / "bin"
    pip = [sys.executable, "-m", "pip", "--python", str(scripts / "python"), "install", "--quiet"]
    run(*pip, "--no-index", "--no-deps", wheel, cwd=folder)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    here = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    (site_packages / "dependencies.pth").write_text("\n".join(here))
    return scripts


def tracked_files() -> list[Path]:
    """The files that git tracks, relative to the repository's root; skips the test where there is no git."""
    try:
        listed = subprocess.run(
            ["git", "-c", "safe.directory=*", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("git is not installed: the list of tracked files is unknown")
    if listed.returncode != 0:
        pytest.skip("not a git checkout: the list of tracked files is unknown")
    return [
        path
        for name in listed.stdout.split("\0")
        if name and (path := Path(name)) and (ROOT / path).is_file()
    ]


def texts(paths: list[Path]) -> dict[Path, str]:
    """The content of those files that are UTF-8 text."""
    found = {}
    for path in paths:
        try:
            found[path] = (ROOT / path).read_text()
        except UnicodeDecodeError:
            continue
    return found


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {name for name in names if ".dist-info/" not in name}
    sources = (path for path in (ROOT / "src").rglob("*") if path.is_file() and path.suffix != ".pyc")
    assert package == {path.relative_to(ROOT / "src").as_posix() for path in sources}
    assert "loopway/py.typed" in package
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_describes_itself(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(archive.read(name).decode())
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra", [])) == {"demo", "eval", "dev"}
    assert str(metadata.get_payload()).strip() == (ROOT / "README.md").read_text().strip()


def test_the_wheel_works_in_a_clean_environment(installed: Path, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("version", ROOT / "src/loopway/_version.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert run(installed / "loopway", "--version", cwd=tmp_path).split()[-1] == module.__version__
    code = 'import loopway; print(loopway.__file__); print(loopway.Layout.parse("2+4R2+2").stages[-1].name)'
    where, last_stage = run(installed / "python", "-c", code, cwd=tmp_path).splitlines()
    assert Path(where).is_relative_to(installed.parent)
    assert last_stage == "coda"


def test_every_dependency_is_pinned_to_a_version_that_pyproject_allows() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    pinned = {canonicalize_name(name): Version(version) for name, version in pins}
    extras = PROJECT["optional-dependencies"].values()
    site = (ROOT / "docs/site/requirements.txt").read_text().splitlines()
    needed = [line for extra in extras for line in extra] + [line for line in site if line[0] != "#"]
    for line in PROJECT["dependencies"] + needed:
        requirement = Requirement(line)
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, line


def test_the_citation_names_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["title"] == "Loopway"
    assert citation["license"] == PROJECT["license"]
    assert [reference["doi"] for reference in citation["references"]] == ["10.48550/arXiv.2510.07739"]


def test_the_changelog_knows_this_version() -> None:
    version = re.search(r'"(.+)"', (ROOT / "src/loopway/_version.py").read_text().splitlines()[-1])
    assert version and f"## [{version[1]}]" in (ROOT / "CHANGELOG.md").read_text()


# Each pattern is written so that it doesn't match itself.
UNWANTED = {
    "a path of one machine": r"(?<![\w.~{}()*$-])/(?:home|Users|root|work|tmp|opt|mnt)/\w|[A-Z]:\\Users",
    "the host of a package registry": r"\bpypi\.org|pythonhosted\.org|download\.pytorch\.org|registry\.npmjs",
}


@pytest.mark.parametrize("what", UNWANTED)
def test_no_tracked_file_holds(what: str) -> None:
    for path, text in texts(tracked_files()).items():
        for number, line in enumerate(text.splitlines(), start=1):
            assert not re.search(UNWANTED[what], line), f"{path}:{number} holds {what}: {line.strip()}"


def test_no_lock_file_and_nothing_large_is_tracked() -> None:
    for path in tracked_files():
        is_lock = path.suffix == ".lock" or re.fullmatch(r"package-lock\.json|pylock(\..+)?\.toml", path.name)
        assert not is_lock, f"{path}: lock files are not kept here; constraints.txt has the pins"
        size = (ROOT / path).stat().st_size
        assert size <= LARGEST_FILE, f"{path} has {size} bytes, more than {LARGEST_FILE}"


def links(markdown: str) -> list[str]:
    """Every link and image target of a Markdown text, those in HTML included, code blocks left out."""
    found = []
    for block in MarkdownIt().parse(markdown):
        for token in [block, *(block.children or [])]:
            target = token.attrGet("href") or token.attrGet("src")
            if target:
                found.append(str(target))
            elif token.type.startswith("html"):
                found += re.findall(r"""(?:href|src)=["']([^"']+)""", token.content)
    return found


def anchors(markdown: str) -> set[str]:
    """What a code host names the headings of a Markdown text."""
    blocks = MarkdownIt().parse(markdown)
    titles = [text.content for block, text in itertools.pairwise(blocks) if block.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_relative_link_in_the_documentation_leads_to_a_tracked_file() -> None:
    files = tracked_files()
    there = {(ROOT / path).resolve() for path in files}
    there |= {parent for path in there for parent in path.parents if parent.is_relative_to(ROOT)}
    for path, text in texts([path for path in files if path.suffix == ".md"]).items():
        for link in links(text):
            if re.match(r"[a-z]+:", link):
                continue
            name, _, anchor = link.partition("#")
            target = (ROOT / path.parent / name if name else ROOT / path).resolve()
            assert target in there, f"{path} links to {link}, which is not a tracked file"
            assert not anchor or anchor in anchors(target.read_text()), (
                f"{path} links to {link}: no such heading"
            )


def test_links_are_found_wherever_markdown_allows_them() -> None:
    text = '[a](b.md#c) ![d](e.png)\n\n<p><img src="f.png"></p>\n\n| x |\n|---|\n| [g](h.md) |\n\n`[no](no.md)`\n'
    assert links(text) == ["b.md#c", "e.png", "f.png", "h.md"]


def test_anchors_are_those_of_a_code_host() -> None:
    assert anchors("# `gpu.py`: what's it? A – b\n\ntext\n\nTwo\n---\n") == {"gpupy-whats-it-a--b", "two"}

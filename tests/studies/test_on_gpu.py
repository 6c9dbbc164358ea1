"""What needs a GPU runs from a copy of the tree and one archive, without network and without Loopway installed."""

import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from loopway.data import PreparationConfig, prepare
from loopway.errors import DataError, LoopwayError
from studies import gpu_bundle

ROOT = Path(__file__).parents[2]
WORDS = ["state", "union", "people", "harvest", "whale", "captain", "light", "water"]


#: Python runs it first: a machine on which Loopway isn't installed and no other machine can be reached.
BARE_MACHINE = """
import importlib.metadata as metadata
import socket

found = metadata.Distribution.from_name.__func__


def from_name(cls, name):
    if name == "loopway":
        raise metadata.PackageNotFoundError(name)
    return found(cls, name)


def connect(self, address):
    raise OSError(f"no network: {address}")


metadata.Distribution.from_name = classmethod(from_name)
socket.socket.connect = connect
"""


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    generator = random.Random(0)
    text = tmp_path / "text.jsonl"
    texts = [" ".join(generator.choices(WORDS, k=400)) for _ in range(60)]
    text.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    prepare(
        PreparationConfig(train=[str(text)], validation_fraction=0.3, vocab_size=300), tmp_path / "tokens"
    )
    return tmp_path / "tokens"


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "missing-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("missing.py", "here = True\n")
    return folder


def test_the_archive_holds_tokens_and_packages_and_is_whole_or_not_there(
    tokens: Path, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "build" / "bundle.tar.xz"
    size = gpu_bundle.build(tokens, wheels, out)
    with tarfile.open(out) as archive:
        assert {"site/missing.py", "tokens/train.bin", "tokens/manifest.json"} <= set(archive.getnames())
    monkeypatch.setattr(gpu_bundle, "LARGEST", size // 2)
    with pytest.raises(LoopwayError, match=r"other.tar.xz: would be .* MB, more than"):
        gpu_bundle.build(tokens, wheels, tmp_path / "other.tar.xz")
    with pytest.raises(DataError, match="no prepared tokens; make nano-data"):
        gpu_bundle.build(tmp_path / "nowhere", wheels, tmp_path / "other.tar.xz")
    assert not list(tmp_path.glob("*other*"))


def test_the_packages_that_it_brings_are_those_that_releases_are_tested_with() -> None:
    pins = gpu_bundle.pinned(gpu_bundle.PACKAGES)
    assert len(pins) == len(gpu_bundle.PACKAGES) and all("==" in pin for pin in pins)


def test_a_copy_of_the_tree_trains_on_a_machine_that_has_nothing_of_ours(
    tokens: Path, wheels: Path, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    for name in ("src", "studies", "benchmarks", "Makefile", "constraints.txt"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        tree.mkdir(exist_ok=True)
        copy(ROOT / name, tree / name)
    (tree / "src" / "sitecustomize.py").write_text(BARE_MACHINE)
    gpu_bundle.build(tokens, wheels, tree / "build" / "gpu-bundle.tar.xz")
    settings = [f"PYTHON={sys.executable}", f"OUT={tmp_path / 'out'}", "MINUTES=30", "PARTS=studies"]
    # Make must not build what is there: the copy has no environment of its own.
    command = ["make", "gpu", *settings, "GPU_OPTIONS=--quick --device cpu"]
    without = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tree, env=without, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["quick"], "a rehearsal's are no results"
    kept = list((tmp_path / "out" / "quick" / "width-64" / "runs").iterdir())
    assert len(kept) == 2 and not list((tree / "studies" / "nano" / "results").glob("*.partial"))
    for run in kept:
        summary = json.loads((run / "summary.json").read_text())
        assert summary["device"] == "cpu" and summary["steps"] == 4
    assert (tree / "data" / "nano" / "train.bin").is_file()
    assert (tree / "runs" / "gpu-quick" / "width-64").is_dir(), "the copy's own code and folders are used"
    assert not (tree / "runs" / "gpu").exists(), "where the real runs belong"

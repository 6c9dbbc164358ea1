"""Pack what a GPU machine without network lacks in one archive: `python -m studies.gpu_bundle --out build/gpu-bundle.tar.xz`.

Holds the tokens of the nano studies and the packages that a usual GPU image hasn't got, unpacked. Downloads those packages
from the package index, for another Python and platform than this one's. Knows nothing of what is done there.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from loopway.errors import DataError, LoopwayError, exit_on_error

ROOT = Path(__file__).parents[1]
TOKENS = ROOT / "data" / "nano"
#: A GPU image with PyTorch, transformers and accelerate has the rest of what a run on prepared tokens imports.
PACKAGES = ("annotated-types", "pydantic", "pydantic_core", "typing-inspection")
LARGEST = 50 * 10**6  # bytes


def pinned(packages: tuple[str, ...]) -> list[str]:
    """Return `name==version` of packages, from constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {
        re.sub("[-_]", "-", name).lower(): line for line in lines if (name := line.partition("==")[0]) != line
    }
    return [pins[re.sub("[-_]", "-", package).lower()] for package in packages]


def download(packages: list[str], python: str, platform: str, folder: Path) -> None:
    """Download wheels for another machine. Raises LoopwayError where there are none."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", python, "--platform", platform, "--dest", str(folder), *packages]
    if subprocess.run(command).returncode:
        raise LoopwayError(f"pip can't download {' '.join(packages)} for Python {python} on {platform}")


def build(tokens: Path, wheels: Path, out: Path) -> int:
    """Write the archive, whole or not at all: `tokens/` and `site/`. Return its size in bytes.

    Raises:
        DataError: no tokens.
        LoopwayError: it would be larger than 50 MB.
    """
    if not (tokens / "manifest.json").is_file():
        raise DataError(f"{tokens}: no prepared tokens; make nano-data makes them (docs/studies.md)")
    aside = out.with_name(f".{out.name}.partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "site"
        site.mkdir()
        for wheel in sorted(wheels.glob("*.whl")):
            with zipfile.ZipFile(wheel) as content:
                content.extractall(site)
        with tarfile.open(aside, "w:xz") as archive:
            archive.add(site, "site")
            archive.add(tokens, "tokens")
    if (size := aside.stat().st_size) > LARGEST:
        aside.unlink()
        raise LoopwayError(f"{out}: would be {size / 1e6:.0f} MB, more than {LARGEST / 1e6:.0f}")
    shutil.move(aside, out)
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description="What a GPU machine without network lacks, as one archive.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=Path, default=TOKENS, help="prepared folder of the nano studies")
    parser.add_argument("--python", default="3.12", help="of the GPU machine")
    parser.add_argument("--platform", default="manylinux2014_x86_64", help="of the GPU machine")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to put in, instead of downloading them")
    given = parser.parse_args()
    with exit_on_error(), tempfile.TemporaryDirectory() as folder:
        wheels = given.wheels or Path(folder)
        if given.wheels is None:
            download(pinned(PACKAGES), given.python, given.platform, wheels)
        size = build(given.tokens, wheels, given.out)
        print(f"{given.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

"""Everything that needs a GPU, in one command with a time limit: `python studies/on_gpu.py --minutes 7 --out FOLDER`.

First benchmarks/gpu.py, then the queue of the nano studies, as many runs side by side as it is faster with. Each result is in
FOLDER as soon as it is there. Runs from a copy of the tree, without network and without Loopway installed: what the machine
lacks comes from the archive of `make gpu-bundle`. Imports the standard library alone.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOKENS = ROOT / "data" / "nano"
PARTS = ("benchmark", "studies")
_SHARE = 6 / 7  # of the time for the benchmark, where both parts run
_GRACE_SECONDS = 30  # beyond its time that a part gets to end by itself
#: A run of seconds, for a rehearsal.
QUICK_RUN = (
    "training.max_steps=4",
    "training.eval_steps=2",
    "training.logging_steps=1",
    "training.global_batch_size=2",
    "training.per_device_train_batch_size=2",
    "data.sha256=null",
    "data.validation_samples=2",
)


def unpack(bundle: Path) -> Path:
    """Unpack the archive, its tokens to where the studies expect them; return the folder of its packages."""
    folder = bundle.parent / "gpu-bundle"
    with tarfile.open(bundle) as archive:
        archive.extractall(folder, filter="data")
    if not TOKENS.exists():
        TOKENS.parent.mkdir(exist_ok=True)
        (folder / "tokens").rename(TOKENS)
    return folder / "site"


def environment(packages: Path | None) -> dict[str, str]:
    """Environment of the parts: the tree's modules, and the archive's packages where the machine lacks them."""
    paths = [ROOT / "src", ROOT]
    if packages is not None and importlib.util.find_spec("pydantic") is None:
        paths.append(packages)
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def commands(out: Path, quick: bool, device: str) -> dict[str, list[str]]:
    """Return the command of each part, without its time limit."""
    benchmark = ["benchmarks/gpu.py", "--out", str(out / "gpu.json"), "--device", device]
    studies = [
        "-m",
        "studies.nano.queue",
        "--out",
        str(out),
        "--runs",
        str(ROOT / "runs" / ("gpu-quick" if quick else "gpu")),  # which has runs of other configs
        "--processes",
        "auto",
    ]
    if quick:
        benchmark.append("--quick")
        studies += ["--only", "width-64", "--first", "2", *QUICK_RUN]
    return {"benchmark": benchmark, "studies": studies}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=7.0, help="for all parts together")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--bundle", type=Path, help="archive of `make gpu-bundle`, if the machine needs one")
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, to see that it runs; results go to OUT/quick"
    )
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    out = given.out.resolve() / ("quick" if given.quick else "")  # a rehearsal's are no results
    out.mkdir(parents=True, exist_ok=True)
    packages = unpack(given.bundle.resolve()) if given.bundle and given.bundle.exists() else None
    codes = []
    for part, command in commands(out, given.quick, given.device).items():
        if part not in given.parts:
            continue
        left = end - time.monotonic()
        seconds = left * _SHARE if part == "benchmark" and "studies" in given.parts else left
        command = [sys.executable, *command, "--minutes", f"{seconds / 60:.2f}"]
        print(f"{part}: {' '.join(command)}", flush=True)
        try:
            limit = seconds + _GRACE_SECONDS
            codes.append(
                subprocess.run(command, cwd=ROOT, env=environment(packages), timeout=limit).returncode
            )
        except subprocess.TimeoutExpired:
            print(f"{part}: stopped {_GRACE_SECONDS} s after its time; what it has written stays", flush=True)
            codes.append(1)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())

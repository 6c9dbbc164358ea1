"""Whether size matters: memory to prepare more text, and time to open an index of more sequences.

The last line is JSON, which benchmarks/README.md explains.
"""

import contextlib
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from common import MB, arguments, measure, middle, report, write_text


def memory(work: Path, size: float, tokenizer: str | None, processes: int) -> dict[str, Any]:
    """Peak of `loopway prepare` for some text and four times that; a BPE is trained on it where none is given."""
    found: dict[str, Any] = {"processes": processes}
    for times in (1, 4):
        text, out = write_text(work / f"text-{times}.jsonl", times * size), tempfile.mkdtemp(dir=work)
        command = [sys.executable, "-m", "loopway", "prepare", str(text), "--out", out]
        command += ["--processes", str(processes)] + (["--tokenizer", tokenizer] if tokenizer else [])
        found[f"peak_mb_of_{times * size / MB:g}_mb_of_text"] = round(peak_memory(command) / MB)
    return found


def peak_memory(command: list[str]) -> int:
    """In bytes, summed over a command and its descendants, so that what they share counts several times."""
    peak = 0
    with psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            held = 0
            with contextlib.suppress(psutil.Error):  # one may have ended
                for member in [process, *process.children(recursive=True)]:
                    held += member.memory_info().rss
            peak = max(peak, held)
            time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"failed: {' '.join(command)}")
    return peak


def opening(work: Path, rounds: int) -> dict[str, Any]:
    """Opening token files by the number of their sequences; all but the last are empty, in a file of holes."""
    from loopway.data import TokenFile

    counts = (10**6, 10**8)
    for count in counts:
        (work / f"{count}.bin").write_bytes(bytes(2))
        with (work / f"{count}.idx").open("wb") as file:
            file.write(struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, 8, count, 1))
            file.seek(4 * (count - 1), os.SEEK_CUR)
            file.write(struct.pack("<i", 1))
            file.truncate(file.tell() + 8 * count + 8)
    seconds = measure({f"{it:.0e}": lambda it=it: TokenFile.open(work / str(it)) for it in counts}, rounds)
    return {
        f"milliseconds_for_{name}_sequences": middle([1e3 * it for it in seconds[name]]) for name in seconds
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--tokenizer", help="folder of a tokenizer to prepare with beside a BPE that is trained"
    )
    parser.add_argument("--megabytes", type=float, default=64, help="text to prepare, and four times that")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if options.quick:
        options.megabytes, options.rounds = 0.2, 1
    tokenizers = {"memory_bpe": None} | ({"memory_given": options.tokenizer} if options.tokenizer else {})
    with tempfile.TemporaryDirectory() as folder:
        work, size = Path(folder), options.megabytes * MB
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            name: lambda it=it: memory(work, size, it, options.processes) for name, it in tokenizers.items()
        }
        report(parts | {"opening": lambda: opening(work, options.rounds)})


if __name__ == "__main__":
    main()

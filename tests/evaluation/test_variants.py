"""Seeds of variants: a table of their held-out loss, with the interval of a difference where pairs are known."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from loopway.evaluation.evaluate import evaluate
from loopway.evaluation.results import Evaluation, Recipe, SampleLosses, TaskResult
from loopway.evaluation.suite import HELD_OUT, task_measures
from loopway.evaluation.tables import markdown_tables, terminal_tables
from loopway.evaluation.variants import recipe_of, seeds_table
from loopway.inference.held_out import paired_difference
from loopway.training.run_folder import RunFolder

(MEASURE,) = task_measures([HELD_OUT])
TARGETS, DOCUMENTS = np.full(40, 10), np.arange(40) // 2


def evaluation(variant: str, seed: int, loss: float, version: str = "x") -> Evaluation:
    """A model whose samples' losses vary around this one; the same way for equal seeds."""
    noise = np.random.default_rng(seed).normal(0, 0.3, 40) + np.random.default_rng(len(variant)).normal(
        0, 0.05, 40
    )
    losses = SampleLosses((loss + noise) * TARGETS, TARGETS, DOCUMENTS)
    mean = float(losses.sums.sum() / TARGETS.sum())
    result = TaskResult(np.exp(mean), 0.1, {"loss": mean}, version, 40, "perplexity", losses)
    name = f"runs/{variant}-seed{seed}"
    return Evaluation(name, name, [MEASURE], {MEASURE: result}, recipe=Recipe(variant, seed, variant))


def test_variants_with_the_same_seeds_have_a_difference_with_an_error_of_documents_and_seeds() -> None:
    found = [
        evaluation(name, seed, loss + seed / 100)
        for seed in (0, 1)
        for name, loss in (("vanilla", 3.0), ("mesh", 2.9))
    ]
    heads, (vanilla, mesh) = seeds_table(found)
    assert heads == ["variant", "seeds", "held-out loss ↓", "Δ ↓"]
    assert vanilla[:2] == ["vanilla", "2"] and vanilla[3] == "–"
    losses = [
        [each.results[MEASURE].losses for each in found if each.recipe and each.recipe.variant == name]
        for name in ("mesh", "vanilla")
    ]
    a, b = (np.stack([own.sums for own in variant if own]) for variant in losses)
    expected = paired_difference(a, b, TARGETS, DOCUMENTS)
    assert expected.error is not None
    value, error = (float(part.replace("−", "-")) for part in mesh[3].split(" ± "))
    assert value == pytest.approx(expected.value, abs=0.2 * expected.error)
    assert error == pytest.approx(expected.error, rel=0.15)
    text = markdown_tables(found)
    assert f"| mesh | 2 | {mesh[2]} | {mesh[3]} |" in text and "from paired documents and seeds" in text
    console = Console(record=True, width=100)
    for table in terminal_tables(found):
        console.print(table)
    assert mesh[3] in console.export_text()


def test_seeds_are_paired_by_their_number_whatever_their_order() -> None:
    found = [evaluation(name, seed, 3.0) for name, seed in (("a", 0), ("a", 1), ("b", 1), ("b", 0))]
    _, (_, other) = seeds_table(found)
    assert other[3].startswith(("+0.0000", "0.0000"))  # equal, seed by seed


@pytest.mark.parametrize(
    "found",
    [
        [evaluation("a", 0, 3), evaluation("b", 0, 3)],
        [evaluation("a", 0, 3), evaluation("a", 1, 3)],
        [evaluation("a", 0, 3), evaluation("a", 1, 3), evaluation("b", 0, 3), evaluation("b", 2, 3)],
        [evaluation("a", 0, 3), evaluation("a", 1, 3), evaluation("b", 0, 3), evaluation("b", 1, 3, "y")],
        [evaluation(name, seed, 3) for name, seed in (("a", 0), ("a", 1), ("a", 1), ("b", 0), ("b", 1))],
        [replace(evaluation("a", seed, 3), recipe=None) for seed in range(4)],
    ],
    ids=["one seed", "one variant", "other seeds", "other text", "a run twice", "no runs"],
)
def test_without_known_pairs_there_is_no_table(found: list[Evaluation]) -> None:
    assert seeds_table(found)[1] == []
    assert "variant" not in markdown_tables(found)


def run_folder(path: Path, **training: object) -> RunFolder:
    path.mkdir(parents=True)
    training = {"global_batch_size": 8} | training
    content = {"model": {"layout": "4"}, "data": {}, "training": training, "plugins": []}
    (path / "config.yaml").write_text(json.dumps(content))
    return RunFolder(path)


def recipe(run: RunFolder) -> Recipe:
    found = recipe_of(run)
    assert found is not None
    return found


def test_a_folder_with_another_config_is_no_seed(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("site_name: x")
    assert recipe_of(RunFolder(tmp_path)) is None


def test_runs_that_differ_in_their_seed_are_one_variant(tmp_path: Path) -> None:
    first, second = (run_folder(tmp_path / f"mesh-seed{seed}", seed=seed, max_steps=9) for seed in (0, 1))
    other = run_folder(tmp_path / "longer-seed0", seed=0, max_steps=10)
    logged = run_folder(tmp_path / "logged", seed=2, max_steps=9, logging_steps=7)
    larger = recipe(run_folder(tmp_path / "larger-seed0", seed=0, max_steps=9, global_batch_size=16))
    one, two, longer, often = map(recipe, (first, second, other, logged))
    assert larger.content != one.content
    assert (one.variant, one.seed, two.seed, longer.variant, often.variant) == (
        "mesh",
        0,
        1,
        "longer",
        "logged",
    )
    assert one.content == two.content == often.content != longer.content


def test_losses_of_samples_are_no_part_of_the_results_file(
    mesh_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = evaluation("a", 0, 3).results[MEASURE]
    monkeypatch.setattr("loopway.evaluation.evaluate._take", lambda *_: taken)
    evaluate([str(mesh_model)], [MEASURE], tmp_path, console=Console(quiet=True))
    (model,) = json.loads((tmp_path / "results.json").read_text())["models"]
    assert model["results"][0]["value"] == taken.value and "losses" not in model["results"][0]

"""An evaluation computes nothing twice, goes on where it was, and says what it could not measure."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from conftest import make_model  # type: ignore[import-not-found]
from rich.console import Console

from loopway.errors import ConfigError
from loopway.evaluation.dynamics import evaluate_checkpoints
from loopway.evaluation.evaluate import evaluate
from loopway.evaluation.harness import HarnessModel
from loopway.evaluation.results import Evaluation, TaskResult
from loopway.evaluation.suite import HELD_OUT, PAPER_TASKS, Measure, suite_measures, task_measures
from loopway.evaluation.tables import details, headline, markdown_tables, mean_accuracy, terminal_tables
from loopway.inference.trained_model import open_trained
from loopway.options import EvaluationOptions
from loopway.training import summary
from loopway.training.config.run_config import RunConfig
from loopway.training.run import train


def test_nothing_is_computed_twice(
    mesh_model: Path, local_tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measures = task_measures(["piqa"], [0])
    settings = EvaluationOptions(limit=6, include_path=local_tasks)
    (first,) = evaluate([str(mesh_model)], measures, tmp_path, settings)

    def compute(*_: object, **__: object) -> None:
        raise RuntimeError("asked the model again")

    monkeypatch.setattr(HarnessModel, "_loglikelihood_tokens", compute)
    (second,) = evaluate([str(mesh_model)], measures, tmp_path, settings)
    assert second.results == first.results
    with pytest.raises(RuntimeError, match="asked the model again"):
        evaluate([str(mesh_model)], task_measures(["piqa"], [1]), tmp_path, settings)


def test_a_stopped_evaluation_goes_on(
    mesh_model: Path, local_tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measures = task_measures(["arc_easy"], [0])
    settings = EvaluationOptions(limit=8, batch_size="4", include_path=local_tasks)
    (straight,) = evaluate([str(mesh_model)], measures, tmp_path / "straight", settings)
    calls: list[int] = []
    model_call = HarnessModel._model_call  # type: ignore[attr-defined]

    def stop_in_the_third(self: HarnessModel, inps: torch.Tensor, *args: object, **kwargs: object):
        calls.append(len(inps))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return model_call(self, inps, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(HarnessModel, "_model_call", stop_in_the_third)
        evaluate([str(mesh_model)], measures, tmp_path / "out", settings)
    (answers,) = (tmp_path / "out" / "answers").iterdir()
    assert len(answers.read_text().splitlines()) == 8
    calls.clear()
    monkeypatch.setattr(
        HarnessModel, "_model_call", lambda *a, **k: (calls.append(len(a[1])), model_call(*a, **k))[1]
    )
    (resumed,) = evaluate([str(mesh_model)], measures, tmp_path / "out", settings)
    (whole,) = (tmp_path / "straight" / "answers").iterdir()
    assert sum(calls) == len(whole.read_text().splitlines()) - 8
    assert resumed.results[measures[0]].value == straight.results[measures[0]].value


def test_a_changed_model_has_another_key_and_the_same_model_elsewhere_the_same(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "a")
    key = open_trained(str(folder)).key
    assert open_trained(str(make_model(tmp_path / "elsewhere"))).key == key
    changed = open_trained(str(tmp_path / "a")).model
    with torch.no_grad():
        next(changed.parameters()).view(-1)[0] += 1e-3
    changed.save_pretrained(tmp_path / "a")
    assert open_trained(str(tmp_path / "a")).key != key
    assert open_trained(str(tmp_path / "elsewhere"), dtype="bfloat16").key != key
    assert open_trained(str(make_model(tmp_path / "b", recurrence="anchor"))).key != key
    generation = json.loads((tmp_path / "elsewhere" / "generation_config.json").read_text())
    generation["repetition_penalty"] = 1.5
    (tmp_path / "elsewhere" / "generation_config.json").write_text(json.dumps(generation))
    assert open_trained(str(tmp_path / "elsewhere")).key != key


def test_another_version_or_plugin_has_another_key(
    mesh_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = open_trained(str(mesh_model)).key
    for package in ("loopway", "lm_eval", "transformers"):
        with monkeypatch.context() as patch:
            patch.setattr(summary, "version", lambda name, it=package: "0" if name == it else version(name))
            patch.setattr(summary, "__version__", "0" if package == "loopway" else summary.__version__)
            assert open_trained(str(mesh_model)).key != key, package
    keys = {key}
    for number, content in enumerate(("a = 1\n", "a = 2\n")):
        (tmp_path / f"{number}.py").write_text(content)
        keys.add(open_trained(str(mesh_model), [tmp_path / f"{number}.py"]).key)
    assert len(keys) == 3
    (tmp_path / "same.py").write_text("a = 2\n")
    assert open_trained(str(mesh_model), [tmp_path / "same.py"]).key in keys
    (tmp_path / "same.py").write_text("a = 3\n")  # but this process goes on with what it has run
    assert open_trained(str(mesh_model), [tmp_path / "same.py"]).key in keys


def test_a_task_without_its_data_is_left_out_and_the_mean_says_so(
    mesh_model: Path, local_tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "piqa.yaml").write_text((local_tasks / "piqa.yaml").read_text())
    measures = task_measures(["piqa", "sciq"], [0])
    settings = EvaluationOptions(limit=4, include_path=tmp_path / "tasks")
    (evaluation,) = evaluate([str(mesh_model)], measures, tmp_path / "out", settings)
    assert [measure.task for measure in evaluation.results] == ["piqa"]
    (reason,) = evaluation.missing.values()
    assert reason.startswith("sciq: can't be loaded (") and "allenai/sciq" in reason
    assert "--include-path" in reason
    table = (tmp_path / "out" / "table.md").read_text()
    assert "incomplete: " in table and "over 1 of 2" in table and "Left out of" in table
    with pytest.raises(ConfigError, match="nothing could be measured: sciq: can't be loaded"):
        evaluate([str(mesh_model)], measures[1:], tmp_path / "none", settings)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with checkpoints at steps 4 and 8 of 8."""
    folder = tmp_path_factory.mktemp("run")
    texts = [f"the {a} of the {b} and the {c} " * 8 for a in "abcd" for b in "efgh" for c in "ijkl"]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = RunConfig.from_dict(
        {
            "model": {"preset": "pythia-14m", "hidden_size": 32, "layout": "1+1R2+1", "recurrence": "mesh"},
            "data": {"train": str(folder / "text.jsonl"), "sequence_length": 32, "vocab_size": 300},
            "training": {
                "global_batch_size": 4,
                "max_steps": 8,
                "save_steps": 4,
                "learning_rate": 1e-2,
                "eval_on_start": True,  # whose line has no tokens yet
                "use_cpu": True,
            },
        }
    )
    train(config, folder / "run")
    return folder / "run"


def test_the_held_out_perplexity_of_a_run_is_that_of_its_own_validation_set(
    run: Path, tmp_path: Path
) -> None:
    (measure,) = task_measures([HELD_OUT])
    (evaluation,) = evaluate([str(run)], [measure], tmp_path)
    result = evaluation.results[measure]
    summary = json.loads((run / "summary.json").read_text())
    assert result.value == pytest.approx(summary["validation_perplexity"], rel=1e-6)
    assert result.metrics["loss"] == pytest.approx(summary["validation_loss"], abs=1e-6)
    assert result.error is not None and 0 < result.error < result.value
    same = EvaluationOptions(held_out=[str(run / "data")])
    (again,) = evaluate(
        [str(run / "model")], [measure], tmp_path / "named", EvaluationOptions(held_out=same.held_out)
    )
    assert again.results[measure].samples > 0
    (shorter,) = evaluate([str(run)], [measure], tmp_path / "short", EvaluationOptions(sequence_length=16))
    assert shorter.results[measure].samples > result.samples


def test_every_checkpoint_gives_the_course_of_a_run(run: Path, tmp_path: Path) -> None:
    courses = evaluate_checkpoints([str(run)], task_measures([HELD_OUT]), tmp_path)
    (course,) = courses.values()
    assert [moment.tokens for moment in course] == [4 * 4 * 32, 8 * 4 * 32]
    losses = [moment.loss for moment in course]
    assert losses[0] is not None and losses[1] is not None and losses[1] < losses[0]
    summary = json.loads((run / "summary.json").read_text())
    assert losses[1] == pytest.approx(summary["validation_loss"], abs=1e-6)
    assert (tmp_path / "dynamics.png").stat().st_size > 5000


def test_every_checkpoint_of_what_is_no_run_is_refused(mesh_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no run folder"):
        evaluate_checkpoints([str(mesh_model)], task_measures([HELD_OUT]), tmp_path)


def test_token_files_of_another_tokenizer_are_refused(run: Path, mesh_model: Path, tmp_path: Path) -> None:
    settings = EvaluationOptions(held_out=[str(run / "data")])
    with pytest.raises(ValueError, match="was made with another tokenizer"):
        evaluate([str(mesh_model)], task_measures([HELD_OUT]), tmp_path, settings)


def result_of(value: float, error: float | None, metric: str = "acc") -> TaskResult:
    return TaskResult(
        value=value, error=error, metrics={metric: value}, version="1", samples=9, metric=metric
    )


def test_the_paper_s_suite_is_four_perplexities_and_nine_tasks_twice() -> None:
    measures = suite_measures("paper")
    assert sum(measure.is_perplexity for measure in measures) == 4
    assert {m.task for m in measures if m.in_mean and m.shots == 5} == set(PAPER_TASKS)
    assert len(PAPER_TASKS) == 9 and len(measures) == 4 + 18
    assert {m.metric for m in measures if m.task in ("piqa", "sciq")} == {"acc_norm"}
    assert {m.metric for m in measures if m.task in ("winogrande", "mmlu_continuation")} == {"acc"}


def test_a_mean_has_the_error_of_its_parts_and_differences_are_to_the_first() -> None:
    measures = [Measure("a", 0, "acc", True), Measure("b", 0, "acc", True), Measure("w", 0, "perplexity")]
    first, second = (Evaluation(name, name, measures) for name in ("first", "second"))
    first.results.update(
        {measures[0]: result_of(0.5, 0.03), measures[1]: result_of(0.3, 0.04)}
        | {measures[2]: result_of(10, 0.5, "perplexity")}
    )
    second.results.update(
        {measures[0]: result_of(0.6, 0.03), measures[1]: result_of(0.3, 0.04)}
        | {measures[2]: result_of(12.5, None, "perplexity")}
    )
    mean = mean_accuracy(first, 0)
    assert mean is not None and mean.is_complete
    assert (mean.value, mean.error) == (pytest.approx(40), pytest.approx(2.5))
    heads, rows = headline([first, second])
    assert heads == ["model", "w ppl ↓", "mean acc, 0-shot ↑"]
    assert rows == [
        ["first", "10.0 ± 0.5", "40.0 ± 2.5"],
        ["second", "12.50 (+2.50)", "45.0 ± 2.5 (+5.0)"],
    ]
    _, rows = details([first, second])
    assert rows[0] == ["a, 0-shot", "acc ↑", "50.0 ± 3.0", "60.0 ± 3.0 (+10.0)"]
    del second.results[measures[1]]
    assert headline([first, second])[1][1][2] == "incomplete: 60.0 over 1 of 2"
    assert "| b, 0-shot | acc ↑ | 30 ± 4 | – |" in markdown_tables([first, second])


def test_a_single_task_has_no_mean_and_a_number_of_one_question_no_error() -> None:
    measures = task_measures(["piqa", "arc_easy"], [0])
    evaluation = Evaluation("runs/a", "a", measures[:1], {measures[0]: result_of(0.5, 0.1)})
    assert headline([evaluation])[0] == ["model"]
    both = Evaluation(
        "runs/a", "a", measures, {measures[0]: result_of(0.5, 0.1), measures[1]: result_of(0.7, None)}
    )
    assert headline([both])[1] == [["runs/a", "60.0"]]


def test_perplexities_on_other_text_are_not_compared() -> None:
    (measure,) = task_measures([HELD_OUT])
    first, same, other = (
        Evaluation(
            name,
            name,
            [measure],
            {measure: TaskResult(value, None, {"loss": value / 4}, text, 9, "perplexity")},
        )
        for name, value, text in (("a", 10, "x"), ("b", 12, "x"), ("c", 13, "y"))
    )
    heads, rows = headline([first, same, other])
    assert heads == ["model", "held-out loss ↓", "held-out ppl ↓"]
    assert [row[1] for row in rows] == ["2.5000", "3.0000 (+0.5000)", "3.2500"]
    assert [row[2] for row in rows] == ["10.00", "12.00 (+2.00)", "13.00"]
    assert [row[1] for row in details([first, same, other])[1]] == ["loss ↓", "perplexity ↓"]


def test_held_out_loss_has_the_error_that_its_perplexity_has() -> None:
    (measure,) = task_measures([HELD_OUT])
    result = TaskResult(20, 20 * 0.012, {"loss": 2.99573}, "x", 9, "perplexity")
    assert headline([Evaluation("a", "a", [measure], {measure: result})])[1] == [
        ["a", "2.996 ± 0.012", "20.00 ± 0.24"]
    ]


def test_a_narrow_terminal_shows_every_number_of_the_paper_s_suite() -> None:
    measures = suite_measures("paper")
    console = Console(record=True, width=80)
    evaluations = [
        Evaluation(f"runs/{name}", name, measures) for name in ("vanilla", "base", "mesh", "e", "f")
    ]
    for number, evaluation in enumerate(evaluations, 1):
        evaluation.results.update(
            {
                m: result_of(10 * number if m.is_perplexity else number / 10, 0.01, m.metric or "")
                for m in measures
            }
        )
    for table in terminal_tables(evaluations):
        console.print(table)
    text = console.export_text()
    assert "…" not in text and "runs/" not in text
    for number in range(1, 6):
        assert text.count(f"{10 * number}.0 ± 1.0") == 18, text
        assert text.count(f"{10 * number}.000 ± 0.010") == 4


def test_what_is_asked_twice_is_taken_once() -> None:
    assert task_measures(["piqa", "piqa"], [0, 0]) == task_measures(["piqa"], [0])
    assert task_measures(["wikitext", HELD_OUT], [0, 5]) == task_measures(["wikitext", HELD_OUT])
    assert suite_measures("tasks", [5, 5]) == suite_measures("tasks", [5])
    with pytest.raises(ConfigError, match="--shots: perplexities are taken without examples"):
        suite_measures("perplexity", [5])


def test_tables_are_shown_and_results_hold_the_versions(
    mesh_model: Path, vanilla_model: Path, local_tasks: Path, tmp_path: Path
) -> None:
    console = Console(record=True, width=200)
    settings = EvaluationOptions(limit=3, include_path=local_tasks)
    models = [str(vanilla_model), str(mesh_model)]
    evaluate(models, task_measures(["winogrande"], [0]), tmp_path, settings, console=console)
    assert "winogrande, 0-shot" in console.export_text()
    content = json.loads((tmp_path / "results.json").read_text())
    assert {"lm_eval", "torch", "transformers", "loopway"} <= content["versions"].keys()
    assert [model["model"] for model in content["models"]] == models
    (result,) = content["models"][0]["results"]
    assert result["samples"] == 3 and result["version"] and result["metric"] == "acc"


def test_auto_is_eight_at_a_time_on_a_cpu(
    mesh_model: Path, local_tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The harness would try 64 rows of the model's whole context first, which a machine's memory may not survive."""
    rows: list[int] = []
    model_call = HarnessModel._model_call  # type: ignore[attr-defined]
    monkeypatch.setattr(
        HarnessModel, "_model_call", lambda *a, **k: (rows.append(len(a[1])), model_call(*a, **k))[1]
    )
    settings = EvaluationOptions(limit=10, batch_size="auto", include_path=local_tasks)
    evaluate([str(mesh_model)], task_measures(["arc_easy"], [0]), tmp_path, settings)
    assert max(rows) == 8 and len(rows) < 8

"""Results of evaluations in a run's folder, for the model card.

Knows the files of `loopway evaluate`; nothing of how a result is measured.
"""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from loopway.evaluation.results import Evaluation, TaskResult
from loopway.evaluation.suite import Measure
from loopway.evaluation.tables import details
from loopway.report.markdown import markdown_table

_RESULTS = "results.json"


@dataclass
class Findings:
    """Results of one model, the newest of each measure, and the files that hold only other models' results."""

    results: dict[Measure, TaskResult] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    of_others: list[Path] = field(default_factory=list)


def find_results(folder: Path, key: str) -> Findings:
    """Find the results of the model with this key, in the folder and its subfolders.

    The key identifies weights, tokenizer and code. Results of anything else are omitted.
    """
    found = Findings()
    files = [folder / _RESULTS, *folder.glob(f"*/{_RESULTS}")]
    for file in sorted(filter(Path.is_file, files), key=lambda file: file.stat().st_mtime):
        content = json.loads(file.read_text(encoding="utf-8"))
        ours = [model for model in content.get("models", []) if model["key"] == key]
        if not ours:
            found.of_others.append(file)
        for entry in (entry for model in ours for entry in model["results"] if entry["value"] is not None):
            found.results[_read(Measure, entry)] = _read(TaskResult, entry)
            found.versions |= content["versions"]
    return found


def results_section(name: str, found: Findings) -> str:
    """The results as a table, in Markdown."""
    _, rows = details([Evaluation(name, "", list(found.results), found.results)])
    questions = {measure.title: f"{result.samples:,}" for measure, result in found.results.items()}
    rows = [[*row, questions[row[0]]] for row in rows]
    versions = ", ".join(f"{package} {version}" for package, version in found.versions.items())
    return (
        "## Evaluation\n\nBy `loopway evaluate`. Accuracies in percent, ± standard error; loss in nats per token, perplexities per token "
        "(held-out, LAMBADA) or word (WikiText).\n\n"
        + markdown_table(["task", "metric", "value", "questions"], rows, left=2)
        + f"\n\nMeasured with {versions}."
    )


def results_header(name: str, found: Findings) -> dict[str, Any]:
    """Fields of the card's YAML header, which the Hub shows beside the model."""
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=measure.task,
            dataset_name=measure.title,
            metric_type=result.metric,
            metric_value=result.value,
        )
        for measure, result in found.results.items()
    ]
    return {"model_name": name, "eval_results": results} if results else {}


def _read(cls: type, entry: dict[str, Any]) -> Any:
    return cls(**{each.name: entry[each.name] for each in fields(cls) if each.name in entry})

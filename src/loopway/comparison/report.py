"""Results of a comparison: results.json, table.md, curves.png and samples.md.

Knows finished runs; nothing of their training.
"""

from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from loopway.comparison.figures import Curve, plot_curves
from loopway.comparison.planned import PlannedRun
from loopway.comparison.rows import Row, VariantRuns, compare_variants, vanilla_for
from loopway.comparison.tables import markdown_table
from loopway.data.run_data import RunData
from loopway.files import write_atomically, write_json
from loopway.inference.generation import generate
from loopway.inference.trained_model import open_model
from loopway.modeling.accounting import parameter_report
from loopway.modeling.pretrained_folder import PretrainedFolder
from loopway.options import Sampling
from loopway.report.pictures import Picture
from loopway.training.metrics_log import read_metrics


class Results(NamedTuple):
    """Results of a comparison: the table's rows, and the curves with their figure."""

    rows: list[Row]
    curves: list[Curve]
    picture: Picture


_SAMPLE = Sampling(max_new_tokens=80, temperature=0.8, top_k=50)


def write_results(folder: Path, runs: dict[str, list[PlannedRun]], data: RunData) -> Results:
    """Write results.json, table.md and curves.png."""
    variants = [_gather(name, by_seed, data) for name, by_seed in runs.items()]
    rows = compare_variants(variants)
    write_json(folder / "results.json", [asdict(row) for row in rows])
    write_atomically(folder / "table.md", markdown_table(rows))
    vanilla = next((v.name for v in variants if vanilla_for(v, variants) is v), None)
    originals = {planned.summary.original_loss for by_seed in runs.values() for planned in by_seed}
    curves = [_curve(name, by_seed) for name, by_seed in runs.items()]
    picture = plot_curves(curves, vanilla, original=originals.pop() if len(originals) == 1 else None)
    picture.figure.savefig(folder / "curves.png")
    return Results(rows, curves, picture)


def write_samples(folder: Path, runs: dict[str, list[PlannedRun]], prompt: str) -> dict[str, str]:
    """Let every variant's first model continue the prompt; write and return the texts.

    Raises:
        ConfigError: prompt and text fill a model's context.
    """
    texts = {
        name: generate(*open_model(by_seed[0].folder.path), prompt, _SAMPLE) for name, by_seed in runs.items()
    }
    samples = [f"{samples_note(prompt)}\n"]
    for name, text in texts.items():
        quoted = "\n".join(f"> {line}".rstrip() for line in text.splitlines())
        samples.append(f"## {name}\n\n{quoted}\n")
    write_atomically(folder / "samples.md", "\n".join(samples))
    return texts


def samples_note(prompt: str) -> str:
    """Return how the samples are made."""
    return f"What each model makes of {prompt!r} (seed 0, temperature {_SAMPLE.temperature})."


def _gather(name: str, by_seed: list[PlannedRun], data: RunData) -> VariantRuns:
    samples = data.validation_samples()
    assert samples is not None, "a comparison asks for validation text"
    losses = [planned.validation_losses for planned in by_seed]
    model_config = PretrainedFolder(by_seed[0].folder.model).config()
    return VariantRuns(
        name=name,
        summaries=[planned.summary for planned in by_seed],
        loss_sums=np.array([sums for sums, _ in losses]),
        targets=losses[0][1],
        documents=samples.document_of_samples(),
        training_flops=parameter_report(
            model_config, context_length=data.config.sequence_length
        ).training_flops,
    )


def _curve(name: str, by_seed: list[PlannedRun]) -> Curve:
    """Validation loss by tokens of the seeds, which are evaluated at the same steps."""
    seeds = [
        {
            line["tokens"]: line["validation_loss"]
            for line in read_metrics(planned.folder.metrics)
            if "validation_loss" in line
        }
        for planned in by_seed
    ]
    tokens = sorted(set.intersection(*map(set, seeds)))
    return Curve(name, np.array(tokens), np.array([[seed[at] for at in tokens] for seed in seeds]))

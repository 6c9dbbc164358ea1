"""Models that are seeds of variants: each variant's held-out loss, and its difference to the first with a standard error.

Knows runs' configs and held-out losses; nothing of how these are measured.
"""

import json
from collections.abc import Sequence

import numpy as np
import yaml

from loopway.evaluation.results import Evaluation, Recipe, SampleLosses, TaskResult
from loopway.evaluation.suite import HELD_OUT
from loopway.inference.held_out import paired_difference
from loopway.report.numbers import DOWN, NOTHING, measured
from loopway.training.config.free_keys import StepSize, defining
from loopway.training.run_folder import RunFolder

SEEDS_NOTE = (
    "Held-out loss of each variant over its seeds, ± their standard deviation. Δ: difference to the first variant ± its "
    "standard error, from paired documents and seeds."
)


def recipe_of(run: RunFolder) -> Recipe | None:
    """Return which variant and seed a run is; None if its config isn't a run's."""
    try:
        config = yaml.safe_load(run.config.read_text(encoding="utf-8"))
        content = defining(config)
        seed = int(content["training"].pop("seed", 42))  # Hugging Face's default
        content["step"] = StepSize.of(config, workers=1).samples
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError):
        return None
    name = run.path.resolve().name
    return Recipe(name.removesuffix(f"-seed{seed}"), seed, json.dumps(content, sort_keys=True, default=str))


def seeds_table(evaluations: Sequence[Evaluation]) -> tuple[list[str], list[list[str]]]:
    """Return a row a variant; no rows unless there are several, each with the same two seeds or more, on the same text."""
    heads = ["variant", "seeds", f"held-out loss {DOWN}", f"Δ {DOWN}"]
    variants: dict[str, dict[int, TaskResult]] = {}
    names: dict[str, str] = {}
    for evaluation in evaluations:
        result = next(
            (found for measure, found in evaluation.results.items() if measure.task == HELD_OUT), None
        )
        recipe = evaluation.recipe
        if result is None or result.losses is None or recipe is None:
            continue
        names.setdefault(recipe.content, recipe.variant)
        if variants.setdefault(recipe.content, {}).setdefault(recipe.seed, result) is not result:
            return heads, []  # one run twice, as with its checkpoints
    seeds = {tuple(sorted(by_seed)) for by_seed in variants.values()}
    texts = {result.version for by_seed in variants.values() for result in by_seed.values()}
    if len(variants) < 2 or len(seeds) > 1 or len(texts) > 1 or len(min(seeds)) < 2:
        return heads, []
    (order,) = seeds
    losses = [[by_seed[seed].losses for seed in order] for by_seed in variants.values()]
    known = [[found for found in own if found is not None] for own in losses]
    return heads, [
        [name, str(len(order)), *_cells(own, known[0])]
        for name, own in zip(names.values(), known, strict=True)
    ]


def _cells(own: Sequence[SampleLosses], first: Sequence[SampleLosses]) -> tuple[str, str]:
    """Mean loss, and its difference to the first variant's."""
    targets, documents = own[0].targets, own[0].documents
    sums, others = (np.stack([found.sums for found in variant]) for variant in (own, first))
    per_seed = sums.sum(1) / targets.sum()
    loss = measured(float(per_seed.mean()), float(per_seed.std(ddof=1)), 4)
    if own is first:
        return loss, NOTHING
    difference = paired_difference(sums, others, targets, documents)
    return loss, measured(difference.value, difference.error, 4, sign=True)

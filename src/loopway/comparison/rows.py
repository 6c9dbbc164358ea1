"""Rows of a comparison's table: one a variant, with differences and their errors.

The noise of a difference is estimated from the paired losses of validation documents and seeds. One seed can't show how much a
difference varies from run to run, and gets no error. Knows nothing of tables and figures.
"""

import math
from dataclasses import dataclass

import numpy as np

from loopway.inference.held_out import Difference, paired_difference
from loopway.layout import Layout
from loopway.training.summary import RunSummary

#: A gap of fewer standard errors than this counts as noise: no share of it is given.
NOISE_FACTOR = 2.0


@dataclass(frozen=True)
class VariantRuns:
    """One variant's finished runs, over its seeds.

    Attributes:
        name: the variant.
        summaries: one per seed.
        loss_sums: summed loss of every validation sample, ``[seeds, samples]``, in nats.
        targets: number of targets of every validation sample, ``[samples]``.
        documents: the document in which every validation sample begins, ``[samples]``.
        training_flops: per token.
    """

    name: str
    summaries: list[RunSummary]
    loss_sums: np.ndarray
    targets: np.ndarray
    documents: np.ndarray
    training_flops: int

    @property
    def loss(self) -> float:
        """Mean over seeds of the loss per token."""
        return float(self.loss_sums.mean(0).sum() / self.targets.sum())


@dataclass(frozen=True)
class Row:
    """One row of the table. Losses in nats per token; None for an undefined value.

    Attributes:
        percent_of_vanilla: non-embedding parameters, of the vanilla variant's of the same compute depth.
        training_flops: per token.
        seed_deviation: standard deviation of the loss over seeds.
        difference: loss minus the vanilla variant's.
        difference_error: its standard error over documents and seeds; None with one seed or one document.
        document_error: its standard error over documents alone, for this pair of models on other text of the kind. None
            with one document.
        gap_closed: share of the gap between base (same layout) and vanilla that the variant closes; None for these
            two, with one seed, and where the gap is smaller than twice its standard error.
    """

    variant: str
    layout: str
    recurrence: str
    seeds: int
    parameters: int
    non_embedding_parameters: int
    percent_of_vanilla: float | None
    training_flops: int
    validation_loss: float
    seed_deviation: float | None
    perplexity: float
    difference: float | None
    difference_error: float | None
    document_error: float | None
    gap_closed: float | None
    tokens_per_second: float | None
    peak_memory_bytes: int


def compare_losses(a: VariantRuns, b: VariantRuns) -> Difference:
    """Return a's loss minus b's, and its standard errors."""
    return paired_difference(a.loss_sums, b.loss_sums, a.targets, a.documents)


def compare_variants(variants: list[VariantRuns]) -> list[Row]:
    """One row per variant, in the order given."""
    return [_row(variant, variants) for variant in variants]


def vanilla_for(variant: VariantRuns, variants: list[VariantRuns]) -> VariantRuns | None:
    """The vanilla variant of the same compute depth; it itself if it is one."""
    return next((v for v in variants if _is_vanilla(v) and _depth(v) == _depth(variant)), None)


def _row(variant: VariantRuns, variants: list[VariantRuns]) -> Row:
    first = variant.summaries[0]
    vanilla = vanilla_for(variant, variants)
    other = None if variant is vanilla else vanilla
    difference = compare_losses(variant, other) if other else None
    per_seed = variant.loss_sums.sum(1) / variant.targets.sum()
    speeds = [s.tokens_per_second for s in variant.summaries if s.tokens_per_second is not None]
    return Row(
        variant=variant.name,
        layout=first.layout,
        recurrence=first.recurrence,
        seeds=len(variant.summaries),
        parameters=first.parameters,
        non_embedding_parameters=first.non_embedding_parameters,
        percent_of_vanilla=100
        * first.non_embedding_parameters
        / vanilla.summaries[0].non_embedding_parameters
        if vanilla
        else None,
        training_flops=variant.training_flops,
        validation_loss=variant.loss,
        seed_deviation=float(np.std(per_seed, ddof=1)) if len(per_seed) > 1 else None,
        perplexity=math.exp(variant.loss),
        difference=difference.value if difference else None,
        difference_error=difference.error if difference else None,
        document_error=difference.document_error if difference else None,
        gap_closed=_gap_closed(variant, variants),
        tokens_per_second=float(np.median(speeds)) if speeds else None,
        peak_memory_bytes=max(s.peak_memory_bytes for s in variant.summaries),
    )


def _gap_closed(variant: VariantRuns, variants: list[VariantRuns]) -> float | None:
    layout = variant.summaries[0].layout
    vanilla = vanilla_for(variant, variants)
    base = next((v for v in variants if _is_base(v) and v.summaries[0].layout == layout), None)
    if vanilla is None or base is None or variant in (vanilla, base):
        return None
    gap = compare_losses(base, vanilla)
    is_clear = gap.error is not None and gap.value > NOISE_FACTOR * gap.error
    return (base.loss - variant.loss) / gap.value if is_clear else None


def _depth(variant: VariantRuns) -> int:
    return Layout.parse(variant.summaries[0].layout).compute_depth


def _is_vanilla(variant: VariantRuns) -> bool:
    summary = variant.summaries[0]
    return summary.layout.isdigit() and summary.recurrence == "base"


def _is_base(variant: VariantRuns) -> bool:
    summary = variant.summaries[0]
    return Layout.parse(summary.layout).is_looped and summary.recurrence == "base"

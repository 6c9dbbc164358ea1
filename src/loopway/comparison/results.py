"""What a comparison found: one row a variant, with differences and their errors.

The noise of a difference is estimated from the paired losses of the validation samples, and of the seeds where there
are several. Knows nothing of tables and figures.
"""

import math
from dataclasses import dataclass

import numpy as np

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
        training_flops: per token.
    """

    name: str
    summaries: list[RunSummary]
    loss_sums: np.ndarray
    targets: np.ndarray
    training_flops: int

    @property
    def loss(self) -> float:
        """Mean over seeds of the loss per token."""
        return float(self.loss_sums.mean(0).sum() / self.targets.sum())


@dataclass(frozen=True)
class Row:
    """One line of the table. Losses in nats per token; None where a value would mean nothing.

    Attributes:
        percent_of_vanilla: non-embedding parameters, of the vanilla variant's.
        training_flops: per token.
        seed_deviation: standard deviation of the loss over seeds.
        difference: loss minus the vanilla variant's.
        difference_error: its standard error.
        gap_closed: share of the gap between base (same layout) and vanilla that the variant closes; None for these
            two and where the gap is smaller than twice its standard error.
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
    gap_closed: float | None
    tokens_per_second: float | None
    peak_memory_bytes: int


def compare_losses(a: VariantRuns, b: VariantRuns) -> tuple[float, float]:
    """a's loss minus b's, and its standard error.

    The samples' differences are paired (both models saw the same text), so the text's own difficulty cancels. With
    several seeds the spread of the per-seed differences is added in quadrature.
    """
    differences = a.loss_sums - b.loss_sums
    per_sample, total = differences.mean(0), a.targets.sum()
    difference = float(per_sample.sum() / total)
    samples, seeds = len(per_sample), len(differences)
    residuals = per_sample - difference * a.targets
    variance = samples / max(samples - 1, 1) * float((residuals**2).sum()) / float(total) ** 2
    if seeds > 1:
        variance += float(np.var(differences.sum(1) / total, ddof=1)) / seeds
    return difference, math.sqrt(variance)


def compare_variants(variants: list[VariantRuns]) -> list[Row]:
    """One row per variant, in the order given."""
    vanilla = next((v for v in variants if _is_vanilla(v)), None)
    return [_row(variant, vanilla, variants) for variant in variants]


def _row(variant: VariantRuns, vanilla: VariantRuns | None, variants: list[VariantRuns]) -> Row:
    first = variant.summaries[0]
    other = None if variant is vanilla else vanilla
    difference, error = compare_losses(variant, other) if other else (None, None)
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
        difference=difference,
        difference_error=error,
        gap_closed=_gap_closed(variant, vanilla, variants),
        tokens_per_second=float(np.median(speeds)) if speeds else None,
        peak_memory_bytes=max(s.peak_memory_bytes for s in variant.summaries),
    )


def _gap_closed(
    variant: VariantRuns, vanilla: VariantRuns | None, variants: list[VariantRuns]
) -> float | None:
    layout = variant.summaries[0].layout
    base = next((v for v in variants if _is_base(v) and v.summaries[0].layout == layout), None)
    if vanilla is None or base is None or variant in (vanilla, base):
        return None
    gap, error = compare_losses(base, vanilla)
    return (base.loss - variant.loss) / gap if gap > NOISE_FACTOR * error else None


def _is_vanilla(variant: VariantRuns) -> bool:
    summary = variant.summaries[0]
    return summary.layout.isdigit() and summary.recurrence == "base"


def _is_base(variant: VariantRuns) -> bool:
    summary = variant.summaries[0]
    return "R" in summary.layout and summary.recurrence == "base"

"""What the paper's comparisons need: FLOPs, GPU hours, memory. `needs.py` prints docs/studies.md's table.

Everything is counted from the configs on the meta device, and two assumptions are named below. Knows nothing of how the
runs are done.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import loopway
from loopway.comparison.config import CompareConfig
from loopway.modeling.accounting import ParameterReport
from loopway.report.markdown import markdown_table
from loopway.training.config.run_config import RunConfig

FOLDER = Path(__file__).parent

VOCABULARY = 50304  # Pythia's, which its tokenizer leads to
# An NVIDIA H100 SXM's dense bf16 peak, from its data sheet, and the share of it that training is assumed to reach.
PEAK_FLOPS = 989e12
ASSUMED_MFU = 0.4

# Per parameter: float32 weights, gradients and Adam's two moments, DDP's buckets, autocast's bf16 copies.
PARAMETER_BYTES = 4 + 4 + 8 + 4 + 2
# Per token and hidden unit, kept for the backward pass under bf16 autocast without recomputation, as counted on small
# models of 256 to 1,024 wide: of each layer that runs, and what MeSH adds at each boundary.
LAYER_BYTES = 34
BOUNDARY_BYTES = 8


@dataclass(frozen=True)
class Need:
    """Of one run. FLOPs as in `parameter_report`, that is without a discount for causal attention."""

    parameters: int
    tokens: int
    flops: float
    gpu_bytes: int

    @property
    def gpu_hours(self) -> float:
        return self.flops / (PEAK_FLOPS * ASSUMED_MFU) / 3600


@cache
def runs(name: str) -> dict[str, RunConfig]:
    """The variants of one of this folder's comparisons."""
    plan = CompareConfig.load(FOLDER / f"{name}.yaml")
    return {variant: by_seed[plan.seeds[0]] for variant, by_seed in plan.runs.items()}


@cache
def reports(name: str) -> dict[str, ParameterReport]:
    """Their parameters and FLOPs, each model built on the meta device."""
    return {
        variant: loopway.parameter_report(
            run.model.build(vocab_size=VOCABULARY), context_length=run.data.sequence_length
        )
        for variant, run in runs(name).items()
    }


def need(run: RunConfig, report: ParameterReport) -> Need:
    """Of a run on data parallel GPUs, each with ``per_device_train_batch_size`` sequences at a time."""
    training, length = run.training.to_dict(), run.data.sequence_length
    tokens = training["max_steps"] * training["global_batch_size"] * length
    boundaries = loopway.Layout.parse(report.layout).num_boundaries if report.recurrence == "mesh" else 0
    hidden_size = loopway.pythia_config(str(run.model.preset)).hidden_size
    at_once = training["per_device_train_batch_size"] * length * hidden_size
    return Need(
        parameters=report.total,
        tokens=tokens,
        flops=float(report.training_flops * tokens),
        gpu_bytes=PARAMETER_BYTES * report.total
        + at_once * (LAYER_BYTES * report.compute_depth + BOUNDARY_BYTES * boundaries),
    )


def row(path: Path) -> list[str]:
    """The table's line of a comparison's file."""
    title = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").partition(". ")[0]
    needs = [need(run, reports(path.stem)[variant]) for variant, run in runs(path.stem).items()]
    sizes = sorted(each.parameters / 1e6 for each in needs)
    return [
        f"`{path.name}`",
        title,
        f"{len(needs)}",
        f"{sizes[0]:,.0f}–{sizes[-1]:,.0f} M" if round(sizes[0]) < round(sizes[-1]) else f"{sizes[0]:,.0f} M",
        f"{needs[0].tokens / 1e9:,.0f} B",
        f"{sum(each.flops for each in needs) / 1e21:,.2f}",
        f"{max(each.gpu_hours for each in needs):,.0f}",
        f"{sum(each.gpu_hours for each in needs):,.0f}",
        f"{max(each.gpu_bytes for each in needs) / 2**30:,.0f} GiB",
    ]


def table() -> str:
    """A line for each comparison of this folder, in Markdown."""
    header = [
        "file",
        "what",
        "rows",
        "parameters",
        "tokens a row",
        "ZFLOP, all rows",
        "GPU hours, longest row",
    ]
    header += ["GPU hours, all rows", "memory a GPU"]
    files = sorted(path for path in FOLDER.glob("*.yaml") if path.name != "pile.yaml")
    return markdown_table(header, map(row, files), left=2)


if __name__ == "__main__":
    print(table())

"""A comparison from config to report: every variant trained on the same prepared data, then told side by side.

    data/  variants/NAME.yaml  runs/NAME-seedN/  results.json  table.md  curves.png  samples.md

Finished runs are kept, unfinished ones go on where they were. Knows nothing of how a single run is done.
"""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from transformers import AutoConfig

from loopway.comparison.config import CompareConfig
from loopway.comparison.figures import Curve, plot_curves
from loopway.comparison.results import Row, VariantRuns, compare_variants
from loopway.comparison.tables import explain, markdown_table, terminal_table
from loopway.data.preparation import prepare
from loopway.errors import LoopwayError
from loopway.modeling.accounting import parameter_report
from loopway.training.generation import Sampling, generate, open_model
from loopway.training.metrics_log import read_metrics
from loopway.training.run_config import RunConfig
from loopway.training.run_folder import RunFolder, write_atomically
from loopway.training.summary import RunSummary

_SAMPLE = Sampling(max_new_tokens=80, temperature=0.8, top_k=50)


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` gives back: the table's rows, and the folder where everything lies."""

    folder: Path
    rows: list[Row]


def compare(
    config: Path | str | None = None,
    overrides: Sequence[str] = (),
    folder: Path | str | None = None,
    *,
    console: Console | None = None,
) -> Comparison:
    """Train every variant of a comparison and report on them.

    Args:
        config: the comparison's YAML file; None is the embedded demo.
        overrides: ``training.max_steps=100`` and the like.
        folder: where everything goes; None is ``runs/<name of the config>``.
        console: where the table is shown; None is standard output.

    Raises:
        LoopwayError: a mistake in the config or the data, a folder that holds another comparison, a failed run.
    """
    plan = CompareConfig.load(config, overrides)
    folder = Path(folder) if folder else Path("runs") / (Path(config).stem if config else "demo")
    console = console or Console()
    runs = {
        name: [_PlannedRun(f"{name}-seed{seed}", run, folder) for seed, run in by_seed.items()]
        for name, by_seed in plan.runs.items()
    }
    for by_seed in runs.values():
        for planned in by_seed:
            planned.check_folder()
    prepare(plan.data, folder / "data")
    for seed in range(len(plan.seeds)):  # every variant once before any a second time
        for by_seed in runs.values():
            by_seed[seed].train(folder / "data")
    results = [_gather(name, by_seed, plan) for name, by_seed in runs.items()]
    rows = compare_variants(results)
    _write_report(folder, rows, runs, plan.prompt)
    console.print(terminal_table(rows))
    console.print(explain(rows), style="dim")
    console.print(f"Everything is in {folder}: table.md, results.json, curves.png, samples.md, runs/*/model")
    return Comparison(folder, rows)


@dataclass(frozen=True)
class _PlannedRun:
    """One variant with one seed, and its place in the comparison's folder."""

    name: str
    config: RunConfig
    comparison: Path

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.comparison / "runs" / self.name)

    def check_folder(self) -> None:
        """Raise ConfigError if another run has the place, before anything is trained."""
        if self.folder.config.exists():
            self.folder.check_same(self.config.to_dict(), self.config.plugins)

    def train(self, data: Path) -> None:
        """Train, or go on, unless it is finished. The config file also serves to train this run alone."""
        if self.folder.is_finished:
            return
        config = self.comparison / "variants" / f"{self.name}.yaml"
        config.parent.mkdir(exist_ok=True)
        write_atomically(config, self.config.to_yaml())
        _run_in_process(config, self.folder.path, data, self.name)

    @property
    def summary(self) -> RunSummary:
        return RunSummary.read(self.folder.summary)

    @property
    def validation_losses(self) -> dict[str, list[float]]:
        return json.loads(self.folder.validation_losses.read_text(encoding="utf-8"))


def _run_in_process(config: Path, folder: Path, data: Path, title: str) -> None:
    """Train in a process of its own, which saves and stops when this one is told to.

    Raises:
        LoopwayError: it failed; KeyboardInterrupt, SystemExit: it was interrupted or terminated.
    """
    command = [sys.executable, "-m", "loopway.comparison.worker", config, folder, data, title]
    # A process group of its own, or Ctrl-C in a terminal would reach it twice.
    with subprocess.Popen(command, process_group=0) as process, _forwarding_signals(process):
        code = process.wait()
    if code in (-signal.SIGINT, 128 + signal.SIGINT):
        raise KeyboardInterrupt
    if code in (-signal.SIGTERM, 128 + signal.SIGTERM):
        raise SystemExit(128 + signal.SIGTERM)
    if code:
        raise LoopwayError(f"{title}: training failed (exit code {code}); what was done is in {folder}")


@contextmanager
def _forwarding_signals(process: subprocess.Popen) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, lambda received, _: process.send_signal(received))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _gather(name: str, by_seed: list[_PlannedRun], plan: CompareConfig) -> VariantRuns:
    losses = [planned.validation_losses for planned in by_seed]
    model_config = AutoConfig.from_pretrained(by_seed[0].folder.model)
    report = parameter_report(model_config, context_length=plan.data.sequence_length)
    return VariantRuns(
        name=name,
        summaries=[planned.summary for planned in by_seed],
        loss_sums=np.array([seed["sums"] for seed in losses]),
        targets=np.array(losses[0]["targets"]),
        training_flops=report.training_flops,
    )


def _write_report(folder: Path, rows: list[Row], runs: dict[str, list[_PlannedRun]], prompt: str) -> None:
    write_atomically(folder / "results.json", json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    write_atomically(folder / "table.md", markdown_table(rows))
    vanilla = next((row.variant for row in rows if row.difference is None and row.percent_of_vanilla), None)
    plot_curves([_curve(name, by_seed) for name, by_seed in runs.items()], vanilla, folder / "curves.png")
    samples = [f"What each model makes of {prompt!r} (seed 0, temperature {_SAMPLE.temperature}).\n"]
    for name, by_seed in runs.items():
        text = generate(*open_model(by_seed[0].folder.path), prompt, _SAMPLE)
        quoted = "\n".join(f"> {line}".rstrip() for line in text.splitlines())
        samples.append(f"## {name}\n\n{quoted}\n")
    write_atomically(folder / "samples.md", "\n".join(samples))


def _curve(name: str, by_seed: list[_PlannedRun]) -> Curve:
    """Validation loss by tokens, mean over the seeds, which are evaluated at the same steps."""
    seeds = [
        {
            line["tokens"]: line["validation_loss"]
            for line in read_metrics(planned.folder.metrics)
            if "validation_loss" in line
        }
        for planned in by_seed
    ]
    tokens = sorted(set.intersection(*map(set, seeds)))
    return Curve(name, np.array(tokens), np.array([[seed[at] for at in tokens] for seed in seeds]).mean(0))

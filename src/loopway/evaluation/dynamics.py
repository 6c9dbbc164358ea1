"""Training dynamics: a run's checkpoints, evaluated and plotted over training tokens.

The paper's training-dynamics figure: loss on a logarithmic axis, mean accuracy on a linear one. Knows runs and
evaluations; nothing of how a measure is taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.ticker import ScalarFormatter
from rich.console import Console

from loopway.errors import ConfigError
from loopway.evaluation.evaluate import evaluate
from loopway.evaluation.results import Evaluation
from loopway.evaluation.suite import HELD_OUT, Measure
from loopway.evaluation.tables import mean_accuracy
from loopway.options import EvaluationOptions
from loopway.report.style import label, line_style, new_figure
from loopway.training.checkpoint import steps_of
from loopway.training.metrics_log import read_metrics
from loopway.training.run_folder import RunFolder
from loopway.training.summary import RunSummary


@dataclass(frozen=True)
class Moment:
    """The results of one checkpoint.

    Attributes:
        tokens: trained on until then.
        loss: on the held-out text, nats per token; None if it wasn't measured.
        accuracy: mean over the tasks, in percent, by number of shots; complete means only.
    """

    tokens: int
    loss: float | None
    accuracy: dict[int | None, float]


def evaluate_checkpoints(
    runs: Sequence[str],
    measures: Sequence[Measure],
    folder: Path | str,
    settings: EvaluationOptions | None = None,
    *,
    console: Console | None = None,
) -> dict[str, list[Moment]]:
    """Evaluate every checkpoint of each run, and its final model; write `dynamics.png` beside tables and results.

    Raises:
        ConfigError: a folder that is no run or has no checkpoint, and the errors of :func:`evaluate`.
    """
    steps = {str(Path(name)): _checkpoints(Path(name)) for name in runs}
    names = [str(path) for found in steps.values() for path in found.values()]
    evaluations = {
        found.model: found for found in evaluate(names, measures, folder, settings, console=console)
    }
    courses = {
        name: [_moment(evaluations[str(path)], tokens) for tokens, path in found.items()]
        for name, found in steps.items()
    }
    plot_dynamics(courses, Path(folder) / "dynamics.png")
    return courses


def plot_dynamics(courses: dict[str, list[Moment]], path: Path) -> None:
    """Plot loss (log axis) and, with tasks, mean accuracy (linear axis) over training tokens.

    Args:
        courses: moments of each run, in order.
        path: where the PNG goes.
    """
    shots = sorted({s for c in courses.values() for m in c for s in m.accuracy}, key=lambda count: count or 0)
    has_loss = any(moment.loss is not None for course in courses.values() for moment in course)
    panels = max(has_loss + len(shots), 1)
    figure = new_figure(0.6 + 4.8 * panels, 3.8)
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    for number, (name, course) in enumerate(courses.items()):
        style = line_style(number) | {"label": name, "marker": "o", "markersize": 3}
        points = [(moment.tokens / 1e6, moment.loss) for moment in course if moment.loss is not None]
        if points:
            axes[0].plot(*zip(*points, strict=True), **style)
        for panel, count in zip(axes[has_loss:], shots, strict=False):
            points = [(m.tokens / 1e6, m.accuracy[count]) for m in course if count in m.accuracy]
            if points:
                panel.plot(*zip(*points, strict=True), **style)
    x = "training tokens (millions)"
    if has_loss:
        axes[0].set_yscale("log")
        axes[0].yaxis.set_major_formatter(ScalarFormatter())
        axes[0].yaxis.set_minor_formatter(ScalarFormatter())
        label(axes[0], x, "held-out loss (nats per token)")
    for panel, count in zip(axes[has_loss:], shots, strict=False):
        label(panel, x, f"mean accuracy (%){'' if count is None else f', {count}-shot'}")
    axes[0].legend(frameon=False)
    figure.savefig(path)


def _checkpoints(run: Path) -> dict[int, Path]:
    """Tokens seen -> folder, for every checkpoint and the final model, in the order of training."""
    folder = RunFolder(run)
    if not folder.config.is_file():
        raise ConfigError(f"{run}: is no run folder, which --every-checkpoint needs")
    per_step = _tokens_per_step(folder)
    found = {step * per_step: path for step, path in steps_of(folder.checkpoints).items()}
    if folder.is_finished:
        found[RunSummary.read(folder.summary).tokens] = run
    if not found:
        raise ConfigError(f"{run}: has no checkpoint yet; training.save_steps says when they are written")
    return dict(sorted(found.items()))


def _tokens_per_step(folder: RunFolder) -> int:
    line = next((line for line in read_metrics(folder.metrics) if line["step"]), None)
    if line is None:
        raise ConfigError(f"{folder.metrics}: has no line of a step, from which the tokens of a step follow")
    return line["tokens"] // line["step"]


def _moment(evaluation: Evaluation, tokens: int) -> Moment:
    held_out = next((r for m, r in evaluation.results.items() if m.task == HELD_OUT), None)
    shots = {measure.shots for measure in evaluation.results if measure.in_mean}
    means = {count: mean_accuracy(evaluation, count) for count in shots}
    return Moment(
        tokens=tokens,
        loss=held_out.metrics["loss"] if held_out else None,
        accuracy={count: mean.value for count, mean in means.items() if mean and mean.is_complete},
    )

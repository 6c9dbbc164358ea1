"""Check a config file without training: build its configs, find its data, estimate its costs."""

from pathlib import Path
from typing import Any

from loopway.comparison.config import CompareConfig
from loopway.data.run_data import expected_vocab_size, look_at_data
from loopway.training.config.arguments import fit_to_data, training_arguments
from loopway.training.config.run_config import RunConfig
from loopway.training.forecast import Forecast


def check_command(name: str, content: dict[str, Any]) -> str:
    """Check all runs of a file; return one line for each variant with its costs.

    Args:
        name: of the file.
        content: of the file.

    Raises:
        LoopwayError: a mistake that `loopway train` or `loopway compare` would find before it prepares text, reads pinned
            tokens or trains.
    """
    if "variants" not in content:
        return f"{name}: {_forecast(RunConfig.from_dict(content))}"
    plan = CompareConfig.from_dict(content)
    lines = [f"{name}: {len(plan.runs)} variants, {len(plan.seeds)} seeds"]
    for variant, runs in plan.runs.items():
        lines.append(f"  {variant}: {_forecast(runs[plan.seeds[0]])}")
    return "\n".join(lines)


def _forecast(run: RunConfig) -> str:
    model, data = run.build_model_config(), look_at_data(run.data)
    arguments = training_arguments(run.training, Path("checkpoints"))
    if data is not None:
        run.model.fit(model, data.tokenizer)
        data.check_ids(model.vocab_size)  # type: ignore[attr-defined]
        fit_to_data(arguments, data.samples_per_epoch, validates=bool(data.validation), steps_begun=0)
    elif run.model.pretrained is None and (run.data.tokenizer or "vocab_size" not in run.model.family_fields):
        model = run.model.build(vocab_size=expected_vocab_size(run.data))
    return Forecast.of(model, arguments, run.data.sequence_length).text()

"""What `loopway check` tells of a file: that it makes a run, or several, and what they will take."""

from collections.abc import Sequence
from pathlib import Path

from loopway.comparison.config import CompareConfig
from loopway.data.run_data import check_sources, expected_vocab_size
from loopway.training.config.arguments import training_arguments
from loopway.training.config.run_config import RunConfig
from loopway.training.config.yaml_files import apply_overrides, read_yaml
from loopway.training.forecast import Forecast


def check_command(path: Path, overrides: Sequence[str]) -> str:
    """Build configs and arguments of all runs of a file; return a line for each variant.

    Raises:
        LoopwayError: what `loopway train` or `loopway compare` would refuse before it prepares data.
    """
    content = apply_overrides(read_yaml(path), overrides)
    if "variants" not in content:
        return f"{path}: {_forecast(RunConfig.from_dict(content))}"
    plan = CompareConfig.from_dict(content)
    lines = [f"{path}: {len(plan.runs)} variants, {len(plan.seeds)} seeds"]
    for variant, runs in plan.runs.items():
        lines.append(f"  {variant}: {_forecast(runs[plan.seeds[0]])}")
    return "\n".join(lines)


def _forecast(run: RunConfig) -> str:
    model = run.build_model_config()
    check_sources(run.data)
    if run.model.pretrained is None and "vocab_size" not in run.model.family_fields:
        model = run.model.build(vocab_size=expected_vocab_size(run.data))
    arguments = training_arguments(run.training, Path("checkpoints"))
    return Forecast.of(model, arguments, run.data.sequence_length).text()

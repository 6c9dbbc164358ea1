"""A comparison's config: one run's config, and the variants that differ from it.

Knows what is compared; nothing of how it is run or reported.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from loopway.checks import check_value, not_among, unknown_key, wrong_value
from loopway.comparison.early import COMPARISON_KEYS, DEMO_CONFIG
from loopway.data.config import DataConfig
from loopway.errors import ConfigError, LoopwayError
from loopway.training.config.keys import RUN_KEYS
from loopway.training.config.run_config import RunConfig
from loopway.training.config.yaml_files import apply_overrides, merge, read_yaml


@dataclass(frozen=True)
class CompareConfig:
    """Variants of one run: same data, same order, same recipe; only the model differs.

    Attributes:
        runs: the run config of every variant and seed, ``runs[variant][seed]``, variants in the order given.
        prompt: the text that every trained model continues.
        probe_samples: held-out samples for probing the trained models; 0: no probes.
    """

    runs: dict[str, dict[int, RunConfig]]
    prompt: str
    probe_samples: int

    @classmethod
    def load(cls, path: Path | str | None = None, overrides: Sequence[str] = ()) -> Self:
        """Read a comparison's YAML file; None is the embedded demo.

        Raises:
            ConfigError: any mistake, in any variant, that can be found without running it.
        """
        return cls.from_dict(apply_overrides(read_yaml(path or DEMO_CONFIG), overrides))

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """Check a config that is already read. Raises ConfigError as :meth:`load` does."""
        for key in content:
            if key not in COMPARISON_KEYS:
                raise unknown_key("", key, COMPARISON_KEYS)
        shared = {key: content[key] for key in RUN_KEYS if key in content}
        variants = check_value("variants", content.get("variants") or {}, dict[str, dict[str, Any]])
        seeds = check_value("seeds", content.get("seeds", [0]), list[int])
        prompt = check_value("prompt", content.get("prompt", "The"), str)
        probe_samples = check_value("probe_samples", content.get("probe_samples", 0), int)
        if probe_samples < 0:
            raise wrong_value("probe_samples", probe_samples, "0 (no probes) or more")
        if not variants:
            raise ConfigError(
                "variants is missing; loopway train trains a single run; to compare, name variants with what their model "
                "changes, for example "
                "variants: {base: {layout: 2+4R2+2}, mesh: {layout: 2+4R2+2, recurrence: mesh}}"
            )
        if not seeds or len(set(seeds)) < len(seeds):
            raise ConfigError(f"seeds: got {seeds}; give one or more different whole numbers")
        for name in variants:
            if not name or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
                raise ConfigError(
                    f"variants: {name!r} can't name a folder; use letters, digits, '-', '_' and '.'"
                )
        _share_tokenizer(shared, variants)
        runs = {
            name: {seed: _variant_run(shared, name, changes, seed) for seed in seeds}
            for name, changes in variants.items()
        }
        plan = cls(runs=runs, prompt=prompt, probe_samples=probe_samples)
        if plan.data.validation is None and plan.data.validation_fraction == 0:
            raise ConfigError(
                "a comparison needs validation text: give data.validation, or a data.validation_fraction above 0"
            )
        return plan

    @property
    def seeds(self) -> list[int]:
        return list(next(iter(self.runs.values())))

    @property
    def data(self) -> DataConfig:
        """The data section that all runs share."""
        return self.runs[next(iter(self.runs))][self.seeds[0]].data


def _share_tokenizer(shared: dict[str, Any], variants: dict[str, dict[str, Any]]) -> None:
    """Let the tokenizer of the first variant's pretrained model make the data of all variants."""
    pretrained = next(iter(variants.values())).get("pretrained")
    data = shared.get("data")
    if pretrained is not None and isinstance(data, dict) and data.get("tokenizer") is None:
        shared["data"] = data | {"tokenizer": pretrained}


def choose_run(
    content: dict[str, Any], variant: str | None = None, seed: int | None = None
) -> tuple[RunConfig, Path]:
    """Return the run of a file, or of one variant of a comparison, and its place in the folder.

    Args:
        content: of the file, read, with what was laid on top.
        variant: None: the file is a run's.
        seed: of the variant; None is the first.

    Raises:
        ConfigError: anything that is wrong with the file; no such variant or seed.
    """
    if variant is None:
        if seed is not None:
            raise ConfigError("--seed is for a comparison's --variant; of a run set training.seed")
        return RunConfig.from_dict(content), Path()
    plan = CompareConfig.from_dict(content)
    if variant not in plan.runs:
        raise not_among("--variant", variant, list(plan.runs))
    seed = plan.seeds[0] if seed is None else seed
    if seed not in plan.seeds:
        listed = ", ".join(map(str, plan.seeds))
        raise ConfigError(
            f"--seed: got {seed}, and the comparison's seeds are {listed}; add it to them, as in seeds=[{listed},{seed}]"
        )
    return plan.runs[variant][seed], Path("runs") / run_name(variant, seed)


def run_name(variant: str, seed: int) -> str:
    """Name of a run's folder."""
    return f"{variant}-seed{seed}"


def _variant_run(shared: dict[str, Any], name: str, changes: dict[str, Any], seed: int) -> RunConfig:
    try:
        run = RunConfig.from_dict(merge(shared, {"model": changes, "training": {"seed": seed}}))
        run.build_model_config()
    except LoopwayError as error:
        raise type(error)(f"variant {name}: {error}") from None
    return run

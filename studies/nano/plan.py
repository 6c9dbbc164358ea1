"""Runs of the nano studies that are still to be trained, in order of value, and where each belongs.

Reads the studies' configs and result files. Knows nothing of how a run is trained.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from loopway import parameter_report
from loopway.comparison.config import CompareConfig, run_name
from loopway.errors import ConfigError
from loopway.training.config.run_config import RunConfig
from loopway.training.config.yaml_files import apply_overrides, read_yaml
from studies.nano.losses import PRODUCTS

NANO = Path(__file__).parent
VOCABULARY = 4096


class Wanted(NamedTuple):
    """Runs of one study; empty `variants` are all of them, empty `seeds` the study's own."""

    study: str
    variants: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()


#: Trained first. Every other study of the folder follows by name: a further study is one YAML file.
FIRST = (
    Wanted("schemes", ("mesh",), (0, 1, 2)),
    Wanted("schemes", ("anchor", "mesh"), (3, 4, 5)),
    Wanted("schemes", ("base", "vanilla"), (3, 4, 5)),
    Wanted("loops", ("anchor-3", "anchor-4", "anchor-6")),
    Wanted("longer"),
    Wanted("width-256"),
)


class Place(NamedTuple):
    """Kind of device and precision of matrix products, which all runs of one study and seed share."""

    device: str
    precision: str

    @classmethod
    def of(cls, run: dict[str, Any]) -> "Place":
        """Return the place of a stored run."""
        return cls(run["device"], next((name for name in PRODUCTS if run["set"].get(name)), "float32"))

    @property
    def overrides(self) -> list[str]:
        """Overrides of a run's config by which it is trained here."""
        settings = (
            ["training.use_cpu=true"] if self.device == "cpu" else ["training.per_device_eval_batch_size=128"]
        )
        return settings + ([] if self.precision == "float32" else [f"training.{self.precision}=true"])

    def __str__(self) -> str:
        return f"{self.device}, {self.precision}"


@dataclass(frozen=True)
class Run:
    """One run that is to be trained."""

    study: Path
    variant: str
    seed: int
    place: Place

    @property
    def name(self) -> str:
        return f"{self.study.stem}/{run_name(self.variant, self.seed)}"

    def config(self, overrides: tuple[str, ...] = ()) -> RunConfig:
        """Return the run's config at its place, `overrides` on top. Raises ConfigError where the study's file is wrong."""
        return _config(self.study, self.variant, self.seed, (*self.place.overrides, *overrides))

    @property
    def identity(self) -> str:
        """Model, data, training and place as text, equal for equal runs of different studies."""
        config = self.config()
        sections = [config.model.model_dump(), config.data.model_dump(), config.training.to_dict()]
        return json.dumps([*sections, self.place], sort_keys=True)

    @property
    def tokens(self) -> int:
        """Number of tokens that the run trains on."""
        config = self.config()
        training = config.training.to_dict()
        return config.data.sequence_length * training["global_batch_size"] * training["max_steps"]

    @property
    def flops(self) -> float:
        """Floating-point operations of the whole run."""
        return _flops_per_token(self.study, self.variant) * self.tokens


@cache
def _config(study: Path, variant: str, seed: int, overrides: tuple[str, ...] = ()) -> RunConfig:
    """Return one run of a comparison; the other variants aren't looked at."""
    content = apply_overrides(read_yaml(study), overrides)
    alone = content | {"variants": {variant: content["variants"][variant]}, "seeds": [seed]}
    return CompareConfig.from_dict(alone).runs[variant][seed]


@cache
def _flops_per_token(study: Path, variant: str) -> int:
    config = _config(study, variant, 0)
    model = config.model.build(vocab_size=VOCABULARY)
    return parameter_report(model, context_length=config.data.sequence_length).training_flops


class Studies:
    """The studies of a folder and what is known of them."""

    def __init__(
        self, folder: Path = NANO, results: Path | None = None, first: tuple[Wanted, ...] = FIRST
    ) -> None:
        self.results = results or folder / "results"
        self.first = first
        self.files = {
            path.stem: path for path in sorted(folder.glob("*.yaml")) if "variants" in read_yaml(path)
        }

    def result_file(self, study: str) -> Path:
        return self.results / f"{study}.json"

    def result(self, study: str) -> dict[str, Any] | None:
        """Return a study's result as `collect` gave it; None where there is none yet."""
        path = self.result_file(study)
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def stored(self, study: str) -> dict[str, Any]:
        """Return the variants of a study's result; empty where there is none yet."""
        return (self.result(study) or {"variants": {}})["variants"]

    def missing(self, here: Place, only: str | None = None) -> list[Run]:
        """Return all runs that no result file holds, those of most value first.

        Args:
            here: this machine's place, for seeds of which nothing is stored yet.
            only: one study's name.

        Raises:
            ConfigError: no such study, or a wanted variant that its study hasn't got.
        """
        if only is not None and only not in self.files:
            raise ConfigError(f"--only: no study {only!r}; there are {', '.join(self.files)}")
        listed: dict[tuple[str, str, int], Run] = {}
        known = {study: self.stored(study) for study in self.files}
        for study, variant, seed in self._in_order():
            done = known[study].get(variant, {}).get("seeds", {})
            if str(seed) not in done and only in (None, study):
                place = _place_of(known[study], seed) or here
                listed.setdefault((study, variant, seed), Run(self.files[study], variant, seed, place))
        return list(listed.values())

    def twin(self, run: Run) -> tuple[str, str] | None:
        """Return study and variant of another study's stored run that is the same one; None if there is none."""
        for study, path in self.files.items():
            if path == run.study:
                continue
            for name, variant in self.stored(study).items():
                stored = variant["seeds"].get(str(run.seed))
                if stored is None or Place.of(stored) != run.place or name not in read_yaml(path)["variants"]:
                    continue
                if Run(path, name, run.seed, run.place).identity == run.identity:
                    return study, name
        return None

    def _in_order(self) -> Iterator[tuple[str, str, int]]:
        everything = (
            *(wanted for wanted in self.first if wanted.study in self.files),
            *map(Wanted, self.files),
        )
        content = {study: read_yaml(path) for study, path in self.files.items()}
        for study, variants, seeds in everything:
            named, own = list(content[study]["variants"]), content[study].get("seeds", [0])
            if unknown := sorted(set(variants) - set(named)):
                raise ConfigError(
                    f"{self.files[study]}: has no variant {', '.join(unknown)}; it has {', '.join(named)}"
                )
            for seed in seeds or own:
                for variant in variants or named:
                    yield study, variant, seed


def _place_of(variants: dict[str, Any], seed: int) -> Place | None:
    """Return where most runs of a seed were trained, those with equal starts if there are any; None without a run."""
    for kind in ("seeds", "unpaired"):
        runs = (variant.get(kind, {}).get(str(seed)) for variant in variants.values())
        if places := Counter(Place.of(run) for run in runs if run is not None):
            return places.most_common(1)[0][0]
    return None

"""Losses of the nano studies from their result files, and how far apart variants are, with confidence intervals.

Knows nothing of pages and figures.
"""

import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

_CONFIDENCE = 0.95
PRODUCTS = ("bf16", "tf32")
"""Settings of a run that say what its products are in, if not in float32."""
ERRATIC = ("mesh-wide", "mesh-fast")
"""Variants whose seeds lie far further apart than the others': only they tell how far, and nothing of the others."""


def draws(recurrence: str) -> bool:
    """Whether a recurrence draws random numbers when it is made. The first release drew them from the layers' stream."""
    return recurrence.startswith("mesh") or recurrence == "dynamic"


def signed(value: float, digits: int = 3) -> str:
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")  # no negative zero


class UnsupportedClaim(Exception):
    """The text says what the results don't."""


@dataclass(frozen=True)
class Difference:
    """a's loss minus b's in nats per token, with half the width of its confidence interval."""

    value: float
    half: float

    @property
    def is_clear(self) -> bool:
        return abs(self.value) > self.half

    def __str__(self) -> str:
        return f"{signed(self.value)} ± {self.half:.3f}"


@dataclass(frozen=True)
class Noise:
    """By how much a single run's loss varies from seed to seed, beyond what all variants share with that seed."""

    deviation: float
    degrees: int


class Study:
    """One result file."""

    def __init__(self, result: dict[str, Any], noise: Noise | None = None) -> None:
        """Take the noise given, or else estimate its own.

        A variant's runs that began with other layers than the rest (`unpaired`) stand for it until there are as many that
        began with equal ones; the two never mix.
        """
        self.result, self._given = result, noise
        variants = result["variants"]
        self.unpaired = [
            name
            for name in variants
            if len(variants[name].get("unpaired", {})) > len(variants[name]["seeds"])
        ]
        self.variants: dict[str, dict[str, Any]] = {}
        for name, variant in variants.items():
            kept = {key: value for key, value in variant.items() if key != "unpaired"}
            self.variants[name] = kept | ({"seeds": variant["unpaired"]} if name in self.unpaired else {})

    @property
    def name(self) -> str:
        return self.result["study"]

    def losses(self, name: str) -> np.ndarray:
        """By seed."""
        return np.array([seed["loss"] for seed in self.variants[name]["seeds"].values()])

    def documents(self, name: str, seeds: Collection[str] | None = None) -> np.ndarray:
        """Summed loss of each held-out document in nats, mean over those seeds (all)."""
        runs = self.variants[name]["seeds"]
        return np.mean([runs[seed]["documents"] for seed in (runs if seeds is None else seeds)], axis=0)

    def loss(self, name: str) -> float:
        return float(self.losses(name).mean())

    def training_loss(self, name: str) -> float:
        return float(np.mean([seed["training_loss"] for seed in self.variants[name]["seeds"].values()]))

    def seeds(self, name: str) -> int:
        return len(self.variants[name]["seeds"])

    @property
    def tokens(self) -> int:
        """Of a run."""
        return max(variant["tokens"] for variant in self.variants.values())

    @property
    def noise(self) -> Noise:
        """What intervals are made of: given, or this study's own."""
        if (noise := self._given or self.own_noise) is None:
            raise UnsupportedClaim(f"{self.name}: without a second seed nothing is known of the noise")
        return noise

    @cached_property
    def own_noise(self) -> Noise | None:
        """What is left of the losses when each variant and each seed has its own level; None where that is nothing."""
        seeds = sorted({seed for variant in self.variants.values() for seed in variant["seeds"]})
        cells = [
            (number, seeds.index(seed), run["loss"])
            for number, variant in enumerate(self.variants.values())
            for seed, run in variant["seeds"].items()
        ]
        levels = np.zeros((len(cells), len(self.variants) + len(seeds)))
        for cell, (variant, seed, _) in enumerate(cells):
            levels[cell, [variant, len(self.variants) + seed]] = 1
        losses = np.array([loss for *_, loss in cells])
        fitted, _, rank, _ = np.linalg.lstsq(levels, losses)
        if (degrees := len(cells) - int(rank)) == 0:
            return None
        return Noise(math.sqrt(float(((losses - levels @ fitted) ** 2).sum()) / degrees), degrees)

    def paired(self, a: str, b: str) -> list[str]:
        """The seeds that both have."""
        if not (shared := sorted(set(self.variants[a]["seeds"]) & set(self.variants[b]["seeds"]), key=int)):
            raise UnsupportedClaim(f"{self.name}: {a} and {b} have no seed in common, so they aren't paired")
        return shared

    def by_seed(self, a: str, b: str) -> np.ndarray:
        """a's loss minus b's with each seed that both have."""
        of_a, of_b = (self.variants[name]["seeds"] for name in (a, b))
        return np.array([of_a[seed]["loss"] - of_b[seed]["loss"] for seed in self.paired(a, b)])

    def difference(self, a: str, b: str) -> Difference:
        """Paired by the seeds that both have and by document; the interval covers the draw of both."""
        shared = self.paired(a, b)
        targets = np.array(self.result["targets"])
        sums = self.documents(a, shared) - self.documents(b, shared)
        rest = (sums - sums.sum() / targets.sum() * targets)[targets > 0]
        documents = len(rest) / (len(rest) - 1) * float((rest**2).sum()) / float(targets.sum()) ** 2
        apart = self.by_seed(a, b)
        if a in ERRATIC or b in ERRATIC:
            if len(apart) == 1:
                raise UnsupportedClaim(
                    f"{self.name}: {a} and {b} need a second seed, as one of them is erratic"
                )
            variance, degrees = float(apart.var(ddof=1)), len(apart) - 1
        else:
            variance, degrees = 2 * self.noise.deviation**2, self.noise.degrees
        error = math.sqrt(variance / len(apart) + documents)
        half = float(stats.t.ppf((1 + _CONFIDENCE) / 2, degrees)) * error
        return Difference(float(apart.mean()), half)

    def below(self, a: str, b: str) -> Difference:
        """The difference, where a is clearly better."""
        found = self.difference(a, b)
        if not (found.is_clear and found.value < 0):
            raise UnsupportedClaim(f"{self.name}: {a} isn't clearly below {b}: {found}")
        return found

    def above(self, a: str, b: str) -> Difference:
        """The difference, where a is clearly worse."""
        self.below(b, a)
        return self.difference(a, b)

    def tied(self, a: str, b: str) -> Difference:
        """The difference, where it could be noise."""
        found = self.difference(a, b)
        if found.is_clear:
            raise UnsupportedClaim(f"{self.name}: {a} and {b} are clearly apart: {found}")
        return found

    def always_below(self, a: str, b: str, tokens: float = math.inf) -> bool:
        """Whether a's loss is the lower with every seed that both have, at the evaluation nearest to so many tokens
        (the last).
        """
        seen, apart = self.curve_apart(a, b)
        number = -1 if math.isinf(tokens) else int(np.abs(seen - tokens).argmin())
        return bool((apart[:, number] < 0).all())

    def by_domain(self, name: str) -> dict[str, float]:
        """Nats per token of each domain."""
        ends = np.cumsum(list(self.result["domains"].values()))[:-1]
        sums = np.split(self.documents(name), ends)
        targets = np.split(np.array(self.result["targets"]), ends)
        return {
            domain: float(part.sum() / count.sum())
            for domain, part, count in zip(self.result["domains"], sums, targets, strict=True)
        }

    def curve(self, name: str, seeds: Collection[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Training tokens, and validation loss by seed (those, or all), ``[seeds, evaluations]``."""
        runs = self.variants[name]["seeds"]
        curves = [np.array(runs[seed]["curve"]) for seed in (runs if seeds is None else seeds)]
        if any(not np.array_equal(curve[:, 0], curves[0][:, 0]) for curve in curves):
            raise UnsupportedClaim(f"{self.name}: seeds of {name} weren't evaluated at the same tokens")
        return curves[0][:, 0], np.stack([curve[:, 1] for curve in curves])

    def curve_apart(self, a: str, b: str) -> tuple[np.ndarray, np.ndarray]:
        """Training tokens, and a's validation loss minus b's by the seeds that both have, ``[seeds, evaluations]``."""
        (tokens, of_a), (others, of_b) = (self.curve(name, self.paired(a, b)) for name in (a, b))
        if not np.array_equal(tokens, others):
            raise UnsupportedClaim(f"{self.name}: {a} and {b} weren't evaluated at the same tokens")
        return tokens, of_a - of_b

    def at(self, name: str, tokens: float) -> float:
        """Validation loss at the evaluation nearest to so many tokens."""
        seen, losses = self.curve(name)
        return float(losses[:, np.abs(seen - tokens).argmin()].mean())

    def devices(self) -> str:
        """Where it was trained, and with what products if not in float32."""
        found = set()
        for seed in (seed for variant in self.variants.values() for seed in variant["seeds"].values()):
            device = "CPU" if seed["device"] == "cpu" else seed["device"]
            products = [name for name in PRODUCTS if seed["set"].get(name)]
            found.add(" ".join([device, *products]))
        return ", ".join(sorted(found))


def beside(study: Study, other: Study, suffix: str) -> Study:
    """A study with another's variants of the same names in it as `name-suffix`, and its noise."""
    if study.result["targets"] != other.result["targets"]:
        raise UnsupportedClaim(f"{study.name} and {other.name} were evaluated on different text")
    added = {
        f"{name}-{suffix}": variant for name, variant in other.variants.items() if name in study.variants
    }
    return Study(study.result | {"variants": study.variants | added}, study.noise)


def together(studies: Collection[Study]) -> Study:
    """All variants of studies of equal length, those that several share once."""
    variants: dict[str, dict[str, Any]] = {}
    for study in studies:
        for name, variant in study.variants.items():
            if name not in ERRATIC and variant not in variants.values():
                variants[f"{study.name} {name}"] = variant
    return Study({"study": "all", "variants": variants})


def load(folder: Path) -> dict[str, Study]:
    """All studies, by name; those of runs of equal length have one noise, of all their runs."""
    studies = [Study(json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("*.json"))]
    noises = {
        tokens: together([study for study in studies if study.tokens == tokens]).own_noise
        for tokens in {study.tokens for study in studies}
    }
    return {study.name: Study(study.result, noises[study.tokens]) for study in studies}

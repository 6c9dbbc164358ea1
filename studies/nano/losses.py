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

    def __init__(self, result: dict[str, Any], borrowed: Noise | None = None) -> None:
        self.result, self._borrowed = result, borrowed
        self.variants: dict[str, dict[str, Any]] = result["variants"]

    @property
    def name(self) -> str:
        return self.result["study"]

    def losses(self, name: str) -> np.ndarray:
        """By seed."""
        return np.array([seed["loss"] for seed in self.variants[name]["seeds"].values()])

    def documents(self, name: str, seeds: Collection[str] | None = None) -> np.ndarray:
        """Summed loss of each held-out document in nats, mean over those seeds (all)."""
        runs = self.variants[name]["seeds"]
        return np.mean([runs[seed]["documents"] for seed in seeds or runs], axis=0)

    def loss(self, name: str) -> float:
        return float(self.losses(name).mean())

    def training_loss(self, name: str) -> float:
        return float(np.mean([seed["training_loss"] for seed in self.variants[name]["seeds"].values()]))

    def seeds(self, name: str) -> int:
        return len(self.variants[name]["seeds"])

    @cached_property
    def noise(self) -> Noise:
        """Residual of the two-way table, variants by the seeds that all have; borrowed where that is one."""
        shared = set.intersection(*(set(variant["seeds"]) for variant in self.variants.values()))
        if len(shared) < 2:
            if self._borrowed is None:
                raise UnsupportedClaim(f"{self.name}: one seed tells nothing of the noise")
            return self._borrowed
        table = np.array(
            [
                [variant["seeds"][seed]["loss"] for seed in sorted(shared)]
                for variant in self.variants.values()
            ]
        )
        residuals = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
        degrees = (table.shape[0] - 1) * (table.shape[1] - 1)
        return Noise(math.sqrt((residuals**2).sum() / degrees), degrees)

    def difference(self, a: str, b: str) -> Difference:
        """Paired by the seeds that both have and by document; the interval covers the draw of both."""
        of_a, of_b = (self.variants[name]["seeds"] for name in (a, b))
        if not (shared := sorted(set(of_a) & set(of_b))):
            raise UnsupportedClaim(f"{self.name}: {a} and {b} have no seed in common, so they aren't paired")
        targets = np.array(self.result["targets"])
        apart = self.documents(a, shared) - self.documents(b, shared)
        rest = (apart - apart.sum() / targets.sum() * targets)[targets > 0]
        documents = len(rest) / (len(rest) - 1) * float((rest**2).sum()) / float(targets.sum()) ** 2
        error = math.sqrt(2 * self.noise.deviation**2 / len(shared) + documents)
        half = float(stats.t.ppf((1 + _CONFIDENCE) / 2, self.noise.degrees)) * error
        value = float(np.mean([of_a[seed]["loss"] - of_b[seed]["loss"] for seed in shared]))
        return Difference(value, half)

    def below(self, a: str, b: str) -> Difference:
        """The difference, where a is clearly better."""
        found = self.difference(a, b)
        if not (found.is_clear and found.value < 0):
            raise UnsupportedClaim(f"{self.name}: {a} isn't clearly below {b}: {found}")
        return found

    def tied(self, a: str, b: str) -> Difference:
        """The difference, where it could be noise."""
        found = self.difference(a, b)
        if found.is_clear:
            raise UnsupportedClaim(f"{self.name}: {a} and {b} are clearly apart: {found}")
        return found

    def always_below(self, a: str, b: str, tokens: float = math.inf) -> bool:
        """Whether a's loss is the lower with every seed, at the evaluation nearest to so many tokens (the last)."""
        seen, losses = self.curve(a)
        number = -1 if math.isinf(tokens) else int(np.abs(seen - tokens).argmin())
        return bool((losses[:, number] < self.curve(b)[1][:, number]).all())

    def by_domain(self, name: str) -> dict[str, float]:
        """Nats per token of each domain."""
        ends = np.cumsum(list(self.result["domains"].values()))[:-1]
        sums = np.split(self.documents(name), ends)
        targets = np.split(np.array(self.result["targets"]), ends)
        return {
            domain: float(part.sum() / count.sum())
            for domain, part, count in zip(self.result["domains"], sums, targets, strict=True)
        }

    def curve(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Training tokens, and validation loss by seed, ``[seeds, evaluations]``."""
        curves = [np.array(seed["curve"]) for seed in self.variants[name]["seeds"].values()]
        return curves[0][:, 0], np.stack([curve[:, 1] for curve in curves])

    def at(self, name: str, tokens: float) -> float:
        """Validation loss at the evaluation nearest to so many tokens."""
        seen, losses = self.curve(name)
        return float(losses[:, np.abs(seen - tokens).argmin()].mean())

    def devices(self) -> str:
        found = {seed["device"] for variant in self.variants.values() for seed in variant["seeds"].values()}
        return ", ".join(sorted("CPU" if device == "cpu" else device for device in found))


def beside(study: Study, other: Study, suffix: str) -> Study:
    """A study with another's variants of the same names in it as `name-suffix`."""
    if study.result["targets"] != other.result["targets"]:
        raise UnsupportedClaim(f"{study.name} and {other.name} were evaluated on different text")
    added = {f"{name}-{suffix}": run for name, run in other.variants.items() if name in study.variants}
    return Study(study.result | {"variants": study.variants | added}, study.noise)


def load(folder: Path) -> dict[str, Study]:
    """All studies, by name; those of one seed borrow the noise of `schemes`."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    schemes = Study(next(result for result in results if result["study"] == "schemes"))
    return {result["study"]: Study(result, schemes.noise) for result in results}

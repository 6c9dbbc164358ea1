"""How long do imports, the command line, and making and loading a model take, and how much memory does loading need?

    python benchmarks/startup.py [--rounds 7]

Models of Pythia-160M's size with random weights stand beside the family's own of as many layers, made and loaded by the
same calls; their files are in memory. The last line is JSON.
"""

import gc
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import common
import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

import loopway
from loopway.training.measurements import peak_memory_bytes, reset_peak_memory

CPU = torch.device("cpu")
LOADS = 5  # in each round: one takes a moment
SMALL = {"hidden_size": 48, "vocab_size": 512}


def imports(rounds: int) -> dict[str, Any]:
    """Whole processes: an interpreter that does nothing else."""
    auto = "from transformers import AutoModelForCausalLM"
    arguments = {
        "python": ["-c", "pass"],
        "loopway": ["-c", "import loopway"],
        "help": ["-m", "loopway", "--help"],
        "transformers": ["-c", auto],
        "transformers_and_loopway": ["-c", f"{auto}; import loopway"],
    }
    variants = {name: partial(run_python, given) for name, given in arguments.items()}
    if rounds > 1:
        common.measure(variants, 1)  # compiles, and brings files into memory
    seconds = common.measure(variants, rounds)
    alone, together = seconds["transformers"], seconds["transformers_and_loopway"]
    return {
        "seconds": {name: common.middle(taken) for name, taken in seconds.items()},
        "times_transformers": common.times_as_fast(alone, together),
        "loopway_adds_seconds": common.middle(b - a for a, b in zip(alone, together, strict=True)),
    }


def run_python(arguments: list[str]) -> None:
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def family_config(config: PreTrainedConfig, layers: int) -> GPTNeoXConfig:
    """The family's own config of so many layers that is a recursive config's otherwise."""
    known = {field.name for field in fields(GPTNeoXConfig)}
    given = {name: value for name, value in config.to_dict().items() if name in known}
    return GPTNeoXConfig(**{**given, "num_hidden_layers": layers})


def pair(layout: str, recurrence: str, **size: Any) -> dict[str, PreTrainedConfig]:
    """A recursive config, and the family's own with as many layers of parameters."""
    config = loopway.pythia_config("160m", layout=layout, recurrence=recurrence, **size)
    return {"loopway": config, "family": family_config(config, config.num_unique_layers)}  # type: ignore[attr-defined]


def construct(rounds: int, **size: Any) -> dict[str, Any]:
    """Models with random weights."""
    configs = pair("12", "base", **size)
    variants = {name: partial(AutoModelForCausalLM.from_config, config) for name, config in configs.items()}
    common.measure(variants, 1)
    seconds = common.measure(variants, rounds)
    return {
        "parameters": parameters_of(variants["loopway"]()),
        "seconds": {name: common.middle(taken) for name, taken in seconds.items()},
        "times_the_family": common.times_as_fast(seconds["family"], seconds["loopway"]),
    }


def load(
    context: common.OwnProcesses, layout: str, recurrence: str, rounds: int, **size: Any
) -> dict[str, Any]:
    """Models from folders; alone, and with every weight read once. Memory is that of a process of the context."""
    with tempfile.TemporaryDirectory() as temporary:
        folders, parameters, memory = {}, {}, {}
        for name, config in pair(layout, recurrence, **size).items():
            model = AutoModelForCausalLM.from_config(config)
            folders[name], parameters[name] = Path(temporary) / name, parameters_of(model)
            model.save_pretrained(folders[name])
        del model
        smalls = {name: Path(temporary) / f"small-{name}" for name in folders}
        for name, config in pair(layout, recurrence, **SMALL).items():
            AutoModelForCausalLM.from_config(config).save_pretrained(smalls[name])
        variants = {}
        for name, folder in folders.items():
            variants[name] = partial(AutoModelForCausalLM.from_pretrained, folder)
            variants[f"{name}_and_read"] = partial(load_and_read, folder)
        common.measure(variants, 1)
        seconds = common.measure(variants, LOADS * rounds)
        for name, folder in folders.items():
            with ProcessPoolExecutor(1, context) as fresh:
                memory[name] = fresh.submit(memory_of_loading, folder, smalls[name]).result()
    return {
        "parameters": parameters,
        "seconds": {name: common.middle(taken) for name, taken in seconds.items()},
        "times_the_family": common.times_as_fast(seconds["family"], seconds["loopway"]),
        "times_the_family_with_read": common.times_as_fast(
            seconds["family_and_read"], seconds["loopway_and_read"]
        ),
        "memory": memory,
    }


def parameters_of(model: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def read(model: PreTrainedModel) -> None:
    """Every weight once, so that those still in a file come into memory."""
    for parameter in model.parameters():
        parameter.detach().sum()


def load_and_read(folder: Path) -> None:
    read(AutoModelForCausalLM.from_pretrained(folder))


def memory_of_loading(folder: Path, small: Path) -> dict[str, float | None]:
    """Growth of this process's resident memory, in units of the model's bytes; None where Linux doesn't tell."""
    logging.disable_progress_bar()
    read(AutoModelForCausalLM.from_pretrained(small))  # imports all that loading needs
    gc.collect()
    before = resident()
    reset_peak_memory(CPU)
    start = peak_memory_bytes(CPU)
    with highest_anonymous() as anonymous:
        model = AutoModelForCausalLM.from_pretrained(folder)
    peak, loaded = peak_memory_bytes(CPU), resident()
    read(model)
    after_reading = resident()
    size = sum(parameter.nbytes for parameter in model.parameters())
    growth: dict[str, int | None] = {
        "peak": peak - start,
        "peak_anonymous": anonymous[0] - before["Anon"] if before else None,
    }
    for suffix, now in (("", loaded), ("_when_read", after_reading)):
        for name, kind in (("anonymous", "Anon"), ("file_backed", "File")):
            growth[name + suffix] = now[kind] - before[kind] if before else None
    return {name: None if grown is None else round(grown / size, 3) for name, grown in growth.items()}


@contextmanager
def highest_anonymous() -> Iterator[list[int]]:
    """Watches this process's anonymous memory, about every millisecond; the one item is the most so far."""
    highest, done = [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            highest[0] = max(highest[0], resident().get("Anon", 0))
            time.sleep(0.001)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield highest
    finally:
        done.set()
        watching.join()
        highest[0] = max(highest[0], resident().get("Anon", 0))


def resident() -> dict[str, int]:
    """Bytes of this process in memory: `Anon` its own, `File` pages of files; empty where Linux doesn't tell."""
    status = Path("/proc/self/status")
    found = re.findall(r"^Rss(\w+):\s*(\d+) kB", status.read_text(), re.MULTILINE) if status.exists() else []
    return {kind: int(kilobytes) * 1024 for kind, kilobytes in found}


def main() -> None:
    parser = common.arguments(__doc__)
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    size: dict[str, Any] = SMALL if options.quick else {}
    context = common.own_processes(quick=options.quick)
    logging.disable_progress_bar()
    torch.manual_seed(0)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "imports": lambda: imports(rounds),
        "construct": lambda: construct(rounds, **size),
        "load_vanilla": lambda: load(context, "12", "base", rounds, **size),
        "load_mesh": lambda: load(context, "2+4R2+2", "mesh", rounds, **size),
    }
    if options.quick:
        del parts["load_vanilla"]  # the same again, and every load needs new processes
    common.report(parts)


if __name__ == "__main__":
    main()

"""What does a training step on long sequences take in time and memory, at each level of recomputation?

    python benchmarks/long_context.py [--rounds 7]

A model with MeSH, Pythia-70M's width, compute depth and vocabulary, and random weights; one sequence of random tokens, in
float32. A step is a forward and a backward pass, without an optimizer. The last line is JSON.
"""

import gc
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import common
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

import loopway
from loopway.modeling.recompute import RECOMPUTE_LEVELS
from loopway.training.measurements import peak_memory_bytes, reset_peak_memory

CPU = torch.device("cpu")
LAYOUT = "1+2R2+1"
FEW_ROUNDS = 3  # of long sequences


def new_model(length: int, size: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    config = loopway.pythia_config(
        "70m", layout=LAYOUT, recurrence="mesh", max_position_embeddings=length, **size
    )
    return AutoModelForCausalLM.from_config(config).train()


def random_ids(model: PreTrainedModel, length: int) -> Tensor:
    """``[1, length + 1]``."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(model.config.vocab_size, (1, length + 1), generator=generator)


def step(model: PreTrainedModel, ids: Tensor) -> None:
    model(ids[:, :-1], shift_labels=ids[:, 1:], skip_logits=True, use_cache=False).loss.backward()
    model.zero_grad(set_to_none=False)


def step_at(level: str, model: PreTrainedModel, ids: Tensor) -> None:
    loopway.set_recompute(model, level)
    step(model, ids)


def seconds_of_steps(lengths: Sequence[int], rounds: int, size: dict[str, Any]) -> dict[str, Any]:
    """All levels in turn, at each length."""
    model = new_model(max(lengths), size)
    seconds: dict[str, list[float]] = {level: [] for level in RECOMPUTE_LEVELS}
    times_none: dict[str, list[float]] = {level: [] for level in RECOMPUTE_LEVELS}
    for length in lengths:
        ids = random_ids(model, length)
        step(model, ids)
        variants = {level: partial(step_at, level, model, ids) for level in RECOMPUTE_LEVELS}
        measured = common.measure(variants, rounds_at(length, min(lengths), rounds))
        for level, taken in measured.items():
            seconds[level].append(common.middle(taken))
            times_none[level].append(common.times_as_fast(measured["none"], taken))
    return {"sequence_lengths": list(lengths), "seconds": seconds, "times_none": times_none}


def rounds_at(length: int, shortest: int, rounds: int) -> int:
    """Fewer where a step takes longer."""
    return max(min(rounds, FEW_ROUNDS), rounds * shortest // length)


def memory_of_steps(lengths: Sequence[int], size: dict[str, Any]) -> dict[str, Any]:
    """Each level at each length, in a process of its own."""
    peaks: dict[str, list[int]] = {level: [] for level in RECOMPUTE_LEVELS}
    context = common.ready_processes()
    for length in lengths:
        for level in RECOMPUTE_LEVELS:
            with ProcessPoolExecutor(1, context) as fresh:
                peaks[level].append(fresh.submit(peak_of_a_step, level, length, size).result())
    return {
        "sequence_lengths": list(lengths),
        "peak_mb": {
            level: [common.middle([peak / common.MB]) for peak in found] for level, found in peaks.items()
        },
        "share_of_none": {
            level: [round(here / whole, 3) for here, whole in zip(found, peaks["none"], strict=True)]
            for level, found in peaks.items()
        },
    }


def peak_of_a_step(level: str, length: int, size: dict[str, Any]) -> int:
    """Most bytes that a step adds to this process; parameters and their gradients are there before."""
    model = new_model(length, size)
    step_at(level, model, random_ids(model, 16))
    ids = random_ids(model, length)
    gc.collect()
    reset_peak_memory(CPU)
    before = peak_memory_bytes(CPU)
    step(model, ids)
    return peak_memory_bytes(CPU) - before


def main() -> None:
    parser = common.arguments(__doc__)
    options = parser.parse_args()
    rounds, lengths = options.rounds, (512, 1024, 2048, 4096)
    size: dict[str, Any] = {}
    if options.quick:
        rounds, lengths = 1, (256,)
        size = {"hidden_size": 64, "vocab_size": 512}
    common.report(
        {
            "time": lambda: seconds_of_steps(lengths, rounds, size),
            "memory": lambda: memory_of_steps(lengths, size),
        }
    )


if __name__ == "__main__":
    main()

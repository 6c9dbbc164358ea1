"""What do probes cost beside the forward passes that they need, and while a model trains?

    python benchmarks/probing.py [--model FOLDER] [--samples 500] [--rounds 7]

Without a model one of Pythia-160M's size with MeSH and random weights is probed; the tokens are random. The last line is
JSON.
"""

import resource
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

import loopway
from loopway.modeling.stack import find_stack
from loopway.probing.loops import probe_loops
from loopway.traces.measures import centred_kernel, gram, similarity, singular_values
from loopway.traces.reading import traced
from loopway.traces.routers import RouterProbe, TokenGroups
from loopway.traces.states import StateProbe
from loopway.training.config.run_config import RunConfig
from loopway.training.probe_log import ProbeLog
from loopway.training.run import train

BATCH, LOOP_SAMPLES = 8, 32


def random_batches(model: PreTrainedModel, samples: int, length: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.config.vocab_size, (samples, length + 1), generator=generator)
    return [{"input_ids": part[:, :-1], "shift_labels": part[:, 1:]} for part in ids.split(BATCH)]


def new_probes(model: PreTrainedModel, length: int) -> tuple[StateProbe, RouterProbe]:
    stages = find_stack(model).stages_of()
    groups = TokenGroups(np.ones(model.config.vocab_size, dtype=np.int64))
    return StateProbe(stages), RouterProbe(stages, length, groups)


def cost(model: PreTrainedModel, length: int, rounds: int) -> dict[str, Any]:
    """Eight samples at once: forward passes alone, with probes, and what the probes are made of."""
    (batch,) = random_batches(model, BATCH, length)
    ((_, records),) = traced(model, [batch])
    outputs = [state for record in records for state in record.output] + list(records[0].input)
    one_thread = partial(torch.set_num_threads, 1)

    def forward_alone() -> None:
        with torch.no_grad():
            model(batch["input_ids"], use_cache=False, logits_to_keep=1)

    def with_probes() -> None:
        states, routers = new_probes(model, length)
        for read, found in traced(model, [batch]):
            states.add(found)
            routers.add(found, read["input_ids"])

    def spectra() -> None:
        with ThreadPoolExecutor(torch.get_num_threads(), initializer=one_thread) as pool:
            list(pool.map(singular_values, outputs))

    def similarities() -> None:
        with ThreadPoolExecutor(torch.get_num_threads(), initializer=one_thread) as pool:
            kernels = list(pool.map(lambda state: centred_kernel(gram(state)), outputs))
        for sample in range(BATCH):
            similarity(kernels[sample::BATCH])

    variants = {"forward": forward_alone, "probes": with_probes}
    variants |= {"singular_values": spectra, "similarity": similarities}
    seconds = common.measure(variants, rounds)
    return {
        "sequence_length": length,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "times_the_forward_passes": common.times_as_fast(seconds["forward"], seconds["probes"]),
        "seconds_a_sample": {
            name: common.middle(s / BATCH for s in taken) for name, taken in seconds.items()
        },
    }


def whole(model: PreTrainedModel, samples: int, length: int) -> dict[str, Any]:
    """All that `loopway probe` does with a model, on so many samples."""
    started = time.perf_counter()
    states, routers = new_probes(model, length)
    memory = 0
    for number, (batch, records) in enumerate(traced(model, random_batches(model, samples, length))):
        states.add(records)
        routers.add(records, batch["input_ids"])
        if number == 1:
            memory = _peak_mb()
    states.result()
    routers.result()
    after = _peak_mb()
    probe_loops(model, random_batches(model, min(samples, LOOP_SAMPLES), length))
    return {
        "samples": samples,
        "loop_samples": min(samples, LOOP_SAMPLES),
        "minutes": round((time.perf_counter() - started) / 60, 2),
        "peak_mb_after_16_samples": memory,
        "peak_mb_after_all_samples": after,
    }


def training(steps: int, every: int, megabytes: float) -> dict[str, Any]:
    """A run that is probed every so many steps."""
    probing, probe = [0.0], ProbeLog.on_step_end

    def timed(self: ProbeLog, *arguments: Any, **named: Any) -> None:
        started = time.perf_counter()
        probe(self, *arguments, **named)
        probing[0] += time.perf_counter() - started

    with tempfile.TemporaryDirectory() as folder:
        text = common.write_text(Path(folder) / "text.jsonl", megabytes * common.MB)
        config = RunConfig.from_dict(
            {
                "model": {"preset": "pythia-14m", "layout": "1+2R2+1", "recurrence": "mesh"},
                "data": {"train": str(text), "sequence_length": 128, "vocab_size": 2048},
                "training": {"global_batch_size": 16, "per_device_train_batch_size": 16, "max_steps": steps},
                "probe_every": every,
            }
        )
        ProbeLog.on_step_end = timed  # type: ignore[method-assign]
        try:
            summary = train(config, Path(folder) / "run")
        finally:
            ProbeLog.on_step_end = probe  # type: ignore[method-assign]
    return {
        "probe_every": every,
        "steps": steps,
        "share": round(probing[0] / summary.wall_seconds, 5),
        "seconds_a_probe": float(f"{probing[0] / (steps // every):.3g}"),
    }


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--model", type=Path, help="folder of a recursive model with MeSH")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--sequence-length", type=int, default=512)
    options = parser.parse_args()
    samples, length, rounds = options.samples, options.sequence_length, options.rounds
    steps, megabytes = 200, 4.0
    size: dict[str, Any] = {}
    if options.quick:
        samples, length, rounds = 17, 16, 1
        steps, megabytes = 10, 0.2
        size = {"hidden_size": 48, "intermediate_size": 96, "vocab_size": 512}
    if options.model:
        model = AutoModelForCausalLM.from_pretrained(options.model)
    else:
        torch.manual_seed(0)
        config = loopway.pythia_config("160m", layout="2+4R2+2", recurrence="mesh", **size)
        model = AutoModelForCausalLM.from_config(config)
    model.eval()
    common.report(
        {
            "cost": lambda: cost(model, length, rounds),
            "whole": lambda: whole(model, samples, length),
            "training": lambda: training(steps, every=10, megabytes=megabytes),
        }
    )


if __name__ == "__main__":
    main()

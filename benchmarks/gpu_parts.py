"""The parts of gpu.py: each is a function that fills in its figures as it finds them.

What was found stays when a part runs out of time or memory. Knows nothing of which parts there is time for.
"""

import gc
import math
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest.mock import patch

import common
import torch
import torch.nn.functional as F
from decode import Generate, generators, transformers_generate
from torch import Tensor
from train_step import SMALL_FIELDS, Size, Work, build, flops_a_token, synchronize, training_step

import loopway
from loopway.modeling import loss as chunked_loss
from loopway.modeling.recompute import RECOMPUTE_LEVELS
from loopway.training.measurements import (
    device_name,
    peak_memory_bytes,
    product_flops_per_second,
    reset_peak_memory,
)

SIZE_160M, SIZE_410M, SIZE_1400M = Size(), Size("410m", "4+8R2+4"), Size("1.4b", "4+8R2+4")
ALL = ("hugging_face", "vanilla", "base", "mesh")
BATCHES = (1, 16, 64)
LOOPS = (2, 4, 8)
CHUNK_ROWS = (512, 1024, 2048, 4096)
#: Dense bf16 products by the data sheets, FLOP/s; of other devices only the measured rate is known.
PUBLISHED_PEAK = {
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
}
_SEQUENCE = 2048
_WARM_UP_STEPS = 3
_CALLS = 10  # of a kernel between two looks at the clock


@dataclass
class Bench:
    """Device, size and end of time (of `time.monotonic`) of all parts."""

    device: torch.device
    quick: bool = False
    until: float = math.inf

    @property
    def dtype(self) -> torch.dtype:
        """A quick run computes in float32, which any CPU does fast."""
        return torch.float32 if self.quick else torch.bfloat16

    def work(self, size: Size, sequences: int) -> Work:
        if self.quick:
            size = replace(size, preset="14m", layout="1+2R2+1", fields=SMALL_FIELDS)
            return Work(2 * 32, 32, size, self.device, bf16=False)
        return Work(sequences * _SEQUENCE, _SEQUENCE, size, self.device, bf16=True)

    def compiled(self, called: Any) -> Any:
        """Compile with inductor; a quick run only traces, since inductor takes minutes."""
        return torch.compile(called, backend="aot_eager" if self.quick else "inductor")

    def measure(self, variants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
        """Seconds of each variant in each of so many rounds, or of as many as there is time for, after one more."""
        started = time.monotonic()
        common.measure(variants, 1)
        ended = time.monotonic()
        fitting = max(1, int(min(rounds, (self.until - ended) / (ended - started))))
        return common.measure(variants, 1 if self.quick else fitting)

    def peak_gb(self, run: Callable[[], Any], before: int) -> float | None:
        """Most memory allocated while it runs beyond what was there before; None on a CPU."""
        if self.device.type != "cuda":
            run()
            return None
        reset_peak_memory(self.device)
        run()
        synchronize(self.device)
        return common.middle([(peak_memory_bytes(self.device) - before) / common.GB])

    def allocated(self) -> int:
        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0


def one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def free_memory() -> None:
    """Free the memory of models that nothing refers to any more, and of code compiled for them."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def milliseconds(seconds: Iterable[float], calls: int = 1) -> float:
    return common.middle(1000 * taken / calls for taken in seconds)


@dataclass(frozen=True)
class Steps:
    """Training steps of models of one size. Variants of one group are on the device together and measured in turn."""

    size: Size
    groups: tuple[tuple[str, ...], ...] = (ALL,)
    sequences: int = 8
    rounds: int = 15
    steps_a_round: int = 3
    compiled: bool = False

    def __call__(self, bench: Bench, figures: dict[str, Any]) -> None:
        work = bench.work(self.size, self.sequences)
        rate = product_flops_per_second(bench.device, bench.dtype)
        ids = work.batch()
        variants: dict[str, dict[str, Any]] = {}
        figures |= {
            "sequences": len(ids),
            "sequence_length": work.sequence_length,
            "product_tflops": common.middle([rate / 1e12]),
            "variants": variants,
        }
        for group in self.groups:
            steps: dict[str, Callable[[], Tensor]] = {}
            for variant in group:
                variants[variant] = {}
                try:
                    steps[variant] = self._ready(variant, bench, work, ids, variants[variant])
                except Exception as error:  # the other variants are measured all the same
                    variants[variant]["error"] = one_line(error)
            repeated = {
                variant: partial(_repeat, step, self.steps_a_round) for variant, step in steps.items()
            }
            if repeated:
                seconds = bench.measure(repeated, self.rounds)
                for variant, taken in seconds.items():
                    variants[variant] |= self._speed(variant, work, taken, rate)
                figures |= _compared(seconds, variants)
            steps.clear()
            repeated.clear()
            free_memory()

    def _ready(
        self, variant: str, bench: Bench, work: Work, ids: Tensor, found: dict[str, Any]
    ) -> Callable[[], Tensor]:
        """A step whose optimizer has its state and whose code is compiled."""
        before, started = bench.allocated(), time.perf_counter()
        with torch.device(bench.device):  # where the weights are drawn, too
            model = build(variant, work.size)
        assert model is not None, variant
        step = partial(training_step(variant, bench.compiled(model) if self.compiled else model, work), ids)
        found["first_loss"] = step().item()
        found["seconds_to_first_step"] = common.middle([time.perf_counter() - started])
        _repeat(step, _WARM_UP_STEPS - 1)
        found["peak_memory_gb"] = bench.peak_gb(step, before)
        return step

    def _speed(self, variant: str, work: Work, seconds: list[float], rate: float) -> dict[str, Any]:
        tokens = work.tokens * self.steps_a_round
        flops = tokens * flops_a_token(variant, work)
        published = PUBLISHED_PEAK.get(device_name(work.device))
        return {
            "rounds": len(seconds),
            "tokens_per_second": common.middle(tokens / taken for taken in seconds),
            "step_milliseconds": milliseconds(seconds, self.steps_a_round),
            "mfu_of_measured_rate": common.middle(flops / taken / rate for taken in seconds),
            "mfu_of_published_peak": published
            and common.middle(flops / taken / published for taken in seconds),
        }


def _repeat(step: Callable[[], Any], times: int) -> None:
    for _ in range(times):
        step()


def _compared(seconds: dict[str, list[float]], variants: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Ratios between variants that were measured in the same rounds."""
    compared = _beside_hugging_face(seconds)
    if {"base", "mesh"} <= seconds.keys():
        ratios = [mesh / base for mesh, base in zip(seconds["mesh"], seconds["base"], strict=True)]
        mesh, base = (variants[variant]["peak_memory_gb"] for variant in ("mesh", "base"))
        compared["mesh_over_base"] = {
            "step_time": common.median_with_interval(ratios),
            "peak_memory": mesh and common.middle([mesh / base]),
        }
    return compared


def _beside_hugging_face(seconds: dict[str, list[float]]) -> dict[str, Any]:
    others = [variant for variant in seconds if variant != "hugging_face"]
    if "hugging_face" not in seconds or not others:
        return {}
    baseline = seconds["hugging_face"]
    return {
        "times_as_fast_as_hugging_face": {
            variant: common.times_as_fast(seconds[variant], baseline) for variant in others
        }
    }


def recompute(bench: Bench, figures: dict[str, Any]) -> None:
    """MeSH at 160M: one model at each level in turn."""
    work, before = bench.work(SIZE_160M, 8), bench.allocated()
    with torch.device(bench.device):
        model = build("mesh", work.size)
    assert model is not None
    step, ids = training_step("mesh", model, work), work.batch()

    def step_at(level: str) -> None:
        loopway.set_recompute(model, level)
        step(ids)

    levels: dict[str, dict[str, Any]] = {level: {} for level in RECOMPUTE_LEVELS}
    figures["levels"] = levels
    for level in RECOMPUTE_LEVELS:
        _repeat(partial(step_at, level), _WARM_UP_STEPS)
        levels[level]["peak_memory_gb"] = bench.peak_gb(partial(step_at, level), before)
    seconds = bench.measure({level: partial(step_at, level) for level in RECOMPUTE_LEVELS}, 20)
    for level, taken in seconds.items():
        levels[level]["step_milliseconds"] = milliseconds(taken)
        ratios = (here / none for here, none in zip(taken, seconds["none"], strict=True))
        levels[level]["times_none"] = common.middle(ratios)


def decoding(bench: Bench, figures: dict[str, Any]) -> None:
    """At 160M, all weights in bf16, nothing compiled."""
    models = {variant: _decoder(bench, variant) for variant in ALL}
    _decode(bench, generators(models, compiled=False), figures)


def decoding_compiled(bench: Bench, figures: dict[str, Any]) -> None:
    """Every shape is compiled anew."""
    for variant in ("mesh", "vanilla"):
        model = _decoder(bench, variant)
        options = loopway.compiled_decoding(model)
        _decode(bench, {variant: partial(transformers_generate, model, **options)}, figures, anew=True)


def _decoder(bench: Bench, variant: str) -> Any:
    with torch.device(bench.device):
        model: Any = build(variant, bench.work(SIZE_160M, 1).size)
    model.generation_config.eos_token_id = None  # all tokens that are asked for
    return model.to(bench.dtype).eval()


def _decode(
    bench: Bench, generate: dict[str, Generate], figures: dict[str, Any], *, anew: bool = False
) -> None:
    length, new = (8, 4) if bench.quick else (128, 64)
    figures |= {"prompt": length, "new_tokens": new}
    for batch in BATCHES:
        shape, random = (batch, length), torch.Generator().manual_seed(0)
        prompts = torch.randint(SMALL_FIELDS["vocab_size"], shape, generator=random).to(bench.device)

        def all_tokens(variant: str, prompts: Tensor = prompts) -> None:
            there = len(generate[variant](prompts, new))
            assert there == new, f"{variant}: {there} tokens"

        if anew:
            torch.compiler.reset()
            for variant in generate:
                all_tokens(variant)
        seconds = bench.measure({variant: partial(all_tokens, variant) for variant in generate}, 3)
        found = figures.setdefault(f"batch_{batch}", {"tokens_per_second": {}})
        for variant, taken in seconds.items():
            found["tokens_per_second"][variant] = common.middle(batch * new / each for each in taken)
        found |= _beside_hugging_face(seconds)


def mixing(bench: Bench, figures: dict[str, Any]) -> None:
    """`mix_states` at the last boundary of so many loops, between a prelude and a coda."""
    shape = (1, 32, 32) if bench.quick else (8, _SEQUENCE, 2048)
    random = partial(torch.randn, device=bench.device)
    gradient = random(shape, dtype=torch.bfloat16)
    source, target = (torch.empty(8 * gradient.nbytes, device=bench.device, dtype=torch.int8) for _ in "ab")
    compiled = bench.compiled(loopway.mix_states)
    figures |= {"shape": list(shape), "loops": {}}
    for loops in LOOPS:
        count = loops + 2  # the embeddings, and what the prelude and every loop returned
        states = [random(shape, dtype=torch.bfloat16, requires_grad=True) for _ in range(count)]
        weights = [random((*shape[:2], 1), requires_grad=True) for _ in range(count)]

        def run(mix: Callable[..., Tensor], states: Any = states, weights: Any = weights) -> None:
            for _ in range(_CALLS):
                torch.autograd.grad(mix(weights, states), [*weights, *states], gradient)
            synchronize(bench.device)

        def copy() -> None:
            for _ in range(_CALLS):
                target.copy_(source)
            synchronize(bench.device)

        runs = {"copy": copy, "eager": partial(run, loopway.mix_states), "compiled": partial(run, compiled)}
        runs["compiled"]()
        seconds = bench.measure(runs, 10)
        # Forward: read all, write one. Backward: read one and all, write all. Weights are read twice and written once.
        moved = (3 * count + 2) * gradient.nbytes + 3 * count * weights[0].nbytes
        speeds = [2 * _CALLS * source.nbytes / taken for taken in seconds["copy"]]
        figures["loops"][str(loops)] = {
            "states": count,
            "copy_gb_per_second": common.middle(speed / common.GB for speed in speeds),
        } | {
            how: {
                "milliseconds": milliseconds(seconds[how], _CALLS),
                "share_of_bound": common.middle(
                    moved * _CALLS / speed / taken for taken, speed in zip(seconds[how], speeds, strict=True)
                ),
            }
            for how in ("eager", "compiled")
        }


def loss_chunks(bench: Bench, figures: dict[str, Any]) -> None:
    """Forward and backward of the loss from hidden states, in chunks of so many rows, and with all logits held."""
    rows, width, vocabulary = (4_160, 16, 4_096) if bench.quick else (32_768, 768, 50_304)
    with torch.device(bench.device):
        hidden = torch.randn(rows, width, requires_grad=True)  # float32, as norms return it under autocast
        weight = (0.02 * torch.randn(vocabulary, width)).requires_grad_()
        targets = torch.randint(vocabulary, (rows,))

    def run(count: int | None) -> None:
        with torch.autocast(bench.device.type, bench.dtype, enabled=not bench.quick):
            if count is None:
                loss = chunked_loss.loss_from_logits(F.linear(hidden, weight), targets)
            else:
                with patch.object(chunked_loss, "_CHUNK_ROWS", count):
                    loss = chunked_loss.loss_from_hidden(hidden, weight, targets)
        torch.autograd.grad(loss, [hidden, weight])
        synchronize(bench.device)

    runs = {str(count): partial(run, count) for count in CHUNK_ROWS} | {"all": partial(run, None)}
    before, found = bench.allocated(), {}
    figures |= {"shape": [rows, width, vocabulary], "default_rows": chunked_loss._CHUNK_ROWS, "rows": found}
    for name, one in runs.items():
        one()
        found[name] = {"peak_memory_gb": bench.peak_gb(one, before)}
    for name, taken in bench.measure(runs, 10).items():
        found[name]["milliseconds"] = milliseconds(taken)

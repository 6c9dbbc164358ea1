"""Is a training step as fast and as lean as Hugging Face's and litgpt's, and how near is it to the machine's limit?

    python benchmarks/train_step.py [--tokens 4096] [--sequence-length 1024] [--rounds 7] [--device cuda] [--bf16]

The models are of Pythia-160M's size, in float32 (products in bfloat16 with `--bf16`), on random tokens. Without litgpt
its figures are null. The last line is JSON.
"""

import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import common
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW
from transformers import AutoModelForCausalLM, GPTNeoXConfig, PreTrainedConfig

import loopway
from loopway.training.allocator import LARGE_BLOCK, return_large_blocks
from loopway.training.measurements import device_name, peak_memory_bytes, reset_peak_memory

VARIANTS = ("vanilla", "vanilla_lean", "mesh", "mesh_lean", "hugging_face", "litgpt")
_LEARNING_RATE = 1e-4
_LARGEST_KEPT_BLOCK = 32 * 2**20
_PRODUCTS = 5  # of each shape and round; the fastest is the machine's rate


@dataclass(frozen=True)
class Size:
    """One of Pythia's sizes, the recursive models' layout, other fields of the config, and the attention of transformers."""

    preset: str = "160m"
    layout: str = "2+4R2+2"
    fields: dict[str, Any] = field(default_factory=dict)
    attention: str = "sdpa"


SMALL_FIELDS = {"hidden_size": 48, "num_attention_heads": 3, "vocab_size": 512}
QUICK_SIZE = Size(fields=SMALL_FIELDS)


@dataclass(frozen=True)
class Work:
    """What every variant is given."""

    tokens: int
    sequence_length: int
    size: Size
    device: torch.device
    bf16: bool

    @property
    def precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def batch(self) -> Tensor:
        """Ids ``[batch, sequence_length + 1]``."""
        shape = (max(1, self.tokens // self.sequence_length), self.sequence_length + 1)
        vocabulary = loopway_config("vanilla", self.size).vocab_size
        ids = torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(0))
        return ids.to(self.device)


def loopway_config(variant: str, size: Size) -> PreTrainedConfig:
    """Of `base` and `mesh` the recursive model's, of all others the vanilla model's."""
    recurrence = variant.partition("_")[0]
    if recurrence in ("base", "mesh"):
        return loopway.pythia_config(size.preset, layout=size.layout, recurrence=recurrence, **size.fields)
    return loopway.pythia_config(size.preset, scale_embeddings=False, **size.fields)


def hugging_face_config(size: Size) -> GPTNeoXConfig:
    """The vanilla model as transformers' own."""
    fields = loopway_config("vanilla", size).to_dict()
    known = set(GPTNeoXConfig().to_dict()) - {"model_type", "transformers_version", "architectures"}
    return GPTNeoXConfig(**{name: value for name, value in fields.items() if name in known})


def is_ours(variant: str) -> bool:
    return variant not in ("hugging_face", "litgpt")


def build(variant: str, size: Size) -> nn.Module | None:
    """A model with random weights; None, and a word, where litgpt isn't installed."""
    torch.manual_seed(0)
    if variant == "litgpt":
        try:
            from litgpt import GPT, Config  # type: ignore[import-not-found]
        except ImportError as error:
            print(f"without litgpt: {error}", file=sys.stderr)
            return None
        like = hugging_face_config(size)
        config: Any = Config.from_name(
            f"pythia-{size.preset}",
            n_embd=like.hidden_size,
            n_head=like.num_attention_heads,
            intermediate_size=like.intermediate_size,
            padded_vocab_size=like.vocab_size,
        )
        model = GPT(config)
        model.apply(model._init_weights)  # as its pretraining does
        return model
    config = loopway_config(variant, size) if is_ours(variant) else hugging_face_config(size)
    return AutoModelForCausalLM.from_config(config, attn_implementation=size.attention)


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Give a model of ours or of litgpt's the weights of Hugging Face's, and see that its logits are the same."""
    weights: dict[str, Tensor] = dict(source.state_dict())
    ours = hasattr(target, "gpt_neox")
    if ours:
        prefix = "gpt_neox.layers."
        weights = {name.replace(prefix, f"{prefix}0.layers."): weight for name, weight in weights.items()}
    else:
        from litgpt.scripts.convert_hf_checkpoint import (  # type: ignore[import-not-found]
            copy_weights_gpt_neox,
        )

        weights["embed_out.weight"] = weights.pop("lm_head.weight")
        converted: dict[str, Tensor] = {}
        copy_weights_gpt_neox(target.config, converted, weights)  # type: ignore[arg-type]
        weights = converted
    target.load_state_dict(weights)
    ids = torch.arange(32, device=next(source.parameters()).device)[None]
    with torch.no_grad():
        expected = source(ids).logits
        logits = target(ids).logits if ours else target(ids)
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-3)


def loss_of(variant: str, model: nn.Module, ids: Tensor) -> Tensor:
    """Each with its own loss; litgpt's as its pretraining calls it."""
    inputs = ids[:, :-1].contiguous()
    if variant == "litgpt":
        from litgpt.utils import chunked_cross_entropy  # type: ignore[import-not-found]

        return chunked_cross_entropy(model(inputs), ids[:, 1:].contiguous())
    lean = {"skip_logits": True} if is_ours(variant) else {}
    return model(
        inputs, labels=inputs, use_cache=False, **lean
    ).loss  # no cache, as under transformers' Trainer


def training_step(variant: str, model: nn.Module, work: Work) -> Callable[[Tensor], Tensor]:
    """What takes ids ``[batch, sequence_length + 1]`` and returns the loss before the step."""
    model.train()
    if is_ours(variant):
        loopway.set_recompute(model, "selective" if variant.endswith("_lean") else "none")
    optimizer = AdamW(model.parameters(), lr=_LEARNING_RATE, fused=True)

    blocks_from = LARGE_BLOCK if is_ours(variant) else _LARGEST_KEPT_BLOCK

    def step(ids: Tensor) -> Tensor:
        # As a run of ours does, and would leave it; for the others the highest that glibc's own moving limit reaches.
        return_large_blocks(blocks_from)
        with work.precision:
            loss = loss_of(variant, model, ids)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        synchronize(ids.device)
        return loss.detach()

    return step


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_of_steps(work: Work, rounds: int) -> dict[str, Any]:
    """Steps of all variants and, in the same rounds, the matrix products that they could at best be made of."""
    ids = work.batch()
    built = {variant: build(variant, work.size) for variant in VARIANTS}
    models = {variant: model.to(work.device) for variant, model in built.items() if model is not None}
    for variant, model in models.items():
        if variant.startswith("vanilla") or variant == "litgpt":
            copy_weights(models["hugging_face"], model)
    steps = {variant: training_step(variant, model, work) for variant, model in models.items()}
    for step in steps.values():
        step(ids[:1, :64])  # makes the optimizer's state

    rates: list[float] = []
    timed: dict[str, Callable[[], Any]] = {"products": lambda: rates.append(product_rate(work))}
    timed |= {variant: lambda step=step: step(ids) for variant, step in steps.items()}
    seconds = common.measure(timed, rounds)

    def faster_than(baseline: str) -> dict[str, float | None]:
        others = (variant for variant in VARIANTS if variant != baseline)
        there = baseline in seconds
        return {
            variant: common.times_as_fast(seconds[variant], seconds[baseline])
            if there and variant in seconds
            else None
            for variant in others
        }

    tokens = ids[:, 1:].numel()
    flops = {variant: tokens * flops_a_token(variant, work) for variant in VARIANTS}
    return {
        "device": device_name(work.device),
        "bf16": work.bf16,
        "tokens": tokens,
        "sequence_length": work.sequence_length,
        "seconds": {
            variant: common.middle(seconds[variant]) if variant in seconds else None for variant in VARIANTS
        },
        "times_as_fast_as_hugging_face": faster_than("hugging_face"),
        "times_as_fast_as_litgpt": faster_than("litgpt"),
        "share_of_matmul_rate": {
            variant: common.middle(
                flops[variant] / taken / rate for taken, rate in zip(seconds[variant], rates, strict=True)
            )
            if variant in seconds
            else None
            for variant in VARIANTS
        },
        "matmul_gflop_per_second": common.middle(rate / common.GB for rate in rates),
        "gflop_a_step": {variant: round(count / common.GB, 1) for variant, count in flops.items()},
        "adamw_seconds": time_of_adamw(models["hugging_face"], rounds),
    }


def flops_a_token(variant: str, work: Work) -> int:
    """Of the model, so that what is computed once more in the backward pass doesn't count."""
    config = loopway_config(variant, work.size)  # of the others: the vanilla model's
    return loopway.parameter_report(config, context_length=work.sequence_length).training_flops


def product_rate(work: Work) -> float:
    """FLOP/s of the fastest of a layer's matrix products."""
    hidden = loopway_config("vanilla", work.size).hidden_size
    rates = []
    for columns, rows in ((hidden, 4 * hidden), (4 * hidden, hidden), (hidden, 3 * hidden)):
        precision = torch.bfloat16 if work.bf16 else torch.float32
        states = torch.randn(work.tokens, columns, device=work.device, dtype=precision)
        weight = torch.randn(rows, columns, device=work.device, dtype=precision)
        for _ in range(_PRODUCTS):
            started = time.perf_counter()
            F.linear(states, weight)
            synchronize(work.device)
            rates.append(2 * work.tokens * columns * rows / (time.perf_counter() - started))
    return max(rates)


def time_of_adamw(model: nn.Module, rounds: int) -> dict[str, float]:
    """The optimizer alone, fused and as torch chooses when nothing is said."""
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    choices = {"fused": True, "default": None}
    steps = {
        name: AdamW(model.parameters(), lr=_LEARNING_RATE, fused=fused).step
        for name, fused in choices.items()
    }
    device = next(model.parameters()).device
    common.measure(steps, 1)  # makes their states
    timed = {name: lambda step=step: (step(), synchronize(device)) for name, step in steps.items()}
    return {name: common.middle(taken) for name, taken in common.measure(timed, rounds).items()}


def peak_mb(variant: str, work: Work) -> int | None:
    """Most memory in two steps after a first one, in 10⁶ bytes; to be called in a process of its own."""
    model = build(variant, work.size)
    if model is None:
        return None
    step, ids = training_step(variant, model.to(work.device), work), work.batch()
    step(ids)
    reset_peak_memory(work.device)
    step(ids)
    step(ids)
    return round(peak_memory_bytes(work.device) / common.MB)


def memory_of_steps(work: Work) -> dict[str, Any]:
    """Each variant in a fresh process, copied from one that has imported everything and done nothing."""
    context = common.ready_processes("litgpt")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        peaks = dict(zip(VARIANTS, pool.map(peak_mb, VARIANTS, [work] * len(VARIANTS)), strict=True))
    baseline = peaks["hugging_face"]
    assert baseline is not None
    return {
        "peak_mb": peaks,
        "peak_over_hugging_face": {
            variant: peak and round(peak / baseline, 3)
            for variant, peak in peaks.items()
            if variant != "hugging_face"
        },
    }


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--tokens", type=int, default=4096, help="of a step")
    parser.add_argument("--sequence-length", type=int, default=1024)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--bf16", action="store_true", help="autocast, as training.bf16 does")
    options = parser.parse_args()
    where, rounds = (options.device, options.bf16), options.rounds
    work = Work(options.tokens, options.sequence_length, Size(), *where)
    if options.quick:
        work, rounds = Work(128, 64, QUICK_SIZE, *where), 1
    common.report(
        {
            "step": lambda: time_of_steps(work, rounds),
            "memory": lambda: memory_of_steps(work),
        }
    )


if __name__ == "__main__":
    main()

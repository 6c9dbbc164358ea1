"""How exact are gradients under bf16 autocast, where one cast of a weight is used several times?

    python benchmarks/half_precision.py [--tokens 4096 16384 65536]

`head`: the head's weight, which the chunked loss uses once a chunk. `core`: the weights of a core that runs 2, 4 and 8 times,
with autocast's cache of casts (torch's default: the gradients of all loops add up in bf16) and without. Errors are
|g - g64| / |g64| against float64. The last line is JSON.
"""

from collections.abc import Callable
from typing import Any

import common
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM

import loopway
from loopway.modeling.loss import loss_from_hidden, loss_from_logits
from loopway.modeling.stack import core_parameters

_VOCABULARY, _WIDTH = 8192, 64
_LOOPS = (2, 4, 8)


def relative_error(gradients: list[Tensor], exact: list[Tensor]) -> float:
    """Of all tensors together."""
    distance = sum(float((g.double() - e).square().sum()) for g, e in zip(gradients, exact, strict=True))
    return float(f"{(distance / sum(float(e.square().sum()) for e in exact)) ** 0.5:.3g}")


def head(tokens: int) -> dict[str, float]:
    """The head's gradient, chunked and with all logits held, each against float64."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, tokens, _WIDTH, generator=generator)
    weight = 0.2 * torch.randn(_VOCABULARY, _WIDTH, generator=generator)
    targets = torch.randint(_VOCABULARY, (1, tokens), generator=generator)

    def gradient(loss: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> list[Tensor]:
        leaf = weight.to(dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
            value = loss(hidden.to(dtype), leaf)
        return [torch.autograd.grad(value, leaf)[0]]

    def whole(hidden: Tensor, weight: Tensor) -> Tensor:
        return loss_from_logits(F.linear(hidden, weight), targets)

    exact = gradient(whole, torch.float64)
    return {
        "chunked": relative_error(
            gradient(lambda h, w: loss_from_hidden(h, w, targets), torch.float32), exact
        ),
        "all_logits": relative_error(gradient(whole, torch.float32), exact),
    }


def core(count: int, *, width: int, tokens: int) -> dict[str, float]:
    """The core's gradient, with and without the cache of casts, each against float64."""
    config = loopway.pythia_config(
        "14m",
        layout=f"1+2R{count}+1",
        recurrence="base",
        vocab_size=512,
        hidden_size=width,
        num_attention_heads=4,
        intermediate_size=4 * width,
    )
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    ids = torch.randint(512, (tokens // 128, 128))

    def gradient(model: Any, *, autocast: bool, cache: bool = True) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast, cache_enabled=cache):
            loss = model(ids, labels=ids, skip_logits=True, use_cache=False).loss
        return list(torch.autograd.grad(loss, core_parameters(model)))

    cached, uncached = (gradient(model, autocast=True, cache=cache) for cache in (True, False))
    exact = gradient(model.double(), autocast=False)
    return {"cached": relative_error(cached, exact), "uncached": relative_error(uncached, exact)}


def columns(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def main() -> None:
    parser = common.arguments(__doc__, rounds=None)
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096, 16384, 65536])
    options = parser.parse_args()
    sizes, width, tokens = (options.tokens, 128, 2048) if not options.quick else ([4096], 32, 256)
    common.report(
        {
            "head": lambda: {"tokens": sizes} | columns([head(size) for size in sizes]),
            "core": lambda: (
                {"loops": list(_LOOPS)}
                | columns([core(count, width=width, tokens=tokens) for count in _LOOPS])
            ),
        }
    )


if __name__ == "__main__":
    main()

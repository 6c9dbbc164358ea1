"""Fast matrix products of few rows on a CPU, which dominate decoding.

PyTorch multiplies float32 matrices with its BLAS library. With few rows, BLAS reaches at most half of the memory
bandwidth (MKL on an AMD processor: half for one row, a sixth for four). oneDNN doesn't have this problem. It sums in
another order, so logits differ in their last digits. Knows nothing of models.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# oneDNN was faster up to this many rows (2 cores of an AMD EPYC, 768 columns); with more rows, both are equal.
_FEW = 256
# Smaller weights, such as a router's, fit into the CPU's cache: call overhead dominates, 4 µs against oneDNN's 30 µs.
_SMALL = 2**18

# Number of threads that generate with each linear map, and the lock that guards it.
_users: dict[nn.Module, int] = {}
_lock = threading.Lock()


def _product(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")


def _product_on_meta(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return input.new_empty((*input.shape[:-1], weight.shape[0]))


# For compiled code: torch's compiler supports oneDNN's product for constant weights only. Not a `custom_op`, which would
# add 20 microseconds to every product. A process may load this code several times, since exported models can contain
# it (loopway export --self-contained).
if not hasattr(torch.ops.loopway, "few_rows_linear"):
    torch.library.define("loopway::few_rows_linear", "(Tensor input, Tensor weight, Tensor? bias) -> Tensor")
    torch.library.impl("loopway::few_rows_linear", "cpu", _product)
    torch.library.register_fake("loopway::few_rows_linear", _product_on_meta)


class FewRowsLinear(nn.Linear):
    """Linear map that multiplies few rows with oneDNN."""

    def forward(self, input: Tensor) -> Tensor:
        rows = input.numel() // input.shape[-1]
        is_float32 = input.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if not 0 < rows <= _FEW or not is_float32 or torch.is_grad_enabled():
            return super().forward(input)
        if torch.compiler.is_compiling():
            return torch.ops.loopway.few_rows_linear(input, self.weight, self.bias)
        return _product(input, self.weight, self.bias)


@contextmanager
def fast_few_rows(model: nn.Module) -> Iterator[None]:
    """Let the model's plain float32 linear maps on a CPU use oneDNN for few rows within the block.

    Several threads may generate with one model at once: the last one to finish restores the maps.
    """
    maps = [module for module in model.modules() if _is_plain(module)] if _has_onednn() else []
    try:
        with _lock:
            for module in maps:
                _users[module] = _users.get(module, 0) + 1
                module.__class__ = FewRowsLinear
        yield
    finally:
        with _lock:
            for module in maps:
                others = _users.pop(module, 1) - 1
                if others:
                    _users[module] = others
                else:
                    module.__class__ = nn.Linear


def _has_onednn() -> bool:
    mkldnn = torch.backends.mkldnn
    return mkldnn.is_available() and mkldnn.enabled and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[attr-defined]


def _is_plain(module: nn.Module) -> bool:
    """Return whether a module is a large float32 linear map on a CPU, neither an adapter nor quantised."""
    if type(module) not in (nn.Linear, FewRowsLinear) or type(module.weight) is not nn.Parameter:
        return False
    weight = module.weight
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() >= _SMALL

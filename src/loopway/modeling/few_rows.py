"""Matrix products of few rows on a CPU: those that decoding is made of.

PyTorch multiplies float32 matrices with its BLAS library, which reads the weights for a few rows at half of what the
memory gives or less (MKL on an AMD processor: half for one row, a sixth for four). Its other library, oneDNN, doesn't.
Sums come out in another order, so logits differ in their last digits. Knows nothing of models.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# Rows up to which oneDNN was the faster of the two (2 cores of an AMD EPYC, 768 columns); beyond, they are equal.
_FEW = 256
# A smaller weight, such as a router's, is in a cache: what counts is the call, 4 microseconds against oneDNN's 30.
_SMALL = 2**18

# How many are generating with each map, and who may change that.
_users: dict[nn.Module, int] = {}
_lock = threading.Lock()


def _product(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")


def _product_on_meta(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return input.new_empty((*input.shape[:-1], weight.shape[0]))


# What compiled code calls, since torch's compiler has oneDNN's product for constant weights only. Not a `custom_op`:
# that would add 20 microseconds to each of the products that a token is made of. A process may hold this code several
# times: models can bring it with them (loopway export --self-contained).
if not hasattr(torch.ops.loopway, "few_rows_linear"):
    torch.library.define("loopway::few_rows_linear", "(Tensor input, Tensor weight, Tensor? bias) -> Tensor")
    torch.library.impl("loopway::few_rows_linear", "cpu", _product)
    torch.library.register_fake("loopway::few_rows_linear", _product_on_meta)


class FewRowsLinear(nn.Linear):
    """A linear map that gives few rows to oneDNN."""

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
    """Within, the model's plain float32 linear maps on a CPU give few rows to oneDNN; others stay as they are.

    Threads may generate with one model at once: the last to leave puts the maps back.
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
    """Not small, not an adapter, not quantised: a weight of another class is more than its numbers."""
    if type(module) not in (nn.Linear, FewRowsLinear) or type(module.weight) is not nn.Parameter:
        return False
    weight = module.weight
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() >= _SMALL

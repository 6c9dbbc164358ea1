"""Initial values of MeSH's routers with which a model computes what its layers compute without MeSH.

Base recursion reads y(t), the output of the stage before. MeSH reads a_emb·h_emb + sum_s a(t,s)·y(s) with
a_emb = read(t)[0] and a(t,s) = read(t)·write(s) (paper, section 3), so it is base recursion where a(t,t) = 1 and all else
is 0. Weights over slots are positive and sum to one, so read(t)·write(t) = 1 needs both to lie wholly on one slot, and
a(t,s) = 0 needs a slot that nothing was written to before: boundary t has slot t + 1 for its own, slot 0 holding h_emb.
No softmax of finite logits gets there, but every softmax comes as near as one likes.

With zero router weights, bias g (the gap) on the boundary's own slot and 0 on the other B − 1, each of those gets
q = 1 / (e^g + B − 1) < e^−g and its own p = 1 − (B − 1)q. Then, with t boundaries before,

    1 − a(t,t) = 1 − p² − (B−1)q² ≤ 2(B−1)q      a(t,s) = 2pq + (B−2)q² ≤ 2q      a_emb = q

and all of it together, the leak, is at most (2B + 2t − 1)·e^−g. Knows nothing of where the layers come from.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from loopway.checks import wrong_value
from loopway.errors import RecurrenceError
from loopway.modeling.stack import RecursiveStack, find_stack, trace_stages
from loopway.recurrence import RecurrenceOptions, build_recurrence
from loopway.recurrence.mesh import MeSH

# Of all boundaries together, if no gap is given.
DEFAULT_LEAK = 1e-4


def check_start(boundaries: int, num_slots: int | None, gap: float | None) -> None:
    """Check that MeSH with so many slots can start at base recursion with this gap.

    Raises:
        ConfigError: the gap isn't a positive number.
        RecurrenceError: too few slots.
    """
    if gap is not None and not (math.isfinite(gap) and gap > 0):
        raise wrong_value("router_gap", gap, "a number above 0, such as 12")
    if num_slots is not None and num_slots <= boundaries:
        raise RecurrenceError(
            f"num_slots is {num_slots}, and to start where base recursion is, MeSH needs {boundaries + 1}: slots "
            f"only add up, so each of the {boundaries} boundaries needs its own, beside that of the embeddings; "
            f"omit num_slots, or in Python give start_at_base=False for routers that start at random"
        )


@torch.no_grad()
def set_routers(recurrence: MeSH, gap: float | None = None) -> None:
    """Set the routers to pass on the last stage's output, up to a leak of the order e^−gap.

    Args:
        recurrence: changed in place.
        gap: by how much the bias of a boundary's own slot exceeds the others; None is :func:`default_gap`. A wider one
            is closer to base recursion and learns more slowly: the routers' gradient shrinks as e^−gap.

    Raises:
        ConfigError, RecurrenceError: as :func:`check_start`.
    """
    boundaries, slots = recurrence.layout.num_boundaries, recurrence.num_slots
    check_start(boundaries, slots, gap)
    gap = default_gap(slots, boundaries) if gap is None else gap
    for routers in (recurrence.write_routers, recurrence.read_routers):
        for boundary, router in enumerate(routers):
            nn.init.zeros_(router.get_parameter("weight"))
            bias = router.get_parameter("bias")
            nn.init.zeros_(bias)
            bias[boundary + 1] = gap


def leak_bound(num_slots: int, boundary: int, gap: float) -> float:
    """Return the bound (2B + 2t − 1)·e^−gap of sum_s |a(t,s) − base's| + a_emb at boundary t, counted from 0.

    The state that the next stage reads differs from base recursion's by at most this times the largest norm of the states so
    far.
    """
    return (2 * num_slots + 2 * boundary - 1) * math.exp(-gap)


def default_gap(num_slots: int, boundaries: int) -> float:
    """The least whole gap with which the leaks of all boundaries together are at most DEFAULT_LEAK."""
    leaks = sum(leak_bound(num_slots, boundary, 0.0) for boundary in range(boundaries))
    return float(math.ceil(math.log(leaks / DEFAULT_LEAK)))


@dataclass(frozen=True)
class StartReport:
    """Distance of a model with MeSH from the same layers with base recursion, and its routers' gradient.

    Attributes:
        leak: at the worst boundary and token, sum_s |a(t,s) − base's| + a_emb.
        logits: at the worst token, |logits − base's| / |base's|, of vectors over the vocabulary.
        gradient_norm: of the loss in nats per token with respect to all router parameters.
        tokens: that this was measured on.
    """

    leak: float
    logits: float
    gradient_norm: float
    tokens: int


def measure_start(model: PreTrainedModel, input_ids: Tensor) -> StartReport:
    """Measure a recursive model with MeSH against base recursion.

    Args:
        model: left as it is; in eval mode for numbers without dropout.
        input_ids: ``[samples, seq]``.

    Raises:
        RecurrenceError: another recurrence.
    """
    stack = find_stack(model)
    if not isinstance(stack.recurrence, MeSH):
        raise RecurrenceError(f"only MeSH has routers, not {type(stack.recurrence).__name__}")
    ids = input_ids.to(model.device)
    with torch.no_grad():
        with trace_stages(model) as records:
            logits = model(ids, use_cache=False).logits
        with _as_base(stack, model.config.recurrence_options):
            base = model(ids, use_cache=False).logits
    precise = torch.promote_types(base.dtype, torch.float32)
    difference = (logits.to(precise) - base.to(precise)).norm(dim=-1) / base.to(precise).norm(dim=-1)
    leaks = [_leak(record.weights) for record in records[:-1] if record.weights is not None]
    loss = model(ids, labels=ids, skip_logits=True, use_cache=False).loss
    gradients = torch.autograd.grad(loss, list(stack.recurrence.parameters()))
    norm = torch.stack([gradient.to(precise).norm() for gradient in gradients]).norm()
    return StartReport(max(leaks), difference.max().item(), norm.item(), ids.numel())


def _leak(weights: Tensor) -> float:
    """Return the leak of the mixing weights ``[batch, seq, states]`` at one boundary, whose last is that of the latest output."""
    base = torch.zeros_like(weights)
    base[..., -1] = 1
    return (weights - base).abs().sum(-1).max().item()


@contextmanager
def _as_base(stack: RecursiveStack, options: RecurrenceOptions) -> Iterator[None]:
    """Use base recursion in the stack within the block."""
    before, stack.recurrence = stack.recurrence, build_recurrence("base", options)
    try:
        yield
    finally:
        stack.recurrence = before

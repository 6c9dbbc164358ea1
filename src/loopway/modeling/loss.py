"""Language-modelling losses, computed from chunks of logits when there are many.

Knows nothing of models. Takes hidden states, a head and targets; returns a scalar or a loss per sample.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

IGNORE_INDEX = -100
# Measured on 2 CPU cores, vocabulary 50,304: with fewer logits, holding all of them costs nothing. With more, chunks of
# 512 rows are equally fast at hidden size 768 and 2.5 times as fast at 256, where torch's own chunking is 4 times slower.
_LOGITS_HELD = 2**24
_CHUNK_ROWS = 512


def shifted(labels: Tensor) -> Tensor:
    """Shift labels ``[batch, seq]``: position n gets the label of the token after n; the last position is ignored."""
    return F.pad(labels[..., 1:], (0, 1), value=IGNORE_INDEX)


def loss_from_logits(logits: Tensor, targets: Tensor, num_items: Tensor | int | None = None) -> Tensor:
    """Mean cross entropy in nats per target, computed in float32, or in float64 for float64 logits.

    Args:
        logits: ``[batch, seq, vocab]``.
        targets: already shifted, ``[batch, seq]``; -100 is ignored.
        num_items: divisor of the sum; defaults to the number of targets.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss = F.cross_entropy(
        logits.flatten(0, -2),
        targets.flatten().to(logits.device),
        ignore_index=IGNORE_INDEX,
        reduction=_reduction(num_items),
    )
    return _divided(loss, num_items)


def loss_from_hidden(
    hidden: Tensor,
    head_weight: Tensor,
    targets: Tensor,
    num_items: Tensor | int | None = None,
    *,
    bias: Tensor | None = None,
    finish: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Mean cross entropy in nats per target from hidden states ``[batch, seq, hidden]``; long inputs run in chunks.

    Args:
        hidden: the last hidden state.
        head_weight: the head's weight, ``[vocab, hidden]``.
        targets, num_items: as in :func:`loss_from_logits`.
        bias: the head's bias, ``[vocab]``.
        finish: applied to the linear map's logits ``[…, vocab]``, such as a scale or a cap.
    """
    if targets.numel() * head_weight.shape[0] <= _LOGITS_HELD:
        logits = F.linear(hidden, head_weight, bias)
        return loss_from_logits(logits if finish is None else finish(logits), targets, num_items)
    targets = targets.flatten().to(hidden.device)
    loss = _ChunkedLoss.apply(
        hidden.flatten(0, -2), head_weight, bias, targets, finish, torch.is_grad_enabled()
    )
    return _divided(loss, (targets != IGNORE_INDEX).sum() if num_items is None else num_items)


class _ChunkedLoss(torch.autograd.Function):
    """Cross entropy of the head's logits, summed over rows. The forward computes each chunk's gradients, if needed.

    The weight's gradient is summed in float32 or float64, whatever the precision of the products: in half precision
    its error would grow with the number of chunks.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        finish: Callable[[Tensor], Tensor] | None,
        grad_enabled: bool,  # needs_input_grad is also true under torch.no_grad
    ) -> Tensor:
        of_hidden, of_weight, of_bias = (grad_enabled and needed for needed in ctx.needs_input_grad[:3])
        differentiated = of_hidden or of_weight or of_bias
        exact = torch.promote_types(hidden.dtype, torch.float32)
        narrow = _product_dtype(hidden)
        weight_gradient = torch.zeros_like(weight, dtype=exact) if of_weight else None
        bias_gradient = torch.zeros_like(bias, dtype=exact) if of_bias else None  # type: ignore[arg-type]
        hidden_gradient = torch.empty_like(hidden) if of_hidden else None
        losses = []
        with torch.autocast(hidden.device.type, enabled=False):
            head, offset = weight.to(narrow), None if bias is None else bias.to(narrow)
            # `finish` keeps several copies of the logits.
            size = _CHUNK_ROWS if finish is None else _CHUNK_ROWS // 4
            chunks = zip(hidden.split(size), targets.split(size), strict=True)
            for index, (rows, wanted) in enumerate(chunks):
                rows = rows.to(narrow)
                loss, error = _chunk_loss_and_error(
                    F.linear(rows, head, offset), wanted, exact, finish, differentiated
                )
                losses.append(loss)
                if not differentiated:
                    continue
                counted = (wanted != IGNORE_INDEX).unsqueeze(1)
                if bias_gradient is not None:
                    bias_gradient.add_((error * counted).sum(0))
                error = error.to(narrow)
                if hidden_gradient is not None:
                    hidden_gradient[index * size : (index + 1) * size] = error @ head * counted
                if weight_gradient is None:
                    continue
                if narrow == exact:
                    weight_gradient.addmm_(error.T, rows * counted)
                else:
                    weight_gradient.add_(error.T @ (rows * counted))
        ctx.save_for_backward(hidden_gradient, weight_gradient, bias_gradient)
        ctx.dtypes = (hidden.dtype, weight.dtype, weight.dtype)
        return torch.stack(losses).sum()

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
        of_hidden, of_weight, of_bias = (
            None if part is None else (part * gradient).to(dtype)
            for part, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return of_hidden, of_weight, of_bias, None, None, None


def _chunk_loss_and_error(
    logits: Tensor,
    targets: Tensor,
    exact: torch.dtype,
    finish: Callable[[Tensor], Tensor] | None,
    differentiated: bool,
) -> tuple[Tensor, Tensor]:
    """Return loss and error as :func:`_loss_and_error`, for the linear map's logits ``[rows, vocab]``.

    The error is valid only if ``differentiated``.
    """
    if finish is None or not differentiated:
        return _loss_and_error((logits if finish is None else finish(logits)).to(exact), targets)
    finished, pull = _with_pullback(finish, logits)
    loss, error = _loss_and_error(finished.detach().to(exact, copy=True), targets)
    return loss, pull(error.to(finished.dtype))


def _with_pullback(
    function: Callable[[Tensor], Tensor], tensor: Tensor
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return a function's value, and a function that maps the value's gradient to the argument's."""
    if torch.compiler.is_compiling():  # the compiler can trace vjp, which doesn't support saved-tensor hooks
        value, pull, *_ = torch.func.vjp(function, tensor)
        return value, lambda gradient: pull(gradient)[0]
    with torch.enable_grad():
        value = function(tensor.requires_grad_())
    return value, lambda gradient: torch.autograd.grad(value, tensor, gradient)[0]


def _loss_and_error(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed loss, and softmax minus one-hot ``[rows, vocab]``, which overwrites the logits.

    In rows with an ignored target the second result is invalid.
    """
    column = targets.clamp(min=0).unsqueeze(1)
    largest = logits.amax(dim=1, keepdim=True)
    wanted = logits.gather(1, column) - largest
    exponentials = logits.sub_(largest).exp_()
    total = exponentials.sum(dim=1, keepdim=True)
    loss = ((total.log() - wanted) * (targets != IGNORE_INDEX).unsqueeze(1)).sum()
    return loss, exponentials.div_(total).scatter_add_(1, column, torch.full_like(total, -1.0))


def _product_dtype(hidden: Tensor) -> torch.dtype:
    """Return the precision in which a linear map of these states computes, including autocast."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return hidden.dtype


def sample_losses_from_hidden(hidden: Tensor, head: Callable[[Tensor], Tensor], targets: Tensor) -> Tensor:
    """Summed loss in nats of every sample, ``[batch]``, at least in float32, from chunks of logits.

    For evaluation: with gradients enabled, autograd keeps all logits.

    Args:
        hidden: the last hidden state, ``[batch, seq, hidden]``.
        head: maps hidden states ``[rows, hidden]`` to logits ``[rows, vocab]``.
        targets: already shifted, ``[batch, seq]``; -100 is ignored.
    """
    # Half as many rows as in training: here logits and their logarithms coexist; training works in place.
    chunks = (part.split(_CHUNK_ROWS // 2) for part in (hidden.flatten(0, -2), targets.flatten()))
    losses = []
    for rows, wanted in zip(*chunks, strict=True):
        logits = head(rows)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses.append(
            F.cross_entropy(logits, wanted.to(logits.device), ignore_index=IGNORE_INDEX, reduction="none")
        )
        del logits  # else it would coexist with the next chunk's logits
    return torch.cat(losses).view(targets.shape).sum(dim=-1)


def distillation_loss(
    logits: Tensor,
    taught: Tensor,
    targets: Tensor,
    *,
    share: float,
    temperature: float,
    num_items: Tensor | int | None = None,
) -> Tensor:
    """(1 − share)·cross entropy + share·T²·KL(softmax(taught/T) ‖ softmax(logits/T)), at least in float32.

    As in Hinton et al. (arXiv 1503.02531): T² keeps the size of gradients independent of the temperature.

    Args:
        logits, taught: the student's and the teacher's logits, ``[batch, seq, vocab]``.
        targets: already shifted, ``[batch, seq]``; positions with -100 count in neither part.
        share: weight of the distillation part, 0 to 1.
        temperature: T.
        num_items: divisor of the sum; defaults to the number of targets.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)

    def chunk_loss(student: Tensor, teacher: Tensor, wanted: Tensor) -> Tensor:
        student, teacher = student.to(dtype), teacher.to(dtype)
        hard = F.cross_entropy(student, wanted, ignore_index=IGNORE_INDEX, reduction="sum")
        soft = F.kl_div(
            F.log_softmax(student / temperature, dim=-1),
            F.log_softmax(teacher / temperature, dim=-1),
            log_target=True,
            reduction="none",
        )
        return (1 - share) * hard + share * temperature**2 * soft[wanted != IGNORE_INDEX].sum()

    flat = (logits.flatten(0, -2), taught.flatten(0, -2), targets.flatten().to(logits.device))
    chunks = zip(*(part.split(_CHUNK_ROWS) for part in flat), strict=True)
    losses = [checkpoint(chunk_loss, *chunk, use_reentrant=False) for chunk in chunks]
    total = torch.stack(losses).sum()
    return _divided(total, (targets != IGNORE_INDEX).sum() if num_items is None else num_items)


def _reduction(num_items: Tensor | int | None) -> str:
    return "mean" if num_items is None else "sum"


def _divided(loss: Tensor, num_items: Tensor | int | None) -> Tensor:
    if num_items is None:
        return loss
    return loss / (num_items.to(loss.device) if isinstance(num_items, Tensor) else num_items)

"""The language-modelling loss, without holding all logits where that pays.

Knows nothing of models: hidden states, the head's weight and targets in, a scalar out.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

IGNORE_INDEX = -100
# Measured on 2 CPU cores: below this many logits holding them costs nothing; above, chunks of 512 rows are as fast
# at hidden size 768 and 2.5 times as fast at 256 (vocabulary 50,304), where torch's own choice is 4 times slower.
_LOGITS_HELD = 2**24
_CHUNK_ROWS = 512


def shifted(labels: Tensor) -> Tensor:
    """Labels ``[batch, seq]`` moved so that position n holds what follows token n; the last has no target."""
    return F.pad(labels[..., 1:], (0, 1), value=IGNORE_INDEX)


def loss_from_logits(logits: Tensor, targets: Tensor, num_items: Tensor | int | None = None) -> Tensor:
    """Mean cross entropy in nats per target, at least in float32; float64 stays float64.

    Args:
        logits: ``[batch, seq, vocab]``.
        targets: already shifted, ``[batch, seq]``; -100 is ignored.
        num_items: what to divide the sum by instead of the number of targets.
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
    hidden: Tensor, head_weight: Tensor, targets: Tensor, num_items: Tensor | int | None = None
) -> Tensor:
    """As :func:`loss_from_logits`, from the last hidden state ``[batch, seq, hidden]``; long inputs go in chunks."""
    if targets.numel() * head_weight.shape[0] <= _LOGITS_HELD:
        return loss_from_logits(F.linear(hidden, head_weight), targets, num_items)
    hidden, targets = hidden.flatten(0, -2), targets.flatten().to(hidden.device)
    in_half_precision = torch.is_autocast_enabled(hidden.device.type) or hidden.dtype.itemsize < 4
    if in_half_precision:
        return _loss_in_float32_chunks(hidden, head_weight, targets, num_items)
    loss = F.linear_cross_entropy(
        hidden,
        head_weight,
        targets,
        ignore_index=IGNORE_INDEX,
        reduction=_reduction(num_items),
        options=torch.nn.LinearCrossEntropyOptions(
            batch_chunk_size=_CHUNK_ROWS, chunking_method=None, acc_policy="compact", allow_retain_graph=True
        ),
    )
    return _divided(loss, num_items)


def losses_of_samples(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Summed loss in nats and number of targets of every sample, ``[batch]`` each.

    Args:
        logits: ``[batch, seq, vocab]``.
        targets: already shifted, ``[batch, seq]``; -100 is ignored.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    # Sample by sample, so that only one sample's logits are held in float32.
    sums = [
        F.cross_entropy(logit.to(dtype), target, reduction="sum", ignore_index=IGNORE_INDEX)
        for logit, target in zip(logits, targets, strict=True)
    ]
    return torch.stack(sums), (targets != IGNORE_INDEX).sum(dim=-1)


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

    As in Hinton et al. (arXiv 1503.02531), whose T² keeps the gradients' size when the temperature changes.

    Args:
        logits, taught: the student's and the teacher's, ``[batch, seq, vocab]``.
        targets: already shifted, ``[batch, seq]``; at -100 neither part counts.
        share: 0 to 1.
        num_items: what to divide the sum by instead of the number of targets.
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


def _loss_in_float32_chunks(
    hidden: Tensor, head_weight: Tensor, targets: Tensor, num_items: Tensor | int | None
) -> Tensor:
    """Half-precision products, float32 loss; torch's own op would return the loss in half precision.

    Each chunk's logits are made once more in the backward pass instead of being kept.
    """

    def chunk_loss(rows: Tensor, chunk_targets: Tensor) -> Tensor:
        logits = F.linear(rows, head_weight).float()
        return F.cross_entropy(logits, chunk_targets, ignore_index=IGNORE_INDEX, reduction="sum")

    chunks = zip(hidden.split(_CHUNK_ROWS), targets.split(_CHUNK_ROWS), strict=True)
    losses = [checkpoint(chunk_loss, rows, wanted, use_reentrant=False) for rows, wanted in chunks]
    return _divided(
        torch.stack(losses).sum(), (targets != IGNORE_INDEX).sum() if num_items is None else num_items
    )


def _reduction(num_items: Tensor | int | None) -> str:
    return "mean" if num_items is None else "sum"


def _divided(loss: Tensor, num_items: Tensor | int | None) -> Tensor:
    if num_items is None:
        return loss
    return loss / (num_items.to(loss.device) if isinstance(num_items, Tensor) else num_items)

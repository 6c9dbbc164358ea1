"""The measures that probes are made of: the paper's three (section 6), and a number for each that sums it up.

Knows tensors; nothing of models, stages and samples. A state is one sample's, ``[seq, hidden]``; everything is computed
in float64 on the state's own device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def relative_update(before: Tensor, after: Tensor) -> Tensor:
    """``2·‖f(h) − h‖ / (‖f(h)‖ + ‖h‖)`` with Frobenius norms: the share of a block in the work, 0 to 2.

    Args:
        before, after: what the block read and computed, ``[seq, hidden]``.

    Returns:
        ``[]``; NaN where both are zero.
    """
    before, after = before.double(), after.double()
    return 2 * (after - before).norm() / (after.norm() + before.norm())


def gram(state: Tensor) -> Tensor:
    """Inner products of a state's rows, ``[seq, seq]``; similarity and spectrum are both made from it."""
    state = state.double()
    return state @ state.T


def centred_kernel(inner: Tensor) -> Tensor:
    """What CKA compares: exp(−d² / (2·median(d²))), where d is the distance of two rows, with rows and columns centred.

    Args:
        inner: a state's :func:`gram`.

    Returns:
        ``[seq, seq]``
    """
    kernel = _kernel(inner)
    means = kernel.mean(dim=0)
    return kernel - means - means[:, None] + means.mean()


def similarity(kernels: Sequence[Tensor]) -> Tensor:
    """CKA of all pairs of states, with an RBF kernel as wide as the median squared distance; the biased estimator.

    Invariant to rotations of the hidden dimension, to shifts and to scale (Kornblith et al., 2019).

    Args:
        kernels: the :func:`centred_kernel` of each state, ``[seq, seq]``, for the same tokens.

    Returns:
        ``[states, states]``, 0 to 1; NaN for a state whose rows are all the same.
    """
    rows = [kernel.flatten() for kernel in kernels]  # of long samples too large to be copied
    inner = torch.stack([torch.stack([one @ other for other in rows]) for one in rows])
    norms = inner.diagonal().sqrt()
    return inner / (norms * norms[:, None])


def _kernel(inner: Tensor) -> Tensor:
    norms = inner.diagonal()
    squared = (norms[:, None] + norms - 2 * inner).clamp_(min=0).fill_diagonal_(0)
    kernel = torch.exp(squared / (-2 * _median(squared.flatten())))
    return kernel.masked_fill_(
        squared == 0, 1.0
    )  # also where most rows are the same, so that the median is 0


def _median(values: Tensor) -> Tensor:
    lower = values.median()  # of an even number the lower of the two in the middle
    above = values[values > lower]
    return (lower + above.min()) / 2 if 2 * len(above) == len(values) else lower


def singular_values(state: Tensor, inner: Tensor | None = None) -> Tensor:
    """All singular values, largest first, ``[min(seq, hidden)]``.

    From the eigenvalues of the smaller Gram matrix, three times as fast as a decomposition of the state itself. Values
    below √(number·2e-16) of the largest, a few 1e-7, can't be told from zero that way, and are given as zero.

    Args:
        state: ``[seq, hidden]``.
        inner: its :func:`gram`, where that is there already.
    """
    seq, hidden = state.shape
    smaller = gram(state.T) if hidden < seq else (gram(state) if inner is None else inner)
    squared = torch.linalg.eigvalsh(smaller).flip(0)
    noise = len(squared) * torch.finfo(squared.dtype).eps * squared[0]
    return squared.masked_fill(squared <= noise, 0.0).sqrt()


def effective_rank(values: Tensor) -> Tensor:
    """exp of the entropy of the singular values as shares of their sum (Roy and Vetterli, 2007), 1 to their number.

    Args:
        values: singular values, ``[…, number]``.

    Returns:
        ``[…]``
    """
    return entropy(values / values.sum(-1, keepdim=True)).exp()


def balance(updates: Tensor) -> Tensor:
    """How evenly K loops share the work: ``(exp(H(p)) − 1) / (K − 1)``, where p are their shares in the updates.

    1: all loops change the state by the same relative amount; 0: one of them does it all. Says nothing of whether a
    change is of use: loops that undo one another are balanced, too.

    Args:
        updates: relative updates of a segment's loops, ``[K]``, K from 2.

    Returns:
        ``[]``
    """
    return (entropy(updates / updates.sum()).exp() - 1) / (len(updates) - 1)


def entropy(shares: Tensor) -> Tensor:
    """Of the distributions in the last dimension, in nats, ``[…]``."""
    return torch.special.entr(shares).sum(-1)

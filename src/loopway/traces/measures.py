"""Measures behind the probes: the paper's three (section 6), and a summary number for each.

Knows tensors; nothing of models, stages and samples. A state belongs to one sample, ``[seq, hidden]``. All measures are
computed in float64 on the state's device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def relative_update(before: Tensor, after: Tensor) -> Tensor:
    """Relative update of a block, ``2·‖f(h) − h‖ / (‖f(h)‖ + ‖h‖)`` with Frobenius norms, 0 to 2.

    Args:
        before, after: the block's input and output, ``[seq, hidden]``.

    Returns:
        ``[]``; NaN where both are zero.
    """
    before, after = before.double(), after.double()
    return 2 * (after - before).norm() / (after.norm() + before.norm())


def gram(state: Tensor) -> Tensor:
    """Inner products of a state's rows, ``[seq, seq]``; input of both similarity and spectrum."""
    state = state.double()
    return state @ state.T


def centred_kernel(inner: Tensor) -> Tensor:
    """Centred kernel for CKA: exp(−d² / (2·median(d²))) for the distance d of two rows, with rows and columns centred.

    Args:
        inner: a state's :func:`gram`.

    Returns:
        ``[seq, seq]``
    """
    kernel = _kernel(inner)
    means = kernel.mean(dim=0)
    return kernel - means - means[:, None] + means.mean()


def similarity(kernels: Sequence[Tensor]) -> Tensor:
    """CKA of all pairs of states (biased estimator), with an RBF kernel whose width is the median squared distance.

    Invariant to rotations of the hidden dimension, shifts and scale (Kornblith et al., 2019).

    Args:
        kernels: the :func:`centred_kernel` of each state, ``[seq, seq]``, for the same tokens.

    Returns:
        ``[states, states]``, 0 to 1; NaN for a state whose rows are all equal.
    """
    rows = [kernel.flatten() for kernel in kernels]  # views: for long samples, copies would be too large
    inner = torch.stack([torch.stack([one @ other for other in rows]) for one in rows])
    norms = inner.diagonal().sqrt()
    return inner / (norms * norms[:, None])


def _kernel(inner: Tensor) -> Tensor:
    norms = inner.diagonal()
    squared = (norms[:, None] + norms - 2 * inner).clamp_(min=0).fill_diagonal_(0)
    kernel = torch.exp(squared / (-2 * _median(squared.flatten())))
    return kernel.masked_fill_(squared == 0, 1.0)  # also valid if most rows are equal and the median is 0


def _median(values: Tensor) -> Tensor:
    lower = values.median()  # torch returns the lower of two middle values
    above = values[values > lower]
    return (lower + above.min()) / 2 if 2 * len(above) == len(values) else lower


def singular_values(state: Tensor, inner: Tensor | None = None) -> Tensor:
    """All singular values, largest first, ``[min(seq, hidden)]``.

    Computed from the eigenvalues of the smaller Gram matrix, three times as fast as a decomposition of the state.
    Values below √(number·2e-16) of the largest, a few 1e-7, are below its precision and are returned as zero.

    Args:
        state: ``[seq, hidden]``.
        inner: its :func:`gram`, if already computed.
    """
    seq, hidden = state.shape
    smaller = gram(state.T) if hidden < seq else (gram(state) if inner is None else inner)
    squared = torch.linalg.eigvalsh(smaller).flip(0)
    noise = len(squared) * torch.finfo(squared.dtype).eps * squared[0]
    return squared.masked_fill(squared <= noise, 0.0).sqrt()


def effective_rank(values: Tensor) -> Tensor:
    """Effective rank: exp of the entropy of the singular values divided by their sum (Roy and Vetterli, 2007).

    Args:
        values: singular values, ``[…, number]``.

    Returns:
        ``[…]``, from 1 to the number of values.
    """
    return entropy(values / values.sum(-1, keepdim=True)).exp()


def balance(updates: Tensor) -> Tensor:
    """Balance of K loops: ``(exp(H(p)) − 1) / (K − 1)``, where p are their shares of the sum of updates.

    1: all loops change the state by the same relative amount. 0: one loop makes all of the change. It doesn't say
    whether a change is useful: loops that undo each other are also balanced.

    Args:
        updates: relative updates of a segment's loops, ``[K]``, K at least 2.

    Returns:
        ``[]``
    """
    return (entropy(updates / updates.sum()).exp() - 1) / (len(updates) - 1)


def entropy(shares: Tensor) -> Tensor:
    """Entropy of the distributions in the last dimension, in nats, ``[…]``."""
    return torch.special.entr(shares).sum(-1)

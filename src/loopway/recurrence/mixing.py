"""The operation that recurrences share: a per-token weighted sum of states.

Knows nothing of where the weights come from.
"""

from collections.abc import Sequence

from torch import Tensor


def mix_states(weights: Sequence[Tensor], states: Sequence[Tensor]) -> Tensor:
    """Return ``sum_s weights[s] * states[s]`` (paper, section 3).

    Uses one fused multiply-add per state. Autograd keeps only the weights and the states.

    Args:
        weights: one per state, each broadcastable to a state: ``[batch, seq, 1]`` for per-token weights, ``[]``
            for a trained scalar. Any precision; rounded here to the states' precision.
        states: each ``[batch, seq, hidden]``.

    Returns:
        ``[batch, seq, hidden]``.
    """
    mixed = weights[0].to(states[0].dtype) * states[0]
    for weight, state in zip(weights[1:], states[1:], strict=True):
        mixed.addcmul_(weight.to(state.dtype), state)  # in place: no gradient needs the partial sum
    return mixed

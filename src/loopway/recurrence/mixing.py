"""The one operation that every recurrence is made of: a per-token weighted sum of states.

Knows nothing of where the weights come from.
"""

from collections.abc import Sequence

from torch import Tensor


def mix_states(weights: Sequence[Tensor], states: Sequence[Tensor]) -> Tensor:
    """``sum_s weights[s] * states[s]`` (paper, section 3).

    One fused multiply-add per state; autograd keeps the weights and the states themselves and nothing else.

    Args:
        weights: one per state, each broadcastable to a state: ``[batch, seq, 1]`` for per-token weights, ``[]``
            for a trained scalar. In whatever precision they were computed; rounded to the states' type here.
        states: each ``[batch, seq, hidden]``.

    Returns:
        ``[batch, seq, hidden]``.
    """
    mixed = weights[0].to(states[0].dtype) * states[0]
    for weight, state in zip(weights[1:], states[1:], strict=True):
        mixed.addcmul_(weight.to(state.dtype), state)  # in place: the sum so far is needed by no gradient
    return mixed

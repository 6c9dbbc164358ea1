"""The weighted sum that every scheme is made of."""

import torch

from loopway import mix_states


def test_it_is_the_weighted_sum_per_token() -> None:
    states = [torch.randn(2, 3, 4, dtype=torch.float64) for _ in range(5)]
    weights = [torch.randn(2, 3, 1, dtype=torch.float64) for _ in range(5)]
    expected = torch.einsum("sbnd,sbn->bnd", torch.stack(states), torch.stack(weights).squeeze(-1))
    torch.testing.assert_close(mix_states(weights, states), expected, rtol=0.0, atol=1e-13)


def test_its_gradients_are_exact() -> None:
    states = [torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    weights = [torch.randn(2, 2, 1, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(lambda *given: mix_states(given[:3], given[3:]), (*weights, *states))


def test_trained_scalars_are_weights_too() -> None:
    states = torch.randn(3, 2, 2, 4).unbind()
    scalars = torch.tensor([1.0, 0.0, -2.0])
    torch.testing.assert_close(mix_states(scalars.unbind(), states), states[0] - 2 * states[2])


def test_backward_keeps_nothing_but_the_weights_and_the_states() -> None:
    states = [torch.randn(2, 3, 64, requires_grad=True) for _ in range(4)]
    weights = [torch.rand(2, 3, 1, requires_grad=True) for _ in range(4)]
    kept = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        mix_states(weights, states)
    assert set(kept) == {tensor.data_ptr() for tensor in (*states, *weights)}


def test_the_result_has_the_states_type() -> None:
    states = [torch.randn(1, 2, 4).bfloat16() for _ in range(2)]
    assert mix_states([torch.rand(1, 2, 1) for _ in range(2)], states).dtype == torch.bfloat16

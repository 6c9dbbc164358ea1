"""The measures are the paper's: golden vectors, an independent formula, and what they don't change with."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loopway.traces.measures import (
    balance,
    centred_kernel,
    effective_rank,
    gram,
    relative_update,
    similarity,
    singular_values,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "probes.npz")
STATES = [torch.from_numpy(state) for state in GOLDEN["states"]]


def cka(*states: torch.Tensor) -> torch.Tensor:
    return similarity([centred_kernel(gram(state)) for state in states])


def random_state(seed: int, seq: int = 20, hidden: int = 8) -> torch.Tensor:
    return torch.randn(seq, hidden, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_golden_similarities() -> None:
    np.testing.assert_allclose(cka(*STATES).numpy(), GOLDEN["cka_rbf"], rtol=0, atol=1e-8)


def test_golden_updates() -> None:
    actual = [[relative_update(a, b).item() for b in STATES] for a in STATES]
    np.testing.assert_allclose(actual, GOLDEN["relative_update"], rtol=0, atol=1e-8)


def test_golden_spectra() -> None:
    for state, expected in zip(STATES, GOLDEN["normalized_singular_values"], strict=True):
        values = singular_values(state)
        np.testing.assert_allclose((values / values[0]).numpy(), expected, rtol=0, atol=1e-8)


def textbook_cka(x: np.ndarray, y: np.ndarray) -> float:
    """tr(KHLH) / sqrt(tr(KHKH)·tr(LHLH)), every matrix written out (Kornblith et al., 2019, section 3)."""
    n = len(x)
    centring = np.eye(n) - np.ones((n, n)) / n

    def kernel(state: np.ndarray) -> np.ndarray:
        squared = ((state[:, None] - state[None]) ** 2).sum(-1)
        return np.exp(-squared / (2 * np.median(squared)))

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        return np.trace(k @ centring @ m @ centring)

    k, m = kernel(x), kernel(y)
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


@pytest.mark.parametrize("seq", [2, 3, 20, 21])
def test_similarity_is_the_textbook_formula(seq: int) -> None:
    states = [random_state(seed, seq) for seed in range(3)]
    expected = [[textbook_cka(a.numpy(), b.numpy()) for b in states] for a in states]
    np.testing.assert_allclose(cka(*states).numpy(), expected, rtol=0, atol=1e-12)


@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100))
@settings(max_examples=30, deadline=None)
def test_similarity_does_not_change_with_rotation_scale_and_shift(
    seed: int, scale: float, shift: float
) -> None:
    state, other = random_state(seed), random_state(seed + 1)
    rotation = torch.linalg.qr(random_state(seed + 2, 8)).Q
    changed = scale * (state @ rotation + shift)
    expected = cka(state, other)[0, 1]
    torch.testing.assert_close(cka(changed, other)[0, 1], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(cka(changed, state)[0, 1], torch.ones_like(expected), rtol=0, atol=1e-6)


def test_similarity_of_states_with_equal_rows_is_a_number_or_says_that_there_is_none() -> None:
    few = torch.cat([random_state(0, 3), random_state(1, 1).expand(9, 8)])  # the median distance is 0
    found = cka(few, random_state(2, 12), torch.ones(12, 8))
    assert torch.isfinite(found[:2, :2]).all() and found[0, 0] == pytest.approx(1)
    assert found[2].isnan().all()


@given(seed=st.integers(0, 1000), factor=st.floats(0.1, 10))
@settings(max_examples=20, deadline=None)
def test_an_update_is_relative_and_symmetric(seed: int, factor: float) -> None:
    before, after = random_state(seed), random_state(seed + 1)
    found = relative_update(before, after).item()
    assert 0 <= found <= 2
    assert relative_update(after, before).item() == pytest.approx(found)
    assert relative_update(factor * before, factor * after).item() == pytest.approx(found)
    assert relative_update(before, -before).item() == pytest.approx(2)
    assert relative_update(before, before).item() == 0


@pytest.mark.parametrize("shape", [(30, 12), (12, 30), (12, 12)])
def test_singular_values_are_those_of_a_decomposition(shape: tuple[int, int]) -> None:
    state = random_state(0, *shape) * torch.logspace(0, -6, shape[1], dtype=torch.float64)
    expected = torch.linalg.svdvals(state)
    for inner in (None, gram(state)):
        actual = singular_values(state, inner)
        torch.testing.assert_close(actual / expected[0], expected / expected[0], rtol=0, atol=1e-9)
    values = singular_values(state.float())
    assert values.dtype == torch.float64
    torch.testing.assert_close(values / values[0], expected / expected[0], rtol=0, atol=1e-6)


@given(seed=st.integers(0, 1000), rank=st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_effective_rank_lies_between_one_and_the_rank_and_is_the_rank_of_equal_directions(
    seed: int, rank: int
) -> None:
    low = random_state(seed, 20, rank) @ random_state(seed + 1, rank, 8)
    assert 1 - 1e-9 <= effective_rank(singular_values(low)).item() <= rank + 1e-6
    equal = torch.linalg.qr(random_state(seed, 20, rank)).Q
    assert effective_rank(singular_values(equal)).item() == pytest.approx(rank)
    assert effective_rank(singular_values(3.7 * low)).item() == pytest.approx(
        effective_rank(singular_values(low)).item()
    )


def test_balance_is_one_for_equal_loops_and_zero_where_one_does_it_all() -> None:
    for loops in (2, 3, 8):
        assert balance(torch.full((loops,), 0.3)).item() == pytest.approx(1)
        one = torch.zeros(loops)
        one[-1] = 1.2
        assert balance(one).item() == pytest.approx(0)
    # Two of four that share the work equally: exp(ln 2) = 2, a third of the way from 1 to 4.
    assert balance(torch.tensor([0.5, 0.5, 0, 0])).item() == pytest.approx(1 / 3)
    assert balance(torch.tensor([1.0, 0.1])).item() < balance(torch.tensor([1.0, 0.5])).item()

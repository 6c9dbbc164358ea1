"""Rows come in order or shuffled, each once an epoch, and mixed sources in exact shares."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopway.data.tokens.order import MIXTURE_BLOCK, EpochOrder, MixedOrder, block_counts, permuted
from loopway.errors import DataError

KEY = st.one_of(st.none(), st.tuples(st.integers(0, 9)))
WEIGHTS = st.lists(st.floats(0.05, 5), min_size=1, max_size=6)


@given(st.integers(1, 40), KEY)
def test_every_epoch_sees_every_row_once(rows, key):
    order = EpochOrder(rows, key)
    for epoch in range(3):
        seen = [order.row(epoch * rows + position) for position in range(rows)]
        assert sorted(seen) == list(range(rows))
        assert key is not None or seen == list(range(rows))


def test_an_epoch_of_many_rows_sees_every_row_once():
    order = EpochOrder(10_000, (0,))
    epochs = [[order.row(epoch * 10_000 + position) for position in range(10_000)] for epoch in range(2)]
    assert epochs[0] != epochs[1]
    for seen in epochs:
        assert sorted(seen) == list(range(10_000))


@given(st.integers(1, 20_000), st.data())
def test_a_row_is_the_permutation_of_its_epoch_whatever_was_asked_before(rows, data):
    order = EpochOrder(rows, (3,))
    for index in data.draw(st.lists(st.integers(0, 3 * rows), max_size=10)):
        assert [order.row(index)] == permuted(np.array([index % rows]), rows, 3, index // rows).tolist()


def test_the_order_of_very_many_rows_takes_no_memory():
    order = EpochOrder(2**50, (0,))
    rows = {order.row(index) for index in (0, 1, 2**49, 2**50 - 1)}
    assert len(rows) == 4
    assert max(rows) > 2**40


def mixed(rows, weights, seed):
    key = () if seed is None else (seed,)
    orders = [EpochOrder(count, None if seed is None else (*key, n)) for n, count in enumerate(rows)]
    return MixedOrder(orders, weights, seed)


@given(WEIGHTS, st.data(), st.one_of(st.none(), st.integers(0, 3)))
def test_in_every_thousand_samples_each_source_has_its_exact_share(weights, data, seed):
    rows = data.draw(st.lists(st.integers(1, 300), min_size=len(weights), max_size=len(weights)))
    order, counts = mixed(rows, weights, seed), block_counts(weights)
    source_of = [source for source, count in enumerate(rows) for _ in range(count)]
    for block in (0, 1, 7):
        indices = range(block * MIXTURE_BLOCK, (block + 1) * MIXTURE_BLOCK)
        assert Counter(source_of[order.row(index)] for index in indices) == dict(enumerate(counts))


@given(WEIGHTS, st.data(), st.one_of(st.none(), st.integers(0, 3)))
def test_each_source_shows_each_row_once_before_any_twice(weights, data, seed):
    rows = data.draw(st.lists(st.integers(1, 300), min_size=len(weights), max_size=len(weights)))
    order = mixed(rows, weights, seed)
    seen = [order.row(index) for index in range(3 * MIXTURE_BLOCK)]
    first = 0
    for count in rows:
        own = [row - first for row in seen if first <= row < first + count]
        for start in range(0, len(own) - count + 1, count):
            assert sorted(own[start : start + count]) == list(range(count))
            assert seed is not None or own[start : start + count] == list(range(count))
        assert len(set(own[len(own) // count * count :])) == len(own) % count
        first += count


def test_a_mixed_row_is_the_next_of_its_source_whatever_was_asked_before():
    rows, counts, seed = [50, 7000], [333, 667], 5
    order = mixed(rows, counts, seed)
    for index in (0, 12_345, 999, 1000, 1001, 12_346, 3, 10**12):
        block, place = divmod(index, MIXTURE_BLOCK)
        sources = np.repeat([0, 1], counts)[permuted(np.arange(MIXTURE_BLOCK), MIXTURE_BLOCK, seed, block)]
        source = int(sources[place])
        number = block * counts[source] + int((sources[:place] == source).sum())
        epoch, position = divmod(number, rows[source])
        row = int(permuted(np.array([position]), rows[source], seed, source, epoch)[0])
        assert order.row(index) == source * rows[0] + row


def test_places_and_rows_of_a_mixture_depend_on_block_source_and_seed():
    def seen(seed):
        order = mixed([300, 300], [1, 1], seed)
        return [order.row(index) for index in range(2 * MIXTURE_BLOCK)]

    def places(rows):
        return [row < 300 for row in rows]

    one = seen(0)
    assert places(one[:MIXTURE_BLOCK]) != places(one[MIXTURE_BLOCK:])
    assert [row for row in one if row < 300] != [row - 300 for row in one if row >= 300]
    assert places(seen(1)) != places(one)
    assert places(seen(None)) == ([True] * 500 + [False] * 500) * 2


@given(WEIGHTS)
def test_shares_are_rounded_to_the_nearest_thousandths(weights):
    counts = block_counts(weights)
    assert sum(counts) == MIXTURE_BLOCK
    total = sum(map(Fraction, weights))
    for weight, count in zip(weights, counts, strict=True):
        assert abs(Fraction(weight) / total * MIXTURE_BLOCK - count) < 1 + 1e-9


def test_the_remaining_samples_go_to_the_largest_remainders():
    assert block_counts([1, 1, 1]) == [334, 333, 333]
    assert block_counts([70, 20, 10]) == [700, 200, 100]
    assert block_counts([2, 4]) == [333, 667]
    assert block_counts([0.0007, 0.9993]) == [1, 999]
    assert block_counts([1e308, 1e308]) == [500, 500]


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_a_weight_that_is_not_positive_is_refused(weight):
    with pytest.raises(DataError, match=f"a source has weight {weight}; give a positive number"):
        block_counts([1, weight])


def test_a_weight_that_would_get_no_sample_is_refused():
    with pytest.raises(DataError, match=r"a source has weight 0\.0004 and would get none of 1000 samples"):
        block_counts([0.9996, 0.0004])

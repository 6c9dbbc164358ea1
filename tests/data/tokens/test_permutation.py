"""The permutation is one, whatever the size; it depends on size and key alone, and shows no pattern."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loopway.data.tokens.order import permuted

KEY = st.lists(st.integers(0, 2**63), max_size=3)


@given(st.integers(1, 3000), KEY)
@example(1, [0])
@example(2**12, [0])
@example(3**7, [0])
def test_it_is_a_bijection_of_any_size(size, key):
    images = permuted(np.arange(size), size, *key)
    assert images.dtype == np.int64
    assert np.array_equal(np.sort(images), np.arange(size))


@given(st.integers(1, 2**62), KEY, st.data())
def test_an_image_is_in_range_and_does_not_depend_on_what_else_is_asked(size, key, data):
    indices = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, unique=True)))
    images = permuted(indices, size, *key)
    assert images.min() >= 0
    assert images.max() < size
    assert len(set(images.tolist())) == len(indices)
    for index, image in zip(indices, images, strict=True):
        assert permuted(np.array([index]), size, *key).tolist() == [image]


def test_its_numbers_are_the_same_everywhere_and_for_ever():
    # the order of the samples of every run that was ever made
    assert permuted(np.arange(12), 12, 0).tolist() == [3, 4, 0, 11, 7, 5, 10, 1, 8, 9, 6, 2]
    assert permuted(np.arange(3), 146_432_000, 1, 2).tolist() == [101895299, 9407113, 136484246]
    assert permuted(np.array([0, 2**61, 2**62 - 1]), 2**62, 7, 0, 1).tolist() == [
        449583419205384340,
        1520150062621987665,
        861788694610892247,
    ]


def test_key_and_size_matter():
    def order(size, *key):
        return permuted(np.arange(1000), size, *key).tolist()

    orders = [
        order(1000),
        order(1000, 0),
        order(1000, 1),
        order(1000, 0, 1),
        order(1000, 1, 0),
        order(1001, 1),
    ]
    assert len(set(map(tuple, orders))) == len(orders)
    # numbers are not run together
    assert order(1000, 1, 12) != order(1000, 11, 2)


@pytest.mark.parametrize("size", [37, 64, 101])
def test_over_seeds_every_index_and_every_pair_of_neighbours_goes_everywhere_equally_often(size):
    orders = np.stack([permuted(np.arange(size), size, seed) for seed in range(3000)])

    def excess(counts):  # chi-square by its degrees of freedom: 1 where chance alone decides
        return float(((counts - counts.mean()) ** 2).sum() / counts.mean() / (counts.size - 1))

    places = np.stack([np.bincount(orders[:, index], minlength=size) for index in range(size)])
    assert 0.9 < excess(places) * size / (size - 1) < 1.1  # a permutation fills every place
    for apart in (1, 2, size // 2):
        steps = (orders[:, apart:] - orders[:, :-apart]) % size
        assert 0.5 < excess(np.bincount(steps.ravel(), minlength=size)[1:]) < 1.6


def test_a_large_permutation_has_no_trend_and_no_cycles_of_its_own():
    size = 300_007
    first, second = (permuted(np.arange(size), size, seed) for seed in (0, 1))
    for a, b in (
        (first, np.arange(size)),
        (first[1:], first[:-1]),
        (first, second),
        (first[::2], first[1::2]),
    ):
        assert abs(np.corrcoef(a[: len(b)], b[: len(a)])[0, 1]) < 4 / np.sqrt(len(b))
    assert (first == np.arange(size)).sum() < 10
    assert (first == second).sum() < 10

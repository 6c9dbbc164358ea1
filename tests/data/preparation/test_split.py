"""Which documents are for validation follows from their texts and the seed: a share of them, the same ones every time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopway.data.preparation.documents import digest_of, new_digest
from loopway.data.preparation.split import for_validation


def keys_of_texts(count: int, seed: int = 0) -> np.ndarray:
    digests = b"".join(digest_of(f"text {number}", seed) for number in range(count))
    return np.frombuffer(digests, "<u8").reshape(-1, 2)[:, 0]


@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.5, 0.99])
def test_the_share_is_what_was_asked_for_give_or_take_chance(fraction: float) -> None:
    count = 20_000
    chosen = for_validation(keys_of_texts(count), fraction)
    assert abs(chosen.sum() - fraction * count) < 4 * np.sqrt(fraction * (1 - fraction) * count)


def test_a_smaller_share_is_part_of_a_larger_one() -> None:
    keys = keys_of_texts(2000)
    assert not (for_validation(keys, 0.1) & ~for_validation(keys, 0.2)).any()
    assert not for_validation(keys, 0).any() and for_validation(keys, np.nextafter(1, 0)).all()


def test_another_seed_chooses_others() -> None:
    both = for_validation(keys_of_texts(2000), 0.5) & for_validation(keys_of_texts(2000, seed=1), 0.5)
    assert 400 < both.sum() < 600


@given(st.text(), st.integers(0, 100), st.integers(0, 10**20))
def test_a_text_has_the_same_digest_whole_and_in_parts(text: str, cut: int, seed: int) -> None:
    content, digest = text.encode(), new_digest(seed)
    digest.update(content[:cut])
    digest.update(content[cut:])
    assert digest.digest() == digest_of(text, seed) and len(digest.digest()) == 16

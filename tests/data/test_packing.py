"""Samples cover every token once an epoch, in an order that depends on the seed alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loopway.data import PackedSamples, TokenFile, write_token_file
from loopway.errors import DataError


def token_file(document_lengths):
    """Tokens 0, 1, 2, ...: each value is its own place in the stream."""
    lengths = np.asarray(document_lengths)
    return TokenFile("memory", np.arange(lengths.sum()), lengths)  # type: ignore[arg-type]


LENGTHS = st.lists(st.integers(1, 12), min_size=2, max_size=12).filter(lambda lengths: sum(lengths) > 8)
SEQUENCE = st.integers(1, 7)


@given(LENGTHS, SEQUENCE, st.one_of(st.none(), st.integers(0, 3)))
def test_every_token_is_predicted_exactly_once_an_epoch(lengths, sequence_length, seed):
    samples = PackedSamples(token_file(lengths), sequence_length, seed=seed)
    predicted = torch.cat([samples[i]["shift_labels"] for i in range(len(samples))])
    whole = (sum(lengths) - 1) // sequence_length * sequence_length
    assert sorted(predicted.tolist()) == list(range(1, whole + 1))
    for item in map(samples.__getitem__, range(len(samples))):
        assert item["input_ids"].dtype == item["shift_labels"].dtype == torch.int64
        assert item["shift_labels"].tolist() == (item["input_ids"] + 1).tolist()


@given(LENGTHS, SEQUENCE, st.integers(0, 3))
def test_every_epoch_is_a_permutation_of_the_samples(lengths, sequence_length, seed):
    n = len(PackedSamples(token_file(lengths), sequence_length))
    samples = PackedSamples(token_file(lengths), sequence_length, seed=seed, num_samples=3 * n)
    firsts = [int(samples[i]["input_ids"][0]) for i in range(3 * n)]
    for epoch in range(3):
        assert sorted(firsts[epoch * n : (epoch + 1) * n]) == [i * sequence_length for i in range(n)]


def test_epochs_and_seeds_differ():
    def order(seed):
        samples = PackedSamples(token_file([101]), 2, seed=seed, num_samples=100)
        return [int(samples[i]["input_ids"][0]) for i in range(100)]

    assert order(0) == order(0) != order(1)
    assert order(0)[:50] != order(0)[50:]


@given(LENGTHS, SEQUENCE, st.data())
def test_an_item_depends_on_its_index_and_not_on_the_number_of_samples_or_the_order_of_reads(
    lengths, sequence_length, data
):
    n = len(PackedSamples(token_file(lengths), sequence_length))
    long = PackedSamples(token_file(lengths), sequence_length, seed=5, num_samples=4 * n)
    index = data.draw(st.integers(0, 4 * n - 1))
    before = data.draw(st.integers(0, 4 * n - 1))
    short = PackedSamples(token_file(lengths), sequence_length, seed=5, num_samples=index + 1)
    expected = short[index]["input_ids"]
    assert long[before] is not None
    assert torch.equal(long[index]["input_ids"], expected)


def test_without_a_seed_samples_are_in_order():
    samples = PackedSamples(token_file([10, 3]), 4)
    assert len(samples) == 3
    assert [item["input_ids"].tolist() for item in samples] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


@given(LENGTHS, SEQUENCE)
def test_masked_documents_restart_positions_and_are_not_predicted_from_one_another(lengths, sequence_length):
    plain = PackedSamples(token_file(lengths), sequence_length)
    masked = PackedSamples(token_file(lengths), sequence_length, mask_documents=True)
    document_of = np.repeat(np.arange(len(lengths)), lengths)
    for index in range(len(plain)):
        inputs, labels = plain[index]["input_ids"].numpy(), plain[index]["shift_labels"].numpy()
        documents = document_of[inputs]
        positions = [int((documents[:i] == documents[i]).sum()) for i in range(sequence_length)]
        expected = np.where(document_of[labels] == documents, labels, -100)
        assert masked[index]["input_ids"].tolist() == inputs.tolist()
        assert masked[index]["position_ids"].tolist() == positions
        assert masked[index]["shift_labels"].tolist() == expected.tolist()
    assert "position_ids" not in plain[0]


def test_samples_of_a_real_file_go_through_worker_processes(tmp_path):
    file = write_token_file(tmp_path / "x", [[3, 1, 4, 0], [1, 5, 9, 2, 6, 0]], 300)
    loader = torch.utils.data.DataLoader(PackedSamples(file, 3), batch_size=3, num_workers=1)
    (batch,) = loader
    assert batch["input_ids"].tolist() == [[3, 1, 4], [0, 1, 5], [9, 2, 6]]
    assert batch["shift_labels"].tolist() == [[1, 4, 0], [1, 5, 9], [2, 6, 0]]


def test_a_file_shorter_than_one_sample_is_refused():
    assert len(PackedSamples(token_file([5]), 4)) == 1
    with pytest.raises(DataError, match=r"5 tokens are fewer than one sample of sequence_length 5 \+ 1"):
        PackedSamples(token_file([5]), 5)


def test_an_index_past_the_end_is_an_index_error():
    samples = PackedSamples(token_file([9]), 4)
    for index in (2, -1):
        with pytest.raises(IndexError):
            samples[index]

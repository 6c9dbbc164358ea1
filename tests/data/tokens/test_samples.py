"""Samples cover every token once an epoch, hold what the files hold, and never cross from file to file."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loopway.data import Source, TokenFile, TokenSamples, write_token_file
from loopway.errors import DataError

LENGTHS = st.lists(st.integers(1, 12), min_size=2, max_size=12).filter(lambda lengths: sum(lengths) > 8)
FILES = st.lists(LENGTHS, min_size=1, max_size=3)
SEQUENCE = st.integers(1, 7)
SEED = st.one_of(st.none(), st.integers(0, 3))


@pytest.fixture(scope="session")
def counting_files(counting_file):
    """One file for each list of document lengths, a thousand ids apart, so that an id says file and place."""

    def make(lengths_of_files):
        return [counting_file(lengths, 1000 * number) for number, lengths in enumerate(lengths_of_files)]

    return make


def firsts(samples):
    return [int(samples[index]["input_ids"][0]) for index in range(len(samples))]


@given(FILES, SEQUENCE, SEED)
def test_every_token_is_predicted_exactly_once_an_epoch(counting_files, files, sequence_length, seed):
    samples = TokenSamples([Source(counting_files(files))], sequence_length, seed=seed)
    predicted = torch.cat([samples[index]["shift_labels"] for index in range(len(samples))])
    expected = [
        1000 * number + place
        for number, lengths in enumerate(files)
        for place in range(1, (sum(lengths) - 1) // sequence_length * sequence_length + 1)
    ]
    assert sorted(predicted.tolist()) == expected
    for index in range(len(samples)):
        item = samples[index]
        assert item["input_ids"].dtype == item["shift_labels"].dtype == torch.int64
        assert item["shift_labels"].tolist() == (item["input_ids"] + 1).tolist()


@given(FILES, SEQUENCE, st.integers(0, 3))
def test_every_epoch_is_a_permutation_of_the_samples_of_all_files(
    counting_files, files, sequence_length, seed
):
    sources = [Source([file]) for file in counting_files(files)]
    in_order = firsts(TokenSamples(sources, sequence_length))
    n = len(in_order)
    seen = firsts(TokenSamples(sources, sequence_length, seed=seed, num_samples=3 * n))
    for epoch in range(3):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == in_order


def test_epochs_and_seeds_differ(counting_file):
    file = counting_file([101])

    def order(seed):
        return firsts(TokenSamples([Source([file])], 2, seed=seed, num_samples=100))

    assert order(0) == order(0) != order(1)
    assert order(0)[:50] != order(0)[50:]


@given(FILES, SEQUENCE, st.data())
def test_an_item_depends_on_its_index_and_not_on_the_number_of_samples_or_the_order_of_reads(
    counting_files, files, sequence_length, data
):
    sources = [Source(counting_files(files))]
    n = len(TokenSamples(sources, sequence_length))
    long = TokenSamples(sources, sequence_length, seed=5, num_samples=4 * n)
    index = data.draw(st.integers(0, 4 * n - 1))
    before = data.draw(st.integers(0, 4 * n - 1))
    short = TokenSamples(sources, sequence_length, seed=5, num_samples=index + 1)
    expected = short[index]["input_ids"]
    assert long[before] is not None
    assert torch.equal(long[index]["input_ids"], expected)


def test_without_a_seed_samples_are_in_order(counting_file):
    samples = TokenSamples([Source([counting_file([10, 3])]), Source([counting_file([5], 50)])], 4)
    assert len(samples) == samples.samples_per_epoch == 4
    assert [item["input_ids"].tolist() for item in samples] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
        [50, 51, 52, 53],
    ]


@given(FILES, SEQUENCE, SEED)
def test_masked_documents_restart_positions_and_are_not_predicted_from_one_another(
    counting_files, files, sequence_length, seed
):
    sources = [Source(counting_files(files))]
    plain = TokenSamples(sources, sequence_length, seed=seed)
    masked = TokenSamples(sources, sequence_length, seed=seed, mask_documents=True)
    for index in range(len(plain)):
        inputs, labels = plain[index]["input_ids"].numpy(), plain[index]["shift_labels"].numpy()
        number = inputs[0] // 1000
        document_of = np.repeat(np.arange(len(files[number])), files[number])
        documents = document_of[inputs - 1000 * number]
        positions = [int((documents[:i] == documents[i]).sum()) for i in range(sequence_length)]
        expected = np.where(document_of[labels - 1000 * number] == documents, labels, -100)
        assert masked[index]["input_ids"].tolist() == inputs.tolist()
        assert masked[index]["position_ids"].tolist() == positions
        assert masked[index]["position_ids"].dtype == torch.int64
        assert masked[index]["shift_labels"].tolist() == expected.tolist()
    assert "position_ids" not in plain[0]


@given(FILES, SEQUENCE, SEED)
def test_the_document_in_which_each_sample_begins_is_known(counting_files, files, sequence_length, seed):
    samples = TokenSamples([Source(counting_files(files))], sequence_length, seed=seed)
    document_of, documents = {}, 0
    for number, lengths in enumerate(files):
        owners = np.repeat(np.arange(documents, documents + len(lengths)), lengths)
        document_of |= {1000 * number + place: owner for place, owner in enumerate(owners)}
        documents += len(lengths)
    found = samples.document_of_samples()
    assert found.dtype == np.int64
    assert found.tolist() == [document_of[first] for first in firsts(samples)]


def test_samples_of_a_real_file_go_through_worker_processes(tmp_path):
    file = write_token_file(tmp_path / "x", [[3, 1, 4, 0], [1, 5, 9, 2, 6, 0]], 300)
    samples = TokenSamples([Source([file])], 3)
    for context in ("fork", "spawn"):
        loader = torch.utils.data.DataLoader(
            samples, batch_size=3, num_workers=1, multiprocessing_context=context
        )
        (batch,) = loader
        assert batch["input_ids"].tolist() == [[3, 1, 4], [0, 1, 5], [9, 2, 6]]
        assert batch["shift_labels"].tolist() == [[1, 4, 0], [1, 5, 9], [2, 6, 0]]


def test_a_file_shorter_than_one_sample_is_passed_over_unless_all_are(counting_file):
    short, long = counting_file([5]), counting_file([6])
    assert len(TokenSamples([Source([short])], 4)) == 1
    assert len(TokenSamples([Source([short, long, short])], 5)) == 1
    message = r"5 tokens are fewer than one sample of sequence_length 5 \+ 1; give more text or shorten"
    with pytest.raises(DataError, match=message):
        TokenSamples([Source([short, counting_file([2])])], 5)
    with pytest.raises(DataError, match=message):
        TokenSamples([Source([long], 0.5), Source([short], 0.5)], 5)
    with pytest.raises(DataError, match="a source without token files"):
        TokenSamples([], 5)
    with pytest.raises(DataError, match="a source without token files"):
        TokenSamples([Source([long], 0.5), Source([], 0.5)], 5)


def test_an_index_past_the_end_is_an_index_error(counting_file):
    samples = TokenSamples([Source([counting_file([9])])], 4)
    for index in (2, -1):
        with pytest.raises(IndexError):
            samples[index]


def test_a_mixture_has_its_shares_whatever_the_sizes_of_its_sources(counting_file):
    files = [counting_file([201]), counting_file([31, 10], 1000), counting_file([21], 2000)]
    sources = [Source(files[:1], 7), Source(files[1:], 3)]
    samples = TokenSamples(sources, 2, seed=1, num_samples=2000)
    assert samples.samples_per_epoch == 100 + 20 + 10
    assert len(TokenSamples(sources, 2)) == samples.samples_per_epoch
    seen = firsts(samples)
    for block in (seen[:1000], seen[1000:]):
        assert sum(first < 1000 for first in block) == 700
    of_second = [first for first in seen if first >= 1000]  # two files of 30 rows in all
    assert all(count == 1 for count in Counter(of_second[:30]).values())
    assert of_second[:30] != of_second[30:60]
    another = firsts(TokenSamples(sources, 2, seed=2, num_samples=2000))
    assert [first for first in another if first < 1000] != [first for first in seen if first < 1000]
    assert [first < 1000 for first in another] != [first < 1000 for first in seen]


def test_equal_sources_of_a_mixture_are_not_shuffled_alike(counting_file):
    sources = [Source([counting_file([101], first)], 1) for first in (0, 1000)]
    seen = firsts(TokenSamples(sources, 2, seed=0, num_samples=1000))
    assert [first for first in seen if first < 1000] != [first - 1000 for first in seen if first >= 1000]


def test_weights_are_given_to_all_sources_or_none(counting_file):
    with pytest.raises(DataError, match="some sources have a weight and some have none"):
        TokenSamples([Source([counting_file([9])], 1), Source([counting_file([9])])], 4)


@pytest.mark.parametrize("dtype_size", [2, 4])
@pytest.mark.parametrize("mask_documents", [False, True])
def test_an_id_outside_the_vocabulary_is_refused_where_it_is_read(tmp_path, dtype_size, mask_documents):
    documents = [[0, 1, 2], [3, 299, 5, 6], [7, 8]]
    file = write_token_file(tmp_path / "x", documents, 300 if dtype_size == 2 else 70_000)
    assert file.dtype.itemsize == dtype_size
    large_enough = TokenSamples([Source([file])], 2, vocab_size=300, mask_documents=mask_documents)
    assert [large_enough[index]["input_ids"].tolist() for index in range(3)] == [[0, 1], [2, 3], [299, 5]]
    samples = TokenSamples([Source([file])], 2, vocab_size=299, mask_documents=mask_documents)
    assert samples[0]["shift_labels"][0] == 1
    with pytest.raises(DataError, match=r"x: token 4 is 299, outside the vocabulary 0\.\.298"):
        samples[1]  # as its last label
    with pytest.raises(DataError, match=r"x: token 4 is 299"):
        samples[2]


def test_a_negative_id_is_refused_where_it_is_read(tmp_path):
    write_token_file(tmp_path / "x", [[1, 2, 3, 4]], 70_000)
    ids = np.fromfile(tmp_path / "x.bin", "<i4")
    ids[3] = -5
    ids.tofile(tmp_path / "x.bin")
    samples = TokenSamples([Source([TokenFile.open(tmp_path / "x")])], 3, vocab_size=70_000)
    with pytest.raises(DataError, match=r"x: token 3 is -5, outside the vocabulary 0\.\.69999"):
        samples[0]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), SEQUENCE, SEED)
def test_preshuffled_samples_are_the_sequences_of_the_files_in_order(
    counting_files, counts, sequence_length, seed
):
    files = counting_files([[sequence_length + 1] * count for count in counts])
    samples = TokenSamples(
        [Source(files)], sequence_length, sampling="preshuffled", seed=seed, vocab_size=3000
    )
    assert len(samples) == samples.samples_per_epoch == sum(counts)
    numbers = [(file, row) for file, count in enumerate(counts) for row in range(count)]
    for index, (file, row) in enumerate(numbers):
        sequence = files[file].sequence(row).tolist()
        assert samples[index]["input_ids"].tolist() == sequence[:-1]
        assert samples[index]["shift_labels"].tolist() == sequence[1:]
    assert samples.document_of_samples().tolist() == list(range(sum(counts)))


def test_preshuffled_epochs_are_all_the_same_and_mixtures_keep_each_source_in_order(counting_file):
    files = [counting_file([3] * 5), counting_file([3] * 4, 1000)]
    twice = TokenSamples([Source(files)], 2, sampling="preshuffled", seed=0, num_samples=18)
    assert firsts(twice)[:9] == firsts(twice)[9:]
    mixture = [Source([file], 1) for file in files]
    seen = firsts(TokenSamples(mixture, 2, sampling="preshuffled", seed=0, num_samples=1000))
    assert [first for first in seen if first < 1000] == [0, 3, 6, 9, 12] * 100
    assert [first for first in seen if first >= 1000] == [1000, 1003, 1006, 1009] * 125
    assert {first < 1000 for first in seen[:100]} == {True, False}  # at places of the seed's


def test_preshuffled_sequences_of_another_length_are_refused_with_the_length_to_set(counting_file):
    with pytest.raises(
        DataError, match=r"sequence 0 has 5 tokens.*set data.sequence_length to 4, or data.sampling"
    ):
        TokenSamples([Source([counting_file([5, 5])])], 5, sampling="preshuffled")
    with pytest.raises(DataError, match="11 tokens are not 2 preshuffled sequences of 5"):
        TokenSamples([Source([counting_file([5, 6])])], 4, sampling="preshuffled")
    hidden = TokenSamples([Source([counting_file([5, 4, 6])])], 4, sampling="preshuffled")
    assert hidden[0]["input_ids"].tolist() == [0, 1, 2, 3]
    for index in (1, 2):
        with pytest.raises(DataError, match=f"sequence {index} has {4 if index == 1 else 6} tokens"):
            hidden[index]


def test_preshuffled_documents_can_not_be_masked(counting_file):
    with pytest.raises(DataError, match="preshuffled sequences have no document boundaries"):
        TokenSamples([Source([counting_file([5])])], 4, sampling="preshuffled", mask_documents=True)

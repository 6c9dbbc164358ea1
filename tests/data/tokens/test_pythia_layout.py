"""The layout of Pythia's preshuffled Pile, small: shards cut at any byte, one index, rows seen as they stand."""

import itertools
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loopway.data import Source, TokenFile, TokenSamples
from loopway.errors import DataError

ROWS, LENGTH = 24, 9  # Pythia's: 146,432,000 and 2,049
BATCH = 4  # Pythia's: 1,024
TOKENS = np.random.default_rng(0).permutation(2**16)[: ROWS * LENGTH].astype("<u2")  # all different
CONTENT = TOKENS.tobytes()


def write(folder: Path, cuts: list[int]) -> Path:
    """Writes the rows in shards that end at the bytes `cuts`, whose names say the number of the last shard."""
    edges = [0, *cuts, len(CONTENT)]
    for number, (start, stop) in enumerate(itertools.pairwise(edges)):
        (folder / f"document-{number:05}-of-{len(cuts):05}.bin").write_bytes(CONTENT[start:stop])
    (folder / "document.idx").write_bytes(
        b"MMIDIDX\0\0"
        + struct.pack("<QBQQ", 1, 8, ROWS, ROWS + 1)
        + struct.pack(f"<{ROWS}i", *[LENGTH] * ROWS)
        + struct.pack(f"<{ROWS}q", *range(0, len(CONTENT), 2 * LENGTH))
        + struct.pack(f"<{ROWS + 1}q", *range(ROWS + 1))
    )
    return folder / "document"


def samples(path: Path, **options) -> TokenSamples:
    sources = [Source([TokenFile.open(path)])]
    return TokenSamples(sources, LENGTH - 1, sampling="preshuffled", vocab_size=2**16, **options)


def assert_all_rows(found: TokenSamples) -> None:
    assert len(found) == ROWS
    for index, row in enumerate(TOKENS.reshape(ROWS, LENGTH).tolist()):
        assert found[index]["input_ids"].tolist() == row[:-1]
        assert found[index]["shift_labels"].tolist() == row[1:]


CUTS = [1, 33, 33, 40, 41, 42, 199, 300, 431]  # odd and even bytes, an empty shard, three cuts in one row


@pytest.mark.parametrize("name", ["document", "document.idx", "document-00003-of-00009.bin"])
def test_every_row_is_right_whatever_the_seed(tmp_path, name):
    write(tmp_path, CUTS)
    for seed in (None, 0, 1):
        assert_all_rows(samples(tmp_path / name, seed=seed))


@given(st.lists(st.integers(0, len(CONTENT)), max_size=30))
def test_shards_may_be_cut_anywhere(tmp_path_factory, cuts):
    folder = tmp_path_factory.mktemp("shards")
    assert_all_rows(samples(write(folder, sorted(cuts)) if cuts else whole(folder)))
    shutil.rmtree(folder)


def whole(folder: Path) -> Path:
    prefix = write(folder, [])
    (folder / "document-00000-of-00000.bin").rename(folder / "document.bin")
    return prefix


@pytest.mark.parametrize("workers", [0, 2])
def test_step_s_is_the_batch_from_row_s_times_the_batch_size_on(tmp_path, workers):
    steps = 2 * ROWS // BATCH  # two epochs
    data = samples(write(tmp_path, CUTS), seed=0, num_samples=steps * BATCH)
    rows = torch.from_numpy(TOKENS.astype(np.int64)).reshape(-1, BATCH, LENGTH)
    batches = list(torch.utils.data.DataLoader(data, batch_size=BATCH, num_workers=workers))
    assert len(batches) == steps
    for step, batch in enumerate(batches):
        assert torch.equal(batch["input_ids"], rows[step % len(rows)][:, :-1])
        assert torch.equal(batch["shift_labels"], rows[step % len(rows)][:, 1:])


def test_another_sequence_length_is_refused_with_the_one_to_set(tmp_path):
    file = TokenFile.open(write(tmp_path, CUTS))
    with pytest.raises(DataError, match=r"sequence 0 has 9 tokens.*set data.sequence_length to 8"):
        TokenSamples([Source([file])], LENGTH, sampling="preshuffled")


def test_the_same_shards_can_be_packed_to_another_length(tmp_path):
    file = TokenFile.open(write(tmp_path, CUTS))
    packed = TokenSamples([Source([file])], 31)
    for index in range(len(packed)):
        assert packed[index]["input_ids"].tolist() == TOKENS[31 * index : 31 * index + 31].tolist()

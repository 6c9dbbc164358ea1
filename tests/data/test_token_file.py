"""Token files hold what was written, in the format that Megatron and GPT-NeoX read; damaged ones are refused."""

import pickle
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loopway.data import TokenFile, write_token_file
from loopway.errors import DataError

DOCUMENTS = [[5, 6, 7, 0], [1, 0], [9, 0]]


@given(
    st.lists(st.lists(st.integers(0, 70_000), min_size=0, max_size=8), min_size=1, max_size=8).filter(any),
    st.sampled_from([65_536, 65_537, 70_001]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read(tmp_path, documents, vocab_size):
    documents = [[token % vocab_size for token in document] for document in documents]
    write_token_file(tmp_path / "a.b", documents, vocab_size)
    opened = TokenFile.open(tmp_path / "a.b")
    assert opened.tokens.tolist() == [token for document in documents for token in document]
    assert opened.document_lengths.tolist() == [len(document) for document in documents]
    assert opened.num_tokens == len(opened.tokens)
    assert opened.tokens.itemsize == (2 if vocab_size <= 65_536 else 4)


def test_the_bytes_are_those_of_the_format(tmp_path):
    write_token_file(tmp_path / "x", DOCUMENTS, 300)
    assert (tmp_path / "x.bin").read_bytes() == struct.pack("<8H", 5, 6, 7, 0, 1, 0, 9, 0)
    assert (tmp_path / "x.idx").read_bytes() == (
        b"MMIDIDX\0\0"
        + struct.pack("<QBQQ", 1, 8, 3, 4)
        + struct.pack("<3i3q4q", 4, 2, 2, 0, 8, 12, 0, 1, 2, 3)
    )


def index(code, sizes, pointers, documents):
    return (
        b"MMIDIDX\0\0"
        + struct.pack("<QBQQ", 1, code, len(sizes), len(documents))
        + np.array(sizes, "<i4").tobytes()
        + np.array(pointers, "<i8").tobytes()
        + np.array(documents, "<i8").tobytes()
    )


@pytest.mark.parametrize(
    ("code", "dtype"), [(1, "u1"), (2, "i1"), (3, "<i2"), (4, "<i4"), (5, "<i8"), (8, "<u2")]
)
def test_every_integer_dtype_and_documents_of_several_sequences_are_read(tmp_path, code, dtype):
    tokens = np.array([3, 1, 4, 1, 5], dtype)
    tokens.tofile(tmp_path / "x.bin")
    (tmp_path / "x.idx").write_bytes(
        index(code, [2, 1, 2], [0, 2 * tokens.itemsize, 3 * tokens.itemsize], [0, 2, 3])
    )
    opened = TokenFile.open(tmp_path / "x")
    assert opened.tokens.tolist() == [3, 1, 4, 1, 5]
    assert opened.document_lengths.tolist() == [3, 2]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda idx: b"", "x.idx: truncated"),
        (lambda idx: idx[:20], "x.idx: truncated"),
        (lambda idx: idx[:-1], "x.idx: truncated or damaged"),
        (lambda idx: idx + b"\0", "x.idx: truncated or damaged"),
        (lambda idx: b"TNTIDX\0\0\0" + idx[9:], "x.idx: not the index of a token file"),
        (lambda idx: idx[:9] + struct.pack("<Q", 2) + idx[17:], "x.idx: version 2"),
        (lambda idx: idx[:17] + b"\x06" + idx[18:], "x.idx: dtype code 6"),
        (lambda idx: idx[:17] + b"\x07" + idx[18:], "x.idx: dtype code 7"),
        (lambda idx: idx[:18] + struct.pack("<Q", 2**64 - 1) + idx[26:], "x.idx: truncated or damaged"),
        (
            lambda idx: index(8, [4, 2, 3], [0, 8, 12], [0, 1, 2, 3]),
            "x.bin: 16 bytes, but x.idx describes 18",
        ),
        (lambda idx: index(8, [4, 2, 2], [0, 8, 10], [0, 1, 2, 3]), "do not follow one another"),
        (lambda idx: index(8, [10, -2], [0, 20], [0, 1, 2]), "negative length"),
        (lambda idx: index(8, [4, 2, 2], [0, 8, 12], [0, 1, 2]), "document index must rise from 0 to 3"),
        (lambda idx: index(8, [4, 2, 2], [0, 8, 12], [0, 2, 1, 3]), "document index must rise"),
        (lambda idx: index(8, [4, 2, 2], [0, 8, 12], []), "document index must rise"),
    ],
)
def test_a_damaged_index_is_refused(tmp_path, damage, message):
    write_token_file(tmp_path / "x", DOCUMENTS, 300)
    (tmp_path / "x.idx").write_bytes(damage((tmp_path / "x.idx").read_bytes()))
    with pytest.raises(DataError, match=message):
        TokenFile.open(tmp_path / "x")


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_damage_never_crashes(tmp_path, data):
    write_token_file(tmp_path / "x", DOCUMENTS, 300)
    content = bytearray((tmp_path / "x.idx").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "x.idx").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        opened = TokenFile.open(tmp_path / "x")
    except DataError:
        return
    assert opened.document_lengths.sum() == opened.num_tokens


def test_a_missing_half_and_an_empty_file_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"x.bin: no such file"):
        TokenFile.open(tmp_path / "x")
    write_token_file(tmp_path / "x", DOCUMENTS, 300)
    (tmp_path / "x.idx").unlink()
    with pytest.raises(DataError, match=r"x.idx: no such file"):
        TokenFile.open(tmp_path / "x")
    with pytest.raises(DataError, match="holds no tokens"):
        write_token_file(tmp_path / "y", [], 300)


@pytest.mark.parametrize("token", [-1, 300])
def test_a_token_outside_the_vocabulary_is_refused(tmp_path, token):
    with pytest.raises(DataError, match=r"document 1 has a token id outside 0..299"):
        write_token_file(tmp_path / "x", [[1], [token]], 300)


def test_a_pickled_token_file_maps_the_file_instead_of_copying_it(tmp_path):
    tokens = write_token_file(tmp_path / "x", [[1] * 10_000], 300)
    pickled = pickle.dumps(tokens)
    assert len(pickled) < 1_000
    assert pickle.loads(pickled).tokens.tolist() == tokens.tokens.tolist()

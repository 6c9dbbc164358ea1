"""Token files are written in the format that Megatron and GPT-NeoX read, the same however they are given."""

import hashlib
import struct
import tracemalloc
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loopway.data import TokenFile, write_token_file
from loopway.data.tokens.writer import TokenWriter
from loopway.errors import DataError

DOCUMENTS = [[5, 6, 7, 0], [1, 0], [9, 0]]
SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def append(writer: TokenWriter, documents: list[list[int]]) -> None:
    ids = np.array([token for document in documents for token in document], np.int64)
    writer.append(ids, np.array([len(document) for document in documents], np.int64))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@given(
    st.lists(st.lists(st.integers(0, 70_000), max_size=8), min_size=1, max_size=8).filter(any),
    st.sampled_from([65_536, 65_537, 70_001]),
)
@SAME_FOLDER
def test_what_is_written_is_read(tmp_path, documents, vocab_size):
    documents = [[token % vocab_size for token in document] for document in documents]
    file = write_token_file(tmp_path / "a.b", documents, vocab_size)
    file.verify(vocab_size)
    assert file.prefix == tmp_path / "a.b"
    assert file.read(0, file.num_tokens).tolist() == [token for document in documents for token in document]
    assert [file.sequence(i).tolist() for i in range(file.num_sequences)] == documents
    assert file.document_lengths.tolist() == [len(document) for document in documents]
    assert file.dtype == np.dtype("<u2" if vocab_size <= 65_536 else "<i4")


def test_the_bytes_are_those_of_the_format(tmp_path):
    write_token_file(tmp_path / "x", DOCUMENTS, 300)
    assert contents(tmp_path) == {
        "x.bin": struct.pack("<8H", 5, 6, 7, 0, 1, 0, 9, 0),
        "x.idx": b"MMIDIDX\0\0"
        + struct.pack("<QBQQ", 1, 8, 3, 4)
        + struct.pack("<3i3q4q", 4, 2, 2, 0, 8, 12, 0, 1, 2, 3),
    }


def test_the_bytes_are_those_of_another_writer(tmp_path, golden):
    """Of the documents that are one sequence in the file of the other."""
    other = TokenFile.open(golden / "token_files" / "int32")
    write_token_file(tmp_path / "x", [other.sequence(i).tolist() for i in range(6)], 2**18)
    assert (tmp_path / "x.bin").read_bytes() == (golden / "token_files" / "int32.bin").read_bytes()
    header, sizes_and_pointers = 26, 34 + 12 * 6  # then the document entries, of which the other has fewer
    ours, theirs = (tmp_path / "x.idx").read_bytes(), (golden / "token_files" / "int32.idx").read_bytes()
    assert ours[:header] == theirs[:header]
    assert ours[34:sizes_and_pointers] == theirs[34:sizes_and_pointers]


@given(st.data())
@SAME_FOLDER
def test_however_it_is_written_the_file_is_the_same(tmp_path, data):
    documents = data.draw(st.lists(st.lists(st.integers(0, 69_999), max_size=6), max_size=12))
    vocab_size = data.draw(st.sampled_from([70_000, 80_000]))
    for path in tmp_path.iterdir():
        path.unlink()
    writer, done = TokenWriter(tmp_path / "x", vocab_size), 0
    while done < len(documents):
        if data.draw(st.booleans()):
            count = data.draw(st.integers(0, len(documents) - done))
            append(writer, documents[done : done + count])
            done += count
        else:
            ids = np.array(documents[done], np.int64)
            cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=3)))
            for start, stop in pairwise([0, *cuts]):
                writer.append(ids[start:stop], np.array([stop - start]), ends=False)
            rest = ids[cuts[-1] if cuts else 0 :]
            writer.append(rest, np.array([len(rest)]))
            done += 1
        assert writer.documents == done
    result = writer.finish()
    written = contents(tmp_path)
    tokens = [token for document in documents for token in document]
    assert result == {
        "documents": len(documents),
        "tokens": len(tokens),
        "largest_id": max(tokens, default=-1),
        "sha256": hashlib.sha256(np.array(tokens, "<i4").tobytes()).hexdigest(),
    }
    assert list(written) == ["x.bin", "x.idx"]
    with closing(TokenWriter(tmp_path / "x", vocab_size)) as at_once:
        append(at_once, documents)
        at_once.finish()
    assert contents(tmp_path) == written


def test_a_new_file_replaces_what_is_there(tmp_path):
    for name in ("x.bin", "x.idx", "x.lengths"):
        (tmp_path / name).write_bytes(b"of something else")
    with closing(TokenWriter(tmp_path / "x", 300)) as writer:
        assert not (tmp_path / "x.idx").exists()  # it isn't that of the new .bin
        append(writer, DOCUMENTS)
        writer.finish()
    assert TokenFile.open(tmp_path / "x").document_lengths.tolist() == [4, 2, 2]
    assert list(contents(tmp_path)) == ["x.bin", "x.idx"]


@pytest.mark.parametrize("token", [-1, 300])
def test_a_token_outside_the_vocabulary_is_refused_and_nothing_of_its_batch_written(tmp_path, token):
    with pytest.raises(DataError, match=rf"x.bin: document 1 has a token id outside 0..299: {token}$"):
        write_token_file(tmp_path / "x", [[1], [token]], 300)
    with closing(TokenWriter(tmp_path / "y", 300)) as writer:
        append(writer, [[1], [], [2, 3]])
        with pytest.raises(DataError, match=rf"y.bin: document 6 has a token id outside 0..299: {token}$"):
            append(writer, [[4], [], [5], [token, 0]])
        writer.append(np.array([6]), np.array([1]), ends=False)
        with pytest.raises(DataError, match=r"document 3 has a token id outside"):
            writer.append(np.array([token]), np.array([1]))
        writer.append(np.array([7]), np.array([1]))
        writer.finish()
    assert TokenFile.open(tmp_path / "y").read(0, 5).tolist() == [1, 2, 3, 6, 7]


def test_a_document_longer_than_the_format_can_say_is_refused(tmp_path):
    too_long = np.broadcast_to(np.uint16(0), 2**31)  # takes no memory
    with closing(TokenWriter(tmp_path / "x", 300)) as writer:
        writer.append(np.array([1]), np.array([1]), ends=False)
        with pytest.raises(
            DataError, match=r"a document has 2147483648 tokens; the format allows 2147483647"
        ):
            writer.append(too_long[1:], np.array([2**31 - 1]))
        writer.append(np.array([2]), np.array([1]))
        with pytest.raises(DataError, match=r"a document has 2147483648 tokens"):
            writer.append(too_long, np.array([2**31]))
        writer.finish()
    assert TokenFile.open(tmp_path / "x").document_lengths.tolist() == [2]


def test_a_file_does_not_end_within_a_document(tmp_path):
    with closing(TokenWriter(tmp_path / "x", 300)) as writer:
        writer.append(np.array([], np.int64), np.array([0]), ends=False)
        with pytest.raises(ValueError, match="the last document has not ended"):
            writer.finish()


def test_lengths_that_do_not_fit_the_ids_are_refused(tmp_path):
    with closing(TokenWriter(tmp_path / "x", 300)) as writer:
        for lengths in ([2, 2], [4, -1], []):
            with pytest.raises(ValueError):
                writer.append(np.array([1, 2, 3]), np.array(lengths, np.int64))
        assert (writer.tokens, writer.documents) == (0, 0)


def test_no_tokens_at_all_are_refused(tmp_path):
    with pytest.raises(DataError, match="holds no tokens"):
        write_token_file(tmp_path / "x", [], 300)


def test_memory_does_not_grow_with_the_documents(tmp_path):
    """Through writing and making an index of more entries than are made at a time."""
    ids, lengths = np.arange(1_000) % 300, np.full(1_000, 1)
    tracemalloc.start()
    try:
        writer = TokenWriter(tmp_path / "x", 300)
        for _ in range(300):
            writer.append(ids, lengths)
        before = tracemalloc.get_traced_memory()[1]
        writer.finish()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert before < 2_000_000  # bytes; a number for each document would be 2,400,000
    assert peak < 8_000_000  # a few arrays of 262,144 entries, however many there are
    file = TokenFile.open(tmp_path / "x")
    file.verify(300)
    assert (file.num_documents, file.num_tokens) == (300_000, 300_000)
    assert np.array_equal(file.read(299_000, 300_000), ids)

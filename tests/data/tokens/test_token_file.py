"""Token files of any writer are read to the token, in whatever pieces they lie; damaged ones are refused."""

import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loopway.data import TokenFile, write_token_file
from loopway.errors import DataError

DOCUMENTS = [[5, 6, 7, 0], [1, 0], [9, 0]]
SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def index(code, sizes, pointers, documents):
    return (
        b"MMIDIDX\0\0"
        + struct.pack("<QBQQ", 1, code, len(sizes), len(documents))
        + np.array(sizes, "<i4").tobytes()
        + np.array(pointers, "<i8").tobytes()
        + np.array(documents, "<i8").tobytes()
    )


def write_sequences(prefix: Path, sizes, documents, *, tokens=None):
    """A uint16 file of tokens 0, 1, 2, ..., or of those given, in sequences of those sizes."""
    tokens = np.arange(sum(sizes)) if tokens is None else tokens
    ends = np.cumsum(np.array(sizes, np.int64)) * 2
    Path(f"{prefix}.bin").write_bytes(np.asarray(tokens, "<u2").tobytes())
    Path(f"{prefix}.idx").write_bytes(index(8, sizes, ends - np.array(sizes, np.int64) * 2, documents))


def use(file: TokenFile) -> None:
    """Everything that can be asked of a file, within its bounds; each raises :class:`DataError` or answers right."""
    assert len(file.read(0, file.num_tokens)) == file.num_tokens > 0
    asked = [
        lambda: file.check_ids(2**16),
        lambda: file.verify(2**16),
        lambda: document_lengths_sum(file),
        *(lambda i=i: len(file.sequence(i)) == file.sequence_size(i) for i in range(file.num_sequences)),
    ]
    for start in range(file.num_tokens):
        for stop in range(start, file.num_tokens + 1):
            asked.append(lambda start=start, stop=stop: begins_within(file, start, stop))
    for question in asked:
        try:
            question()
        except DataError:
            continue


def document_lengths_sum(file: TokenFile) -> None:
    assert (file.document_lengths >= 0).all()
    assert file.document_lengths.sum() == file.num_tokens


def begins_within(file: TokenFile, start: int, stop: int) -> None:
    begins = file.document_begins(start, stop).tolist()
    assert begins == sorted(set(begins))
    assert all(start <= begin < stop for begin in begins)


@given(
    st.lists(
        st.lists(st.integers(0, 5), max_size=4).map(lambda sizes: sizes or [0]), min_size=1, max_size=6
    ).filter(lambda documents: any(map(any, documents))),
    st.booleans(),
)
@SAME_FOLDER
def test_every_token_sequence_and_document_is_where_the_index_says(tmp_path, documents, ends_with_count):
    """Sequences and documents may be empty; the number of sequences at the end may be left out."""
    sizes = [size for document in documents for size in document]
    firsts = np.cumsum([0, *map(len, documents)]).tolist()
    write_sequences(tmp_path / "x", sizes, firsts if ends_with_count else firsts[:-1])
    file = TokenFile.open(tmp_path / "x")
    file.verify(len(documents) * 20)
    assert file.num_tokens == sum(sizes)
    assert (file.num_sequences, file.num_documents) == (len(sizes), len(documents))
    assert file.document_lengths.tolist() == [sum(document) for document in documents]
    starts = np.cumsum([0, *sizes])
    for i, size in enumerate(sizes):
        assert file.sequence_size(i) == size
        assert file.sequence(i).tolist() == list(range(starts[i], starts[i] + size))
    begins = {sum(map(sum, documents[:i])) for i in range(len(documents))}
    for start in range(file.num_tokens + 1):
        for stop in range(start, file.num_tokens + 1):
            assert file.read(start, stop).tolist() == list(range(start, stop))
            expected = [begin for begin in sorted(begins) if start <= begin < stop]
            assert file.document_begins(start, stop).tolist() == expected


OF_ANOTHER_WRITER = [[[11, 12, 13, 0]], [[21, 22], [23], [24, 25, 0]], [[0]], [[41, 65535, 43, 44, 0]]]


@pytest.mark.parametrize(
    ("name", "dtype", "added", "documents"),
    [
        ("uint16", "<u2", 0, OF_ANOTHER_WRITER),
        ("int32", "<i4", 100_000, OF_ANOTHER_WRITER),
        ("no_documents", "<u2", 0, OF_ANOTHER_WRITER[1:2]),
    ],
)
def test_files_of_another_writer_are_read(golden, name, dtype, added, documents):
    file = TokenFile.open(golden / "token_files" / name)
    file.verify(165_536)
    assert file.dtype == np.dtype(dtype)
    sequences = [[token + added for token in sequence] for document in documents for sequence in document]
    assert [file.sequence(i).tolist() for i in range(file.num_sequences)] == sequences
    assert file.read(0, file.num_tokens).tolist() == [token for sequence in sequences for token in sequence]
    lengths = [sum(map(len, document)) for document in documents]
    assert file.document_lengths.tolist() == lengths
    begins = np.cumsum([0, *lengths])[:-1].tolist()
    assert file.document_begins(0, file.num_tokens).tolist() == begins


@pytest.mark.parametrize(
    ("code", "dtype"), [(1, "u1"), (2, "i1"), (3, "<i2"), (4, "<i4"), (5, "<i8"), (8, "<u2")]
)
def test_every_integer_dtype_is_read(tmp_path, code, dtype):
    tokens = np.array([3, 1, 4, 1, 5], dtype)
    tokens.tofile(tmp_path / "x.bin")
    pointers = [0, 2 * tokens.itemsize, 3 * tokens.itemsize]
    (tmp_path / "x.idx").write_bytes(index(code, [2, 1, 2], pointers, [0, 2, 3]))
    file = TokenFile.open(tmp_path / "x")
    file.verify()
    file.verify(6)
    assert file.dtype == np.dtype(dtype)
    assert file.read(0, 5).tolist() == [3, 1, 4, 1, 5]
    assert file.sequence(2).tolist() == [1, 5]
    with pytest.raises(DataError, match=r"x: token 4 has the id 5, outside 0..4"):
        file.check_ids(5)


@given(st.lists(st.integers(0, 40), max_size=6).map(sorted), st.booleans())
@SAME_FOLDER
def test_shards_are_read_as_the_file_they_were_cut_from(tmp_path, cuts, of_is_last):
    """Cuts fall anywhere, inside tokens too; the number after "of" is the count or the last number."""
    for path in tmp_path.iterdir():
        path.unlink()
    write_sequences(tmp_path / "x", [7, 0, 9, 4], [0, 1, 4], tokens=np.arange(20) + 60_000)
    content = (tmp_path / "x.bin").read_bytes()
    (tmp_path / "x.bin").unlink()
    shards = [content[start:stop] for start, stop in zip([0, *cuts], [*cuts, 40], strict=True)]
    of = len(shards) - of_is_last
    paths = [tmp_path / f"x-{number:05}-of-{of:05}.bin" for number in range(len(shards))]
    for path, shard in zip(paths, shards, strict=True):
        path.write_bytes(shard)
    file = TokenFile.open(tmp_path / "x")
    file.verify(2**16 - 1)
    for start in range(21):
        for stop in range(start, 21):
            tokens = file.read(start, stop)
            assert tokens.dtype == np.dtype("<u2")
            assert tokens.tolist() == list(range(60_000 + start, 60_000 + stop))
    assert file.sequence(2).tolist() == list(range(60_007, 60_016))
    for path in paths:
        assert TokenFile.open(path).prefix == tmp_path / "x"


def test_tokens_of_one_shard_are_a_view_even_where_they_are_not_aligned(tmp_path):
    write_sequences(tmp_path / "x", [20], [0, 1])
    content = (tmp_path / "x.bin").rename(tmp_path / "whole").read_bytes()
    (tmp_path / "x-00000-of-00002.bin").write_bytes(content[:7])
    (tmp_path / "x-00001-of-00002.bin").write_bytes(content[7:])
    file = TokenFile.open(tmp_path / "x")
    for first, last in [(0, 3), (4, 20)]:
        assert np.shares_memory(file.read(first, last), file.read(first, last))
        assert not file.read(first, last).flags.writeable
    assert not np.shares_memory(file.read(0, 20), file.read(0, 20))
    assert not file.read(4, 20).flags.aligned


def test_a_file_that_is_cut_off_while_it_is_open_is_an_error_and_a_deleted_one_is_read_on(tmp_path):
    file = write_token_file(tmp_path / "x", DOCUMENTS, 10)
    with (tmp_path / "x.bin").open("r+b") as content:
        content.truncate(4)
    with pytest.raises(DataError, match="it had 16 bytes when it was opened, now 4"):  # and no SIGBUS
        file.read(0, 1)
    file = write_token_file(tmp_path / "y", DOCUMENTS, 10)
    (tmp_path / "y.bin").unlink()
    assert file.read(0, file.num_tokens).tolist() == [token for document in DOCUMENTS for token in document]


def test_a_file_is_opened_by_any_of_its_names(tmp_path):
    write_token_file(tmp_path / "a.b", DOCUMENTS, 300)
    for name in ("a.b", "a.b.bin", "a.b.idx"):
        assert TokenFile.open(tmp_path / name).prefix == tmp_path / "a.b"
        assert TokenFile.open(str(tmp_path / name)).num_tokens == 8


def test_token_files_that_are_only_called_like_shards_stay_apart(tmp_path):
    for number in range(3):
        write_token_file(tmp_path / f"x-{number:05}-of-00003", [[number]], 300)
    write_token_file(tmp_path / "x", [[9]], 300)
    assert TokenFile.open(tmp_path / "x").read(0, 1).tolist() == [9]
    for number in range(3):
        for name in (f"x-{number:05}-of-00003", f"x-{number:05}-of-00003.bin"):
            assert TokenFile.open(tmp_path / name).read(0, 1).tolist() == [number]
    write_token_file(tmp_path / "x-y", [[8]], 300)
    (tmp_path / "x-y.bin").rename(tmp_path / "x-y-00000-of-00001.bin")
    assert TokenFile.open(tmp_path / "x").read(0, 1).tolist() == [9]
    assert TokenFile.open(tmp_path / "x-y").read(0, 1).tolist() == [8]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["x-00000-of-00003", "x-00002-of-00003"], "not x-00001-of-00003.bin$"),
        (["x-00000-of-00003", "x-00002-of-00003", "x-00003-of-00003"], "not x-00001-of-00003.bin$"),
        (["x-00000-of-00003", "x-00001-of-00003"], "not x-00002-of-00003.bin$"),
        (["x-00001-of-00002", "x-00002-of-00002"], "not x-00000-of-00002.bin$"),
        (["x-00009-of-00009"], "holds 1 shards of x.bin, not .*, x-00002-of-00009.bin and 6 more$"),
        (["x-00000-of-00001", "x-00001-of-00001", "x-00003-of-00001"], "not x-00002-of-00001.bin$"),
        # the last shard where "of" is its number: only the bytes tell
        (
            ["x-00000-of-00002", "x-00001-of-00002"],
            "12 bytes, but x.idx describes 16; a file is truncated or missing",
        ),
        (["x-00000-of-00002", "x-00001-of-00002", "x"], "x.bin: exists beside its shards"),
        (["x-00000-of-00002", "x-00000-of-00003"], "shards of several sets"),
    ],
)
def test_shards_that_are_missing_or_ambiguous_are_refused(tmp_path, names, message):
    write_token_file(tmp_path / "x", DOCUMENTS, 300)
    (tmp_path / "x.bin").unlink()
    for name in names:
        (tmp_path / f"{name}.bin").write_bytes(b"\1\0" * 3)
    with pytest.raises(DataError, match=message):
        TokenFile.open(tmp_path / "x")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda idx: b"", "x.idx: truncated"),
        (lambda idx: idx[:20], "x.idx: truncated"),
        (lambda idx: idx[:-1], "x.idx: truncated or damaged"),
        (lambda idx: idx + b"\0", "x.idx: truncated or damaged"),
        (lambda idx: b"TNTIDX\0\0\0" + idx[9:], "x.idx: not the index of a token file"),
        (lambda idx: idx[:9] + struct.pack("<Q", 2) + idx[17:], "x.idx: version 2"),
        (lambda idx: idx[:17] + b"\x06" + idx[18:], "x.idx: dtype code 6 is a float"),
        (lambda idx: idx[:17] + b"\x07" + idx[18:], "x.idx: dtype code 7 is a float"),
        (lambda idx: idx[:17] + b"\x09" + idx[18:], "x.idx: dtype code 9 is unknown"),
        (lambda idx: idx[:18] + struct.pack("<Q", 2**64 - 1) + idx[26:], "x.idx: truncated or damaged"),
        (lambda idx: idx[:26] + struct.pack("<Q", 2**64 - 1) + idx[34:], "x.idx: truncated or damaged"),
        (
            lambda idx: index(8, [4, 2, 3], [0, 8, 12], [0, 1, 2, 3]),
            "x.bin: 16 bytes, but x.idx describes 18",
        ),
        (lambda idx: index(8, [4, 2, 2], [0, 8, 10], [0, 1, 2, 3]), "do not follow one another"),
        (lambda idx: index(8, [2, 2, 2], [4, 8, 12], [0, 1, 2, 3]), "do not follow one another"),
        (lambda idx: index(8, [-1, 7], [2, 0], [0, 1, 2]), "negative length"),
        (lambda idx: index(8, [10, -2], [0, 20], [0, 1, 2]), "negative length"),
        (
            lambda idx: index(8, [4, 2, 2], [0, 8, 12], [0, 2, 1, 3]),
            "document index must rise from 0 to the number",
        ),
        (lambda idx: index(8, [4, 2, 2], [0, 8, 12], [1, 2, 3]), "document index must rise"),
        (lambda idx: index(8, [4, 2, 2], [0, 8, 12], [0, 4]), "document index must rise"),
        (lambda idx: index(8, [4, 2, 2], [0, 8, 12], []), "document index must rise"),
        (lambda idx: index(8, [], [], [0]), "x.bin: 16 bytes, but x.idx describes 0"),
    ],
)
def test_a_damaged_index_is_refused(tmp_path, damage, message):
    write_token_file(tmp_path / "x", DOCUMENTS, 300)
    (tmp_path / "x.idx").write_bytes(damage((tmp_path / "x.idx").read_bytes()))
    with pytest.raises(DataError, match=message) as caught:
        TokenFile.open(tmp_path / "x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 1, 15, 17])
def test_a_bin_of_another_length_is_refused(tmp_path, size):
    write_token_file(tmp_path / "x", DOCUMENTS, 300)
    (tmp_path / "x.bin").write_bytes(bytes(size))
    with pytest.raises(DataError, match=rf"x.bin: {size} bytes, but x.idx describes 16"):
        TokenFile.open(tmp_path / "x")


def test_a_missing_half_and_an_empty_file_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"x.bin: no such file; a token file is a pair of .bin and .idx"):
        TokenFile.open(tmp_path / "x")
    with pytest.raises(DataError, match=r"missing/x.bin: no such file"):
        TokenFile.open(tmp_path / "missing" / "x")
    write_token_file(tmp_path / "x", DOCUMENTS, 300)
    (tmp_path / "x.idx").unlink()
    with pytest.raises(DataError, match=r"x.idx: no such file"):
        TokenFile.open(tmp_path / "x")
    write_sequences(tmp_path / "y", [0, 0], [0, 1, 2])
    with pytest.raises(DataError, match="holds no tokens"):
        TokenFile.open(tmp_path / "y")


def test_what_lies_outside_is_an_index_error(tmp_path):
    file = write_token_file(tmp_path / "x", DOCUMENTS, 300)
    for start, stop in [(-1, 3), (0, 9), (5, 4), (9, 9)]:
        with pytest.raises(IndexError):
            file.read(start, stop)
        with pytest.raises(IndexError):
            file.document_begins(start, stop)
    for number in (-1, 3):
        with pytest.raises(IndexError):
            file.sequence(number)
        with pytest.raises(IndexError):
            file.sequence_size(number)


@given(st.data())
@settings(SAME_FOLDER, max_examples=300)
def test_random_damage_never_crashes(tmp_path, data):
    write_token_file(tmp_path / "x", DOCUMENTS, 300)
    content = bytearray((tmp_path / "x.idx").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    kept = data.draw(st.integers(0, len(content)) | st.just(len(content)))
    (tmp_path / "x.idx").write_bytes(content[:kept])
    try:
        file = TokenFile.open(tmp_path / "x")
    except DataError:
        return
    use(file)


@given(st.binary(max_size=120), st.booleans())
@SAME_FOLDER
def test_random_bytes_never_crash(tmp_path, content, with_header):
    write_token_file(tmp_path / "x", DOCUMENTS, 300)
    header = (tmp_path / "x.idx").read_bytes()[:18] if with_header else b""
    (tmp_path / "x.idx").write_bytes(header + content)
    try:
        file = TokenFile.open(tmp_path / "x")
    except DataError:
        return
    use(file)


def write_large(folder: Path, each: int, damage) -> bool:
    """30,000 sequences of a token, `each` a document, of which opening looks at one in seven; whether it is valid.

    `damage` is (part of the index, place, number to add) of each entry to damage.
    """
    count = 30_000
    parts = {
        "sizes": np.full(count, 1, "<i4"),
        "pointers": np.arange(0, 2 * count, 2, dtype="<i8"),
        "documents": np.arange(0, count + 1, each, dtype="<i8"),
    }
    for name, place, added in damage:
        possible = np.iinfo(parts[name].dtype)
        parts[name][place] = min(max(int(parts[name][place]) + added, possible.min), possible.max)
    (folder / "x.bin").write_bytes(np.arange(count, dtype="<u2").tobytes())
    (folder / "x.idx").write_bytes(index(8, **parts))
    documents = parts["documents"]
    return bool(
        (parts["sizes"] == 1).all()
        and (parts["pointers"] == np.arange(0, 2 * count, 2)).all()
        and (documents[0] == 0 and (documents[1:] >= documents[:-1]).all() and documents[-1] <= count)
    )


DAMAGE = st.tuples(
    st.sampled_from(["sizes", "pointers", "documents"]),
    st.integers(1, 8) | st.integers(0, 9_999),
    st.integers(-9, 9) | st.sampled_from([10_000, 2**31, 2**62, 2**63, -10_000, -(2**31), -(2**63)]),
)


@given(st.lists(DAMAGE, max_size=4), st.integers(1, 3))
@settings(SAME_FOLDER, max_examples=300)
def test_damage_that_opening_does_not_see_never_crashes(tmp_path, damage, each):
    """All is answered within bounds or refused; what `verify` passes, all else passes."""
    valid = write_large(tmp_path, each, damage)
    try:
        file = TokenFile.open(tmp_path / "x")
    except DataError:
        assert not valid
        return
    questions = [lambda: file.verify(30_000), lambda: document_lengths_sum(file)]
    for place in [*range(10), *(place for _, place, _ in damage)]:
        questions += [lambda i=place: file.sequence(i), lambda i=place: file.sequence_size(i)]
        for stop in range(place, min(place + 10, 30_000)):
            questions.append(lambda i=place, j=stop: begins_within(file, i, j))
    refused = []
    for question in questions:
        try:
            question()
            refused.append(False)
        except DataError:
            refused.append(True)
    assert refused[0] == (not valid)
    assert not (valid and any(refused))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (("sizes", -1, -2), "negative length"),
        (("pointers", 0, 2), "do not follow one another"),
        (("pointers", -1, 1), "do not follow one another"),
        (("documents", 0, 1), "document index must rise"),
        (("documents", -1, 1), "document index must rise"),
    ],
)
def test_opening_looks_at_the_first_and_last_entries_of_any_file(tmp_path, damage, message):
    write_large(tmp_path, 1, [damage])
    with (tmp_path / "x.bin").open("ab") as file:
        file.write(bytes(max(damage[2], 0)))  # so that its length tells nothing
    with pytest.raises(DataError, match=message):
        TokenFile.open(tmp_path / "x")


@pytest.mark.parametrize(
    ("damage", "refused"),
    [
        (("sizes", 4, -2), lambda file: file.sequence_size(4)),
        (("sizes", 4, 30_000), lambda file: file.sequence(4)),
        (("pointers", 4, 1), lambda file: file.sequence(4)),
        (("pointers", 4, -10), lambda file: file.sequence(4)),
        (("pointers", 4, 1), lambda file: file.document_lengths),
        (("pointers", 4, 6), lambda file: file.document_lengths),
        (("pointers", -2, 6), lambda file: file.document_lengths),
        (("documents", 5, 30_000), lambda file: file.document_lengths),
        (("documents", 5, -(2**40)), lambda file: file.document_lengths),
    ],
)
def test_damage_is_refused_where_it_is_used(tmp_path, damage, refused):
    write_large(tmp_path, 2, [damage])
    file = TokenFile.open(tmp_path / "x")
    for question in (refused, TokenFile.verify):
        with pytest.raises(DataError, match=r"x.idx: damaged"):
            question(file)


def test_verify_reads_an_index_of_any_length_to_its_end(tmp_path):
    write_sequences(tmp_path / "x", np.full(600_000, 1), np.arange(600_001), tokens=np.zeros(600_000))
    TokenFile.open(tmp_path / "x").verify()
    content = bytearray((tmp_path / "x.idx").read_bytes())
    for entry in (262_143, 262_144, 599_990):  # at the border of what is read at a time, and near the end
        damaged = bytearray(content)
        damaged[34 + 4 * entry] = 2
        (tmp_path / "x.idx").write_bytes(damaged)
        with pytest.raises(DataError, match="do not follow one another"):
            TokenFile.open(tmp_path / "x").verify()


@pytest.mark.parametrize("count", [2, 3, 100, 4_097])
def test_opening_a_small_file_sees_every_sequence_and_document(tmp_path, count):
    for place in {0, 1, count // 2, count - 1}:
        for damaged in ("sizes", "documents"):
            sizes, documents = [3] * count, list(range(count + 1))
            pointers = list(range(0, 6 * count, 6))
            if damaged == "sizes":
                sizes[place] += 1
            else:
                documents[place] = count + 1
            (tmp_path / "x.bin").write_bytes(bytes(6 * count))
            (tmp_path / "x.idx").write_bytes(index(8, sizes, pointers, documents))
            with pytest.raises(DataError):
                TokenFile.open(tmp_path / "x")


def test_opening_and_asking_for_documents_takes_no_memory_for_each_document(tmp_path):
    lengths = np.full(300_000, 2)
    write_sequences(tmp_path / "x", lengths, np.arange(300_001), tokens=np.zeros(600_000))
    tracemalloc.start()
    try:
        file = TokenFile.open(tmp_path / "x")
        assert file.document_begins(400_001, 400_006).tolist() == [400_002, 400_004]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 500_000  # bytes; one number for each document would be 2,400,000


def test_a_wrong_id_is_found_where_it_is_looked_for(tmp_path):
    """In 100 MiB: check_ids looks at 64 of them, from the first token to the last; verify at all."""
    num_tokens = 50 * 2**20
    (tmp_path / "x.idx").write_bytes(index(8, [num_tokens], [0], [0, 1]))

    def with_wrong_id_at(position: int) -> TokenFile:
        with (tmp_path / "x.bin").open("wb") as file:
            file.truncate(2 * num_tokens)
            file.seek(2 * position)
            file.write(struct.pack("<H", 300))
        return TokenFile.open(tmp_path / "x")

    half_a_mebi = 2**19  # tokens in a MiB
    middle = (num_tokens - half_a_mebi) * 32 // 63
    for position in (0, half_a_mebi - 1, middle + 1, num_tokens - half_a_mebi, num_tokens - 1):
        file = with_wrong_id_at(position)
        file.check_ids(301)
        for check in (file.check_ids, file.verify):
            with pytest.raises(DataError, match=rf"x: token {position} has the id 300, outside 0..299"):
                check(300)
    between = with_wrong_id_at(half_a_mebi + 1_000)
    between.check_ids(300)
    with pytest.raises(DataError, match=f"token {half_a_mebi + 1_000} "):
        between.verify(300)


def test_negative_ids_are_refused_whatever_the_vocabulary(tmp_path):
    np.array([1, -1], "<i8").tofile(tmp_path / "x.bin")
    (tmp_path / "x.idx").write_bytes(index(5, [2], [0], [0, 1]))
    file = TokenFile.open(tmp_path / "x")
    for check in (file.verify, lambda: file.check_ids(2**63)):
        with pytest.raises(DataError, match="token 1 has the id -1"):
            check()


def test_a_pickled_token_file_opens_the_file_instead_of_copying_it(tmp_path):
    for name in ("x", "y.bin", "z-00000-of-00003"):
        file = write_token_file(tmp_path / name, [[1] * 10_000], 300)
        pickled = pickle.dumps(file)
        assert len(pickled) < 1_000
        again = pickle.loads(pickled)
        assert again.prefix == file.prefix == tmp_path / name
        assert np.array_equal(again.read(0, 10_000), file.read(0, 10_000))

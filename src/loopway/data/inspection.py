"""Full check of token files: damaged content, and documents that are in both splits.

Reads everything once, in bounded memory except for one hash per validation document.
"""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice

from loopway.data.token_sources import find_tokens
from loopway.data.tokens.file import TokenFile

_SHOWN = 10  # documents that are in both splits


def inspect(
    train: Sequence[str], validation: Sequence[str] | None = None, vocab_size: int | None = None
) -> str:
    """Check the whole content of token files; return a summary of some lines.

    Args:
        train: prepared folders or ``.bin`` files, as in ``data.train``.
        validation: likewise; None means the prepared folders' own.
        vocab_size: exclusive upper bound of ids; None means a prepared folder's own vocabulary, and no bound for other
            files.

    Raises:
        DataError: an index is damaged, ids lie outside the vocabulary, or a checksum differs from the manifest's.
    """
    found = [find_tokens(entry, field="data.train") for entry in train]
    given = [find_tokens(entry, field="data.validation") for entry in validation or []]
    for tokens in (*found, *given):
        for folder in tokens.folders:
            folder.verify()
        for file in tokens.foreign if vocab_size is None else tokens.files:
            file.verify(vocab_size)
    files, others = ([file for tokens in of for file in tokens.files] for of in (found, given))
    if validation is None:
        others = [folder.validation for tokens in found for folder in tokens.folders if folder.validation]
    lines = [
        f"{file.prefix}{kind}: {file.num_documents:,} documents, {file.num_tokens:,} tokens, whole"
        for kind, of in (("", files), (" (validation)", others))
        for file in of
    ]
    if others:
        twice = duplicates(files, others)
        shown = [f"  {document} is {other}" for document, other in islice(twice, _SHOWN)]
        more = sum(1 for _ in twice)
        lines += [f"{len(shown) + more:,} training documents are also validation documents", *shown]
        lines += [f"  and {more:,} more"] if more else []
    return "\n".join(lines)


def duplicates(train: Sequence[TokenFile], validation: Sequence[TokenFile]) -> Iterator[tuple[str, str]]:
    """Yield each training document that equals a validation document, with the first such validation document."""
    first: dict[bytes, str] = {}
    for digest, document in _documents(validation):
        first.setdefault(digest, document)
    return (
        (document, first[digest])
        for digest, document in _documents(train if first else [])
        if digest in first
    )


def _documents(files: Sequence[TokenFile]) -> Iterator[tuple[bytes, str]]:
    """Yield a hash of each document's ids, independent of their integer width, and the document's name."""
    for file in files:
        for number, ids in enumerate(file.documents()):
            digest = hashlib.blake2b(ids.astype("<i8").tobytes(), digest_size=16).digest()
            yield digest, f"{file.prefix}, document {number}"

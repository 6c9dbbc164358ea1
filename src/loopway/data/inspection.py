"""A whole look at token files: is every byte what it should be, and which documents are in both splits.

Reads everything once, in bounded memory but for one hash a validation document.
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
    """Read token files from the first byte to the last; return what was found, in some lines.

    Args:
        train: prepared folders or ``.bin`` files, as in ``data.train``.
        validation: likewise; None: the prepared folders' own.
        vocab_size: that ids must stay below; None: of a prepared folder its tokenizer's, of others any.

    Raises:
        DataError: a damaged index, ids outside the vocabulary, a file whose checksum isn't the manifest's.
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
        lines += [f"{len(shown) + more:,} training documents are validation documents too", *shown]
        lines += [f"  and {more:,} more"] if more else []
    return "\n".join(lines)


def duplicates(train: Sequence[TokenFile], validation: Sequence[TokenFile]) -> Iterator[tuple[str, str]]:
    """Yield the training documents whose tokens are those of a validation document, each with the first such document."""
    first: dict[bytes, str] = {}
    for digest, document in _documents(validation):
        first.setdefault(digest, document)
    return (
        (document, first[digest])
        for digest, document in _documents(train if first else [])
        if digest in first
    )


def _documents(files: Sequence[TokenFile]) -> Iterator[tuple[bytes, str]]:
    """A hash of the ids of each document, whatever their width, and its name."""
    for file in files:
        for number, ids in enumerate(file.documents()):
            digest = hashlib.blake2b(ids.astype("<i8").tobytes(), digest_size=16).digest()
            yield digest, f"{file.prefix}, document {number}"

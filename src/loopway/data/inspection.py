"""A whole look at token files: is every byte what it should be, and which documents are on both sides.

Reads everything once, in bounded memory but for one hash a validation document. Knows nothing of how the files were
made.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from loopway.data.config import TokenSource
from loopway.data.finding import find_tokens
from loopway.data.tokens.file import TokenFile

_SHOWN = 10  # documents that are on both sides


@dataclass(frozen=True)
class Inspection:
    """What was found of some token files; they are whole, or there would have been an error."""

    files: list[TokenFile]
    validation: list[TokenFile]
    num_duplicates: int
    """Training documents that are validation documents too."""
    duplicates: list[tuple[str, str]]
    """The first of them: (`file, document 3`, `file, document 0`)."""

    def text(self) -> str:
        """The outcome in some lines."""
        lines = []
        for kind, files in (("", self.files), (" (validation)", self.validation)):
            lines += [
                f"{file.prefix}{kind}: {file.num_documents:,} documents, {file.num_tokens:,} tokens, whole"
                for file in files
            ]
        if self.validation:
            lines.append(f"{self.num_duplicates:,} training documents are validation documents too")
            lines += [f"  {train} is {validation}" for train, validation in self.duplicates]
            if self.num_duplicates > len(self.duplicates):
                lines.append(f"  and {self.num_duplicates - len(self.duplicates):,} more")
        return "\n".join(lines)


def inspect(
    train: Sequence[str | TokenSource],
    validation: Sequence[str | TokenSource] | None = None,
    vocab_size: int | None = None,
) -> Inspection:
    """Reads token files from the first byte to the last.

    Args:
        train: prepared folders or ``.bin`` files, as in ``data.train``.
        validation: likewise; None: the prepared folders' own.
        vocab_size: that ids must stay below; None: of a prepared folder its tokenizer's, of others any.

    Raises:
        DataError: a damaged index, ids outside the vocabulary, a file whose checksum isn't the manifest's.
    """
    found = [find_tokens(entry, field="data.train") for entry in train]
    held_out = [find_tokens(entry, field="data.validation") for entry in validation or []]
    for tokens in (*found, *held_out):
        for folder in tokens.folders:
            folder.verify()
        for file in tokens.foreign if vocab_size is None else tokens.files:
            file.verify(vocab_size)
    files = [file for tokens in found for file in tokens.files]
    others = [file for tokens in held_out for file in tokens.files]
    if validation is None:
        folders = [folder for tokens in found for folder in tokens.folders]
        others = [folder.validation for folder in folders if folder.validation is not None]
    found_twice = duplicates(files, others)
    first = list(islice(found_twice, _SHOWN))
    return Inspection(files, others, len(first) + sum(1 for _ in found_twice), first)


def duplicates(train: Sequence[TokenFile], validation: Sequence[TokenFile]) -> Iterator[tuple[str, str]]:
    """The training documents whose tokens are those of a validation document, each with the first such document."""
    first: dict[bytes, str] = {}
    for file in validation:
        for number, digest in enumerate(_digests(file)):
            first.setdefault(digest, f"{file.prefix}, document {number}")
    if not first:
        return
    for file in train:
        for number, digest in enumerate(_digests(file)):
            if digest in first:
                yield f"{file.prefix}, document {number}", first[digest]


def _digests(file: TokenFile) -> Iterator[bytes]:
    """A hash of the ids of each document, whatever their width."""
    for ids in file.documents():
        yield hashlib.blake2b(ids.astype("<i8").tobytes(), digest_size=16).digest()

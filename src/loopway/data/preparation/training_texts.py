"""Choose the texts that a new tokenizer is trained on: a sample of the training documents, never of the validation set.

A small text is used whole. From a larger one, each source contributes its first documents in proportion to its size;
with many small sources, only some contribute. Text with many distinct words, as in scripts without spaces, reaches the
limit sooner. Long documents are cut into parts. Knows nothing of how a tokenizer is trained.
"""

import re
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from loopway.data.preparation.documents import Document, digest_of, read_documents
from loopway.data.preparation.encoding import cut_text
from loopway.data.preparation.reading import UNIT_BYTES
from loopway.data.preparation.sources import TextSource
from loopway.data.preparation.split import for_validation

SAMPLE_BYTES = 256 * 2**20
WORD_BYTES = 10 * 2**20
"""Maximum bytes of all distinct words of a sample; training takes up to a hundred times as much memory."""
_PART = 2**16
"""Maximum characters per text: tokenizers reads 256 texts ahead, and needs a hundred times a text's size in memory."""
_BEFORE_SPACE = re.compile(r"(?<=\S)(?=[ \t\r\n])")
"""Places where a byte-level BPE always ends a word."""
_WORD = re.compile(r"\w+|[^\w\s]+")  # approximates a byte-level BPE's words


def training_texts(
    sources: Sequence[TextSource], text_field: str, fraction: float, seed: int, validation: Collection[bytes]
) -> Iterator[str]:
    """Yield the texts, long ones in parts; of a text far beyond the sample's size, only the first parts.

    Args:
        sources: sources of the training documents.
        text_field: see :class:`loopway.data.config.PreparationConfig`.
        fraction: share of the documents that is held out; 0 if validation text is given.
        seed: seed of the split.
        validation: digests of the given validation documents.
    """
    left, words_left, seen = 0.0, 0.0, set[int]()
    for source, share in zip(sources, _shares(sources), strict=True):
        # Later sources compensate for an earlier one's excess.
        left = min(left, 0.0) + SAMPLE_BYTES * share
        words_left = min(words_left, 0.0) + WORD_BYTES * share
        if left <= 0 or words_left <= 0:
            continue
        for piece in source.pieces(seed=seed):
            for record in read_documents(piece, text_field):
                if not isinstance(record, Document):
                    continue  # encoding handles unreadable records
                digest = piece.digest or digest_of(record.text, seed)
                is_validation = (
                    digest in validation or for_validation(np.frombuffer(digest, "<u8")[:1], fraction)[0]
                )
                for part in cut_text(record.text, _PART, _BEFORE_SPACE):
                    if min(left, words_left) < -UNIT_BYTES:
                        break
                    left -= len(part)
                    words_left -= _bytes_of_new_words(part, seen)
                    if not is_validation:
                        yield part
            if left < 0 or words_left < 0:
                break


def _shares(sources: Sequence[TextSource]) -> list[float]:
    """Return each source's share of the total size."""
    known = [source.size for source in sources if source.size is not None]
    average = sum(known) / len(known) if known else SAMPLE_BYTES + 1
    sizes = [source.size if source.size is not None else average for source in sources]
    return [size / max(sum(sizes), 1) for size in sizes]


def _bytes_of_new_words(text: str, seen: set[int]) -> int:
    """Return the UTF-8 bytes of words whose hashes aren't in ``seen``, and add their hashes to it."""
    new = {hash(word): word for word in set(_WORD.findall(text))}
    result = sum(len(word.encode()) for number, word in new.items() if number not in seen)
    seen.update(new)
    return result

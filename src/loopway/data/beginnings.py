"""Beginnings of documents: the special tokens that are put before a text, the same ones wherever it is read.

A tokenizer holds the choice: what it puts before one text is what training files, prompts and questions begin with. What it
puts behind one counts nowhere, since preparation ends documents itself. Knows nothing of files and models.
"""

import logging
from collections.abc import Sequence

from tokenizers import processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from loopway.errors import DataError

logger = logging.getLogger(__name__)

_SAMPLES = ("a", "1", ".", "\n")


def beginning_of(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the special tokens that a tokenizer puts before one text."""
    return _around(tokenizer)[0]


def chosen_beginning(tokenizer: PreTrainedTokenizerBase, add_bos_token: bool | None) -> list[int]:
    """Return what documents begin with by ``data.add_bos_token``; warn where the tokenizer itself does otherwise.

    Raises:
        DataError: a beginning-of-text token is wanted, and the tokenizer has none.
    """
    own = beginning_of(tokenizer)
    if add_bos_token is None:
        return own
    if add_bos_token and tokenizer.bos_token_id is None:
        raise DataError(
            "data.add_bos_token: got true, but the tokenizer has no bos_token; leave it out, or set the tokenizer's "
            "bos_token and save it again"
        )
    chosen = [int(str(tokenizer.bos_token_id))] if add_bos_token else []
    warn_of_difference(tokenizer, chosen, f"data.add_bos_token = {str(add_bos_token).lower()}")
    return chosen


def warn_of_difference(tokenizer: PreTrainedTokenizerBase, beginning: Sequence[int], what: str) -> None:
    """Log a warning where documents begin otherwise than ``tokenizer`` lets a text begin; ``what`` says where."""
    if (own := beginning_of(tokenizer)) != list(beginning):
        logger.warning(
            "%s: documents begin with %s, but the tokenizer begins a text with %s; a model that was trained with it "
            "expects that",
            what,
            _named(tokenizer, beginning),
            _named(tokenizer, own),
        )


def set_beginning(tokenizer: PreTrainedTokenizerFast, beginning: Sequence[int]) -> None:
    """Make a tokenizer put these tokens before a text, and nothing behind it; also after it was saved."""
    if _around(tokenizer) == (list(beginning), []):
        return
    # Classes of families, such as GPT-NeoX's, put their own choice back when they are opened.
    tokenizer.__class__ = PreTrainedTokenizerFast
    tokens = [str(token) for token in tokenizer.convert_ids_to_tokens(list(beginning))]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=[*tokens, "$A"],
        pair=[*tokens, "$A", *(f"{token}:1" for token in tokens), "$B:1"],
        special_tokens=list(zip(tokens, beginning, strict=True)),
    )


def _around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Ids before and behind a text."""
    for text in _SAMPLES:
        inner = list(tokenizer(text, add_special_tokens=False)["input_ids"])  # type: ignore[arg-type]
        whole = list(tokenizer(text)["input_ids"])  # type: ignore[arg-type]
        for start in range(len(whole) - len(inner) + 1) if inner else ():
            if whole[start : start + len(inner)] == inner:
                return whole[:start], whole[start + len(inner) :]
    return [], []


def _named(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return " ".join(map(str, tokenizer.convert_ids_to_tokens(list(ids)))) or "no special token"

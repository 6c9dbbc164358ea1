"""Beginnings of documents: special tokens before a text, the same in training files, prompts and questions.

The tokenizer defines them: documents begin with the tokens that it puts before a text. Tokens that it puts after a text
are ignored, since preparation ends documents itself. Knows nothing of files and models.
"""

import logging
from collections.abc import Sequence

from tokenizers import processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from loopway.errors import DataError

logger = logging.getLogger(__name__)

_SAMPLES = ("a", "1", ".", "\n")


def beginning_of(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of the special tokens that a tokenizer puts before a text."""
    return _around(tokenizer)[0]


def chosen_beginning(tokenizer: PreTrainedTokenizerBase, add_bos_token: bool | None) -> list[int]:
    """Return the ids that documents begin with under ``data.add_bos_token``; warn if the tokenizer's own choice differs.

    Raises:
        DataError: ``add_bos_token`` is true, and the tokenizer has no bos_token.
    """
    own = beginning_of(tokenizer)
    if add_bos_token is None:
        return own
    if add_bos_token and tokenizer.bos_token_id is None:
        raise DataError(
            "data.add_bos_token: got true, but the tokenizer has no bos_token; omit it, or set the tokenizer's "
            "bos_token and save it again"
        )
    chosen = [int(str(tokenizer.bos_token_id))] if add_bos_token else []
    warn_of_difference(tokenizer, chosen, f"data.add_bos_token = {str(add_bos_token).lower()}")
    return chosen


def warn_of_difference(tokenizer: PreTrainedTokenizerBase, beginning: Sequence[int], what: str) -> None:
    """Log a warning if documents begin with other tokens than ``tokenizer`` uses; ``what`` names the data or key."""
    if (own := beginning_of(tokenizer)) != list(beginning):
        logger.warning(
            "%s: documents begin with %s, but the tokenizer begins a text with %s; a model trained with this "
            "tokenizer expects the latter",
            what,
            _named(tokenizer, beginning),
            _named(tokenizer, own),
        )


def set_beginning(tokenizer: PreTrainedTokenizerFast, beginning: Sequence[int]) -> None:
    """Make a tokenizer put these tokens before a text and none after it, also once it is saved and reloaded."""
    if _around(tokenizer) == (list(beginning), []):
        return
    # Family classes, such as GPT-NeoX's, would restore their own choice on loading.
    tokenizer.__class__ = PreTrainedTokenizerFast
    tokens = [str(token) for token in tokenizer.convert_ids_to_tokens(list(beginning))]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=[*tokens, "$A"],
        pair=[*tokens, "$A", *(f"{token}:1" for token in tokens), "$B:1"],
        special_tokens=list(zip(tokens, beginning, strict=True)),
    )


def _around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return the ids that a tokenizer puts before and after a text."""
    for text in _SAMPLES:
        inner = list(tokenizer(text, add_special_tokens=False)["input_ids"])  # type: ignore[arg-type]
        whole = list(tokenizer(text)["input_ids"])  # type: ignore[arg-type]
        for start in range(len(whole) - len(inner) + 1) if inner else ():
            if whole[start : start + len(inner)] == inner:
                return whole[:start], whole[start + len(inner) :]
    return [], []


def _named(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return " ".join(map(str, tokenizer.convert_ids_to_tokens(list(ids)))) or "no special token"

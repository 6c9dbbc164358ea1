"""Tokens as the text that each adds, for showing them one by one. Knows tokenizers only."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
_MOST_BYTES = 4  # of a character in UTF-8
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def token_texts(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return what each token adds to the text before it.

    Tokens that make one character together are that character with the number of the part: ``日₁``, ``日₂``, ``日₃``.
    """
    texts: list[str] = []
    while len(texts) < len(ids):
        start = len(texts)
        before = _decoded(ids[:start], tokenizer)
        for end in range(start + 1, min(start + _MOST_BYTES, len(ids)) + 1):
            added = _added(before, _decoded(ids[:end], tokenizer))
            if _UNFINISHED not in added:
                break
        else:  # no character: bytes that are none, or the text's own mark for them
            end, added = start + 1, _UNFINISHED
        parts = range(1, end - start + 1)
        texts += [added] if len(parts) == 1 else [added + str(part).translate(_SUBSCRIPTS) for part in parts]
    return texts


def _added(before: str, text: str) -> str:
    """Return what follows ``before``, at whose end several unfinished bytes may be one mark, or one more than later."""
    if not before.endswith(_UNFINISHED):
        return text.removeprefix(before)
    added = text.removeprefix(before.rstrip(_UNFINISHED))
    return added.lstrip(_UNFINISHED) or _UNFINISHED


def _decoded(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    text = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text

"""Text of single tokens, for display. Knows tokenizers only."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
_MOST_BYTES = 4  # of a character in UTF-8
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def token_texts(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the text that each token adds to the text before it.

    Tokens that form one character together are shown as this character with a part number: ``日₁``, ``日₂``, ``日₃``.
    """
    texts: list[str] = []
    while len(texts) < len(ids):
        start = len(texts)
        before = _decoded(ids[:start], tokenizer)
        for end in range(start + 1, min(start + _MOST_BYTES, len(ids)) + 1):
            added = _added(before, _decoded(ids[:end], tokenizer))
            if _UNFINISHED not in added:
                break
        else:  # no character: invalid bytes, or a replacement character in the text itself
            end, added = start + 1, _UNFINISHED
        parts = range(1, end - start + 1)
        texts += [added] if len(parts) == 1 else [added + str(part).translate(_SUBSCRIPTS) for part in parts]
    return texts


def _added(before: str, text: str) -> str:
    """Return the text after ``before``, whose unfinished last bytes may decode to more replacement marks than later."""
    if not before.endswith(_UNFINISHED):
        return text.removeprefix(before)
    added = text.removeprefix(before.rstrip(_UNFINISHED))
    return added.lstrip(_UNFINISHED) or _UNFINISHED


def _decoded(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    text = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text

"""Texts that grow token by token: their new characters, their stop strings, and why they ended.

Knows nothing of how tokens are chosen.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria

_CONTEXT_TOKENS = 6
"""Tokens of the prompt that are decoded with the first new one: some tokenizers decode a space by what precedes it."""


class Continuation:
    """The text that follows a prompt.

    Args:
        prompt: the prompt's tokens.
        limit: tokens to add at most.
        stop_strings: the text ends before the first of them. Special tokens among them end it, too.
        end_tokens: ids that end the text.
        write: receives characters once they are certain: what may begin a stop string or half a character is held back.

    Attributes:
        tokens: all that were added, the end token and those of the stop string included.
        text: the text, without special tokens and without what is held back.
        finish_reason: ``stop`` after an end token or a stop string, ``length`` at the limit, None before the end.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: Sequence[int],
        limit: int,
        stop_strings: Collection[str] = (),
        end_tokens: Collection[int] = (),
        write: Callable[[str], None] | None = None,
    ) -> None:
        special = {
            str(token): number for number, token in tokenizer.added_tokens_decoder.items() if token.special
        }
        self._end_tokens = {*end_tokens, *(special[each] for each in stop_strings if each in special)}
        self._stop_strings = [each for each in stop_strings if each not in special]
        self._tokenizer, self._limit, self._write = tokenizer, limit, write
        self._window = list(prompt[-_CONTEXT_TOKENS:])  # its tokens are decoded together
        self._read = len(self._window)  # this many of them are in the text
        self._held_back = ""
        self.tokens: list[int] = []
        self.text = ""
        self.finish_reason: Literal["stop", "length"] | None = None

    def add(self, token: int) -> None:
        """Append a token; ignored after the end."""
        if self.finish_reason:
            return
        self.tokens.append(token)
        is_end = token in self._end_tokens
        if not is_end:
            self._window.append(token)
        is_last = is_end or len(self.tokens) >= self._limit
        text = self._held_back + self._new_characters(is_last=is_last)
        found = [at for each in self._stop_strings if (at := text.find(each)) >= 0]
        if found:
            self._held_back, text = "", text[: min(found)]
        else:
            kept = 0 if is_last else max((_overlap(text, each) for each in self._stop_strings), default=0)
            text, self._held_back = text[: len(text) - kept], text[len(text) - kept :]
        if found or is_last:
            self.finish_reason = "stop" if found or is_end else "length"
        self.text += text
        if self._write and text:
            self._write(text)

    def _new_characters(self, *, is_last: bool) -> str:
        """Return the characters that the last tokens add, once they are whole."""
        before = self._decode(self._window[: self._read])
        after = self._decode(self._window)
        if len(after) <= len(before) or (after.endswith("\ufffd") and not is_last):  # half a character
            return ""
        self._window = self._window[self._read :]
        self._read = len(self._window)
        return after[len(before) :]

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))


class Continuing(StoppingCriteria):
    """Passes each row's new tokens to its continuation, and ends the row with it.

    Args:
        rows: one a row of the batch.
        width: tokens of the padded prompts.
    """

    def __init__(self, rows: Sequence[Continuation], width: int) -> None:
        self.rows, self.width = rows, width

    def __call__(self, input_ids: Tensor, scores: object, **_: object) -> Tensor:  # type: ignore[override]
        """Return which rows have ended, ``[batch]``."""
        for row, tokens in zip(self.rows, input_ids[:, self.width :].tolist(), strict=True):
            for token in tokens[len(row.tokens) :]:
                row.add(token)
        return torch.tensor([row.finish_reason is not None for row in self.rows], device=input_ids.device)


def _overlap(text: str, stop: str) -> int:
    """Return how many of the last characters of ``text`` begin ``stop``."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)

"""The token ids of a calibration text.

Documents follow one another as in training, each with the tokenizer's beginning and the end-of-text token. Knows nothing of
how they are used.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from loopway.data.beginnings import beginning_of
from loopway.data.preparation.encoding import Encoder, Encoding
from loopway.data.preparation.sources import find_sources
from loopway.errors import DataError


def read_calibration(
    entries: Sequence[Path | str], tokenizer: PreTrainedTokenizerBase, *, tokens: int, length: int
) -> Tensor:
    """Return the first tokens of a text, in samples.

    Args:
        entries: files (.txt, .jsonl, .jsonl.gz, .jsonl.zst, .parquet), folders or globs.
        tokenizer: the model's own, a fast one.
        tokens: about how many; fewer if the text is shorter.
        length: tokens of a sample.

    Returns:
        int64 ``[samples, length]``; one shorter sample of a text that doesn't fill one.

    Raises:
        DataError: missing files, unreadable records, fewer than two tokens, or no end-of-text token.
    """
    end = tokenizer.eos_token_id
    if not isinstance(tokenizer, PreTrainedTokenizerFast) or not isinstance(end, int):
        raise DataError(
            "--calibration needs a fast tokenizer (tokenizer.json) with an end-of-text token; set its eos_token and save "
            "it with the model"
        )
    beginning = tuple(beginning_of(tokenizer))
    encoder = Encoder(
        Encoding(tokenizer.backend_tokenizer.to_str(), end, "text", seed=0, beginning=beginning)
    )
    parts, found = [], 0
    for source in find_sources([str(entry) for entry in entries], "text", field="--calibration"):
        for piece in source.pieces():
            encoded = encoder.encode(piece)
            if encoded.unreadable:
                raise DataError(f"--calibration: {encoded.unreadable[0].reason}")
            parts.append(encoded.ids)
            found += len(encoded.ids)
            if found >= tokens:
                break
        if found >= tokens:
            break
    if found < 2:
        raise DataError("--calibration: the text has fewer than two tokens; give more")
    ids = torch.from_numpy(np.concatenate(parts)).long()
    length = min(length, found)
    samples = max(1, min(tokens, found) // length)
    return ids[: samples * length].view(samples, length)

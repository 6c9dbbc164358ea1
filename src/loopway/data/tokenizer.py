"""A byte-level BPE tokenizer trained on given texts, and the loading of one that exists.

Knows nothing of files of text, splits or samples: whoever calls :func:`train_tokenizer` decides which texts it sees.
"""

import hashlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from loopway.errors import ConfigError, DataError
from loopway.modeling.pretrained_folder import PretrainedFolder

logger = logging.getLogger(__name__)

END_OF_TEXT = "<|endoftext|>"
_LONGEST_WORD = 2048
"""Bytes of a word that is learned from in one piece: the time of training grows with the square of it."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most ``vocab_size`` tokens, the same for the same texts.

    Any string survives encoding and decoding. Token 0 is ``<|endoftext|>``, which also begins a sequence and pads.
    The vocabulary is smaller than asked where the texts hold too few distinct pairs: see :func:`vocabulary_size`.
    """
    bpe = Tokenizer(models.BPE())
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces = pre_tokenizers.Split(Regex(f".{{{_LONGEST_WORD}}}"), "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence([words, pieces])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.pre_tokenizer = words
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END_OF_TEXT,
        bos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a local folder or of a model on the Hub; it is looked at first, and its code never run.

    Raises :class:`DataError` if there is none, or if it has no end-of-text token.
    """
    looks_local = name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1
    path = Path(name_or_path).expanduser()
    if looks_local and not path.is_dir():
        raise DataError(f"data.tokenizer: the folder {name_or_path!r} does not exist")
    try:
        tokenizer = PretrainedFolder(path if looks_local else name_or_path).tokenizer()
    except ConfigError as error:
        raise DataError(
            f"data.tokenizer: no tokenizer could be loaded: {error}; give a folder that save_pretrained wrote (with "
            "tokenizer.json) or a name on the Hugging Face Hub"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise DataError(f"data.tokenizer: {name_or_path!r} has no fast tokenizer (tokenizer.json)")
    if tokenizer.eos_token_id is None:
        raise DataError(
            f"data.tokenizer: {name_or_path!r} has no end-of-text token; set its eos_token and save it again"
        )
    if getattr(model := tokenizer.backend_tokenizer.model, "dropout", None):
        logger.warning(
            "data.tokenizer: %s drops merges at random (dropout %g); loopway uses all of them, so that the same text "
            "gives the same tokens",
            name_or_path,
            model.dropout,
        )
        model.dropout = None
    return tokenizer


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """One more than the largest id; ids may leave gaps, so that there are fewer tokens."""
    return max(tokenizer.get_vocab().values()) + 1


def fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """What ids mean, as a hash: equal for two tokenizers that decode every id alike and end texts alike."""
    vocabulary = sorted(tokenizer.get_vocab().items())
    content = json.dumps([vocabulary, tokenizer.eos_token_id], ensure_ascii=True)
    return hashlib.sha256(content.encode()).hexdigest()

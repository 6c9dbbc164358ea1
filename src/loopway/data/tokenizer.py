"""Train a byte-level BPE tokenizer on given texts, or load an existing tokenizer.

Knows nothing of text files, splits or samples: the caller of :func:`train_tokenizer` chooses the texts.
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
"""Maximum bytes of a word in training; longer words are split, since training time grows with the square of it."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of at most ``vocab_size`` tokens; equal texts give equal tokenizers.

    Any string survives encoding and decoding. Token 0 is ``<|endoftext|>``, which is also the bos and pad token. The
    vocabulary is smaller if the texts have too few distinct pairs: see :func:`vocabulary_size`.
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
    """Load the fast tokenizer of a local folder or of a model on the Hub, vetted first and without running its code.

    Raises:
        DataError: there is no fast tokenizer, or it has no end-of-text token.
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
            "data.tokenizer: %s drops merges at random (dropout %g); loopway disables this, since equal text "
            "must give equal tokens",
            name_or_path,
            model.dropout,
        )
        model.dropout = None
    return tokenizer


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the largest id plus one; with gaps between ids there are fewer tokens."""
    return max(tokenizer.get_vocab().values()) + 1


def fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return a hash of the vocabulary: equal for tokenizers with the same ids and the same end-of-text token."""
    vocabulary = sorted(tokenizer.get_vocab().items())
    content = json.dumps([vocabulary, tokenizer.eos_token_id], ensure_ascii=True)
    return hashlib.sha256(content.encode()).hexdigest()

"""What a run needs of its data: a tokenizer, training samples, validation samples.

From text, which is prepared first, or from token files. Knows nothing of models beyond the size of their vocabulary.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from loopway.data.config import DataConfig, PreparationConfig
from loopway.data.preparation import prepare
from loopway.data.samples import Source, TokenSamples, samples_per_epoch
from loopway.data.token_file import TokenFile
from loopway.data.token_sources import FoundTokens, find_tokens, names_tokens
from loopway.data.tokenizer import fingerprint, load_tokenizer, vocabulary_size
from loopway.errors import DataError
from loopway.files import write_atomically


@dataclass(frozen=True)
class RunData:
    """Open token files and their tokenizer."""

    config: DataConfig
    tokenizer: PreTrainedTokenizerFast
    train: list[FoundTokens]
    validation: list[FoundTokens]

    def keep_identity(self, path: Path, *, has_begun: bool) -> None:
        """Notes in a file which tokens these are; raises :class:`DataError` if a run has begun with others."""
        now = {
            "tokenizer": fingerprint(self.tokenizer),
            "train": [found.identity() for found in self.train],
            "validation": [found.identity() for found in self.validation],
        }
        if has_begun and path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            for part, value in now.items():
                if before[part] != value:
                    raise DataError(
                        f"data.{part}: not what this run began with ({path}): files were replaced, added or made anew; "
                        "put them back, or choose another folder"
                    )
        else:
            write_atomically(path, json.dumps(now, indent=2) + "\n")

    def check_ids(self, vocab_size: int) -> None:
        """Raises :class:`DataError` if a token lies outside a model's vocabulary, as far as can be seen at once."""
        for found in (*self.train, *self.validation):
            found.check_ids(vocab_size)

    def training_samples(
        self, num_samples: int | None = None, *, vocab_size: int | None = None
    ) -> TokenSamples:
        """The samples in the order in which they are trained on; ``num_samples`` None is one epoch."""
        return TokenSamples(
            [Source(found.files, found.weight) for found in self.train],
            self.config.sequence_length,
            sampling=self.config.sampling,
            seed=self.config.seed,
            num_samples=num_samples,
            mask_documents=self.config.mask_documents,
            vocab_size=self._unknown_ids(self.train, vocab_size),
        )

    def validation_samples(self, *, vocab_size: int | None = None) -> TokenSamples | None:
        """The validation set in the order of its files; None if there is none."""
        if not self.validation:
            return None
        return TokenSamples(
            [Source(found.files) for found in self.validation],
            self.config.sequence_length,
            at_most=self.config.validation_samples,
            mask_documents=self.config.mask_documents,
            vocab_size=self._unknown_ids(self.validation, vocab_size),
        )

    def _unknown_ids(self, found: list[FoundTokens], vocab_size: int | None) -> int | None:
        """What samples have to stay below as they are read; None where manifests say all that can be said."""
        return vocab_size if any(tokens.foreign for tokens in found) else None


def open_data(config: DataConfig, folder: Path | str) -> RunData:
    """Opens the data of a run; text is prepared in ``folder``, unless that is done already.

    Raises :class:`DataError` for what :func:`prepare` refuses, for token files that are damaged, for tokens and text
    side by side, for files whose tokenizers differ or aren't known, for too few tokens for a sample, and for other tokens
    than ``config.sha256`` names.
    """
    is_of_tokens = any(map(names_tokens, config.train))
    data = _open_tokens(config) if is_of_tokens else _open_text(config, folder)
    _check_long_enough(data)
    _check_digests(data)
    return data


def expected_vocab_size(config: DataConfig) -> int:
    """What the tokenizer's size will be, before anything is prepared: the size asked for, if one is to be trained."""
    if config.tokenizer is not None:
        return vocabulary_size(load_tokenizer(config.tokenizer))
    if any(map(names_tokens, config.train)):
        return vocabulary_size(_open_tokens(config).tokenizer)
    return config.vocab_size


def _open_text(config: DataConfig, folder: Path | str) -> RunData:
    for entry in config.validation or []:
        if names_tokens(entry):
            raise DataError(
                f"data.validation: {entry} is of tokens and data.train of text; prepare the training text first, with "
                "the same tokenizer: loopway prepare"
            )
    if config.sampling == "preshuffled":
        raise DataError(
            "data.sampling: preshuffled is for token files whose rows are samples; with text it is packed"
        )
    fields = {name: getattr(config, name) for name in PreparationConfig.model_fields}
    prepared = prepare(PreparationConfig(**fields), folder)
    halves = [
        [FoundTokens(str(folder), [file], [prepared])] if file else []
        for file in (prepared.train, prepared.validation)
    ]
    return RunData(config, prepared.tokenizer, *halves)


def _open_tokens(config: DataConfig) -> RunData:
    for field, entries in (("train", config.train), ("validation", config.validation or [])):
        for entry in entries:
            if not names_tokens(entry):
                raise DataError(
                    f"data.{field}: {entry} is of text and others are of tokens; prepare it first, with the same "
                    "tokenizer: loopway prepare"
                )
    for name in ("validation_fraction", "vocab_size", "text_field", "skip_unreadable"):
        given = getattr(config, name)
        if given != DataConfig.model_fields[name].default and (name, given) != ("validation_fraction", 0):
            raise DataError(f"data.{name}: is for text, and data.train is of tokens already; leave it out")
    train = [find_tokens(entry, field="data.train") for entry in config.train]
    if config.validation is not None:
        validation = [find_tokens(entry, field="data.validation") for entry in config.validation]
    elif config.validation_fraction == 0:
        validation = []
    else:
        own = {
            folder.validation.prefix.resolve(): FoundTokens(found.name, [folder.validation], [folder])
            for found in train
            for folder in found.folders
            if folder.validation is not None
        }
        validation = list(own.values())
    trained = {file.prefix.resolve() for found in train for file in found.files}
    for found in validation:
        if any(file.prefix.resolve() in trained for file in found.files):
            raise DataError(
                f"data.validation: {found.name} is trained on too; leave it out of one of the two"
            )
    return RunData(config, _common_tokenizer(config, [*train, *validation]), train, validation)


def _common_tokenizer(config: DataConfig, found: list[FoundTokens]) -> PreTrainedTokenizerFast:
    """The one tokenizer of all files; raises :class:`DataError` if they have several, or none that is known."""
    folders = [folder for tokens in found for folder in tokens.folders]
    if config.tokenizer is not None:
        tokenizer, name = load_tokenizer(config.tokenizer), config.tokenizer
    elif folders:
        tokenizer, name = folders[0].tokenizer, str(folders[0].folder)
    else:
        raise DataError(
            f"data.tokenizer is missing: {found[0].name} doesn't say which tokenizer made it; for Pythia's Pile it is "
            "EleutherAI/pythia-160m"
        )
    for folder in folders:
        if folder.manifest["tokenizer"]["fingerprint"] != fingerprint(tokenizer):
            raise DataError(
                f"{folder.folder}: was made with another tokenizer than {name}; prepare both with the same one"
            )
    return tokenizer


def _check_long_enough(data: RunData) -> None:
    config = data.config
    for field, found in (("train", data.train), ("validation", data.validation)):
        sampling = config.sampling if field == "train" else "packed"
        files: list[TokenFile] = [file for tokens in found for file in tokens.files]
        tokens = sum(file.num_tokens for file in files)
        rows = sum(samples_per_epoch(file.num_tokens, config.sequence_length) for file in files)
        if files and not rows and sampling == "packed":
            remedy = "give more text "
            if field == "validation" and config.validation is None:
                remedy = "raise data.validation_fraction, set it to 0, "
            raise DataError(
                f"data.{field}: {tokens} tokens are fewer than one sample of sequence_length "
                f"{config.sequence_length} + 1; {remedy}or shorten data.sequence_length"
            )


def _check_digests(data: RunData) -> None:
    for field, found in (("train", data.train), ("validation", data.validation)):
        expected = getattr(data.config.sha256, field, None)
        if expected is None:
            continue
        digest = hashlib.sha256()
        for file in (file for tokens in found for file in tokens.files):
            for piece in file.pieces():
                digest.update(piece.data)
        if digest.hexdigest() != expected:
            names = ", ".join(tokens.name for tokens in found) or "none"
            raise DataError(
                f"data.sha256.{field}: the tokens of {names} have SHA-256 {digest.hexdigest()}, and the config wants "
                f"{expected}; prepare the same text with the same options, or set data.sha256=null to use these"
            )

"""The data of a run: tokenizer, training samples and validation samples.

They come from text, which is prepared first, or from token files. Knows nothing of models but their vocabulary size.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from loopway.data.config import DataConfig, PreparationConfig
from loopway.data.folder import PreparedData, is_prepared, read_manifest
from loopway.data.preparation.prepare import check_request, prepare
from loopway.data.preparation.sources import find_sources
from loopway.data.token_sources import FoundTokens, find_tokens, names_tokens, open_tokens, own_validation
from loopway.data.tokenizer import fingerprint, load_tokenizer, vocabulary_size
from loopway.data.tokens.file import TokenFile
from loopway.data.tokens.samples import Source, TokenSamples, samples_per_epoch
from loopway.data.tokens_note import NoTokensError, TokensNote, locate, locate_entries
from loopway.errors import DataError
from loopway.files import remove


@dataclass(frozen=True)
class RunData:
    """Open token files and their tokenizer."""

    config: DataConfig
    tokenizer: PreTrainedTokenizerFast
    train: list[FoundTokens]
    validation: list[FoundTokens]
    places: dict[str, str] = dataclasses.field(default_factory=dict)
    """Absolute paths of token files and their tokenizer's folder, by the names that the config gives them."""

    @property
    def notice(self) -> str | None:
        """One line, if the text that the tokens were prepared from no longer exists; else None."""
        notices = (folder.notice for tokens in self.train for folder in tokens.folders)
        return next(filter(None, notices), None)

    def keep_identity(self, path: Path, *, has_begun: bool) -> None:
        """Record in a file which tokens these are.

        Raises:
            DataError: the run has begun with other tokens.
        """
        now = TokensNote(
            fingerprint(self.tokenizer),
            _identities(self.train),
            _identities(self.validation),
            self.places,
            _pins(self.config),
        )
        before = TokensNote.read(path) if has_begun else None
        if before is not None and (part := before.differs_in(now)) is not None:
            raise _other_tokens(part, path)
        if now != before:
            now.write(path)

    def check_ids(self, vocab_size: int) -> None:
        """Validate that tokens lie in a model's vocabulary, as far as a quick check can tell.

        Raises:
            DataError: a token lies outside the vocabulary.
        """
        for found in (*self.train, *self.validation):
            found.check_ids(vocab_size)

    @property
    def samples_per_epoch(self) -> int:
        """Number of training samples per epoch."""
        return self.training_samples().samples_per_epoch

    def training_samples(
        self, num_samples: int | None = None, *, vocab_size: int | None = None
    ) -> TokenSamples:
        """Return the samples in training order; ``num_samples`` None means one epoch."""
        return TokenSamples(
            [Source(found.files, found.weight) for found in self.train],
            self.config.sequence_length,
            sampling=self.config.sampling,
            seed=self.config.seed,
            num_samples=num_samples,
            mask_documents=self.config.mask_documents,
            vocab_size=_unknown_ids(self.train, vocab_size),
        )

    def validation_samples(self, *, vocab_size: int | None = None) -> TokenSamples | None:
        """Return the validation set in the order of its files; None if there is none."""
        return _validation_samples(self.config, self.validation, vocab_size)


def open_data(
    config: DataConfig, folder: Path | str, note: Path | None = None, *, check_pins: bool = True
) -> RunData:
    """Open the data of a run; prepare text in ``folder`` unless that is already done.

    For a run that has begun, token files are searched first at the places in its ``note`` (written by
    :meth:`RunData.keep_identity`), then at those in the config. Comparing tokens with ``config.sha256`` reads all of
    them. The comparison is skipped if the note records it (fingerprints are compared in any case), and with
    ``check_pins`` False, which is meant for all workers but the first.

    Raises:
        DataError: the text can't be prepared (see :func:`prepare`); token files are damaged; tokens and text are mixed;
            tokenizers differ or are unknown; there are too few tokens for a sample; or digests differ from
            ``config.sha256``.
    """
    noted = TokensNote.read(note)
    located, places = locate(config, noted.places if noted is not None else {})
    is_of_tokens = any(map(names_tokens, located.train))
    tokenizer, train, validation = open_tokens(located) if is_of_tokens else _open_text(config, folder)
    _check_long_enough(config, "train", train)
    _check_long_enough(config, "validation", validation)
    data = RunData(config, tokenizer, train, validation, places)
    if check_pins:
        _check_digests(data, noted.sha256 if noted is not None else {})
    return data


def remove_other_data(config: DataConfig, folder: Path) -> None:
    """Remove the prepared text in ``folder`` if it doesn't match ``config``."""
    if not is_prepared(folder) or any(map(names_tokens, config.train)):
        return
    read_manifest(folder)  # raises for a folder that loopway didn't prepare
    try:
        check_request(folder, _preparation(config))
    except DataError:
        remove(folder)


def open_held_out(config: DataConfig, folders: Sequence[Path], note: Path) -> TokenSamples | None:
    """Return the validation samples of a run that has begun; None if it has none. Never prepares text.

    Args:
        config: the run's data config.
        folders: candidates for its prepared text; the first prepared folder is used.
        note: the file of :meth:`RunData.keep_identity`; if it is missing, nothing outside ``folders`` is opened.

    Raises:
        NoTokensError: the tokens no longer exist.
        DataError: the tokens are damaged, differ from those that the run began with, or are too few for a sample.
    """
    noted = TokensNote.read(note)
    if noted is not None and not noted.validation:
        return None
    found: list[FoundTokens] = []
    if prepared := next(map(PreparedData.open, filter(is_prepared, folders)), None):
        found = _of_folder(prepared, prepared.validation)
    elif noted is not None:
        part = "train" if config.validation is None else "validation"
        entries = locate_entries(getattr(config, part), noted.places, part)
        if not all(map(names_tokens, entries)):
            raise NoTokensError(
                f"the run holds no prepared text (data/), and data.{part} names no token files here; put back what it "
                f"was trained on"
            )
        found = [find_tokens(entry, field=f"data.{part}") for entry in entries]
        found = own_validation(found) if config.validation is None else found
    if noted is not None and _identities(found) != noted.validation:
        raise _other_tokens("validation", note)
    _check_long_enough(config, "validation", found)
    return _validation_samples(config, found, None)


def look_at_data(config: DataConfig) -> RunData | None:
    """Find the data of a run without preparing it. Return opened token files without comparing pins; None for text.

    Raises:
        DataError: as :func:`open_data`, as far as a check without preparation can tell.
    """
    if not any(map(names_tokens, config.train)):
        _check_text(config)
        for part in ("train", "validation"):
            find_sources(getattr(config, part) or [], config.text_field, field=f"data.{part}")
        return None
    data = RunData(config, *open_tokens(config))
    _check_long_enough(config, "train", data.train)
    _check_long_enough(config, "validation", data.validation)
    return data


def expected_vocab_size(config: DataConfig) -> int:
    """Return the tokenizer's size before anything is prepared; for a tokenizer to be trained, the maximum size."""
    if config.tokenizer is not None:
        return vocabulary_size(load_tokenizer(config.tokenizer))
    if any(map(names_tokens, config.train)):
        return vocabulary_size(open_tokens(config)[0])
    return config.vocab_size


def _validation_samples(
    config: DataConfig, found: list[FoundTokens], vocab_size: int | None
) -> TokenSamples | None:
    if not found:
        return None
    return TokenSamples(
        [Source(tokens.files) for tokens in found],
        config.sequence_length,
        at_most=config.validation_samples,
        mask_documents=config.mask_documents,
        vocab_size=_unknown_ids(found, vocab_size),
    )


def _unknown_ids(found: list[FoundTokens], vocab_size: int | None) -> int | None:
    """Return the bound of ids to check while reading samples; None if manifests already guarantee it."""
    return vocab_size if any(tokens.foreign for tokens in found) else None


def _identities(found: list[FoundTokens]) -> list[list[dict[str, Any]]]:
    return [tokens.identity() for tokens in found]


def _other_tokens(part: str, note: Path) -> DataError:
    return DataError(
        f"data.{part}: not what this run began with ({note}): files were replaced, added or regenerated; restore them, "
        "or choose another folder"
    )


def _of_folder(prepared: PreparedData, file: TokenFile | None) -> list[FoundTokens]:
    return [FoundTokens(str(prepared.folder), [file], [prepared])] if file is not None else []


def _open_text(
    config: DataConfig, folder: Path | str
) -> tuple[PreTrainedTokenizerFast, list[FoundTokens], list[FoundTokens]]:
    _check_text(config)
    prepared = prepare(_preparation(config), folder)
    train, validation = (_of_folder(prepared, file) for file in (prepared.train, prepared.validation))
    return prepared.tokenizer, train, validation


def _preparation(config: DataConfig) -> PreparationConfig:
    return PreparationConfig(**{name: getattr(config, name) for name in PreparationConfig.model_fields})


def _check_text(config: DataConfig) -> None:
    """Raise :class:`DataError` for token entries beside text, and for options that need token files."""
    for entry in config.validation or []:
        if names_tokens(entry):
            raise DataError(
                f"data.validation: {entry} names tokens, but data.train names text; prepare the training text first, with "
                "the same tokenizer: loopway prepare"
            )
    if config.sampling == "preshuffled":
        raise DataError(
            "data.sampling: preshuffled needs token files whose rows are samples; use packed for text"
        )


def _check_long_enough(config: DataConfig, part: str, found: list[FoundTokens]) -> None:
    if not found or (part == "train" and config.sampling != "packed"):
        return
    sizes = [file.num_tokens for tokens in found for file in tokens.files]
    if not any(samples_per_epoch(size, config.sequence_length) for size in sizes):
        remedy = "give more text "
        if part == "validation" and config.validation is None:
            remedy = "raise data.validation_fraction, set it to 0, "
        raise DataError(
            f"data.{part}: {sum(sizes)} tokens are fewer than one sample of sequence_length "
            f"{config.sequence_length} + 1; {remedy}or shorten data.sequence_length"
        )


def _pins(config: DataConfig) -> dict[str, str]:
    """Return `data.sha256` by part, without those that are None."""
    return config.sha256.model_dump(exclude_none=True) if config.sha256 is not None else {}


def _check_digests(data: RunData, checked: Mapping[str, str]) -> None:
    """Raise :class:`DataError` if tokens differ from the pinned ones; skip pins in ``checked``, compared earlier."""
    for field, expected in _pins(data.config).items():
        if expected == checked.get(field):
            continue
        found: list[FoundTokens] = getattr(data, field)
        digest = hashlib.sha256()
        for piece in (piece for tokens in found for file in tokens.files for piece in file.pieces()):
            digest.update(piece.data)
        if digest.hexdigest() != expected:
            names = ", ".join(tokens.name for tokens in found) or "none"
            raise DataError(
                f"data.sha256.{field}: the tokens of {names} have SHA-256 {digest.hexdigest()}, but the config requires "
                f"{expected}; prepare the same text with the same options, or set data.sha256=null to use these"
            )

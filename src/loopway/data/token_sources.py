"""The token files that a data config names, prepared folders and ``.bin`` files of any origin, and their one tokenizer."""

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from loopway.data.beginnings import chosen_beginning, set_beginning, warn_of_difference
from loopway.data.config import DataConfig, HubDataset, TokenSource
from loopway.data.folder import PreparedData, is_prepared
from loopway.data.tokenizer import fingerprint, load_tokenizer
from loopway.data.tokens.file import TokenFile
from loopway.errors import DataError

Entry = str | HubDataset | TokenSource


@dataclass(frozen=True)
class FoundTokens:
    """The token files of one entry, and the prepared folders that they belong to, if any."""

    name: str
    files: list[TokenFile]
    folders: list[PreparedData]
    weight: float | None = None

    @property
    def foreign(self) -> list[TokenFile]:
        """The files that no manifest tells about."""
        known = {prepared.folder / split for prepared in self.folders for split in ("train", "validation")}
        return [file for file in self.files if file.prefix not in known]

    def identity(self) -> list[dict[str, Any]]:
        """Return what tells its tokens from others, wherever they lie."""
        return [{"tokens": file.num_tokens, "fingerprint": file.fingerprint()} for file in self.files]

    def check_ids(self, vocab_size: int) -> None:
        """Raise :class:`DataError` if a token lies outside a model's vocabulary.

        Files that Loopway made say so themselves; of others that are large, only some places are looked at here.
        """
        for prepared in self.folders:
            counts = prepared.manifest["train"], prepared.manifest["validation"]
            largest = max(count["largest_id"] for count in counts if count)
            if largest >= vocab_size:
                raise DataError(
                    f"{prepared.folder}: holds token {largest}, outside the model's vocabulary of {vocab_size}; "
                    "leave model.vocab_size out, or make it larger"
                )
        for file in self.foreign:
            file.check_ids(vocab_size)


def names_tokens(entry: Entry) -> bool:
    """Whether an entry is of tokens; else it is of text."""
    if isinstance(entry, str):
        return entry.endswith(".bin") or is_prepared(Path(entry).expanduser())
    return isinstance(entry, TokenSource)


def find_tokens(entry: Entry, *, field: str) -> FoundTokens:
    """Open the token files of an entry; of a prepared folder, the split that ``field`` (``data.train``) asks for.

    Raises :class:`DataError` where there are none, or where they are damaged.
    """
    assert not isinstance(entry, HubDataset)
    name, weight = (entry, None) if isinstance(entry, str) else (entry.tokens, entry.weight)
    path = Path(name).expanduser()
    if is_prepared(path):
        prepared = PreparedData.open(path)
        file = prepared.train if field == "data.train" else prepared.validation
        if file is None:
            raise DataError(
                f"{field}: {name} was prepared without a validation set; to validate on its training text, name "
                f"{path / 'train.bin'}"
            )
        return FoundTokens(name, [file], [prepared], weight)
    paths = [str(path)] if path.exists() else sorted(glob.glob(str(path), recursive=True))
    if not paths:
        raise DataError(f"{field}: {name!r} does not exist (relative paths start at {Path.cwd()})")
    for found in paths:
        if not found.endswith(".bin"):
            raise DataError(f"{field}: {found!r} is neither a .bin file nor a folder of loopway prepare")
    files = {file.prefix: file for file in map(TokenFile.open, paths)}  # the shards of a file are one
    shards = sum(file.num_shards for file in files.values())
    if len(paths) not in (1, shards):
        raise DataError(
            f"{field}: {name!r} matches {len(paths)} of {shards} shards; a token file is read whole, so match all of them"
        )
    folders = [
        PreparedData.open(at) for at in dict.fromkeys(prefix.parent for prefix in files) if is_prepared(at)
    ]
    for prepared in folders:
        if field == "data.train" and prepared.validation and prepared.validation.prefix in files:
            raise DataError(
                f"{field}: {name!r} matches the validation set of {prepared.folder}; name the folder, or its train.bin"
            )
    return FoundTokens(name, list(files.values()), folders, weight)


def open_tokens(config: DataConfig) -> tuple[PreTrainedTokenizerFast, list[FoundTokens], list[FoundTokens]]:
    """Open the token files of a config whose entries are of tokens: their tokenizer, those to train on, those to validate on.

    Raises :class:`DataError` for entries of text among them, for options of text, for files that are trained and validated
    on, and for files whose tokenizers differ or aren't known.
    """
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
    else:
        validation = own_validation(train) if config.validation_fraction else []
    trained = {file.prefix.resolve() for found in train for file in found.files}
    for found in validation:
        if any(file.prefix.resolve() in trained for file in found.files):
            raise DataError(
                f"data.validation: {found.name} is trained on too; leave it out of one of the two"
            )
    return _common_tokenizer(config, [*train, *validation]), train, validation


def own_validation(train: list[FoundTokens]) -> list[FoundTokens]:
    """Return the validation sets of the prepared folders that are trained on, each once."""
    own = {
        folder.validation.prefix.resolve(): FoundTokens(found.name, [folder.validation], [folder])
        for found in train
        for folder in found.folders
        if folder.validation is not None
    }
    return list(own.values())


def _common_tokenizer(config: DataConfig, found: list[FoundTokens]) -> PreTrainedTokenizerFast:
    """The one tokenizer of all files, which begins texts as they begin documents.

    Raises :class:`DataError` where they have several, none that is known, or begin documents differently.
    """
    folders, wanted = [folder for tokens in found for folder in tokens.folders], config.add_bos_token
    if config.tokenizer is not None:
        tokenizer, name = load_tokenizer(config.tokenizer), config.tokenizer
    elif folders:
        tokenizer, name = folders[0].tokenizer, str(folders[0].folder)
    else:
        raise DataError(
            f"data.tokenizer is missing: {found[0].name} doesn't say which tokenizer made it; for Pythia's Pile it is "
            "EleutherAI/pythia-160m"
        )
    if not folders:  # files of another origin are what the config says
        set_beginning(tokenizer, chosen_beginning(tokenizer, wanted))
        return tokenizer
    first = folders[0]
    for folder in folders:
        if folder.manifest["tokenizer"]["fingerprint"] != fingerprint(tokenizer):
            raise DataError(
                f"{folder.folder}: was made with another tokenizer than {name}; prepare both with the same one"
            )
        if folder.beginning != first.beginning:
            raise DataError(
                f"data.add_bos_token: documents of {folder.folder} begin otherwise than those of {first.folder}; prepare "
                "both with the same value"
            )
    if wanted is not None and first.beginning != ([tokenizer.bos_token_id] if wanted else []):
        raise DataError(
            f"data.add_bos_token: got {str(wanted).lower()}, but {first.folder} was prepared otherwise; leave it out, or "
            "prepare the text again"
        )
    warn_of_difference(tokenizer, first.beginning, str(first.folder))
    set_beginning(tokenizer, first.beginning)
    return tokenizer

"""Token files named by a data config (prepared folders, ``.bin`` files of any origin), and their common tokenizer."""

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
        """The files that belong to no manifest."""
        known = {prepared.folder / split for prepared in self.folders for split in ("train", "validation")}
        return [file for file in self.files if file.prefix not in known]

    def identity(self) -> list[dict[str, Any]]:
        """Return what identifies its tokens, independent of their path."""
        return [{"tokens": file.num_tokens, "fingerprint": file.fingerprint()} for file in self.files]

    def check_ids(self, vocab_size: int) -> None:
        """Validate that tokens lie in a model's vocabulary.

        For prepared folders the manifest knows the largest id. In other large files only some places are checked.

        Raises:
            DataError: a token lies outside the vocabulary.
        """
        for prepared in self.folders:
            counts = prepared.manifest["train"], prepared.manifest["validation"]
            largest = max(count["largest_id"] for count in counts if count)
            if largest >= vocab_size:
                raise DataError(
                    f"{prepared.folder}: holds token {largest}, outside the model's vocabulary of {vocab_size}; "
                    "omit model.vocab_size, or raise it"
                )
        for file in self.foreign:
            file.check_ids(vocab_size)


def names_tokens(entry: Entry) -> bool:
    """Return whether an entry names tokens; otherwise it names text."""
    if isinstance(entry, str):
        return entry.endswith(".bin") or is_prepared(Path(entry).expanduser())
    return isinstance(entry, TokenSource)


def find_tokens(entry: Entry, *, field: str) -> FoundTokens:
    """Open the token files of an entry; in a prepared folder, those of the split that ``field`` names (``data.train``).

    Raises:
        DataError: there are no such files, or they are damaged.
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
    files = {file.prefix: file for file in map(TokenFile.open, paths)}  # all shards of a file open as one
    shards = sum(file.num_shards for file in files.values())
    if len(paths) not in (1, shards):
        raise DataError(
            f"{field}: {name!r} matches {len(paths)} of {shards} shards; match all shards of a token file"
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
    """Open the token files of a config whose entries name tokens.

    Returns:
        Their tokenizer, the training files and the validation files.

    Raises:
        DataError: an entry names text; an option applies to text only; a file is used for training and validation; or
            tokenizers differ or are unknown.
    """
    for field, entries in (("train", config.train), ("validation", config.validation or [])):
        for entry in entries:
            if not names_tokens(entry):
                raise DataError(
                    f"data.{field}: {entry} is text, but other entries are tokens; prepare it first, with the same "
                    "tokenizer: loopway prepare"
                )
    for name in ("validation_fraction", "vocab_size", "text_field", "skip_unreadable"):
        given = getattr(config, name)
        if given != DataConfig.model_fields[name].default and (name, given) != ("validation_fraction", 0):
            raise DataError(f"data.{name}: applies to text only, and data.train names tokens; omit it")
    train = [find_tokens(entry, field="data.train") for entry in config.train]
    if config.validation is not None:
        validation = [find_tokens(entry, field="data.validation") for entry in config.validation]
    else:
        validation = own_validation(train) if config.validation_fraction else []
    trained = {file.prefix.resolve() for found in train for file in found.files}
    for found in validation:
        if any(file.prefix.resolve() in trained for file in found.files):
            raise DataError(
                f"data.validation: {found.name} is also in data.train; remove it from one of the two"
            )
    return _common_tokenizer(config, [*train, *validation]), train, validation


def own_validation(train: list[FoundTokens]) -> list[FoundTokens]:
    """Return the validation sets of the prepared training folders, each once."""
    own = {
        folder.validation.prefix.resolve(): FoundTokens(found.name, [folder.validation], [folder])
        for found in train
        for folder in found.folders
        if folder.validation is not None
    }
    return list(own.values())


def _common_tokenizer(config: DataConfig, found: list[FoundTokens]) -> PreTrainedTokenizerFast:
    """Return the common tokenizer of all files, set to begin texts as the files begin documents.

    Raises:
        DataError: tokenizers differ or are unknown, or files begin documents with different tokens.
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
    if not folders:  # for files of another origin, trust the config
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
                f"data.add_bos_token: documents of {folder.folder} begin differently from those of {first.folder}; prepare "
                "both with the same value"
            )
    if wanted is not None and first.beginning != ([tokenizer.bos_token_id] if wanted else []):
        raise DataError(
            f"data.add_bos_token: got {str(wanted).lower()}, but {first.folder} was prepared with another value; omit it, or "
            "prepare the text again"
        )
    warn_of_difference(tokenizer, first.beginning, str(first.folder))
    set_beginning(tokenizer, first.beginning)
    return tokenizer

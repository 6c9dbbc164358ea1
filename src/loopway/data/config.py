"""The ``data:`` section of a run: where text or tokens come from and how they become samples.

Holds fields, defaults and bounds only. Knows nothing of files, tokenizers or YAML.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt

Name = Annotated[str, Field(min_length=1)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

SMALLEST_VOCABULARY = 257  # bytes, and the end of text


class _Section(BaseModel):
    """Fields with docstrings, which are also the help of options."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class HubDataset(_Section):
    """A Hugging Face dataset, streamed or not."""

    model_config = ConfigDict(title="Hugging Face dataset")

    dataset: Name
    """A Hugging Face dataset: its name on the Hub, or a local folder, also one of save_to_disk."""
    config: str | None = Field(default=None, min_length=1)
    """The dataset's configuration."""
    split: Name = "train"
    """The dataset's split."""
    streaming: StrictBool = False
    """Read the dataset as it arrives and store only its tokens."""


class TokenSource(_Section):
    """Text that is tokens already: a folder that ``loopway prepare`` made, or ``.bin`` files (a path or a glob)."""

    tokens: Name
    weight: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Share of the samples, relative to the weights of the other sources. None: its own share of all samples."""


class TokenDigests(_Section):
    """SHA-256 of token files, as 64 hex digits; several files count as one, in the order of their entries."""

    train: Sha256
    validation: Sha256 | None = None


def _as_list(value: Any) -> Any:
    """A list of entries, folders named alike with and without a slash at the end."""
    entries = [value] if isinstance(value, str | dict | BaseModel) else value
    if not isinstance(entries, list):
        return entries
    return [entry.rstrip("/") or entry if isinstance(entry, str) else entry for entry in entries]


# One entry, or a list of entries.
TextSources = Annotated[list[Name | HubDataset], BeforeValidator(_as_list), Field(min_length=1)]
Sources = Annotated[list[Name | HubDataset | TokenSource], BeforeValidator(_as_list), Field(min_length=1)]


class TextOptions(_Section):
    """How text is split and tokenised."""

    validation_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of the distinct documents to hold out, give or take chance, where no validation text is given; 0: none."""
    tokenizer: str | None = Field(default=None, min_length=1)
    """Folder or name on the Hub. Default: a byte-level BPE is trained on the training documents."""
    vocab_size: StrictInt = Field(default=4096, ge=SMALLEST_VOCABULARY)
    """Largest size of a tokenizer that is trained: 256 bytes, the end-of-text token, merges."""
    add_bos_token: bool | None = Field(default=None, strict=True)
    """Begin every document with the tokenizer's bos_token. Default: as the tokenizer begins a text."""
    text_field: Name = "text"
    """Field of a JSON object or column of a table that holds the text."""
    skip_unreadable: StrictBool = False
    """Omit records that can't be read, and list them, instead of ending with an error."""
    seed: StrictInt = Field(default=0, ge=0)
    """Seed of the document split; in a run also of the order of samples."""


class PreparationConfig(TextOptions):
    """From text to token files.

    An entry of ``train`` or ``validation`` is a file (``.txt``, ``.jsonl``, ``.jsonl.gz``, ``.jsonl.zst``,
    ``.parquet``, ``.json``), a folder (every such file below it but ``.json`` and hidden ones), a glob,
    ``package:name/inner/*.txt`` (files inside an installed Python package) or a :class:`HubDataset`. A text file is one document; so is a JSONL line and a row.
    """

    train: TextSources
    validation: TextSources | None = None
    """None: ``validation_fraction`` of the training documents."""


class DataConfig(TextOptions):
    """Text or token sources, their split, the tokenizer, and how samples are cut and ordered.

    An entry is one of text, as in :class:`PreparationConfig`, or one of tokens: a :class:`TokenSource`, or its path
    alone. Either all entries of ``train`` are text or all are tokens.
    """

    train: Sources
    validation: Sources | None = None
    """None: ``validation_fraction`` of the training documents; of prepared folders, their own validation sets."""
    validation_samples: StrictInt | None = Field(default=None, gt=0)
    """At most so many samples of the validation set, evenly spread over it. None: all of it."""
    sequence_length: StrictInt = Field(gt=0)
    """Tokens that a model sees per sample."""
    sampling: Literal["packed", "preshuffled"] = "packed"
    """``packed``: documents one after the other, cut to length, shuffled. ``preshuffled``: rows of token files as they
    are, in order, as Pythia's Pile wants to be read."""
    mask_documents: StrictBool = False
    """True: attention does not cross from one document of a sample to the next."""
    sha256: TokenDigests | None = None
    """Digests that the tokens must have, or nothing is trained. None: any."""

"""The ``data:`` section of a run: sources of text or tokens, and how they become samples.

Defines fields, defaults and bounds only. Knows nothing of files, tokenizers or YAML.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt

Name = Annotated[str, Field(min_length=1)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

SMALLEST_VOCABULARY = 257  # bytes, and the end of text


class _Section(BaseModel):
    """Base class of sections; the docstrings of fields are also the help texts of options."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class HubDataset(_Section):
    """A Hugging Face dataset, streamed or not."""

    model_config = ConfigDict(title="Hugging Face dataset")

    dataset: Name
    """A Hugging Face dataset: its name on the Hub, or a local folder, also one written by save_to_disk."""
    config: str | None = Field(default=None, min_length=1)
    """The dataset's configuration."""
    split: Name = "train"
    """The dataset's split."""
    streaming: StrictBool = False
    """Stream the dataset and store only its tokens."""


class TokenSource(_Section):
    """Tokenised text: a folder made by ``loopway prepare``, or ``.bin`` files (a path or a glob)."""

    tokens: Name
    weight: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Share of the samples, relative to the weights of other sources. None: proportional to the source's size."""


class TokenDigests(_Section):
    """SHA-256 of token files, as 64 hex digits; several files are hashed as one, in the order of their entries."""

    train: Sha256
    validation: Sha256 | None = None


def _as_list(value: Any) -> Any:
    """Return a list of entries, without trailing slashes of folders."""
    entries = [value] if isinstance(value, str | dict | BaseModel) else value
    if not isinstance(entries, list):
        return entries
    return [entry.rstrip("/") or entry if isinstance(entry, str) else entry for entry in entries]


# One entry, or a list of entries.
TextSources = Annotated[list[Name | HubDataset], BeforeValidator(_as_list), Field(min_length=1)]
Sources = Annotated[list[Name | HubDataset | TokenSource], BeforeValidator(_as_list), Field(min_length=1)]


class TextOptions(_Section):
    """Options for splitting and tokenising text."""

    validation_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Approximate share of the distinct documents to hold out, if no validation text is given; 0: none."""
    tokenizer: str | None = Field(default=None, min_length=1)
    """Folder or name on the Hub. Default: a byte-level BPE is trained on the training documents."""
    vocab_size: StrictInt = Field(default=4096, ge=SMALLEST_VOCABULARY)
    """Maximum size of a trained tokenizer: 256 bytes, the end-of-text token, merges."""
    add_bos_token: bool | None = Field(default=None, strict=True)
    """Begin every document with the tokenizer's bos_token. Default: the tokenizer's own choice."""
    text_field: Name = "text"
    """Field of a JSON object, or column of a table, that holds the text."""
    skip_unreadable: StrictBool = False
    """Skip and list records that can't be read, instead of raising an error."""
    seed: StrictInt = Field(default=0, ge=0)
    """Seed of the document split; in a run, also of the sample order."""


class PreparationConfig(TextOptions):
    """Text sources, their split and tokenizer.

    An entry of ``train`` or ``validation`` is one of:

    - a file: ``.txt``, ``.jsonl``, ``.jsonl.gz``, ``.jsonl.zst``, ``.parquet``, ``.json``;
    - a folder: every such file below it, except ``.json`` and hidden files;
    - a glob;
    - ``package:name/inner/*.txt``: files inside an installed Python package;
    - a :class:`HubDataset`.

    A text file, a JSONL line and a row are one document each.
    """

    train: TextSources
    validation: TextSources | None = None
    """None: ``validation_fraction`` of the training documents."""


class DataConfig(TextOptions):
    """Text or token sources, their split, the tokenizer, and how samples are cut and ordered.

    An entry names text, as in :class:`PreparationConfig`, or tokens: a :class:`TokenSource`, or just its path. The
    entries of ``train`` must be all text or all tokens.
    """

    train: Sources
    validation: Sources | None = None
    """None: ``validation_fraction`` of the training documents; for prepared folders, their own validation sets."""
    validation_samples: StrictInt | None = Field(default=None, gt=0)
    """Maximum number of validation samples, evenly spread over the validation set. None: all of it."""
    sequence_length: StrictInt = Field(gt=0)
    """Tokens that a model sees per sample."""
    sampling: Literal["packed", "preshuffled"] = "packed"
    """``packed``: documents are concatenated, cut to length and shuffled. ``preshuffled``: rows of token files are used
    unchanged and in order, as Pythia's Pile requires."""
    mask_documents: StrictBool = False
    """True: attention doesn't cross document boundaries within a sample."""
    sha256: TokenDigests | None = None
    """Required digests of the tokens; training doesn't start with others. None: no check."""

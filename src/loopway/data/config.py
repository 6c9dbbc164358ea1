"""The ``data:`` section of a run: where text comes from and how it becomes samples.

Holds fields, defaults and bounds only. Knows nothing of files, tokenizers or YAML.
"""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt

Name = Annotated[str, Field(min_length=1)]


class HubDataset(BaseModel):
    """A Hugging Face dataset: a name on the Hub, or a local folder (also one that ``save_to_disk`` wrote)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: Name
    config: Name | None = None
    split: Name = "train"


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str | dict | HubDataset) else value


# One entry, or a list of entries.
Sources = Annotated[list[Name | HubDataset], BeforeValidator(_as_list), Field(min_length=1)]


class DataConfig(BaseModel):
    """Text sources, their split, the tokenizer, and the length of a sample.

    An entry of ``train`` or ``validation`` is a file (``.txt``, ``.jsonl``, ``.jsonl.gz``, ``.json``), a folder
    (every text and JSONL file below it), a glob, ``package:name/inner/*.txt`` (files inside an installed Python
    package) or a :class:`HubDataset`. A text file is one document; so is a JSONL line.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: Sources
    validation: Sources | None = None
    """None: ``validation_fraction`` of the training documents is set aside."""
    validation_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of the distinct documents; at least one of them. 0: no validation set."""
    sequence_length: StrictInt = Field(gt=0)
    """Tokens that a model sees per sample."""
    tokenizer: Name | None = None
    """Path or name for ``AutoTokenizer``. None: a byte-level BPE is trained on the training documents."""
    vocab_size: StrictInt = Field(default=4096, ge=257)
    """Largest size of a tokenizer trained here: 256 bytes, the end-of-text token, merges."""
    text_field: Name = "text"
    """Field of a JSON object or column of a dataset that holds the text."""
    mask_documents: StrictBool = False
    """True: attention does not cross from one document of a sample to the next."""
    seed: StrictInt = Field(default=0, ge=0)
    """Of the document split and of the order of samples."""

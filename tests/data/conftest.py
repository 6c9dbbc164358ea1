"""What tests of data share: token files that count, small pieces, a tokenizer."""

from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from corpora import make_texts

from loopway.data import TokenFile, write_token_file
from loopway.data.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def counting_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TokenFile]:
    """Makes a token file of documents of given lengths whose ids are `first`, `first` + 1, ..., below 65,536."""
    folder, numbers = tmp_path_factory.mktemp("token_files"), count()

    def make(document_lengths: Sequence[int], first: int = 0) -> TokenFile:
        ends = first + np.cumsum(document_lengths)
        documents = [range(end - length, end) for length, end in zip(document_lengths, ends, strict=True)]
        return write_token_file(folder / str(next(numbers)), documents, 65_536)

    return make


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few documents make a piece, and few pieces a unit."""
    for names, name, size in (
        (("reading", "prepare"), "PIECE_BYTES", 1000),
        (("reading", "sources"), "ROWS", 4),
        (("reading", "units", "training_texts"), "UNIT_BYTES", 1500),
    ):
        for module in names:
            monkeypatch.setattr(f"loopway.data.preparation.{module}.{name}", size)


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer that knows the words of the texts."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(make_texts(30), 300).save_pretrained(folder)
    return folder

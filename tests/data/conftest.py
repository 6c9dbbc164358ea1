"""Token files in which every token says where it stands."""

from collections.abc import Callable, Sequence
from itertools import count

import numpy as np
import pytest

from loopway.data import TokenFile, write_token_file


@pytest.fixture(scope="session")
def counting_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TokenFile]:
    """Makes a token file of documents of given lengths whose ids are `first`, `first` + 1, ..., below 65,536."""
    folder, numbers = tmp_path_factory.mktemp("token_files"), count()

    def make(document_lengths: Sequence[int], first: int = 0) -> TokenFile:
        ends = first + np.cumsum(document_lengths)
        documents = [range(end - length, end) for length, end in zip(document_lengths, ends, strict=True)]
        return write_token_file(folder / str(next(numbers)), documents, 65_536)

    return make

"""The fields of the data section and their bounds."""

import pytest
from pydantic import ValidationError

from loopway.data import DataConfig, HubDataset


@pytest.mark.parametrize("one", ["a.txt", {"dataset": "wikitext", "config": "v1"}])
def test_a_single_source_is_a_list_of_one(one):
    config = DataConfig.model_validate({"train": one, "sequence_length": 8})
    assert config.train == ([one] if isinstance(one, str) else [HubDataset(**one)])


@pytest.mark.parametrize(
    "wrong",
    [
        {"sequence_lenght": 8},
        {"train": []},
        {"train": ""},
        {"train": {"dataset": "x", "splitt": "train"}},
        {"sequence_length": 0},
        {"sequence_length": True},
        {"sequence_length": 8.5},
        {"validation_fraction": 1.0},
        {"validation_fraction": -0.1},
        {"vocab_size": 256},
        {"seed": -1},
        {"mask_documents": 3},
    ],
    ids=str,
)
def test_what_can_not_be_is_refused(wrong):
    with pytest.raises(ValidationError):
        DataConfig.model_validate({"train": "a.txt", "sequence_length": 8} | wrong)

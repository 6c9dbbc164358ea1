"""The fields of the data section and their bounds."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from loopway.data import DataConfig, HubDataset, PreparationConfig, TokenSource


@pytest.mark.parametrize(
    ("one", "source"),
    [
        ("a.txt", "a.txt"),
        ({"dataset": "wikitext", "config": "v1"}, HubDataset(dataset="wikitext", config="v1")),
        ({"dataset": "wikitext", "streaming": True}, HubDataset(dataset="wikitext", streaming=True)),
        ({"tokens": "a.bin", "weight": 2}, TokenSource(tokens="a.bin", weight=2.0)),
        (TokenSource(tokens="a.bin"), TokenSource(tokens="a.bin")),
    ],
    ids=str,
)
def test_a_single_source_is_a_list_of_one(one: Any, source: Any) -> None:
    for entries in (one, [one]):
        config = DataConfig.model_validate({"train": entries, "validation": entries, "sequence_length": 8})
        assert config.train == config.validation == [source]


WRONG: list[dict[str, Any]] = [
    {"train": []},
    {"train": ""},
    {"train": 3},
    {"train": {"dataset": "x", "splitt": "train"}},
    {"train": {"dataset": "x", "streaming": 1}},
    {"validation": []},
    {"validation_fraction": 1.0},
    {"validation_fraction": -0.1},
    {"validation_fraction": float("nan")},
    {"vocab_size": 256},
    {"vocab_size": 300.5},
    {"text_field": ""},
    {"skip_unreadable": "perhaps"},
    {"seed": -1},
    {"seed": True},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
@pytest.mark.parametrize("model", [DataConfig, PreparationConfig])
def test_what_can_not_be_is_refused(model: type[BaseModel], wrong: dict[str, Any]) -> None:
    given = {"train": "a.txt"} | ({"sequence_length": 8} if model is DataConfig else {})
    model.model_validate(given)
    with pytest.raises(ValidationError):
        model.model_validate(given | wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sequence_lenght": 8},
        {"train": {"tokens": ""}},
        {"train": {"tokens": "a.bin", "weight": 0}},
        {"train": {"tokens": "a.bin", "weight": float("inf")}},
        {"train": {"tokens": "a.bin", "wait": 1}},
        {"sequence_length": 0},
        {"sequence_length": True},
        {"sequence_length": 8.5},
        {"sampling": "shuffled"},
        {"mask_documents": 3},
    ],
    ids=str,
)
def test_samples_that_can_not_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DataConfig.model_validate({"train": "a.txt", "sequence_length": 8} | wrong)


def test_only_text_can_be_prepared() -> None:
    with pytest.raises(ValidationError):
        PreparationConfig.model_validate({"train": {"tokens": "a.bin"}})
    with pytest.raises(ValidationError):
        PreparationConfig.model_validate({"train": "a.txt", "sequence_length": 8})


def test_both_configs_describe_text_alike() -> None:
    """A run that is given text makes the one of the other."""
    assert PreparationConfig.model_fields.keys() <= DataConfig.model_fields.keys()
    for name in PreparationConfig.model_fields.keys() - {"train"}:
        assert PreparationConfig.model_fields[name].default == DataConfig.model_fields[name].default

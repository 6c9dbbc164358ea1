"""What pydantic finds becomes one line about the field that was meant, also where several types are allowed."""

from typing import Any

import pytest
from pydantic import ValidationError

from loopway.checks import config_error
from loopway.data.config import DataConfig


@pytest.mark.parametrize(
    "train, message",
    [
        ([{"tokens": "x", "weight": -1}], "data.train[0].weight: got -1, expected more than 0"),
        ([{"tokens": "x", "wieght": 2}], "unknown key data.train[0].wieght; did you mean weight?"),
        ([{"dataset": "x", "slpit": "a"}], "unknown key data.train[0].slpit; did you mean split?"),
        ({"tokens": 3}, "data.train[0].tokens: got 3, expected a valid string"),
        ([{}], "data.train[0].dataset is missing"),
        ([3], "data.train[0]: got 3, expected a valid string"),
        ([], "data.train: got [], expected at least 1 item"),
        (3, "data.train: got 3, expected a valid list"),
    ],
)
def test_a_wrong_source_is_told_as_the_kind_that_was_meant(train: Any, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DataConfig.model_validate({"train": train, "sequence_length": 8})
    assert str(config_error(caught.value, "data", DataConfig)) == message

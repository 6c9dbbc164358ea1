"""The JSON schema accepts the files that Loopway accepts, and finds what it refuses by name or type."""

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from loopway.comparison.early import DEMO_CONFIG
from loopway.comparison.schema import config_schema
from loopway.training.config.yaml_files import read_yaml

ROOT = Path(__file__).parents[2]
FILES = [DEMO_CONFIG, *ROOT.glob("studies/*/*.yaml"), *(ROOT / "tests" / "saved").rglob("config.yaml")]


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = config_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_every_config_of_the_repository_is_valid(validator: Draft202012Validator) -> None:
    assert len(FILES) > 10
    for path in FILES:
        assert [error.message for error in validator.iter_errors(read_yaml(path))] == [], path


@pytest.mark.parametrize(
    "content, message",
    [
        ({"varaints": {}}, "'varaints' was unexpected"),
        ({"model": {"layuot": "4"}}, "'layuot' was unexpected"),
        ({"variants": {"mesh": {"num_slot": 3}}}, "'num_slot' was unexpected"),
        ({"data": {"trian": "a.txt"}}, "'trian' was unexpected"),
        ({"data": {"sequence_length": "long"}}, "'long' is not of type 'integer'"),
        ({"training": {"max_steps": "many"}}, "'many' is not valid"),
        ({"training": {"output_dir": "here"}}, "'output_dir' was unexpected"),
        ({"seeds": 3}, "3 is not of type 'array'"),
    ],
)
def test_a_wrong_key_or_type_is_found(
    validator: Draft202012Validator, content: dict[str, Any], message: str
) -> None:
    (error,) = validator.iter_errors(content)
    assert message in error.message

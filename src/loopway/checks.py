"""One-line errors for invalid configs: the field, the given value, the expected one.

Knows nothing of any particular section.
"""

import difflib
import re
import reprlib
import types
import typing
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from loopway.errors import ConfigError, LoopwayError

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "a mapping",
    list: "a list",
    type(None): "null",
}
_PLURALS: dict[Any, str] = {str: "text", int: "whole numbers", float: "numbers"}
_COMPARED = {
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "greater than": "more than",
}


def unknown_key(section: str, key: Any, known: Collection[str]) -> ConfigError:
    """Return the error for a `key` that isn't among the `known` keys of `section` ("" means the whole file)."""
    name = f"{section}.{key}" if section else str(key)
    nearest = difflib.get_close_matches(str(key), known, n=1)
    if nearest:
        return ConfigError(f"unknown key {name}; did you mean {nearest[0]}?")
    listed = f"; known keys: {', '.join(sorted(known))}" if 0 < len(known) <= 20 else ""
    return ConfigError(f"unknown key {name}{listed}")


def not_among(field: str, given: Any, choices: Sequence[str]) -> ConfigError:
    """Return the error for a value outside `choices`; it names the nearest choices, or all."""
    nearest = [choice for choice in choices if str(given) in choice] or difflib.get_close_matches(
        str(given), choices
    )
    if nearest:
        return ConfigError(f"{field}: got {reprlib.repr(given)}; did you mean {', '.join(nearest[:4])}?")
    return wrong_value(field, given, f"one of {', '.join(choices)}")


def wrong_value(field: str, given: Any, expected: str) -> ConfigError:
    return ConfigError(f"{field}: got {reprlib.repr(given)}, expected {expected}")


def check_value(field: str, value: Any, expected: Any) -> Any:
    """Return `value` if it has the type `expected` and is within its limits.

    Strict: a whole number is accepted as a number, and no other type is converted.

    Raises:
        ConfigError: wrong type, or out of limits.
    """
    try:
        TypeAdapter(expected).validate_python(value, strict=True)
    except ValidationError as error:
        limits = [e for e in error.errors() if e["type"].startswith(("greater", "less", "literal"))]
        raise wrong_value(
            field, value, _expected(limits[0]["msg"]) if limits else type_name(expected)
        ) from None
    return value


def type_name(expected: Any) -> str:
    """Describe a type in plain words: ``int | None`` -> "a whole number or null"."""
    origin = typing.get_origin(expected) or expected
    if origin is typing.Annotated:
        return type_name(typing.get_args(expected)[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(
            dict.fromkeys(type_name(part) for part in typing.get_args(expected) if not _is_enum(part))
        )
    if origin is list and (of := typing.get_args(expected)):
        return f"a list of {_PLURALS.get(of[0], 'values')}"
    return _WORDS.get(origin) or getattr(expected, "__name__", str(expected))


def one_line(error: BaseException) -> str:
    """Return an exception's message without line breaks."""
    return re.sub(r"\s+", " ", str(error)).strip()


def config_error(error: ValidationError, section: str, model: type[BaseModel]) -> LoopwayError:
    """Return the most specific error in `section`, which was validated with the pydantic `model`."""
    for found in error.errors():
        if isinstance(own := found.get("ctx", {}).get("error"), LoopwayError):
            return own
    models = {nested.__name__: nested for nested in _nested_models(model)}
    fields = {name for nested in models.values() for name in nested.model_fields}
    # With a union, every member reports its failures. The member with the fewest was meant; of its failures, an unknown
    # key or the deepest location is the most specific.
    all_of = [e for e in error.errors() if e["type"] != "model_type"] or error.errors()
    found_by = Counter(next((part for part in e["loc"] if part in models), "") for e in all_of)
    meant = min(filter(None, found_by), key=found_by.__getitem__, default="")
    errors = [e for e in all_of if meant in (*e["loc"], "")]
    worst = max(errors, key=lambda e: (e["type"] == "extra_forbidden", len(e["loc"])))
    *parents, last = worst["loc"] or ("",)
    path = section
    for part in [*(p for p in parents if isinstance(p, int) or p in fields), last]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    if worst["type"] == "extra_forbidden":
        owner = next((models[p] for p in reversed(parents) if p in models), model)
        return unknown_key(path.rpartition(".")[0], last, owner.model_fields)
    if worst["type"] == "missing":
        return ConfigError(f"{path} is missing")
    place = path.removesuffix(f".{last}") if last not in fields else path
    return wrong_value(place, worst["input"], _expected(worst["msg"]))


def option_error(error: ValidationError) -> LoopwayError:
    """Return the first error among options validated with a pydantic model, named as on the command line."""
    found = error.errors()[0]
    if isinstance(own := found.get("ctx", {}).get("error"), LoopwayError):
        return own
    option = f"--{str(found['loc'][0]).replace('_', '-')}"
    if found["type"] == "missing":
        return ConfigError(f"{option} is missing")
    if found["type"] == "extra_forbidden":
        return ConfigError(f"unknown option {option}")
    return wrong_value(option, found["input"], _expected(found["msg"]))


def _expected(message: str) -> str:
    for of_pydantic, ours in _COMPARED.items():
        message = message.replace(of_pydantic, ours)
    return re.sub(r"^(\w+ should (be|have)|Value error,) | after validation, not \d+$", "", message)


def _nested_models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from _nested_models(field.annotation)
    for part in typing.get_args(annotation):
        yield from _nested_models(part)


def _is_enum(part: Any) -> bool:
    return isinstance(part, type) and hasattr(part, "__members__")

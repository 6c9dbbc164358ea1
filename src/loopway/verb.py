"""Verbs of the command line, whose help describes values in words instead of Python types."""

from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption


class Verb(TyperCommand):
    """A command whose help shows arguments and flags by their names alone; some releases of typer add Python types."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        for parameter in self.params:
            if isinstance(parameter, TyperArgument):
                parameter.display_type = lambda *_: None  # type: ignore[method-assign]

    def get_params(self, ctx: Any) -> list[Any]:
        return [_without_type(parameter) for parameter in super().get_params(ctx)]


class Verbs(TyperGroup):
    """All verbs; the help shows flags by their names alone."""

    def get_params(self, ctx: Any) -> list[Any]:
        return [_without_type(parameter) for parameter in super().get_params(ctx)]


def _without_type(option: Any) -> Any:
    if (isinstance(option, TyperOption) and option.is_flag) or (option is not None and option.name == "help"):
        option.metavar = ""
    return option

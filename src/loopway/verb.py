"""A verb of the command line, whose help describes values in words instead of Python types."""

from typing import Any

from typer.core import TyperArgument, TyperCommand


class Verb(TyperCommand):
    """A command whose help shows an argument's name, and ``--help``, alone; some releases of typer add Python types."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        for parameter in self.params:
            if isinstance(parameter, TyperArgument):
                parameter.display_type = lambda *_: None  # type: ignore[method-assign]

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)
        if option is not None:
            option.metavar = ""
        return option

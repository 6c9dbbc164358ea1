"""Lines and tables for people, on a terminal that may be closed. Knows nothing of what they say."""

import contextlib
import os
from collections.abc import Iterator

from rich.console import Console

_QUIET = "LOOPWAY_QUIET"  # a variable of the environment, which processes of a comparison inherit


def be_quiet() -> None:
    """Print only errors from now on, in this process and its children."""
    os.environ[_QUIET] = "1"


def screen(*, stderr: bool = False) -> Console:
    """Return a console for standard output or standard error that reads no markup in what it prints."""
    return Console(
        stderr=stderr, markup=False, highlight=False, quiet=os.environ.get(_QUIET, "") not in ("", "0")
    )


def table_screen(*, as_json: bool) -> Console | None:
    """Return a console that prints nothing where JSON replaces the table, else None."""
    return Console(quiet=True) if as_json else None


def say(console: Console, text: str) -> None:
    """Print a line without wrapping or markup. A closed terminal or pipe loses the line and raises nothing."""
    with lost_output_ignored():
        console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def lost_output_ignored() -> Iterator[None]:
    """Suppress what printing to a closed terminal or pipe raises."""
    try:
        yield
    except OSError:
        pass
    except SystemExit as error:
        if not isinstance(error.__context__, BrokenPipeError):  # which rich turns into an exit
            raise

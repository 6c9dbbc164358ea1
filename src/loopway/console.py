"""Lines for people, on a terminal that may be closed. Knows nothing of what they say."""

import contextlib
from collections.abc import Iterator

from rich.console import Console


def say(console: Console, text: str) -> None:
    """Print a line as it is, however long. A closed terminal or pipe ends no work: the line is lost."""
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

"""Recurrences by name: the paper's, their sums, and those that a user registers.

Knows nothing of what a recurrence does.
"""

import difflib
from collections.abc import Callable

from loopway.errors import LayoutError, RecurrenceError
from loopway.recurrence.fixed import Base, Dynamic, Static, SupplementSum
from loopway.recurrence.interface import Recurrence, RecurrenceOptions
from loopway.recurrence.mesh import MeSH
from loopway.recurrence.randomness import own_stream

_RECURRENCES: dict[str, type[Recurrence]] = {"base": Base, "static": Static, "dynamic": Dynamic, "mesh": MeSH}
_BUILT_IN = (*_RECURRENCES, *SupplementSum.SUPPLEMENTS)


def register_recurrence(name: str, cls: type[Recurrence]) -> None:
    """Make a recurrence of your own known to configs, ``train`` and ``compare`` under ``name``.

    Registering the same name again replaces the class, so that a notebook cell can be run twice.

    Raises:
        RecurrenceError: if the name is taken by a built-in recurrence, holds a ``+``, or ``cls`` is no Recurrence.
    """
    if not (isinstance(name, str) and name) or "+" in name or name in _BUILT_IN:
        raise RecurrenceError(
            f"a recurrence can't be registered as {name!r}: choose a name without '+' that isn't one of "
            f"{', '.join(_BUILT_IN)}"
        )
    if not (isinstance(cls, type) and issubclass(cls, Recurrence)):
        raise RecurrenceError(
            f"{cls!r} is not a subclass of loopway.Recurrence; see CONTRIBUTING.md for an example"
        )
    _RECURRENCES[name] = cls


def check_recurrence(name: str, options: RecurrenceOptions) -> None:
    """Raise a clear error unless recurrence ``name`` exists and makes sense with ``options``.

    Raises:
        RecurrenceError: unknown name or impossible options.
        LayoutError: the recurrence needs a loop or a boundary that the layout hasn't got.
    """
    cls = _resolve(name)[0]
    layout = options.layout
    if options.num_slots is not None and options.num_slots < 1:
        raise RecurrenceError(
            f"num_slots is {options.num_slots}; it must be at least 1, or None for boundaries + 2"
        )
    if options.transition_router_input not in ("embedding", "prelude"):
        raise RecurrenceError(
            f"transition_router_input is {options.transition_router_input!r}; it must be 'embedding' or 'prelude'"
        )
    if cls.needs_loop and not layout.is_looped:
        raise LayoutError(
            f"recurrence {name!r} needs a looped segment and layout {layout} has none: loop one, as in 4+8R2+4, "
            f"or use recurrence 'base'"
        )
    if cls.needs_boundary and layout.num_boundaries == 0:
        raise LayoutError(
            f"recurrence {name!r} needs two stages or more and layout {layout} has one: split or loop it, "
            f"as in 4+8R2+4 or 4+8+8+4, or use recurrence 'base'"
        )
    cls.check(options)


def build_recurrence(name: str, options: RecurrenceOptions) -> Recurrence:
    """Return the recurrence module, its parameters initialised unless on the meta device.

    Torch's own random stream is left where it was. Raises as :func:`check_recurrence` does.
    """
    check_recurrence(name, options)
    with own_stream():
        recurrence = _resolve(name)[1](options)
    if not any(parameter.is_meta for parameter in recurrence.parameters()):
        with own_stream():
            recurrence.reset_parameters()
    return recurrence


def _resolve(name: str) -> tuple[type[Recurrence], Callable[[RecurrenceOptions], Recurrence]]:
    if name in _RECURRENCES:
        return _RECURRENCES[name], _RECURRENCES[name]
    parts = name.split("+") if isinstance(name, str) else []
    if parts and set(parts) <= set(SupplementSum.SUPPLEMENTS) and len(set(parts)) == len(parts):
        return SupplementSum, lambda options: SupplementSum(options, frozenset(parts))
    known = [*_RECURRENCES, *SupplementSum.SUPPLEMENTS]
    nearest = difflib.get_close_matches(str(name), known, n=1)
    hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
    raise RecurrenceError(
        f"unknown recurrence {name!r}{hint}; known: {', '.join(known)}, and sums of residual, anchor and anchor*, "
        f"each once, such as residual+anchor; your own: loopway.register_recurrence(name, cls) before this"
    )

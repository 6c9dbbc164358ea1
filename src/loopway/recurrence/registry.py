"""Recurrences by name: the paper's, sums of them, and user-registered ones.

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
    """Register your own recurrence under ``name`` for configs, ``train`` and ``compare``.

    Registering a name again replaces the class: a notebook cell can run twice.

    Raises:
        RecurrenceError: the name is built in or contains ``+``, or ``cls`` is not a subclass of Recurrence.
    """
    if not (isinstance(name, str) and name) or "+" in name or name in _BUILT_IN:
        raise RecurrenceError(
            f"a recurrence can't be registered as {name!r}: choose a name without '+' other than "
            f"{', '.join(_BUILT_IN)}"
        )
    if not (isinstance(cls, type) and issubclass(cls, Recurrence)):
        raise RecurrenceError(
            f"{cls!r} is not a subclass of loopway.Recurrence; see CONTRIBUTING.md for an example"
        )
    _RECURRENCES[name] = cls


def check_recurrence(name: str, options: RecurrenceOptions) -> None:
    """Validate that recurrence ``name`` exists and can be used with ``options``.

    Raises:
        RecurrenceError: unknown name or invalid options.
        LayoutError: the recurrence needs a loop or a boundary, and the layout has none.
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
    if options.shared_routers and not cls.shares_routers:
        raise RecurrenceError(
            f"shared_routers: recurrence {name!r} has no parameters per boundary to share; static, dynamic and mesh do"
        )
    ends = (layout.segments[0], layout.segments[-1])
    if options.shared_routers and (not layout.is_looped or any(segment.loops > 1 for segment in ends)):
        raise LayoutError(
            f"shared_routers needs a loop between an unlooped first and last segment, as in 4+8R2+4, and layout {layout} "
            f"has none: change the layout, or omit shared_routers"
        )
    cls.check(options)


def build_recurrence(name: str, options: RecurrenceOptions) -> Recurrence:
    """Return the recurrence module, with parameters initialised unless they are on the meta device.

    Torch's global random stream doesn't advance.

    Raises:
        RecurrenceError: as :func:`check_recurrence`.
        LayoutError: as :func:`check_recurrence`.
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
        f"each once, such as residual+anchor; register your own first with loopway.register_recurrence(name, cls); "
        "for vLLM, name its file in LOOPWAY_PLUGINS"
    )

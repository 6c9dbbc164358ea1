"""What `loopway probe` does with its options. Knows how they are checked; nothing of how a probe is taken."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loopway.checks import not_among
from loopway.layout import Layout

_DTYPES = ("float32", "bfloat16", "float16")


def probe_command(models: Sequence[str], out: Path, **settings: Any) -> None:
    """Probe models; `settings` are those of :class:`loopway.probing.probe.Settings`.

    Raises:
        LoopwayError: a mistake in the options, a model that can't be opened, no held-out text.
    """
    if settings["dtype"] not in (None, *_DTYPES):
        raise not_among("--dtype", settings["dtype"], _DTYPES)
    if settings["cut"] is not None:
        Layout.parse(settings["cut"])
    from loopway.probing.probe import Settings, probe

    probe(models, out, Settings(**settings), command=shlex.join(["loopway", *sys.argv[1:]]))

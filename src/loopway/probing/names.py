"""Names shared by the figures of probes: models, samples, tokens by frequency, states."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from loopway.report.style import plain


def name_models(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Add a legend above all panels, in as many columns as fit."""
    longest = max(len(name) for name in labels)
    columns = max(1, min(len(labels), int(15 * figure.get_figwidth() / (longest + 7))))
    names = [plain(name) for name in labels]
    figure.legend(
        handles, names, loc="outside upper center", ncols=columns, handlelength=2.5, handleheight=1.0
    )


def sample_count(counts: Sequence[int]) -> str:
    """Return ``20 samples``, or ``20 to 40 samples`` if models differ."""
    least, most = min(counts), max(counts)
    return f"{least} samples" if least == most else f"{least} to {most} samples"


def frequency_names(least: np.ndarray) -> list[str]:
    """Return the names of frequency groups: the count of their rarest token; – for a group without tokens."""
    return ["–" if np.isnan(count) else f"{count:,.0f}" for count in least]


def state_name(state: str) -> str:
    """Return a state's name as a formula."""
    if found := re.fullmatch(r"h_(\w+)", state):
        return rf"$h_\mathrm{{{found[1]}}}$"
    return f"${state}$" if re.fullmatch(r"h\(\d+\)", state) else plain(state)

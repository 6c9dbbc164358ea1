"""The figures of probed models, each with its words, and what the models are called in them."""

import re
from collections.abc import Sequence

import matplotlib

from loopway.probing.loop_figures import draw_loops
from loopway.probing.pictures import Picture
from loopway.probing.router_figures import draw_routers
from loopway.probing.state_figures import draw_glance, draw_relative_updates, draw_similarity, draw_spectra
from loopway.report.style import LOOK
from loopway.traces.findings import ModelProbes


def draw_figures(probes: Sequence[ModelProbes]) -> dict[str, Picture]:
    """Every figure that there is something to draw for, by file stem.

    ``relative-updates``, ``similarity``, ``spectra`` and ``glance`` always; ``loops`` where a model has any; for each
    model with routers ``routers-<label>``, ``positions-<label>`` and ``frequencies-<label>``.
    """
    labels = model_labels([found.name for found in probes])
    with matplotlib.rc_context(LOOK):
        pictures = [
            draw_relative_updates(probes, labels),
            draw_similarity(probes, labels),
            draw_spectra(probes, labels),
            draw_glance(probes, labels),
        ]
        if any(found.loops for found in probes):
            pictures.append(draw_loops(probes, labels))
        for found, name, stem in zip(probes, labels, _file_stems(labels), strict=True):
            if found.routers is not None:
                pictures.extend(draw_routers(found, found.routers, name, stem))
    return {picture.stem: picture for picture in pictures}


def model_labels(names: Sequence[str]) -> list[str]:
    """Of each name, the last part; where others have the same, as many parts more as tell them apart.

    A name that is there several times gets a number.
    """
    parts = [[part for part in name.split("/") if part] or [name] for name in names]
    labels = []
    for number, own in enumerate(parts):
        others = [other for other in parts if other != own]
        length = next(
            (n for n in range(1, len(own)) if all(other[-n:] != own[-n:] for other in others)), len(own)
        )
        earlier = parts[:number].count(own)
        labels.append("/".join(own[-length:]) + (f" ({earlier + 1})" if earlier else ""))
    return labels


def _file_stems(labels: Sequence[str]) -> list[str]:
    """Each label without what files and ids may not hold; numbered where that makes two equal."""
    stems: list[str] = []
    for label in labels:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-")
        stems.append(stem if stem not in stems else f"{stem}-{len(stems) + 1}")
    return stems

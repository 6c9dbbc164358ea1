"""Figures of probed models, each with its caption."""

import re
from collections.abc import Sequence

import matplotlib

from loopway.probing.loop_figures import draw_loops
from loopway.probing.router_figures import draw_routers
from loopway.probing.state_figures import draw_glance, draw_relative_updates, draw_similarity, draw_spectra
from loopway.report.labels import model_labels
from loopway.report.pictures import Picture
from loopway.report.style import LOOK
from loopway.traces.findings import ModelProbes


def draw_figures(probes: Sequence[ModelProbes]) -> dict[str, Picture]:
    """Draw all figures that have data; return them by file stem.

    Always: ``relative-updates``, ``similarity``, ``spectra`` and ``glance``. If a model has loop probes: ``loops``. For
    each model with routers: ``routers-<label>``, ``positions-<label>`` and ``frequencies-<label>``.
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


def _file_stems(labels: Sequence[str]) -> list[str]:
    """Return each label without characters that file names and ids don't allow; numbered if two become equal."""
    stems: list[str] = []
    for label in labels:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-")
        stems.append(stem if stem not in stems else f"{stem}-{len(stems) + 1}")
    return stems

"""Layouts: how a model's layers are grouped into segments, and which of them loop.

``4+8R2+4`` means four prelude layers, eight core layers run twice, and four coda layers (paper, section 1). This
module parses that notation and lists the stages in execution order. It knows nothing of tensors, decoder families
or recurrences.
"""

import re
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from loopway.errors import LayoutError

_SEGMENT = re.compile(r"([1-9][0-9]{0,8})(?:R([1-9][0-9]{0,8}))?")
_FORM = (
    "write each segment as LAYERS or LAYERSRLOOPS with whole numbers from 1, joined by '+', "
    "e.g. 24, 4+8R2+4 or 4+8+8+4"
)
# Layouts are typed by hand: a greater depth is a typing mistake and would exhaust memory.
_MAX_COMPUTE_DEPTH = 100_000


@dataclass(frozen=True)
class Segment:
    """A run of consecutive unique layers, applied ``loops`` times."""

    layers: int
    loops: int = 1

    def __str__(self) -> str:
        return f"{self.layers}R{self.loops}" if self.loops > 1 else str(self.layers)


@dataclass(frozen=True)
class Stage:
    """One pass through one segment.

    Attributes:
        index: position among all stages, from 0; boundary t lies after stage t.
        segment: index of the segment that this stage runs.
        iteration: which of the segment's loops this is, from 0.
        layers: indices of the unique layers that run.
        cache_offset: unrolled index of the stage's first layer, where its KV-cache entries begin.
        name: ``prelude``, ``core[0]``, ``core[1]``, ``coda``; in other layouts ``block`` or a numbered name.
    """

    index: int
    segment: int
    iteration: int
    layers: range
    cache_offset: int
    name: str


@dataclass(frozen=True)
class Layout:
    """The segments of a recursive model, in order. Create one with :meth:`parse`."""

    segments: tuple[Segment, ...]

    @staticmethod
    def parse(text: str) -> "Layout":
        """Parse the layout notation.

        Raises:
            LayoutError: ``text`` isn't of the form ``LAYERS[RLOOPS]+…``.
        """
        if not isinstance(text, str):
            raise LayoutError(f"layout must be a string, got {text!r}: {_FORM}")
        return Layout._parse(text)

    @staticmethod
    @lru_cache(maxsize=256)
    def _parse(text: str) -> "Layout":
        segments = []
        for part in map(str.strip, text.split("+")):
            match = _SEGMENT.fullmatch(part)
            if match is None:
                where = f"segment {part!r} is invalid" if part else "a segment is missing"
                raise LayoutError(f"layout {text!r}: {where}; {_FORM}")
            segments.append(Segment(int(match[1]), int(match[2] or 1)))
        layout = Layout(tuple(segments))
        if layout.compute_depth > _MAX_COMPUTE_DEPTH:
            raise LayoutError(
                f"layout {text!r} unrolls to {layout.compute_depth} layers; the limit is {_MAX_COMPUTE_DEPTH}"
            )
        return layout

    def __str__(self) -> str:
        return "+".join(map(str, self.segments))

    @property
    def compute_depth(self) -> int:
        """Number of layers executed per token (unrolled)."""
        return sum(segment.layers * segment.loops for segment in self.segments)

    @property
    def parameter_depth(self) -> int:
        """Number of unique layers: those that hold parameters."""
        return sum(segment.layers for segment in self.segments)

    @property
    def is_looped(self) -> bool:
        """Whether any segment runs more than once."""
        return any(segment.loops > 1 for segment in self.segments)

    @property
    def num_boundaries(self) -> int:
        """Number of places between consecutive stages, where a recurrence acts."""
        return sum(segment.loops for segment in self.segments) - 1

    def uses_of_layer(self, layer: int) -> int:
        """Return how often unique layer ``layer`` runs per token."""
        for segment in self.segments:
            if layer < segment.layers:
                return segment.loops
            layer -= segment.layers
        raise IndexError(f"layout {self} has {self.parameter_depth} unique layers")

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """All stages in execution order."""
        stages: list[Stage] = []
        first_layer = cache_offset = 0
        for position, (segment, name) in enumerate(zip(self.segments, self._segment_names(), strict=True)):
            for iteration in range(segment.loops):
                stages.append(
                    Stage(
                        index=len(stages),
                        segment=position,
                        iteration=iteration,
                        layers=range(first_layer, first_layer + segment.layers),
                        cache_offset=cache_offset,
                        name=f"{name}[{iteration}]" if segment.loops > 1 else name,
                    )
                )
                cache_offset += segment.layers
            first_layer += segment.layers
        return tuple(stages)

    @property
    def unshared_stages(self) -> tuple[Stage, ...]:
        """The same stages without shared layers: the blocks of a vanilla model of this compute depth."""
        return tuple(
            replace(stage, layers=range(stage.cache_offset, stage.cache_offset + len(stage.layers)))
            for stage in self.stages
        )

    def _segment_names(self) -> list[str]:
        """Return each segment's name. Looped segments are cores; others are the prelude, the coda or blocks."""
        last = len(self.segments) - 1
        kinds = []
        for position, segment in enumerate(self.segments):
            if segment.loops > 1:
                kinds.append("core")
            elif last > 0 and position in (0, last):
                kinds.append("prelude" if position == 0 else "coda")
            else:
                kinds.append("block")
        return [
            f"{kind}{kinds[: position + 1].count(kind)}" if kinds.count(kind) > 1 else kind
            for position, kind in enumerate(kinds)
        ]

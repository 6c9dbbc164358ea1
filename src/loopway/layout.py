"""Layouts: how a model's layers are grouped into segments, and which of them loop.

``4+8R2+4`` means four prelude layers, eight core layers run twice, and four coda layers (paper, section 1). This
module parses that notation and lists the stages in execution order. It knows nothing of tensors, decoder families
or recurrences.
"""

import re
from collections.abc import Sequence
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


def parse_loops(text: str) -> int | list[int]:
    """Parse loop counts as a command line gives them: ``4`` for all looped segments, ``2+3`` with one for each.

    Raises:
        LayoutError: ``text`` has another form.
    """
    parts = [part.strip() for part in text.split("+")]
    if not all(re.fullmatch(r"[0-9]{1,9}", part) for part in parts):
        raise LayoutError(
            f"loops is {text!r}: write a whole number, or one for each looped segment, as in 2+3"
        )
    counts = [int(part) for part in parts]
    return counts[0] if len(counts) == 1 else counts


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
        step: boundary of the layout whose rule a recurrence applies after this stage: ``index``, unless a call runs
            other loop counts than the layout's. Not used after the last stage.
        name: ``prelude``, ``core[0]``, ``core[1]``, ``coda``; in other layouts ``block`` or a numbered name.
    """

    index: int
    segment: int
    iteration: int
    layers: range
    cache_offset: int
    step: int
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

    def with_loops(self, loops: int | Sequence[int] | None) -> "Layout":
        """Return the layout with other loop counts in its looped segments; None changes nothing.

        Args:
            loops: one count for every looped segment, or a list with one count for each.

        Raises:
            LayoutError: the layout has no loop, the list has the wrong length, or a count isn't a number from 1.
        """
        if loops is None:
            return self
        looped = [segment for segment in self.segments if segment.loops > 1]
        counts = list(loops) if isinstance(loops, list | tuple) else [loops] * len(looped)
        if not looped:
            raise LayoutError(f"loops is {loops}, and layout {self} has no looped segment: omit loops")
        if len(counts) != len(looped):
            raise LayoutError(
                f"loops is {counts}, and layout {self} has {len(looped)} looped segment{'s'[: len(looped) > 1]}: "
                f"give one count for each, or one number for all"
            )
        for count in counts:
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise LayoutError(f"loops is {loops!r}; a count must be a whole number from 1")
        remaining = iter(counts)
        changed = Layout(
            tuple(replace(each, loops=next(remaining)) if each.loops > 1 else each for each in self.segments)
        )
        if changed.compute_depth > _MAX_COMPUTE_DEPTH:
            raise LayoutError(
                f"loops is {loops}: layout {self} would run {changed.compute_depth} layers; the limit is {_MAX_COMPUTE_DEPTH}"
            )
        return changed

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
        return self.stages_of_call(None)

    def stages_of_call(
        self, loops: int | Sequence[int] | None, *, own_last_step: bool = False
    ) -> tuple[Stage, ...]:
        """Return the stages of a call that runs the looped segments ``loops`` times, in execution order.

        Iterations beyond the layout's repeat the step of the layout's last iteration.

        Args:
            loops: as in :meth:`with_loops`.
            own_last_step: only a call's last iteration takes the step of the layout's last one, also with fewer loops;
                iterations beyond the layout's repeat the step before it.

        Raises:
            LayoutError: as :meth:`with_loops`.
        """
        stages: list[Stage] = []
        first_layer = cache_offset = first_step = 0
        parts = zip(self.segments, self.with_loops(loops).segments, self._segment_names(), strict=True)
        for position, (own, called, name) in enumerate(parts):
            for iteration in range(called.loops):
                if own_last_step and iteration == called.loops - 1:
                    step = own.loops - 1
                else:
                    step = min(iteration, max(own.loops - 1 - own_last_step, 0))
                stages.append(
                    Stage(
                        index=len(stages),
                        segment=position,
                        iteration=iteration,
                        layers=range(first_layer, first_layer + own.layers),
                        cache_offset=cache_offset,
                        step=min(first_step + step, max(self.num_boundaries - 1, 0)),
                        name=f"{name}[{iteration}]" if own.loops > 1 else name,
                    )
                )
                cache_offset += own.layers
            first_layer += own.layers
            first_step += own.loops
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

"""Configs of recursive models: layout, recurrence and their options on top of the family's own config.

Knows nothing of modules; building a config allocates no weights.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Self

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from loopway.errors import LoopwayError
from loopway.layout import Layout
from loopway.modeling.families import Family
from loopway.modeling.per_layer import of_unique_layers, per_layer_lists, unrolled_layers
from loopway.recurrence import RecurrenceOptions, check_recurrence


@dataclass(kw_only=True)
class RecursiveConfigMixin:
    """Fields of a recursive config beyond its family's.

    ``num_hidden_layers`` is the compute depth of a call, since it sizes KV caches; it follows from layout and ``loops``.
    ``num_unique_layers`` is the parameter depth.

    Attributes:
        layout: segments of layers, ``4+8R2+4``; None means one segment of ``num_hidden_layers``, the vanilla model.
        recurrence: how the state passes between stages: ``base``, ``anchor``, ``mesh``, …
        num_slots: MeSH's buffer length; None means boundaries + 2.
        transition_router_input: input of MeSH's routers after the first stage, ``embedding`` or ``prelude``.
        scale_embeddings: multiply the input embeddings by sqrt(hidden_size) (paper, section 4), unless the family
            already scales them; see :attr:`stack_embedding_scale`.
        depth_scaled_init: divide the initial std of residual output projections by sqrt(2 · compute depth).
        loops: loops of a call that names none: one number for every looped segment, or a list with one for each; None
            means the layout's. Changes no parameter.
        shared_routers: share the parameters of a recurrence between boundaries: one set each for the first and the
            last boundary and one for all between, so any number of loops is valid.
    """

    layout: str | None = None
    recurrence: str = "base"
    num_slots: int | None = None
    transition_router_input: str = "embedding"
    scale_embeddings: bool = True
    depth_scaled_init: bool = True
    loops: int | list[int] | None = None
    shared_routers: bool = False

    family: ClassVar[Family]

    def __post_init__(self, **kwargs: Any) -> None:
        layout = Layout.parse(str(self.num_hidden_layers) if self.layout is None else self.layout)
        self.layout = str(layout)
        call = self.call_layout
        self.num_hidden_layers = layout.parameter_depth  # the family derives lists from it
        for name, values in self.per_layer_lists.items():
            setattr(self, name, of_unique_layers(name, values, call))
        if self._auto_class is None:  # type: ignore[attr-defined]
            # It names code in the model's folder (loopway export --self-contained) that isn't used here. A model saved
            # again must not refer to it.
            kwargs.pop("auto_map", None)
        super().__post_init__(**kwargs)  # type: ignore[misc]
        self._unroll(call)
        check_recurrence(self.recurrence, self.recurrence_options)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a field; a new layout or new loops also update the depth and all per-layer lists."""
        if name == "loops" and isinstance(value, tuple):
            value = list(value)
        given: Any = vars(self).get(name)
        is_new = name not in ("layout", "loops") or name not in vars(self) or vars(self).get("layout") is None
        if (
            is_new
            or value == given
            or (name == "layout" and (value is None or Layout.parse(value) == Layout.parse(given)))
        ):
            super().__setattr__(name, value)
            return
        unique = {
            key: of_unique_layers(key, values, self.call_layout)
            for key, values in self.per_layer_lists.items()
        }
        super().__setattr__(name, value)
        try:
            call = self.call_layout
            lists = {key: of_unique_layers(key, values, call) for key, values in unique.items()}
        except LoopwayError:
            super().__setattr__(name, given)
            raise
        for key, values in lists.items():
            setattr(self, key, values)
        self._unroll(call)

    def with_loops(self, loops: int | Sequence[int] | None) -> Self:
        """Return a copy whose calls run ``loops`` loops by default; caches made from it have the size of such a call.

        Raises:
            LayoutError: as :meth:`loopway.Layout.with_loops`.
        """
        changed = deepcopy(self)
        changed.loops = list(loops) if isinstance(loops, Sequence) else loops
        return changed

    @property
    def per_layer_lists(self) -> dict[str, list[Any]]:
        """Lists of the family's config with one entry per layer, by field name."""
        return per_layer_lists(self, self.family.config_class)

    def _unroll(self, layout: Layout) -> None:
        """Convert depth and per-layer lists from the unique layers to the unrolled graph."""
        self.num_hidden_layers = layout.compute_depth
        for name, values in self.per_layer_lists.items():
            setattr(self, name, [values[unique] for unique in unrolled_layers(layout)])

    @property
    def has_mixed_layers(self) -> bool:
        """Whether layers use several kinds of attention, each with its own mask."""
        return len(set(getattr(self, "layer_types", None) or ())) > 1

    @property
    def parsed_layout(self) -> Layout:
        return Layout.parse(self.layout)  # type: ignore[arg-type]

    @property
    def call_layout(self) -> Layout:
        """The layout that calls run by default: the model's own, with ``loops`` if they are set."""
        return self.parsed_layout.with_loops(self.loops)

    @property
    def num_unique_layers(self) -> int:
        """The parameter depth: the number of unique layers."""
        return self.parsed_layout.parameter_depth

    @property
    def recurrence_options(self) -> RecurrenceOptions:
        return RecurrenceOptions(
            layout=self.parsed_layout,
            hidden_size=self.hidden_size,  # type: ignore[attr-defined]
            num_slots=self.num_slots,
            transition_router_input=self.transition_router_input,
            initializer_range=self.initializer_range,  # type: ignore[attr-defined]
            shared_routers=self.shared_routers,
        )

    @property
    def stack_embedding_scale(self) -> float | None:
        """Factor applied to the embeddings at the stack's input; None without scaling, or if the family scales them.

        A family scales embeddings in its code by sqrt(hidden_size), or by an ``embedding_multiplier`` other than 1.
        """
        multiplied = getattr(self, "embedding_multiplier", None) not in (None, 1)
        wanted = self.scale_embeddings and not multiplied and not self.family.scales_embeddings
        return math.sqrt(self.hidden_size) if wanted else None  # type: ignore[attr-defined]

    @contextmanager
    def building_unique_layers(self) -> Iterator[None]:
        """Set depth and per-layer lists to the unique layers while the family's constructor builds them.

        Changes and restores the config object itself, since attention modules keep a reference to it.
        """
        call = self.call_layout
        self.num_hidden_layers = call.parameter_depth
        for name, values in self.per_layer_lists.items():
            setattr(self, name, of_unique_layers(name, values, call))
        try:
            yield
        finally:
            self._unroll(call)


@cache
def config_class(family: Family) -> type[PreTrainedConfig]:
    """Return the ``Recursive<Prefix>Config`` class of a family."""
    base = family.config_class
    name = f"Recursive{family.prefix}Config"
    return strict(  # type: ignore[return-value]
        type(
            name,
            (RecursiveConfigMixin, base),
            {
                "__module__": "loopway",
                "__doc__": f"{family.prefix}Config with a layout and a recurrence; see RecursiveConfigMixin.",
                "model_type": family.recursive_model_type,
                "family": family,
                "base_model_tp_plan": _inside_stack(base.base_model_tp_plan),
                "base_model_ep_plan": _inside_stack(base.base_model_ep_plan),
                "base_model_fsdp_plan": _inside_stack(base.base_model_fsdp_plan),
                "base_model_pp_plan": None,  # stages share layers: no pipeline parallelism
                "__annotations__": {"family": ClassVar[Family]},
            },
        )
    )


def _inside_stack(plan: dict | None) -> dict | None:
    """Return a parallelism plan with layer names inside the RecursiveStack.

    transformers replaces every number in a module's name by ``*`` before it looks up the name, also the stack's 0.
    """

    def moved(key: Any) -> Any:
        return (
            key.replace("layers.*", "layers.*.layers.*") if isinstance(key, str) else tuple(map(moved, key))
        )

    return None if plan is None else {moved(key): value for key, value in plan.items()}

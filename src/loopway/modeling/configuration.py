"""Configs of recursive models: layout, recurrence and their options on top of the family's own config.

Knows nothing of modules; building a config allocates no weights.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from loopway.layout import Layout
from loopway.modeling.families import Family
from loopway.modeling.per_layer import of_unique_layers, per_layer_lists, unrolled_layers
from loopway.recurrence import RecurrenceOptions, check_recurrence


@dataclass(kw_only=True)
class RecursiveConfigMixin:
    """What a recursive config has beyond its family's.

    ``num_hidden_layers`` is the compute depth (KV caches are sized by it) and follows from the layout;
    ``num_unique_layers`` is the parameter depth.

    Attributes:
        layout: segments of layers, ``4+8R2+4``; None is one segment of ``num_hidden_layers``, the vanilla model.
        recurrence: how the state passes between stages, ``base``, ``anchor``, ``mesh``, …
        num_slots: MeSH's buffer length; None is boundaries + 2.
        transition_router_input: what MeSH's routers after the first stage see, ``embedding`` or ``prelude``.
        scale_embeddings: multiply the input embeddings by sqrt(hidden_size) (paper, section 4), unless the family multiplies
            them itself; see :attr:`stack_embedding_scale`.
        depth_scaled_init: divide the initial std of residual output projections by sqrt(2 · compute depth).
    """

    layout: str | None = None
    recurrence: str = "base"
    num_slots: int | None = None
    transition_router_input: str = "embedding"
    scale_embeddings: bool = True
    depth_scaled_init: bool = True

    family: ClassVar[Family]

    def __post_init__(self, **kwargs: Any) -> None:
        layout = Layout.parse(str(self.num_hidden_layers) if self.layout is None else self.layout)
        self.layout = str(layout)
        self.num_hidden_layers = layout.parameter_depth  # for the lists that the family makes from it
        for name, values in self.per_layer_lists.items():
            setattr(self, name, of_unique_layers(name, values, layout))
        if self._auto_class is None:  # type: ignore[attr-defined]
            # Code that a folder brings along (loopway export --self-contained) and that isn't run here: a model that is
            # saved again comes without it.
            kwargs.pop("auto_map", None)
        super().__post_init__(**kwargs)  # type: ignore[misc]
        self._unroll(layout)
        check_recurrence(self.recurrence, self.recurrence_options)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a field; a new layout also changes the depth and the lists of one entry a layer."""
        given: Any = vars(self).get("layout")
        if name != "layout" or None in (given, value) or Layout.parse(given) == Layout.parse(value):
            super().__setattr__(name, value)
            return
        before, layout = Layout.parse(given), Layout.parse(value)
        lists = {
            key: of_unique_layers(key, of_unique_layers(key, values, before), layout)
            for key, values in self.per_layer_lists.items()
        }
        super().__setattr__(name, value)
        for key, values in lists.items():
            setattr(self, key, values)
        self._unroll(layout)

    @property
    def per_layer_lists(self) -> dict[str, list[Any]]:
        """Lists of the family's config with one entry a layer, by their names."""
        return per_layer_lists(self, self.family.config_class)

    def _unroll(self, layout: Layout) -> None:
        """Make depth and lists of the unique layers those of the unrolled graph."""
        self.num_hidden_layers = layout.compute_depth
        for name, values in self.per_layer_lists.items():
            setattr(self, name, [values[unique] for unique in unrolled_layers(layout)])

    @property
    def has_mixed_layers(self) -> bool:
        """Whether layers are of several kinds of attention, each with a mask of its own."""
        return len(set(getattr(self, "layer_types", None) or ())) > 1

    @property
    def parsed_layout(self) -> Layout:
        return Layout.parse(self.layout)  # type: ignore[arg-type]

    @property
    def num_unique_layers(self) -> int:
        """The parameter depth: layers that hold weights of their own."""
        return self.parsed_layout.parameter_depth

    @property
    def recurrence_options(self) -> RecurrenceOptions:
        return RecurrenceOptions(
            layout=self.parsed_layout,
            hidden_size=self.hidden_size,  # type: ignore[attr-defined]
            num_slots=self.num_slots,
            transition_router_input=self.transition_router_input,
            initializer_range=self.initializer_range,  # type: ignore[attr-defined]
        )

    @property
    def stack_embedding_scale(self) -> float | None:
        """The factor of the embeddings at the stack's input; None where the family multiplies them itself, or none is wanted.

        Families that do: by sqrt(hidden_size) in their code, or by an ``embedding_multiplier`` other than 1.
        """
        multiplied = getattr(self, "embedding_multiplier", None) not in (None, 1)
        wanted = self.scale_embeddings and not multiplied and not self.family.scales_embeddings
        return math.sqrt(self.hidden_size) if wanted else None  # type: ignore[attr-defined]

    @contextmanager
    def building_unique_layers(self) -> Iterator[None]:
        """Give depth and per-layer lists of the unique layers while the family's constructor runs, so it builds those.

        The config object itself is changed and put back: attention modules keep a reference to it.
        """
        layout = self.parsed_layout
        self.num_hidden_layers = layout.parameter_depth
        for name, values in self.per_layer_lists.items():
            setattr(self, name, of_unique_layers(name, values, layout))
        try:
            yield
        finally:
            self._unroll(layout)


@cache
def config_class(family: Family) -> type[PreTrainedConfig]:
    """``Recursive<Prefix>Config`` of a family."""
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
                "base_model_pp_plan": None,  # stages share layers, so layers can't be dealt out to workers
                "__annotations__": {"family": ClassVar[Family]},
            },
        )
    )


def _inside_stack(plan: dict | None) -> dict | None:
    """Return a parallelism plan that names the layers where they are: inside the one RecursiveStack.

    transformers replaces every number in a module's name by ``*`` before it looks the name up, the stack's 0 too.
    """

    def moved(key: Any) -> Any:
        return (
            key.replace("layers.*", "layers.*.layers.*") if isinstance(key, str) else tuple(map(moved, key))
        )

    return None if plan is None else {moved(key): value for key, value in plan.items()}

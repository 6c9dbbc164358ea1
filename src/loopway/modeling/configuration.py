"""Configs of recursive models: layout, recurrence and their options on top of the family's own config.

Knows nothing of modules; building a config allocates no weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from loopway.errors import FamilyError
from loopway.layout import Layout
from loopway.modeling.families import Family
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
        scale_embeddings: multiply the input embeddings by sqrt(hidden_size) (paper, section 4).
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
        self.num_hidden_layers = layout.compute_depth
        if self._auto_class is None:  # type: ignore[attr-defined]
            # Code that a folder brings along (loopway export --self-contained) and that isn't run here: a model that is
            # saved again comes without it.
            kwargs.pop("auto_map", None)
        super().__post_init__(**kwargs)  # type: ignore[misc]
        kinds = sorted(set(getattr(self, "layer_types", None) or ()))
        if len(kinds) > 1:
            raise FamilyError(
                f"layers of differing attention types ({', '.join(kinds)}) can't be arranged in a layout yet: "
                f"give a config whose layer_types are all the same"
            )
        check_recurrence(self.recurrence, self.recurrence_options)

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

    @contextmanager
    def building_unique_layers(self) -> Iterator[None]:
        """Within, ``num_hidden_layers`` is the parameter depth, so that the family's constructor builds those layers.

        The config object itself is changed and put back: attention modules keep a reference to it.
        """
        self.num_hidden_layers = self.num_unique_layers
        try:
            yield
        finally:
            self.num_hidden_layers = self.parsed_layout.compute_depth


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

# pyright: reportMissingImports=false
"""Recursive models in vLLM: its Transformers backend, with one KV cache entry per layer of the unrolled graph.

vLLM allocates a KV cache per ``Attention`` instance, and its backend makes one instance per attention module. A shared
layer has one attention module but needs a cache of its own in every loop, so here each cache entry has an instance.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from vllm.config import VllmConfig
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.models.transformers import (
    TransformersForCausalLM,
    TransformersMoEForCausalLM,
    vllm_attention_forward,
)
from vllm.platforms import current_platform

from loopway.modeling.family_head import logits_of, unchanged
from loopway.modeling.stack import find_stack
from loopway.serving.inductor import keep_mutation_order
from loopway.serving.vllm_plugin import ConfigCheck

_ATTENTION = "loopway_vllm"


class CacheEntry(nn.Module):
    """Attention of one layer of the unrolled graph; vLLM stores its ``Attention`` instance here as ``attn``.

    Every other attribute is that of the unique layer's attention module, which several entries share.
    """

    def __init__(self, shared: nn.Module) -> None:
        super().__init__()
        self._shared = (shared,)  # in a tuple: the module tree holds it once, in its layer

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_shared"][0], name)


def _attention_of_entry(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    attention_instances: dict[int, CacheEntry],
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Run vLLM's attention with the cache entry that the stage hands to its layer."""
    entry = attention_instances[module.layer_idx]  # type: ignore[index]
    return vllm_attention_forward(entry, query, key, value, attention_mask, **kwargs)  # type: ignore[arg-type]


def _no_init(self: nn.Module) -> None:
    """Do nothing: an existing model becomes an instance."""


ALL_ATTENTION_FUNCTIONS.register(_ATTENTION, _attention_of_entry)


class RecursiveForServing(TransformersForCausalLM):
    """A recursive causal LM in vLLM: a cache entry per loop, and the family's own logits."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        ConfigCheck.verify_and_update_config(vllm_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        # Without vLLM's scale and cap: the family's code applies them.
        self.logits_processor = LogitsProcessor(self.text_config.vocab_size)

    @property
    def base_model_prefix(self) -> str:
        return self.model.base_model_prefix

    def _decorate_for_torch_compile(self) -> None:
        if current_platform.is_cpu():
            keep_mutation_order()
        super()._decorate_for_torch_compile()

    def _decorate_cls_for_torch_compile(self, cls: type[nn.Module], **kwargs: Any) -> None:
        """Decorate a subclass: vLLM changes the class itself, and this process may hold models outside the engine."""
        self._decorated = type(cls.__name__, (cls,), {"__module__": cls.__module__, "__init__": _no_init})
        super()._decorate_cls_for_torch_compile(cls=self._decorated, **kwargs)

    @contextmanager
    def _mark_model_components(self, vllm_config: VllmConfig) -> Iterator[None]:
        """Make the model, created within the block, an instance of the decorated class."""
        with super()._mark_model_components(vllm_config):
            yield
        self.model.__class__ = self._decorated
        self._decorated.__init__(self.model, vllm_config=vllm_config)

    def _create_attention_instances(self, prefix: str = "") -> None:
        """Make one ``Attention`` per cache entry, with the settings that vLLM found for the entry's unique layer."""
        of_unique_layer, self.attention_fusers = self.attention_fusers, {}
        self.entries = nn.ModuleList()
        for stage in find_stack(self.model).stages_of():
            for unique in stage.layers:
                name, fuser = of_unique_layer[unique]
                self.attention_fusers[len(self.entries)] = (f"entries.{len(self.entries)}", fuser)
                self.entries.append(CacheEntry(self.get_submodule(name)))
        super()._create_attention_instances(prefix)
        self.text_config._attn_implementation = _ATTENTION

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs, attention_instances=dict(enumerate(self.entries)))

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        logits = super().compute_logits(hidden_states)
        return None if logits is None else logits_of(self, logits, head=unchanged)


class RecursiveMoEForServing(RecursiveForServing, TransformersMoEForCausalLM):
    """A recursive causal LM with experts in vLLM."""

"""Recursive models as native Hugging Face models: the code that all families share.

The family's base model is built with the unique layers, which then move into one RecursiveStack. Its forward, masks,
generation and weight names stay unchanged. Knows nothing of individual families.
"""

from collections.abc import Sequence
from functools import cache, partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from loopway.errors import ConfigError
from loopway.modeling.adapters import AdaptedLayersMixin
from loopway.modeling.configuration import config_class
from loopway.modeling.families import Family
from loopway.modeling.family_head import after_base, changes_logits, construct, logits_of, unchanged
from loopway.modeling.few_rows import fast_few_rows
from loopway.modeling.growing_cache import let_grow
from loopway.modeling.handing import HandingList
from loopway.modeling.initialization import initialize
from loopway.modeling.loss import (
    loss_from_hidden,
    loss_from_logits,
    sample_losses_from_hidden,
    shifted,
)
from loopway.modeling.stack import RecursiveStack


class RecursiveModelMixin:
    """The family's base model with its layers inside one RecursiveStack."""

    # Stages share layers and mix states, so a device map must not split the stack.
    _no_split_modules: ClassVar[list[str]] = ["RecursiveStack"]

    def __init__(self, config: PreTrainedConfig) -> None:
        with config.building_unique_layers():
            super().__init__(config)  # type: ignore[call-arg]
        stack = RecursiveStack(config, self.layers)
        for part in stack.recurrence.children():  # the recurrence initialises them from its own random stream
            part.apply(_mark_initialized)
        self.layers = (HandingList if config.has_mixed_layers else nn.ModuleList)([stack])
        self.post_init()  # type: ignore[attr-defined]

    def init_parallel_plans(self) -> None:
        """Collect transformers' parallelism plans; shard the embedding whenever layers are sharded.

        A tied head holds the embedding's tensor, and the head's rule shards it by vocabulary.
        """
        super().init_parallel_plans()  # type: ignore[misc]
        if self._tp_plan:
            embeddings = self.get_input_embeddings()  # type: ignore[attr-defined]
            name = next(name for name, module in self.named_modules() if module is embeddings)  # type: ignore[attr-defined]
            self._tp_plan = {name: "embedding_rowwise", **self._tp_plan}

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        # For code outside transformers, the base method skips modules without direct parameters: stack and recurrence.
        super()._initialize_weights(module)  # type: ignore[misc]

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[misc]
        initialize(module, self.config)  # type: ignore[attr-defined]


def _mark_initialized(module: nn.Module) -> None:
    """Mark a module as initialised, which makes the family skip it (transformers' own flag)."""
    module._is_hf_initialized = True  # type: ignore[assignment]


class RecursiveCausalLMMixin:
    """The causal language model: base model, head, and a loss that can avoid holding all logits."""

    _no_split_modules: ClassVar[list[str]] = ["RecursiveStack"]
    _pp_plan: ClassVar[None] = None  # stages share layers: no pipeline parallelism
    _base_model_class: ClassVar[type[PreTrainedModel]]
    lm_head: Any  # a linear map or a wrapper of one

    def __init__(self, config: PreTrainedConfig) -> None:
        construct(self, config, config.family, self._base_model_class)  # type: ignore[arg-type,attr-defined]
        self._changes_logits = changes_logits(self)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        shift_labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        skip_logits: bool = False,
        loss_per_sample: bool = False,
        loops: int | Sequence[int] | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Run the family's forward, with a loss that keeps float64 and can be computed from chunks of logits.

        Args:
            input_ids: ``[batch, seq]``.
            labels: ``[batch, seq]``, shifted inside; -100 is ignored.
            shift_labels: labels that are already shifted: position n holds the token after n.
            num_items_in_batch: divisor of the summed loss; defaults to the number of targets.
            skip_logits: don't return logits; with labels, the loss then holds one chunk of logits at a time.
            loss_per_sample: return the loss summed over each sample's targets, ``[batch]``, and no logits.
            loops: how often this call runs the looped segments: one number for all, or a list with one for each; None
                means the config's ``loops``, or the layout's.

        Returns:
            ``loss`` in nats per target, ``logits`` ``[batch, seq, vocab]`` or None, cache, hidden states, attentions.
        """
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "inputs_embeds": inputs_embeds,
            "use_cache": use_cache,
            **({} if loops is None else {"loops": loops}),
            **kwargs,
        }
        outputs = self.base_model(**given)  # type: ignore[attr-defined]
        hidden = outputs.last_hidden_state
        targets = shifted(labels) if shift_labels is None and labels is not None else shift_labels

        result: Any
        loss = logits = None
        # A wrapped head (LoRA, quantised, hooked, sharded) must be called: its weight alone isn't enough.
        is_linear = type(self.lm_head) is nn.Linear and type(self.lm_head.weight) is nn.Parameter
        head_is_plain = is_linear and not self.lm_head._forward_hooks
        if loss_per_sample and targets is not None:
            loss = sample_losses_from_hidden(hidden, self.head_logits, targets)
        elif skip_logits and targets is not None and head_is_plain:
            finish = partial(logits_of, self, head=unchanged) if self._changes_logits else None
            loss = loss_from_hidden(
                hidden,
                self.lm_head.weight,
                targets,
                num_items_in_batch,
                bias=self.lm_head.bias,
                finish=finish,
            )
        if loss is not None or (skip_logits and targets is None):
            nothing = type(outputs)(**{**outputs, "last_hidden_state": hidden[:, :0]})
            result = after_base(self, nothing, head=unchanged, **given)
        elif targets is None:
            result = after_base(self, outputs, logits_to_keep=logits_to_keep, **given)
            logits = result.logits
        else:
            result = after_base(self, outputs, **given)
            loss = loss_from_logits(result.logits, targets, num_items_in_batch)
            logits = None if skip_logits else _kept(result.logits, logits_to_keep)
        if loss is not None and not loss_per_sample and (auxiliary := result.get("aux_loss")) is not None:
            loss = loss + self.router_aux_loss_coef * auxiliary.to(loss.device)  # type: ignore[attr-defined]
        return type(result)(**{**result, "loss": loss, "logits": logits})

    def head_logits(self, hidden: Tensor) -> Tensor:
        """Return the logits ``[…, vocab]`` of hidden states ``[…, hidden]``; the head may be wrapped."""
        return logits_of(self, hidden)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Run transformers' ``generate`` with a cache that is written in place and fast products of few rows."""
        with fast_few_rows(self):  # type: ignore[arg-type]
            return super().generate(*args, **kwargs)  # type: ignore[misc]

    def _prepare_generation_config(self, *args: Any, **kwargs: Any) -> tuple[GenerationConfig, dict]:
        """Reject drafting with the first layers: transformers counts ``num_hidden_layers``, here the compute depth.

        Raises:
            ConfigError: ``assistant_early_exit`` is set.
        """
        prepared, model_kwargs = super()._prepare_generation_config(*args, **kwargs)  # type: ignore[misc]
        if prepared.assistant_early_exit is not None:
            raise ConfigError(
                f"assistant_early_exit={prepared.assistant_early_exit}: a recursive model can't draft with fewer layers yet; "
                f"omit it, or draft with a smaller model (assistant_model)"
            )
        return prepared, model_kwargs

    def _get_candidate_generator(self, *args: Any, model_kwargs: dict[str, Any], **kwargs: Any) -> Any:
        """Keep ``loops`` from the drafting model, which has its own."""
        drafting = {name: value for name, value in model_kwargs.items() if name != "loops"}
        return super()._get_candidate_generator(*args, model_kwargs=drafting, **kwargs)  # type: ignore[misc]

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        """Size the cache for the call's loops, and make a default cache a growing one; keep one that the caller gives."""
        given, wanted = model_kwargs.get("past_key_values"), generation_config.cache_implementation
        config: Any = self.config  # type: ignore[has-type]
        if (loops := model_kwargs.get("loops")) is not None:
            self.config = config.with_loops(loops)  # its depth is the cache's
        try:
            super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)  # type: ignore[misc]
        finally:
            self.config = config
        cache = model_kwargs.get("past_key_values")
        if given is None and wanted is None and type(cache) is DynamicCache:
            let_grow(cache)


def _kept(tensor: Tensor, logits_to_keep: int | Tensor) -> Tensor:
    """Return the requested positions of ``[batch, seq, …]``: the last n, the given ones, or all (0)."""
    if isinstance(logits_to_keep, torch.Tensor):
        return tensor[:, logits_to_keep]
    return tensor[:, -logits_to_keep:] if logits_to_keep else tensor


@cache
def model_class(family: Family) -> type[PreTrainedModel]:
    """Return the ``Recursive<Prefix>Model`` class of a family."""
    return family_class(family, "Model", RecursiveModelMixin, family.model_class, {})


@cache
def causal_lm_class(family: Family) -> type[PreTrainedModel]:
    """Return the ``Recursive<Prefix>ForCausalLM`` class of a family."""
    members = {"_base_model_class": model_class(family)}
    return family_class(family, "ForCausalLM", RecursiveCausalLMMixin, family.causal_lm_class, members)


def family_class(
    family: Family, suffix: str, mixin: type, base: type, members: dict[str, Any]
) -> type[PreTrainedModel]:
    """Return a family's recursive class, which inherits from the mixin and then from the family's class."""
    config = config_class(family)
    # transformers derives these from the source of a class's module, so take the family's values.
    choices = ("_can_set_attn_implementation", "_can_set_experts_implementation")
    return type(  # type: ignore[return-value]
        f"Recursive{family.prefix}{suffix}",
        (AdaptedLayersMixin, mixin, base),
        {
            "__module__": "loopway",
            "__doc__": f"{base.__name__} with a layout and a recurrence; see {mixin.__name__}.",
            "__annotations__": {"config": config},
            "config_class": config,
            **{name: getattr(base, name) for name in choices},
            **members,
        },
    )

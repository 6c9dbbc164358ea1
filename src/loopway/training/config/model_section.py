"""The ``model:`` section: a preset or a family, a layout, a recurrence, and any field of the family's own config; or
``pretrained``, a recursive model that is trained further.

Gives the recursive model's config, and the model. Knows nothing of training and data beyond the tokenizer's size and
special tokens.
"""

import dataclasses
import math
import typing
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, StrictStr, field_validator, model_validator
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from loopway.checks import check_value, not_among, one_line, unknown_key, wrong_value
from loopway.data.tokenizer import vocabulary_size
from loopway.errors import ConfigError, LoopwayError
from loopway.modeling.building import build_config
from loopway.modeling.configuration import RecursiveConfigMixin, config_class
from loopway.modeling.families import Family, family_named
from loopway.modeling.presets import PYTHIA_SIZES, pythia_config, pythia_size
from loopway.modeling.pretrained_folder import PretrainedFolder
from loopway.training.config.keys import REFUSED_OF_MODEL

VOCAB_MULTIPLE = 128
_PLAIN = {bool, int, float, str, type(None)}


class ModelConfig(BaseModel):
    """``preset`` or ``family``; ``layout``; and any field of the recursive config, ``recurrence`` and the family's own.
    Or ``pretrained`` alone: a folder or a name on the Hub, whose config and weights the run begins with.

    Those fields are kept as written and checked by name here, by value when the config is built. A ``vocab_size``
    that isn't given is the tokenizer's size, rounded up to a multiple of 128.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    preset: StrictStr | None = None
    family: StrictStr | None = None
    pretrained: StrictStr | None = None
    layout: StrictStr | None = None

    @field_validator("layout", mode="before")
    @classmethod
    def _number_as_layout(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if [self.preset, self.family, self.pretrained].count(None) != 2:
            raise ConfigError(
                "model: give one of preset (pythia-160m, ...), family (llama, ...) and pretrained (a recursive model)"
            )
        if self.pretrained is not None:
            if also := [key for key in ("layout", *self.family_fields) if getattr(self, key) is not None]:
                raise ConfigError(
                    f"model.{also[0]} can't be set beside model.pretrained, which has its own; omit it"
                )
            return self
        if self.preset is not None:
            pythia_size(self.preset)
        elif self.layout is None:
            raise ConfigError("model.layout is missing; for example 4+8R2+4, or 24 for a model without loops")
        names = [field.name for field in dataclasses.fields(config_class(self.decoder_family))]
        fields = [name for name in names if name not in REFUSED_OF_MODEL]
        for key in self.family_fields:
            if key in REFUSED_OF_MODEL:
                raise ConfigError(f"model.{key} can't be set: {REFUSED_OF_MODEL[key]}")
            if key not in fields:
                raise unknown_key("model", key, [*type(self).model_fields, *fields])
        return self

    @property
    def decoder_family(self) -> Family:
        return family_named(self.family or "gpt_neox")

    @property
    def family_fields(self) -> dict[str, Any]:
        """Fields set beyond preset, family and layout; a null stands for the default."""
        return {key: value for key, value in (self.model_extra or {}).items() if value is not None}

    @property
    def learning_rate(self) -> float | None:
        """The peak learning rate that the preset was published with."""
        return PYTHIA_SIZES[pythia_size(self.preset)]["learning_rate"] if self.preset else None

    def build(self, *, vocab_size: int = 1) -> PreTrainedConfig:
        """Return the recursive model's config without what :meth:`fit` takes from the tokenizer.

        Args:
            vocab_size: size of the tokenizer, if known.

        Raises:
            LoopwayError: a layout, recurrence or field that doesn't make a model; a pretrained one that can't be opened or
                isn't recursive.
        """
        # Nothing is padded, and a pad token's embedding would not be trained.
        if self.pretrained is not None:
            config = self._pretrained_config(self.pretrained)
            config.pad_token_id = None
            return config
        fields: dict[str, Any] = (
            {"pad_token_id": None} | self.family_fields | {"vocab_size": self.fitting_size(vocab_size)}
        )
        _check_function_names(fields)
        fields = _checked(self.decoder_family, fields)
        try:
            if self.preset is not None:
                config = pythia_config(self.preset, layout=self.layout, **fields)
            else:
                config = build_config(self.decoder_family, {**fields, "layout": self.layout})
            _check_values(config)
            with torch.device("meta"):  # the constructors check more than the config does
                AutoModelForCausalLM.from_config(config)
        except LoopwayError:
            raise
        except Exception as error:
            raise ConfigError(f"model: can't be built: {type(error).__name__}: {one_line(error)}") from error
        return config

    def fit(self, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        """Give the config the tokenizer's size and special tokens, where the section doesn't give its own.

        Args:
            config: what :meth:`build` gave.
            tokenizer: of the run's data.

        Raises:
            ConfigError: the model has fewer tokens than the tokenizer.
        """
        size = vocabulary_size(tokenizer)
        if self.pretrained is not None:
            if config.vocab_size < size:  # type: ignore[attr-defined]
                raise ConfigError(
                    f"model.pretrained: {self.pretrained} has {config.vocab_size} tokens, and the tokenizer {size}; leave "  # type: ignore[attr-defined]
                    f"data.tokenizer out"
                )
            return
        config.vocab_size = self.fitting_size(size)  # type: ignore[attr-defined]
        rows: int = config.vocab_size  # type: ignore[attr-defined]
        for name, tokens, of in (
            ("bos_token_id", size, "the tokenizer's"),
            ("eos_token_id", size, "the tokenizer's"),
            ("pad_token_id", rows, "the model's"),
        ):
            given = self.family_fields.get(name)
            if isinstance(given, int) and not 0 <= given < tokens:
                raise wrong_value(f"model.{name}", given, f"one of {of} {tokens} tokens, from 0")
        for name in {"bos_token_id", "eos_token_id"} - self.family_fields.keys():
            setattr(config, name, getattr(tokenizer, name))

    def fitting_size(self, tokens: int) -> int:
        """Return the vocabulary size for a tokenizer of so many tokens. Raise ConfigError if ``vocab_size`` is smaller."""
        given = self.family_fields.get("vocab_size")
        if isinstance(given, int) and given < tokens:
            raise ConfigError(
                f"model.vocab_size: got {given}, but the tokenizer has {tokens} tokens; omit it"
            )
        return -(-tokens // VOCAB_MULTIPLE) * VOCAB_MULTIPLE if given is None else given

    def _pretrained_config(self, name: str) -> PreTrainedConfig:
        config = PretrainedFolder(name).config()
        if not isinstance(config, RecursiveConfigMixin):
            raise ConfigError(
                f"model.pretrained: {name} is a {config.model_type} without a layout; make it recursive first: "
                f"loopway retrofit {name} --layout ... --recurrence mesh --out DIR"
            )
        return config

    def make(self, config: PreTrainedConfig) -> PreTrainedModel:
        """Return the model that a run starts from, on the CPU: new, or with the pretrained weights in float32.

        Args:
            config: what :meth:`build` gave, fitted to the tokenizer.

        Raises:
            ConfigError: pretrained weights that can't be opened, or don't fit their config.
        """
        if self.pretrained is None:
            return AutoModelForCausalLM.from_config(config)
        folder = PretrainedFolder(self.pretrained)
        return folder.model(every_weight=True, config=config, dtype=torch.float32, device_map=None)


def _check_function_names(fields: dict[str, Any]) -> None:
    """Check the names of functions, which transformers looks up when it builds the model."""
    rope = fields.get("rope_parameters")
    named = {
        "model.hidden_act": (fields.get("hidden_act"), ACT2FN),
        "model.hidden_activation": (fields.get("hidden_activation"), ACT2FN),
        "model.rope_parameters.rope_type": (
            rope.get("rope_type") if isinstance(rope, dict) else None,
            {"default": None, **ROPE_INIT_FUNCTIONS},
        ),
    }
    for key in ("rope_theta", "factor"):
        number = rope.get(key) if isinstance(rope, dict) else None
        if isinstance(number, int | float) and number <= 0:
            raise wrong_value(f"model.rope_parameters.{key}", number, "more than 0")
    for key, (given, known) in named.items():
        if isinstance(given, str) and given not in known:
            raise not_among(key, given, [*known])


def _checked(family: Family, fields: dict[str, Any]) -> dict[str, Any]:
    """Check the types of plain fields. Convert 1 to 1.0 where transformers requires a float."""
    types = {field.name: field.type for field in dataclasses.fields(config_class(family))}
    checked = dict(fields)
    for name, value in fields.items():
        kinds = {*(typing.get_args(types[name]) or [types[name]])}
        if value is None or not kinds <= _PLAIN:
            continue
        check_value(f"model.{name}", value, types[name])
        if type(value) is int and float in kinds and int not in kinds:
            checked[name] = float(value)
    return checked


def _check_values(config: PreTrainedConfig) -> None:
    """Check values that the family's constructors accept and training would reject."""
    for name, value in vars(config).items():
        if name.endswith(("dropout", "pdrop")) and isinstance(value, int | float) and not 0 <= value <= 1:
            raise wrong_value(f"model.{name}", value, "0 to 1")
    deviation = getattr(config, "initializer_range", 0.02)
    if not 0 <= deviation < math.inf:
        raise wrong_value("model.initializer_range", deviation, "0 or more, and finite")
    heads, groups = getattr(config, "num_attention_heads", 1), getattr(config, "num_key_value_heads", None)
    if groups and heads % groups:
        raise wrong_value(
            "model.num_key_value_heads", groups, f"a divisor of num_attention_heads, {heads}; set it"
        )
    chosen, experts = getattr(config, "num_experts_per_tok", 0), getattr(config, "num_experts", None)
    if experts and chosen > experts:
        raise wrong_value("model.num_experts_per_tok", chosen, f"at most num_experts, {experts}")

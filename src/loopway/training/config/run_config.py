"""A run's whole config: ``model:``, ``data:``, ``training:``, ``original:``, ``plugins:``, ``probe_every:``; from YAML and
overrides, checked early.

Knows what a config means, not how a run is done.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerBase

from loopway.checks import check_value, config_error, unknown_key, wrong_value
from loopway.data.config import SMALLEST_VOCABULARY, DataConfig
from loopway.data.token_sources import names_tokens
from loopway.data.tokenizer import fingerprint, load_tokenizer
from loopway.errors import ConfigError
from loopway.modeling.pretrained_folder import PretrainedFolder
from loopway.modeling.stack import core_parameters
from loopway.training.config.model_section import ModelConfig
from loopway.training.config.training_section import TrainingConfig
from loopway.training.config.yaml_files import apply_overrides, read_yaml, to_yaml
from loopway.training.original import Original, OriginalConfig
from loopway.training.plugins import load_plugins

_SECTIONS: dict[str, type[BaseModel]] = {"model": ModelConfig, "data": DataConfig, "original": OriginalConfig}


class RunConfig(BaseModel):
    """One training run. Two runs with equal configs on one machine give the same bits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: ModelConfig
    data: DataConfig
    training: TrainingConfig
    original: OriginalConfig | None = None
    """The model that a retrofit was made from, for a run that trains one further."""
    plugins: list[str] = []
    """Python files that are run before the model is built, for ``loopway.register_recurrence``."""
    probe_every: int | None = None
    """Steps from one probe of the model to the next; None: it isn't probed while it trains."""

    @classmethod
    def load(cls, path: Path | str, overrides: Sequence[str] = ()) -> Self:
        """Read a YAML file, with what it ``extends``, and lay ``training.max_steps=10`` style overrides on top.

        Raises:
            ConfigError: any mistake that can be found without running it.
        """
        return cls.from_dict(apply_overrides(read_yaml(path), overrides))

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """Check a config that is already read. Raises ConfigError as :meth:`load` does."""
        for key in content:
            if key not in cls.model_fields:
                raise unknown_key("", key, cls.model_fields)
        sections = {}
        for name in ("model", "data", "training"):
            section = content.get(name)
            if section is None:
                raise ConfigError(f"section {name} is missing; a run has model, data and training")
            if not isinstance(section, dict):
                raise wrong_value(name, section, "a mapping")
            sections[name] = section
        if content.get("original") is not None:
            sections["original"] = check_value("original", content["original"], dict[str, Any])
        plugins = check_value("plugins", content.get("plugins") or [], list[str])
        probe_every = check_value("probe_every", content.get("probe_every"), int | None)
        if probe_every is not None and probe_every < 1:
            raise wrong_value("probe_every", probe_every, "a number of steps, at least 1")
        names = [Path(plugin).name for plugin in plugins]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(
                    f"plugins: several files are called {name}; rename one, since a run stores copies by file name"
                )
        load_plugins(plugins)  # first, since they may register what the model section names
        pretrained = sections["model"].get("pretrained")
        if pretrained is not None and sections["data"].get("tokenizer") is None:
            sections["data"] = sections["data"] | {"tokenizer": pretrained}
        for name, section_type in _SECTIONS.items():
            if name not in sections:
                continue
            try:
                sections[name] = section_type.model_validate(sections[name])
            except ValidationError as error:
                raise config_error(error, name, section_type) from None
        training = TrainingConfig.from_dict(sections["training"], sections["model"].learning_rate)
        if "original" in sections and pretrained is None:
            raise ConfigError(
                "original requires model.pretrained, which was made from it; give both, or omit original"
            )
        return cls(
            model=sections["model"],
            data=sections["data"],
            training=training,
            original=sections.get("original"),
            plugins=plugins,
            probe_every=probe_every,
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything that is set, as plain values; :meth:`from_dict` of it gives an equal config."""
        content: dict[str, Any] = {
            "model": self.model.model_dump(exclude_none=True),
            "data": self.data.model_dump(exclude_none=True),
            "training": self.training.to_dict(),
            "plugins": self.plugins,
        }
        if self.original is not None:
            content["original"] = self.original.model_dump(exclude_none=True)
        return content if self.probe_every is None else content | {"probe_every": self.probe_every}

    def to_yaml(self) -> str:
        return to_yaml(self.to_dict())

    def build_model_config(self, tokenizer: PreTrainedTokenizerBase | None = None) -> PreTrainedConfig:
        """Return the model's config.

        Args:
            tokenizer: see :meth:`ModelConfig.fit`, which can also be called later.

        Raises:
            LoopwayError: a layout, recurrence or field that is wrong, samples longer than the model reads, or another
                tokenizer than a pretrained model's.
        """
        config = self.model.build()
        self._check_pretrained()
        longest = getattr(config, "max_position_embeddings", None)
        if longest is not None and self.data.sequence_length > longest:
            raise ConfigError(
                f"data.sequence_length: {self.data.sequence_length} tokens are more than the model's "
                f"max_position_embeddings of {longest}; shorten the samples or set model.max_position_embeddings"
            )
        if self.training.core_first is not None:
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config)
            if not core_parameters(model):
                raise ConfigError(
                    "training.core_first: the model has neither looped layers nor routers to train alone; omit it"
                )
        if tokenizer is not None:
            self.model.fit(config, tokenizer)
        elif self.data.tokenizer is None and not any(map(names_tokens, self.data.train)):
            self.model.fitting_size(SMALLEST_VOCABULARY)
        return config

    def _check_pretrained(self) -> None:
        """Check that text and original use the pretrained model's tokens; reads no weights."""
        name, given = self.model.pretrained, self.data.tokenizer
        if name is None:
            return
        if given is not None and given != name:
            own = PretrainedFolder(name).tokenizer()
            if fingerprint(load_tokenizer(given)) != fingerprint(own):  # type: ignore[arg-type]
                raise ConfigError(
                    f"data.tokenizer: {given} isn't the tokenizer that {name} was trained with; omit it"
                )
        if self.original is not None:
            original = Original.find(self.original, name)
            assert original is not None
            original.check(name)

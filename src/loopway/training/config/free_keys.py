"""Keys of a run's config that may change on resume. Every key that isn't listed here defines the result.

A listed key changes no result, or only the order in which floating-point sums are taken (equal up to rounding). New fields of
transformers define the result until they are listed. Knows keys and values; nothing of folders and files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Self

# Fields of `training:`, by what they are about.
_TRAINING = {
    # How a step's samples are cut into batches: equal up to rounding. The step itself is `global_batch_size`.
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "eval_accumulation_steps",
    "torch_empty_cache_steps",
    # Recomputation in the backward pass: equal up to rounding.
    "recompute",
    "gradient_checkpointing",
    "activation_checkpointing",
    # Processes that load samples, whose order doesn't depend on them.
    "dataloader_num_workers",
    "dataloader_pin_memory",
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context",
    # Logging and trackers.
    "logging_strategy",
    "logging_steps",
    "logging_first_step",
    "log_on_each_node",
    "log_level",
    "log_level_replica",
    "report_to",
    "run_name",
    "project",
    "trackio_space_id",
    "trackio_bucket_id",
    "trackio_static_space_id",
    "push_to_hub",
    "hub_token",
    "hub_private_repo",
    "hub_model_id",
    "hub_strategy",
    "hub_always_push",
    "hub_revision",
    # When checkpoints are written, and how many are kept.
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "save_on_each_node",
    "enable_jit_checkpoint",
    # Devices and process groups: equal up to rounding.
    "use_cpu",
    "ddp_backend",
    "ddp_timeout",
}
# `data.sha256` only checks the tokens, which a resume compares anyway; probes draw no random numbers.
FREE_KEYS = frozenset({f"training.{name}" for name in _TRAINING} | {"data.sha256", "probe_every"})


def defining(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a run's config that defines its result, but for the size of a step: see :class:`StepSize`.

    Args:
        config: plain values, as :meth:`RunConfig.to_dict` gives them. Plugins count by their file names.
    """
    content = {key: value for key, value in config.items() if key not in FREE_KEYS}
    for section in ("data", "training"):
        items = config[section].items()
        content[section] = {key: value for key, value in items if f"{section}.{key}" not in FREE_KEYS}
    content["training"].pop("global_batch_size", None)
    content["plugins"] = [PurePath(plugin).name for plugin in config["plugins"]]
    return content


@dataclass(frozen=True)
class StepSize:
    """Samples of an optimizer step, and the setting that they follow from."""

    samples: int
    source: str

    @classmethod
    def of(cls, config: Mapping[str, Any], workers: int) -> Self:
        """Read `global_batch_size`, or multiply the batch by the number of workers without it."""
        training = config["training"]
        if "global_batch_size" in training:
            return cls(training["global_batch_size"], "training.global_batch_size")
        batch = training["per_device_train_batch_size"]
        return cls(batch * workers, f"workers {workers} × batch {batch}")

    def __str__(self) -> str:
        return f"{self.samples} ({self.source})"


def free_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of all free keys that a run's config sets, by their dotted names; a secret is left out."""
    found = {key: config[key] for key in FREE_KEYS & config.keys()}
    for section in ("data", "training"):
        found |= {
            name: value for key, value in config[section].items() if (name := f"{section}.{key}") in FREE_KEYS
        }
    found.pop("training.hub_token", None)
    return dict(sorted(found.items()))

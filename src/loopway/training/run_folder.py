"""The folder of a run: its parts, its state (new, begun, finished) and its config.

    config.yaml  run.json  plugins/  data/  tokens.json  metrics.jsonl  probes.jsonl  tensorboard/  checkpoints/checkpoint-N/  model/
    original.json  validation_losses.json  summary.json (last)  .lock (held while a process trains)

Knows nothing of how a run is done.
"""

import contextlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from loopway.errors import ConfigError
from loopway.files import aside_of, damage_told, locked, write_atomically
from loopway.training.checkpoint import problem_of, steps_of
from loopway.training.config.differences import config_differences
from loopway.training.config.free_keys import StepSize, defining
from loopway.training.config.yaml_files import to_yaml

_ADVICE = "put it back, or choose another folder"


@dataclass(frozen=True)
class RunFolder:
    """Paths and state of one run."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def provenance(self) -> Path:
        """run.json: code, data, packages and machine of the run."""
        return self.path / "run.json"

    @property
    def plugins(self) -> Path:
        """Copies of the run's plugins, with which its model opens anywhere."""
        return self.path / "plugins"

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def data_places(self) -> list[Path]:
        """Possible places of its prepared text: in the run, or in its comparison."""
        comparison = self.path.absolute().parent.parent
        return [self.data, *([comparison / "data"] if (comparison / "comparison.json").is_file() else [])]

    @property
    def tokens(self) -> Path:
        """JSON: the tokens that the run started with."""
        return self.path / "tokens.json"

    @property
    def has_data(self) -> bool:
        """Whether text was prepared here, perhaps incompletely."""
        return any(self.path.glob(f"{self.data.name}*"))

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def probes(self) -> Path:
        """probes.jsonl, with probe_every."""
        return self.path / "probes.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def model_aside(self) -> Path:
        """Where the final model is written before it is renamed."""
        return self.path / ".model.partial"

    @property
    def original(self) -> Path:
        """JSON: for a run that trains a retrofit, the validation loss of its original."""
        return self.path / "original.json"

    @property
    def validation_losses(self) -> Path:
        """JSON: `sums` and `targets` of every validation sample under the final model, `step`."""
        return self.path / "validation_losses.json"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def lock(self) -> Path:
        """Held while a process trains here; stays behind."""
        return self.path / ".lock"

    @property
    def is_finished(self) -> bool:
        return self.summary.exists()

    @property
    def has_progress(self) -> bool:
        """Whether the folder holds a line of metrics or a checkpoint, perhaps a damaged one."""
        has_lines = self.metrics.exists() and self.metrics.stat().st_size > 0
        return has_lines or bool(steps_of(self.checkpoints))

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Lock the folder within the block. Raises ConfigError if another process trains here."""
        return locked(self.lock, f"another process is training in {self.path}")

    def begin(self, config: dict[str, Any], plugins: list[str], workers: int = 1) -> bool:
        """Claim the folder for a run of `config`; True if it is new.

        A run with data alone has not begun: its config may still change.

        Args:
            config: as :meth:`RunConfig.to_dict` gives it.
            plugins: its Python files.
            workers: that train.

        Raises:
            ConfigError: the folder holds something else, or a run of another config; nothing is changed.
        """
        if self.config.exists():
            if self.has_progress:
                self.check_same(config, plugins, None if self.is_finished else workers)
            elif self._differs(config, plugins):
                with self.locked():
                    self._write_config(config, plugins)
            return False
        if self.path.exists() and (
            not self.path.is_dir() or {*self.path.iterdir()} - {aside_of(self.config), self.lock}
        ):
            raise ConfigError(f"{self.path} exists and holds no run; choose another folder")
        was_there = self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{self.path} can't be made: {error.strerror}; choose another folder") from None
        try:
            self._write_config(config, plugins)
        except BaseException:
            self.abandon(keep_folder=was_there)
            raise
        return True

    def abandon(self, *, keep_folder: bool) -> None:
        """Remove everything that a new run has written, as far as possible, and the folder unless `keep_folder`.

        The config and the lock go last: an incomplete removal leaves a run that has not begun, still locked.
        """
        with contextlib.suppress(OSError):  # the reason for abandoning matters more
            entries = self.path.iterdir()
            for entry in sorted(entries, key=lambda entry: (entry == self.lock, entry == self.config)):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            if not keep_folder:
                self.path.rmdir()

    def _write_config(self, config: dict[str, Any], plugins: list[str]) -> None:
        """Write the config first, since it marks the folder as a run's; missing plugins are copied again."""
        write_atomically(self.config, to_yaml(config))
        shutil.rmtree(self.plugins, ignore_errors=True)
        if plugins:
            self.plugins.mkdir()
            for plugin in plugins:
                shutil.copyfile(plugin, self.plugins / Path(plugin).name)

    def check_same(self, config: dict[str, Any], plugins: list[str], workers: int | None = 1) -> None:
        """Raise ConfigError, naming the keys that differ, unless the run here has the same result as `config`.

        Keys that don't define the result may differ: see :mod:`loopway.training.config.free_keys`.

        Args:
            config: as :meth:`RunConfig.to_dict` gives it.
            plugins: its Python files.
            workers: that will train. None trains nothing, and compares the size of a step only if `config` sets it.
        """
        there, now = defining(self.read_config()), defining(config)
        found = config_differences([_as_read_back(there), _as_read_back(now)])
        told = [f"{key} was {old!r}, now {new!r}" for key, (old, new) in [*found.items()][:3]]
        told += [f"{key} differs" for key in [*found][3:]]
        if workers is not None or "global_batch_size" in config["training"]:
            old_step, step = self._latest_step(workers or 1), StepSize.of(config, workers or 1)
            if step.samples != old_step.samples:
                told.append(
                    f"the samples of a step were {old_step}, now {step}: set training.global_batch_size="
                    f"{old_step.samples} to keep them"
                )
        told += [f"the plugin {plugin} has changed" for plugin in plugins if self._is_changed(plugin)]
        if told:
            raise ConfigError(
                f"{self.path} holds a run of another config: {'; '.join(told)}; to resume undo these changes, to "
                f"start anew choose another folder with --out, or delete this run, or all runs of its comparison, with --fresh"
            )

    def _differs(self, config: dict[str, Any], plugins: list[str]) -> bool:
        return self.read_config() != _as_read_back(config) or any(map(self._is_changed, plugins))

    def read_config(self) -> dict[str, Any]:
        """Return the run's config as plain values. Raises ConfigError if its file is damaged."""
        with damage_told(self.config, _ADVICE):
            content = _as_read_back(yaml.safe_load(self.config.read_text(encoding="utf-8")))
            defining(content)
            return content

    def _is_changed(self, plugin: str) -> bool:
        copy = self.plugins / Path(plugin).name
        return not copy.exists() or copy.read_bytes() != Path(plugin).read_bytes()

    def _latest_step(self, workers: int) -> StepSize:
        """The step size of the latest sitting; before the first, that of so many `workers`."""
        if not self.provenance.exists():
            return StepSize.of(self.read_config(), workers)
        with damage_told(self.provenance, _ADVICE):
            noted = json.loads(self.provenance.read_text(encoding="utf-8"))
            return StepSize.of(noted["config"], noted["sittings"][-1]["workers"])

    def newest_checkpoint(self) -> tuple[Path | None, dict[Path, str]]:
        """Return the newest whole checkpoint, or None, and the damaged ones that were skipped, each with its problem."""
        broken = {}
        for checkpoint in steps_of(self.checkpoints).values():
            problem = problem_of(checkpoint)
            if problem is None:
                return checkpoint, broken
            broken[checkpoint] = problem
        return None, broken


def _as_read_back(config: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(config, default=str))

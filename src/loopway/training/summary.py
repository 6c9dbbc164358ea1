"""summary.json: results and costs of a finished run.

Knows nothing of how it was done.
"""

import contextlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from loopway._version import __version__
from loopway.files import damage_told, write_atomically
from loopway.training.run_folder import RunFolder


class RunSummary(BaseModel):
    """Losses are in nats per token."""

    model_config = ConfigDict(frozen=True)

    folder: Path
    layout: str
    recurrence: str
    parameters: int
    non_embedding_parameters: int
    steps: int
    tokens: int
    """Tokens trained on, repeats included."""
    epochs: float
    train_loss: float | None
    """Mean since the log before the last."""
    validation_loss: float | None
    """Mean over every target of the validation set; None without one."""
    validation_perplexity: float | None
    original_loss: float | None = None
    """Validation loss of the model that a retrofit was made from."""
    tokens_per_second: float | None
    """Speed of the median step, without the first ones, evaluation and saving."""
    peak_memory_bytes: int
    """Peak of the last sitting: allocated on a GPU, resident on a CPU."""
    wall_seconds: float
    """From the first step to the end, evaluation and saving included, over all sittings."""
    device: str
    versions: dict[str, str]

    def write(self, path: Path) -> None:
        write_atomically(path, self.model_dump_json(indent=2, exclude={"folder"}) + "\n")

    def text(self) -> str:
        """The outcome in a few words."""
        parts = [f"{self.steps} steps, {self.tokens:,} tokens"]
        if self.train_loss is not None:
            parts.append(f"training loss {self.train_loss:.4f}")
        if self.validation_loss is not None:
            parts.append(
                f"validation loss {self.validation_loss:.4f}, perplexity {self.validation_perplexity:.2f}"
            )
        if self.original_loss is not None:
            parts.append(f"the original's {self.original_loss:.4f}")
        if self.tokens_per_second is not None:
            parts.append(f"{self.tokens_per_second:,.0f} tokens/s")
        return f"{'; '.join(parts)}\nmodel in {RunFolder(self.folder).model}"

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a summary.json; `folder` is the one it lies in now."""
        with damage_told(
            path, "delete it and rerun: training resumes from the newest checkpoint, if there is one"
        ):
            return cls(**json.loads(path.read_text(encoding="utf-8")), folder=path.parent)


def library_versions(
    *packages: str, default: tuple[str, ...] = ("torch", "transformers", "accelerate", "tokenizers")
) -> dict[str, str]:
    """Return the versions of Python, Loopway and these packages, if installed; by default those of training."""
    found = {
        "python": platform.python_version(),
        "loopway": __version__,
    }  # which may run from a copy, not installed
    for package in packages or default:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found

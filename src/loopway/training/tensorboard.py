"""TensorBoard's event files in a run folder, by steps and by tokens.

Knows nothing of what is logged.
"""

import dataclasses
from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback


class BySteps(TensorBoardCallback):
    """Writes into a folder, which TensorBoard shows as a run.

    Args:
        folder: of the event files.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.logging_dir = str(folder)

    def close(self) -> None:
        """Stop the thread that writes into the folder: that may be removed."""
        if self.tb_writer is not None:
            self.tb_writer.close()


class ByTokens(BySteps):
    """The same with tokens on the horizontal axis, which compares runs with steps of different sizes.

    Args:
        folder: of the event files.
        tokens_per_step: of all workers.
    """

    def __init__(self, folder: Path, tokens_per_step: int) -> None:
        super().__init__(folder)
        self.tokens_per_step = tokens_per_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **given: Any,
    ) -> None:
        by_tokens = dataclasses.replace(state, global_step=state.global_step * self.tokens_per_step)
        super().on_log(args, by_tokens, control, logs, **given)

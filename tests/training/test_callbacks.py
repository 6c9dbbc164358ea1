"""What a run says, and the signals that it hears, never keep it from its checkpoint."""

import contextlib
import io
import os
import pty
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from transformers import TrainerControl, TrainerState, TrainingArguments

from loopway.training.callbacks import ProgressBar, begin_loading
from loopway.training.config.run_config import RunConfig
from loopway.training.metrics_log import MetricsLog
from loopway.training.run import train
from loopway.training.run_folder import RunFolder


@pytest.mark.parametrize("ends", [os.pipe, pty.openpty], ids=["pipe", "terminal"])
def test_a_run_whose_output_is_closed_answers_a_signal_with_a_checkpoint(
    ends: Callable[[], tuple[int, int]],
    tiny_config: Callable[..., RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader, writer = ends()
    append = MetricsLog.append

    def append_and_close(self: MetricsLog, line: dict[str, Any]) -> None:
        append(self, line)
        if line["step"] == 2:
            os.close(reader)
            signal.raise_signal(signal.SIGHUP)

    monkeypatch.setattr(MetricsLog, "append", append_and_close)
    monkeypatch.setattr("loopway.training.callbacks._STANDARD_ERROR", writer)
    run = RunFolder(tmp_path / "run")
    with (tmp_path / "stdout").open("w") as stdout, contextlib.suppress(OSError), open(writer, "w") as output:
        monkeypatch.setattr("sys.stdout", stdout)  # which rich closes with the pipe
        with pytest.raises(SystemExit) as ended:
            train(tiny_config(), run.path, console=Console(file=output, force_terminal=False))
    assert ended.value.code == 128 + signal.SIGHUP
    assert run.newest_checkpoint() == (run.checkpoints / "checkpoint-3", {})


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_bar_keeps_steps_and_time_left_at_any_width(width: int, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    log = MetricsLog(tmp_path / "metrics.jsonl", 0)
    log.append({"step": 9, "loss": 3.123, "tokens_per_second": 123456.0, "mfu": 0.43})
    log.append({"step": 9, "validation_loss": 3.234})
    bar = ProgressBar(console, "mesh-seed0-of-a-long-name", log, line=3.1)
    bar.progress.update(bar.task, total=119_209, completed=1_500)
    state = TrainerState(global_step=9, max_steps=119_209)
    bar.on_log(TrainingArguments(str(tmp_path)), state, TrainerControl(), {"loss": 3.123, "mfu": 0.43})
    console.print(bar.progress.get_renderable())
    (line,) = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert "1500/119209" in line and "-:--:--" in line and "loss 3.123" in line
    assert ("MFU 43%" in line) == (width == 140)


def test_a_process_that_loads_data_leaves_ctrl_c_and_a_closed_terminal_to_the_one_that_trains() -> None:
    parent = os.getpid()
    process = os.fork()
    if process == 0:
        try:
            begin_loading(None, parent, 0)
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGHUP)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0

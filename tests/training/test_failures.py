"""Whatever ends a run from outside, every worker says so in one line, nothing half done looks whole, and it goes on."""

import json
import os
import re
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from torch import distributed

from loopway.data.command import prepare_command
from loopway.data.config import TextOptions
from loopway.errors import DataError
from loopway.training.checkpoint import ASIDE, steps_of
from loopway.training.config.run_config import RunConfig
from loopway.training.config.yaml_files import merge
from loopway.training.failures import failures_told
from loopway.training.run import train
from loopway.training.run_folder import RunFolder
from loopway.training.trainer import TrainingError
from tests.processes import Processes

Build = Callable[..., RunConfig]
LONG = {"max_steps": 100_000, "save_steps": 5, "logging_steps": 1, "eval_strategy": "no"}
TIMEOUT = 30
"""Of the process group, in seconds."""


class Workers:
    """`loopway train`, or a script in its place, by several processes."""

    def __init__(
        self, processes: Processes, config: Path, run: RunFolder, count: int, script: Path | None
    ) -> None:
        self.run = run
        self.errors = [run.path.with_suffix(f".{rank}.txt") for rank in range(count)]
        for path in self.errors:
            path.unlink(missing_ok=True)
        command = ("train", config, "--out", run.path)
        if count == 1:
            self.processes = [processes.start(*command, script=script, errors=self.errors[0])]
        else:
            self.processes = processes.start_workers(count, *command, script=script, errors=self.errors)

    def wait_for_checkpoint(self) -> None:
        while not steps_of(self.run.checkpoints):
            assert all(each.poll() is None for each in self.processes), [
                errors.read_text()[-3000:] for errors in self.errors
            ]
            time.sleep(0.02)

    def last_words(self, rank: int) -> str:
        """Its error, of one line; it has ended with 2.

        What libraries say at the interpreter's exit isn't looked at: some can't even count their own time without memory.
        """
        code = self.processes[rank].wait()
        lines = (
            self.errors[rank].read_text().partition("\nException ignored in atexit callback")[0].splitlines()
        )
        assert code == 2 and "Traceback (most recent call last):" not in lines, "\n".join(lines[-40:])
        return next(line for line in reversed(lines) if line.startswith("loopway: "))

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def start(processes: Processes, tiny: dict[str, Any], tmp_path: Path) -> Iterator[Callable[..., Workers]]:
    """Starts so many workers on a long run, of what is laid over the tiny config, after the lines of `prelude`."""
    started = []

    def begin(count: int, *, sections: dict[str, Any] | None = None, prelude: str = "") -> Workers:
        config, script = tmp_path / "run.yaml", None
        training = {"training": LONG | {"ddp_timeout": TIMEOUT}}
        config.write_text(json.dumps(merge(merge(tiny, training), sections or {})))
        if prelude:
            script = tmp_path / "script.py"
            script.write_text(f"{prelude}\nfrom loopway.cli import main\nmain()\n")
        started.append(Workers(processes, config, RunFolder(tmp_path / "run"), count, script))
        return started[-1]

    yield begin
    for workers in started:
        workers.kill()


def goes_on(run: RunFolder, start: Callable[..., Workers], count: int) -> None:
    """With the same command; and what is there is whole."""
    before = max(steps_of(run.checkpoints))
    assert run.newest_checkpoint() == (run.checkpoints / f"checkpoint-{before}", {})
    again = start(count)
    while max(steps_of(run.checkpoints)) <= before:
        assert again.processes[0].poll() is None, again.errors[0].read_text()
        time.sleep(0.02)
    again.kill()


@pytest.mark.parametrize("signal_sent", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "hangs"])
def test_a_worker_that_dies_or_hangs_ends_the_others_with_one_line(
    signal_sent: signal.Signals, start: Callable[..., Workers]
) -> None:
    workers = start(2)
    workers.wait_for_checkpoint()
    workers.processes[1].send_signal(signal_sent)
    words = workers.last_words(0)
    assert "worker 0 of 2 lost another one" in words and str(workers.run.checkpoints) in words
    if signal_sent == signal.SIGSTOP:  # woken again, it finds itself alone
        workers.processes[1].send_signal(signal.SIGCONT)
        assert "worker 1 of 2 lost another one" in workers.last_words(1)
    else:
        goes_on(workers.run, start, 2)


def test_a_killed_run_leaves_no_process_that_loads_data_and_no_lock(start: Callable[..., Workers]) -> None:
    workers = start(1, sections={"training": {"dataloader_num_workers": 2}})
    workers.wait_for_checkpoint()
    loading = psutil.Process(workers.processes[0].pid).children()
    assert len(loading) >= 2
    for process in loading:  # so that they can't see for themselves, after some seconds, that they are alone
        process.suspend()
    workers.kill()
    with workers.run.locked():
        pass
    _, alive = psutil.wait_procs(loading)
    assert not alive


SMALL_DISK_OF_FIRST = """
import os, resource
if os.environ["RANK"] == "0":
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
"""


def test_a_full_disk_ends_every_worker_with_the_reason_or_where_it_is(start: Callable[..., Workers]) -> None:
    workers = start(2, sections={"training": {"save_steps": 3}}, prelude=SMALL_DISK_OF_FIRST)
    assert "can't be written" in (first := workers.last_words(0)) and "large" in first
    assert "another worker says why" in workers.last_words(1)
    assert not steps_of(workers.run.checkpoints) and not (workers.run.checkpoints / ASIDE).exists()


UNREADABLE = """
import errno, os, sys

is_here = os.environ["RANK"] == "RANK_HERE"

def look(event, arguments):
    path = str(arguments[0]) if event == "open" else ""
    if is_here and "/checkpoints/checkpoint-8/" in path:
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

sys.addaudithook(look)
"""


@pytest.mark.parametrize("rank", [0, 1])
def test_one_worker_chooses_the_checkpoint_and_one_s_read_error_is_told_by_all(
    rank: int,
    start: Callable[..., Workers],
    tiny_config: Build,
    tmp_path: Path,
) -> None:
    run = RunFolder(tmp_path / "run")
    train(tiny_config(), run.path)
    run.summary.unlink()
    training = {"max_steps": 8, "global_batch_size": 4, "save_steps": 4, "logging_steps": 2, "eval_steps": 4}
    sections = {"training": training | {"eval_strategy": "steps"}}
    workers = start(2, sections=sections, prelude=UNREADABLE.replace("RANK_HERE", str(rank)))
    if rank == 0:  # it looks, and the other follows
        codes = [process.wait() for process in workers.processes]
        told = [errors.read_text() for errors in workers.errors]
        assert codes == [0, 0] and run.is_finished, told
        assert "checkpoint-8: skipped" in told[0] and "resuming after step 4" in told[0]
    else:
        words = [workers.last_words(number) for number in range(2)]
        assert all("checkpoint-8 can't be read: " in each for each in words)
        assert "another worker says why" in words[0] and "Input/output error" in words[1]
        assert not run.is_finished


def test_memory_that_is_not_there_ends_every_worker(
    start: Callable[..., Workers], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every step takes and gives back its logits; left alone, so small a model keeps the memory and needs no more.
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(2**20))  # which is read before anything runs
    set_now = f"import ctypes; ctypes.CDLL(None).mallopt(-3, {2**20})"
    workers = start(2, sections={"model": {"vocab_size": 2**17}}, prelude=set_now)
    workers.wait_for_checkpoint()
    resource.prlimit(workers.processes[1].pid, resource.RLIMIT_AS, (2**20, 2**20))
    words = workers.last_words(1)
    assert "there wasn't enough memory" in words and "per_device_train_batch_size, now 2, with" in words
    assert "worker 0 of 2 lost another one" in workers.last_words(0)
    assert workers.run.newest_checkpoint()[0] is not None


@pytest.mark.parametrize("loading_processes", [0, 1])
def test_data_that_vanishes_under_a_run_is_named(
    loading_processes: int, start: Callable[..., Workers], corpus: Path, tmp_path: Path
) -> None:
    prepare_command([str(corpus)], None, TextOptions(vocab_size=300), tmp_path / "data", 1)
    sections = {
        "data": {"train": str(tmp_path / "data"), "vocab_size": 4096},  # its default: tokens have their own
        "training": {"dataloader_num_workers": loading_processes},
    }
    workers = start(1, sections=sections)
    workers.wait_for_checkpoint()
    tokens = tmp_path / "data" / "train.bin"
    shutil.copy(tokens, tmp_path / "copy.bin")
    os.truncate(tokens, 100)
    words = workers.last_words(0)
    assert f"{tokens}: it had" in words and "now 100" in words
    if loading_processes:
        return

    tokens.unlink()
    with pytest.raises(DataError, match=re.escape(str(tokens.with_suffix("")))):
        train(RunConfig.load(tmp_path / "run.yaml"), workers.run.path)

    shutil.move(tmp_path / "copy.bin", tokens)
    goes_on(workers.run, lambda count: start(count, sections=sections), 1)


def test_a_folder_that_cannot_be_written_to_is_named(tiny_config: Build, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="can't be made"):
        train(tiny_config(), tmp_path / "file" / "run")

    config = tiny_config(training={"save_steps": 2})
    train(config, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    run.summary.unlink()
    shutil.rmtree(run.checkpoints)
    run.checkpoints.mkdir()
    (
        run.checkpoints / ASIDE
    ).touch()  # stands for a folder without the right to write, which root has everywhere
    with pytest.raises(TrainingError, match="checkpoint of step 2 can't be written"):
        train(config, run.path)
    (run.checkpoints / ASIDE).unlink()
    train(config, run.path)
    assert run.is_finished


LOST = "[third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1"


@pytest.mark.parametrize(
    ("error", "workers", "told"),
    [
        (
            RuntimeError(f"{LOST}\nException raised from run at a.cpp:7 (first):\nframe #0"),
            2,
            f"RuntimeError: {LOST}",
        ),
        (distributed.DistStoreError("wait timeout after 30000ms"), 2, "DistStoreError: wait timeout after"),
        (distributed.DistBackendError("NCCL error, Duplicate GPU detected"), 2, None),
        (RuntimeError("my plugin: gloomy weather"), 2, None),
        (RuntimeError("no nccl built in"), 2, None),
        (RuntimeError(LOST), 1, None),
        (MemoryError(), 1, "the cause: MemoryError"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"),
            1,
            "can't allocate memory: 9 bytes",
        ),
    ],
)
def test_what_ends_a_run_is_told_with_the_library_s_own_words_or_left_as_it_is(
    error: Exception, workers: int, told: str | None
) -> None:
    arguments = SimpleNamespace(
        world_size=workers,
        process_index=0,
        ddp_timeout=30,
        output_dir="there",
        train_batch_size=1,
        eval_batch_size=1,
        gradient_accumulation_steps=1,
        gradient_checkpointing=False,
    )
    with pytest.raises(Exception) as caught, failures_told(arguments):  # type: ignore[arg-type]
        raise error
    if told is None:
        assert caught.value is error
    else:
        assert isinstance(caught.value, TrainingError) and told in str(caught.value)
        assert "\n" not in str(caught.value) and "frame #0" not in str(caught.value)


def test_a_device_without_memory_is_told_in_the_same_words_and_the_run_takes_the_advice(
    tiny_config: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    run = RunFolder(tmp_path / "run")
    train(tiny_config(), run.path)
    for gone in (run.model, run.checkpoints / "checkpoint-8"):  # as if it had been stopped after step 4
        shutil.rmtree(gone)
    run.summary.unlink()
    with monkeypatch.context() as patch, pytest.raises(TrainingError) as caught:
        patch.setattr("loopway.training.trainer.SampleTrainer.compute_loss", full)
        train(tiny_config(), run.path)
    advice = (
        "there wasn't enough memory: lower training.per_device_train_batch_size, now 2, with "
        "training.global_batch_size=4, or set training.recompute (selective, layer, stage), which takes time; rerun with that "
        "to resume from the newest whole checkpoint in "
    )
    assert str(caught.value).startswith(advice) and "\n" not in str(caught.value)
    smallest = tiny_config(training={"per_device_train_batch_size": 1, "recompute": "stage"})
    with (
        monkeypatch.context() as patch,
        pytest.raises(TrainingError, match="memory: take a device with more"),
    ):
        patch.setattr("loopway.training.trainer.SampleTrainer.compute_loss", full)
        train(smallest, run.path)
    train(smallest, run.path)  # as the first one said
    assert run.is_finished

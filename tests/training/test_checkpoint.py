"""Checkpoints are whole or not there, whatever happens to the process, the disk or the files."""

import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from loopway.training.checkpoint import ASIDE, MANIFEST, new_aside, problem_of, retire, seal, steps_of
from loopway.training.config.run_config import RunConfig
from loopway.training.config.yaml_files import merge
from loopway.training.run import train
from loopway.training.run_folder import RunFolder
from loopway.training.trainer import TrainingError
from tests.processes import Processes

Build = Callable[..., RunConfig]
FILES = {"weights.safetensors": b"w" * 1000, "state.json": b"{}", "parts/optimizer.pt": b"o" * 77}


def sealed(checkpoints: Path, step: int = 8) -> Path:
    new_aside(checkpoints)
    for name, content in FILES.items():
        (checkpoints / ASIDE / name).parent.mkdir(exist_ok=True)
        (checkpoints / ASIDE / name).write_bytes(content)
    checkpoint = checkpoints / f"checkpoint-{step}"
    seal(checkpoints / ASIDE, checkpoint)
    return checkpoint


def test_a_sealed_checkpoint_is_whole_and_nothing_is_left_aside(tmp_path: Path) -> None:
    checkpoint = sealed(tmp_path)
    assert problem_of(checkpoint) is None
    assert list(tmp_path.iterdir()) == [checkpoint]
    assert {name: (checkpoint / name).read_bytes() for name in FILES} == FILES


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from([*FILES, MANIFEST]), at=st.floats(0, 1, exclude_max=True), data=st.data())
def test_every_change_of_a_byte_is_seen(
    name: str, at: float, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    checkpoint = sealed(tmp_path_factory.mktemp("checkpoints"))
    content = bytearray((checkpoint / name).read_bytes())
    position = int(at * len(content))
    old = content[position]
    content[position] = data.draw(st.integers(0, 255).filter(lambda new: new != old))
    (checkpoint / name).write_bytes(content)
    is_space = name == MANIFEST and chr(old).isspace() and chr(content[position]).isspace()
    assert is_space or problem_of(checkpoint) is not None


def removed(checkpoint: Path) -> None:
    (checkpoint / "state.json").unlink()


def shortened(checkpoint: Path) -> None:
    os.truncate(checkpoint / "weights.safetensors", 500)


def added(checkpoint: Path) -> None:
    (checkpoint / "parts" / "more.pt").write_bytes(b"")


def linked(checkpoint: Path) -> None:
    outside = checkpoint.parent / "outside"
    shutil.move(checkpoint / "state.json", outside)
    (checkpoint / "state.json").symlink_to(outside)


def unsealed(checkpoint: Path) -> None:
    (checkpoint / MANIFEST).unlink()


def strange(checkpoint: Path) -> None:
    (checkpoint / MANIFEST).write_text('{"files": [1, 2]}')


@pytest.mark.parametrize("change", [removed, shortened, added, linked, unsealed, strange])
def test_what_is_wrong_is_named(change: Callable[[Path], None], tmp_path: Path) -> None:
    checkpoint = sealed(tmp_path)
    change(checkpoint)
    words = {"removed": "missing", "added": "not in", "unsealed": MANIFEST, "strange": MANIFEST}
    assert words.get(change.__name__, "isn't what was saved") in str(problem_of(checkpoint))


def test_what_was_interrupted_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sealed(tmp_path, 4)

    def killed(*paths: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        sealed(tmp_path, 8)
    assert steps_of(tmp_path) == {4: before}
    monkeypatch.undo()
    assert problem_of(sealed(tmp_path, 8)) is None


def test_a_step_that_is_there_stays_if_it_is_whole_and_is_replaced_if_not(tmp_path: Path) -> None:
    checkpoint = sealed(tmp_path)
    inode = (checkpoint / MANIFEST).stat().st_ino
    assert (sealed(tmp_path) / MANIFEST).stat().st_ino == inode
    shortened(checkpoint)
    sealed(tmp_path)
    assert problem_of(checkpoint) is None


@pytest.mark.parametrize(
    ("newest", "limit", "kept"),
    [
        (30, 2, {20, 30}),
        (30, 1, {30}),
        (40, 9, {10, 20, 30, 40}),
        (20, 2, {10, 20}),
        (40, None, {10, 20, 30, 40}),
    ],
)
def test_retention_never_touches_the_newest(
    newest: int, limit: int | None, kept: set[int], tmp_path: Path
) -> None:
    for step in (10, 20, 30, 40):
        sealed(tmp_path, step)
    retire(tmp_path, newest, limit)
    assert {*steps_of(tmp_path)} == kept


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Limits the size of files that this process writes, as a full disk does, until the test ends."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [60_000, 250_000])
def test_a_full_disk_is_one_clear_error_and_the_run_goes_on_when_there_is_room(
    size: int, tiny_config: Build, tmp_path: Path, small_files: Callable[[int], None]
) -> None:
    config = tiny_config()
    train(config, tmp_path / "straight")
    train_until(4, config, tmp_path / "full")
    run = RunFolder(tmp_path / "full")
    small_files(size)
    with pytest.raises(TrainingError, match="checkpoint of step 8 can't be written") as caught:
        train(config, run.path)
    assert "\n" not in str(caught.value)
    assert [*steps_of(run.checkpoints)] == [4] and not run.is_finished
    assert not (run.checkpoints / ASIDE).exists()
    small_files(resource.RLIM_INFINITY)
    train(config, run.path)
    weights = [weights_of(tmp_path / name) for name in ("straight", "full")]
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())


def train_until(step: int, config: RunConfig, folder: Path) -> None:
    """As if it had been killed after this checkpoint."""
    train(config, folder)
    run = RunFolder(folder)
    run.summary.unlink()
    shutil.rmtree(run.model)
    for later in [path for number, path in steps_of(run.checkpoints).items() if number > step]:
        shutil.rmtree(later)


def weights_of(folder: Path) -> dict[str, Any]:
    return AutoModelForCausalLM.from_pretrained(RunFolder(folder).model).state_dict()


@pytest.mark.parametrize("loading_processes", [0, 1])
def test_sigterm_to_all_processes_saves_and_exits_0_and_the_run_goes_on(
    loading_processes: int, processes: Processes, tiny: dict[str, Any], tmp_path: Path
) -> None:
    config = tmp_path / "run.yaml"
    run = RunFolder(tmp_path / "run")
    training = {"max_steps": 5000, "save_steps": 5000, "dataloader_num_workers": loading_processes}
    config.write_text(json.dumps(merge(tiny, {"training": training})))
    errors = tmp_path / "errors.txt"
    with processes.start("train", config, "--out", run.path, errors=errors) as process:
        while "step 2/5000" not in (errors.read_text() if errors.exists() else ""):
            assert process.poll() is None, errors.read_text()
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait() == 0, errors.read_text()
    assert "rerun to resume" in errors.read_text()
    checkpoint, broken = run.newest_checkpoint()
    assert checkpoint is not None and not broken and not run.is_finished

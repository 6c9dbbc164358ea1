"""A start that is cut off at any moment, or finds no room on the disk, never blocks its folder."""

import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loopway.errors import ConfigError, DataError
from loopway.files import aside_of
from loopway.training.config.run_config import RunConfig
from loopway.training.run import train
from loopway.training.run_folder import RunFolder

Build = Callable[..., RunConfig]
CONFIG: dict[str, Any] = {
    "model": {"layout": "1+1R2+1"},
    "data": {"train": ["a.txt"]},
    "training": {"per_device_train_batch_size": 2},
    "plugins": ["plugin.py"],
}
CHANGES = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"}


def cut_off(act: Callable[[], object], moment: int) -> bool:
    """Whether `act`, in a process of its own, was killed before its change number `moment` of the file system."""

    def watch(event: str, arguments: tuple) -> None:
        nonlocal moment
        reads = event == "open" and not (arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if event in CHANGES and not reads:
            moment -= 1
            if moment < 0:
                os._exit(9)

    process = os.fork()
    if process == 0:
        sys.addaudithook(watch)
        try:
            act()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 9


def test_killed_at_any_moment_of_its_start_the_same_command_begins(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text("# registers something\n")
    moment, was_cut = 0, True
    while was_cut:
        run = RunFolder(tmp_path / f"run{moment}")
        was_cut = cut_off(lambda run=run: run.begin(CONFIG, [str(plugin)]), moment)
        run.begin(CONFIG, [str(plugin)])
        assert {path.name for path in run.path.iterdir()} <= {"config.yaml", "plugins", ".lock"}
        assert [path.read_text() for path in run.plugins.iterdir()] == [plugin.read_text()]
        moment += 1
    assert moment > 4


def test_killed_while_it_removes_what_it_made_the_same_command_begins(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.touch()
    moment, was_cut = 0, True
    while was_cut:
        run = RunFolder(tmp_path / f"run{moment}")
        run.begin(CONFIG, [str(plugin)])
        with run.locked():
            pass
        was_cut = cut_off(lambda run=run: run.abandon(keep_folder=False), moment)
        left = {path.name for path in run.path.glob("*")}
        assert not left or ".lock" in left  # nobody else could take it
        run.begin(CONFIG, [str(plugin)])
        moment += 1
    assert moment > 4


def test_a_full_disk_at_its_start_leaves_nothing_behind(tmp_path: Path) -> None:
    run, before = RunFolder(tmp_path / "run"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(OSError, match="large"):
            run.begin(CONFIG, [])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not run.path.exists()
    assert run.begin(CONFIG, [])


def test_another_s_files_are_never_taken_for_its_own(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.plugins.mkdir(parents=True)
    aside_of(run.config).touch()
    with pytest.raises(ConfigError, match="exists and holds no run"):
        run.begin(CONFIG, [])
    assert run.plugins.exists()


def test_a_run_may_lie_anywhere_in_the_file_system() -> None:
    assert RunFolder(Path("/run")).data_places == [Path("/run/data")]


@pytest.mark.parametrize("place", ["folder", "link"])
def test_a_start_that_fails_leaves_the_folder_that_was_there_and_says_why(
    place: str, tiny_config: Build, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    with pytest.raises(DataError, match=r"gone\.txt"):
        train(tiny_config(data={"train": "gone.txt"}), tmp_path / place)
    assert not any((tmp_path / place).iterdir())

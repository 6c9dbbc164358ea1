"""Only what Loopway wrote is ever deleted."""

from collections.abc import Callable
from pathlib import Path

import pytest

from loopway.errors import ConfigError
from loopway.training.config.run_config import RunConfig
from loopway.training.removal import remove_results, remove_runs
from loopway.training.run import train
from loopway.training.run_folder import RunFolder

Build = Callable[..., RunConfig]


@pytest.fixture
def run(tiny_config: Build, tmp_path: Path) -> RunFolder:
    train(tiny_config(), tmp_path / "run")
    return RunFolder(tmp_path / "run")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_results_go_and_config_and_prepared_text_stay(run: RunFolder) -> None:
    remove_results([run])
    assert {path.name for path in run.path.iterdir()} == {"config.yaml", ".lock", "data"}
    assert not run.has_progress


def test_a_run_goes_with_its_folder_unless_that_holds_other_files(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (run.path / "notes").symlink_to(tmp_path / "kept")
    remove_runs([run])
    assert [path.name for path in run.path.iterdir()] == ["notes"]
    (run.path / "notes").unlink()


@pytest.mark.parametrize(
    "text", ["site_name: x", "model: {}\ndata: {}\ntraining: {max_steps: 1}", "model: ["]
)
@pytest.mark.parametrize("act", [remove_results, remove_runs])
def test_a_folder_with_somebody_s_own_config_is_left_alone(
    act: Callable[[list[RunFolder]], None], text: str, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    for name in ("data", "model", "src"):
        (project / name).mkdir(parents=True)
        (project / name / "mine.txt").write_text("mine")
    (project / "config.yaml").write_text(text)
    before = content(project)
    with pytest.raises(ConfigError, match="not recognised as a folder that loopway train made"):
        act([RunFolder(project)])
    assert content(project) == before


def test_a_link_to_a_run_is_refused_and_a_folder_is_deleted_from_within(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(run.path)
    before = content(run.path)
    with pytest.raises(ConfigError, match="is a link"):
        remove_runs([RunFolder(tmp_path / "link")])
    assert content(run.path) == before
    monkeypatch.chdir(run.path)
    remove_runs([RunFolder(Path())])
    assert not run.path.exists()


def test_nothing_is_removed_while_one_of_the_runs_trains(
    run: RunFolder, tiny_config: Build, tmp_path: Path
) -> None:
    train(tiny_config(), tmp_path / "other")
    other = RunFolder(tmp_path / "other")
    before = content(run.path)
    with other.locked(), pytest.raises(ConfigError, match="another process is training"):
        remove_runs([run, other])
    assert content(run.path) == before
    remove_runs([run, other])
    assert not run.path.exists() and not other.path.exists()

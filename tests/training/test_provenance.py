"""run.json tells what made a run, sitting by sitting."""

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import loopway
from loopway.training.checkpoint import steps_of
from loopway.training.config.run_config import RunConfig
from loopway.training.run import train
from loopway.training.run_folder import RunFolder

Build = Callable[..., RunConfig]


def test_every_sitting_says_which_code_packages_and_machine_it_had(
    tiny_config: Build, tmp_path: Path
) -> None:
    config = tiny_config()
    train(config, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    run.summary.unlink()
    (steps_of(run.checkpoints)[8] / "manifest.json").unlink()
    train(config, run.path)

    content = json.loads(run.provenance.read_text())
    assert content["config"] == json.loads(json.dumps(config.to_dict()))
    assert content["data"][str(run.data)]["train"]["tokens"] > 0
    assert [sitting["after_step"] for sitting in content["sittings"]] == [0, 4]
    for sitting in content["sittings"]:
        assert sitting["loopway"]["version"] == loopway.__version__
        assert sitting["packages"]["torch"] == version("torch")
        assert sitting["workers"] == 1 and sitting["machine"]["memory_bytes"] > 10**8
        commit = sitting["loopway"].get("commit")  # there is none where the tests run outside of a checkout
        assert commit is None or len(commit) >= 40

"""vLLM serves every kind of model folder without an option: families, layouts, recurrences, plugins."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loopway.serving.vllm_plugin import register
from tests.processes import Processes
from tests.serving.folders import CASES
from tests.serving.trained import Answer, assert_serves

pytest.importorskip("vllm")


@pytest.fixture(scope="module")
def folders(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folders")
    log = folder / "log"
    made = processes.start(folder, module="tests.serving.folders", output=log, errors=log)
    assert made.wait() == 0, log.read_text()[-3000:]
    return folder


def assert_answers(engine: Any, folders: Path, name: str) -> None:
    expected = [Answer(**each) for each in json.loads((folders / "answers.json").read_text())[name]]
    assert_serves(engine, expected)


@pytest.mark.parametrize("name", CASES)
def test_a_folder_gets_the_tokens_of_generate(folders: Path, serve: Callable[..., Any], name: str) -> None:
    assert_answers(serve(folders / name), folders, name)


def test_trusting_the_code_in_a_folder_changes_nothing(folders: Path, serve: Callable[..., Any]) -> None:
    assert_answers(serve(folders / "self-contained", trust_remote_code=True), folders, "self-contained")


def test_a_classifier_gives_the_probabilities_of_transformers(
    folders: Path, serve: Callable[..., Any]
) -> None:
    engine = serve(folders / "classifier")
    (got,) = engine.classify([{"prompt_token_ids": [5, 17, 33, 4]}], use_tqdm=False)
    expected = json.loads((folders / "answers.json").read_text())["classifier"]
    assert got.outputs.probs == pytest.approx(expected, abs=1e-5)


def test_a_recurrence_of_a_plugin_needs_its_file_named(
    folders: Path, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ValueError, match=r"unknown recurrence 'half-anchor'.*name its file in LOOPWAY_PLUGINS"
    ):
        serve(folders / "plugin")
    monkeypatch.setenv("LOOPWAY_PLUGINS", str(folders / "half_anchor.py"))
    register()
    assert_answers(serve(folders / "plugin"), folders, "plugin")


def test_pipeline_parallelism_is_refused_before_processes_start(
    folders: Path, serve: Callable[..., Any]
) -> None:
    with pytest.raises(ValueError, match=r"pipeline_parallel_size is 2.*use tensor_parallel_size"):
        serve(folders / "self-contained", pipeline_parallel_size=2)

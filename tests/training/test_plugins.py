from collections.abc import Callable
from pathlib import Path

import pytest

from loopway.errors import ConfigError
from loopway.inference.generation import generate
from loopway.inference.trained_model import open_model
from loopway.options import Sampling
from loopway.recurrence import registry
from loopway.training.config.run_config import RunConfig
from loopway.training.plugins import load_plugins
from loopway.training.run import train

HALF = """
import loopway


class Half(loopway.Recurrence):
    needs_loop = True

    def start(self, embeddings):
        return None

    def advance(self, state, step, stage_input, stage_output):
        return (stage_input + stage_output) / 2, state


loopway.register_recurrence({name!r}, Half)
"""


def test_a_recurrence_from_a_user_s_file_trains_and_its_model_opens_from_the_run_folder(
    tiny_config: Callable[..., RunConfig], tiny: dict, tmp_path: Path
) -> None:
    plugin = tmp_path / "half.py"
    plugin.write_text(HALF.format(name="half"))
    tiny["plugins"] = [str(plugin)]
    config = tiny_config(model={"recurrence": "half"})
    summary = train(config, tmp_path / "run")
    assert summary.recurrence == "half"
    assert (tmp_path / "run" / "plugins" / "half.py").read_text() == plugin.read_text()
    model, tokenizer = open_model(tmp_path / "run")  # the same process knows it
    del registry._RECURRENCES["half"]  # as in another process
    with pytest.raises(ConfigError, match=r"unknown recurrence 'half'.* --plugin .*plugins/half.py"):
        open_model(tmp_path / "run" / "model")
    model, tokenizer = open_model(tmp_path / "run", [tmp_path / "run" / "plugins" / "half.py"])
    assert generate(model, tokenizer, "the cat", Sampling(max_new_tokens=3)).startswith("the cat")


def test_a_run_is_not_resumed_with_a_changed_plugin(
    tiny_config: Callable[..., RunConfig], tiny: dict, tmp_path: Path
) -> None:
    plugin = tmp_path / "other.py"
    plugin.write_text(HALF.format(name="other"))
    tiny["plugins"] = [str(plugin)]
    config = tiny_config(model={"recurrence": "other"}, training={"max_steps": 1})
    train(config, tmp_path / "run")
    plugin.write_text(plugin.read_text() + "# changed\n")
    with pytest.raises(ConfigError, match=r"the plugin .*other.py has changed"):
        train(config, tmp_path / "run")


def test_a_missing_plugin_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"plugins: no file .*gone.py"):
        load_plugins([tmp_path / "gone.py"])


@pytest.mark.parametrize(
    "text, message",
    [("1 / 0", "ZeroDivisionError"), ("raise SystemExit(0)", "SystemExit"), ("def f(:", "SyntaxError")],
)
def test_a_plugin_that_fails_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(ConfigError, match=rf"bad.py failed: {message}") as error:
        load_plugins([tmp_path / "bad.py"])
    assert "\n" not in str(error.value)


def test_a_plugin_runs_once_a_process(tmp_path: Path) -> None:
    (tmp_path / "once.py").write_text("import sys\nsys.loads = getattr(sys, 'loads', 0) + 1\n")
    import sys

    load_plugins([tmp_path / "once.py"])
    load_plugins([tmp_path / "once.py"])
    assert sys.__dict__.pop("loads") == 1

"""Whole comparisons of tiny models: what is left behind, going on after an interruption, bad configs."""

import json
import random
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

import loopway
from loopway.comparison.config import CompareConfig, choose_run
from loopway.comparison.planned import _run_in_process as run_in_process
from loopway.comparison.run import compare
from loopway.comparison.run_process import worker_command
from loopway.errors import ConfigError, DataError, LayoutError, RecurrenceError
from loopway.inference.held_out import held_out_samples
from loopway.inference.trained_model import open_trained
from loopway.training.config.yaml_files import read_yaml
from loopway.training.run import train
from loopway.training.run_folder import RunFolder
from tests.command_line import run_main, train_here
from tests.processes import Processes

VARIANTS = {
    "vanilla": {"layout": "4", "recurrence": "base"},
    "base": {"layout": "1+1R2+1", "recurrence": "base"},
    "mesh": {"layout": "1+1R2+1", "recurrence": "mesh"},
}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    texts = tmp_path / "texts"
    texts.mkdir()
    generator = random.Random(0)
    words = ["the", "state", "of", "our", "union", "is", "strong", "and", "will", "remain", "so"]
    for number in range(6):
        (texts / f"{number}.txt").write_text(" ".join(generator.choices(words, k=400)))
    return {
        "model": {"preset": "pythia-14m", "hidden_size": 32, "max_position_embeddings": 64},
        "data": {"train": "texts", "sequence_length": 32, "vocab_size": 280, "validation_fraction": 0.3},
        "training": {
            "max_steps": 4,
            "global_batch_size": 2,
            "eval_steps": 2,
            "save_steps": 2,
            "learning_rate": 1e-2,
        },
        "variants": VARIANTS,
        "prompt": "the state",
    }


def written(config: dict[str, Any]) -> Path:
    Path("compare.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return Path("compare.yaml")


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains every run here, where in the other tests each has a process of its own."""
    monkeypatch.setattr("loopway.comparison.planned._run_in_process", train_here)


@pytest.fixture
def in_own_processes(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives every run a process of its own, whose imports are done."""
    monkeypatch.setattr("subprocess.Popen", processes.popen)


def content(folder: Path) -> dict[str, tuple[float, bytes]]:
    return {str(p): (p.stat().st_mtime, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


def test_variants_of_one_layout_start_with_equal_layers(
    config: dict[str, Any], in_this_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    schemes = ("base", "anchor", "static", "dynamic", "mesh")
    config["variants"] = {name: {"layout": "1+1R2+1", "recurrence": name} for name in schemes}
    config["training"] |= {"max_steps": 1, "warmup_steps": 1}  # whose one step has a rate of 0
    compare(written(config), folder="out")
    base, *others = (
        AutoModelForCausalLM.from_pretrained(f"out/runs/{name}-seed0/model").state_dict() for name in schemes
    )
    for other in others:
        assert base.keys() <= other.keys()
        assert all(torch.equal(other[name], weight) for name, weight in base.items())


def test_it_leaves_the_table_curves_samples_and_every_model(
    config: dict[str, Any], in_this_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    result = compare(written(config), folder="out")
    shown = capsys.readouterr().out
    assert "gap closed" in shown and "vanilla" in shown
    assert [row.variant for row in result.rows] == list(VARIANTS)
    assert json.loads(Path("out/results.json").read_text())[2]["layout"] == "1+1R2+1"
    table = Path("out/table.md").read_text()
    assert table.count("\n|") == 4 and "One seed" in table
    assert Path("out/curves.png").read_bytes().startswith(b"\x89PNG")
    samples = Path("out/samples.md").read_text()
    assert all(f"## {name}\n\n> the state" in samples for name in VARIANTS)
    page = Path("out/report.html").read_text()
    assert "the state" in page and "model.layout" in page and "<title>mesh − vanilla: " in page
    assert "out: report.html, table.md" in " ".join(shown.split())
    for name in VARIANTS:
        model = AutoModelForCausalLM.from_pretrained(f"out/runs/{name}-seed0/model")
        assert model.config.layout == VARIANTS[name]["layout"]
        assert Path(f"out/variants/{name}-seed0.yaml").is_file()
    row = result.rows[2]
    report = loopway.parameter_report(
        AutoModelForCausalLM.from_pretrained("out/runs/mesh-seed0/model").config, context_length=32
    )
    assert (row.parameters, row.training_flops) == (report.total, report.training_flops)
    assert row.seeds == 1 and row.seed_deviation is None and row.peak_memory_bytes > 2**20

    # Started again: nothing is trained, nothing in the runs is touched.
    before = content(Path("out/runs"))
    again = compare("compare.yaml", folder="out")
    assert content(Path("out/runs")) == before
    assert again.rows == result.rows
    assert Path("out/report.html").read_text() == page

    # A variant joins later without training the others again; one that is missing and another recipe are refused.
    config["variants"] = VARIANTS | {"anchor": {"layout": "1+1R2+1", "recurrence": "anchor"}}
    assert len(compare(written(config), folder="out").rows) == 4
    assert {k: v for k, v in content(Path("out/runs")).items() if "anchor" not in k} == before
    everything = content(Path("out"))
    with pytest.raises(ConfigError, match="has anchor-seed0 too"):
        compare(written(config | {"variants": VARIANTS}), folder="out")
    written(config)
    with pytest.raises(ConfigError, match="learning_rate"):
        compare("compare.yaml", ["training.learning_rate=0.5"], "out")
    assert content(Path("out")) == everything


def test_all_variants_see_the_same_data_and_those_of_one_seed_start_from_it(config: dict[str, Any]) -> None:
    plan = CompareConfig.from_dict(config | {"seeds": [3, 5]})
    runs = [run for by_seed in plan.runs.values() for run in by_seed.values()]
    assert len({run.data.model_dump_json() for run in runs}) == 1
    assert [by_seed[5].training.hugging_face["seed"] for by_seed in plan.runs.values()] == [5, 5, 5]


# A run that sends the comparison a signal after its fifth step, and waits until it is told of it.
SIGNALS_AFTER_STEP_5 = """
import os, signal, time
from loopway.comparison.run_process import main
from loopway.training.metrics_log import MetricsLog

append = MetricsLog.append

def append_and_signal(self, line):
    append(self, line)
    if len(self.lines) == 5:
        heard, handle = [], signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, lambda *given: heard.append(handle(*given)))
        os.kill(os.getppid(), signal.SIGINT)
        while not heard:
            time.sleep(0.01)

MetricsLog.append = append_and_signal
main()
"""


def test_interrupted_it_goes_on_and_gives_the_same_result(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config["training"] |= {"max_steps": 12, "save_steps": 4, "eval_steps": 6, "logging_steps": 1}
    config["variants"] = {"vanilla": VARIANTS["vanilla"], "mesh": VARIANTS["mesh"]}
    path = written(config)
    alone, _ = choose_run(read_yaml(path), "mesh")
    train(alone, "whole")

    def signals_after_step_5(*arguments: Any) -> list[str]:
        python, _module, _name, *rest = worker_command(*arguments)
        return [python, "-c", SIGNALS_AFTER_STEP_5, *rest]

    def mesh_in_a_process(config: Path, folder: Path, *rest: Any) -> int:
        return (run_in_process if folder.name == "mesh-seed0" else train_here)(config, folder, *rest)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("loopway.comparison.planned._run_in_process", mesh_in_a_process)
        patched.setattr("loopway.comparison.planned.worker_command", signals_after_step_5)
        compare(path, folder="cut")
    finished = content(Path("cut/runs/vanilla-seed0"))
    assert Path("cut/runs/mesh-seed0/checkpoints/checkpoint-6").exists()
    assert not Path("cut/runs/mesh-seed0/summary.json").exists()

    monkeypatch.setattr("loopway.comparison.planned._run_in_process", train_here)
    compare(path, folder="cut")
    assert content(Path("cut/runs/vanilla-seed0")) == finished
    whole, cut = (RunFolder(Path(name)).validation_losses for name in ("whole", "cut/runs/mesh-seed0"))
    assert whole.read_bytes() == cut.read_bytes()


def test_a_signal_that_comes_too_late_for_a_run_ends_the_comparison_after_it(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Stands for a run that saves its last model: it hears of the signal, and finishes.
    script = (
        "import os, signal; open('begun', 'a').write('x'); "
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}); "
        "os.kill(os.getppid(), signal.SIGTERM); signal.sigwait({signal.SIGTERM})"
    )
    monkeypatch.setattr(
        "loopway.comparison.planned.worker_command", lambda *_: [sys.executable, "-c", script]
    )
    with pytest.raises(SystemExit) as ended:
        compare(written(config), folder="out")
    assert ended.value.code == 128 + signal.SIGTERM and Path("begun").read_text() == "x"
    assert "vanilla-seed0: finished; the comparison stops here" in capsys.readouterr().err


def test_a_variant_is_trained_alone_and_the_comparison_takes_it_up(
    config: dict[str, Any], in_this_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config |= {"variants": {"mesh": VARIANTS["mesh"]}, "seeds": [3, 4]}
    written(config)
    assert run_main(monkeypatch, "train", "compare.yaml", "--variant", "mesh", "--seed", "4") == 0
    assert [path.name for path in Path("runs/compare/runs").iterdir()] == ["mesh-seed4"]
    before = content(Path("runs/compare/runs/mesh-seed4"))
    with pytest.raises(ConfigError, match="learning_rate"):
        compare("compare.yaml", ["training.learning_rate=0.5"])
    rows = compare("compare.yaml").rows
    assert [(row.variant, row.seeds) for row in rows] == [("mesh", 2)]
    assert content(Path("runs/compare/runs/mesh-seed4")) == before


def test_a_finished_comparison_is_reported_on_by_any_number_of_workers_and_grows_at_the_same_step(
    config: dict[str, Any], in_this_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    del config["training"]["global_batch_size"]
    config |= {"variants": {"mesh": VARIANTS["mesh"]}, "seeds": [0]}
    config["training"] |= {"per_device_train_batch_size": 2, "max_steps": 1}
    written(config)
    assert run_main(monkeypatch, "train", "compare.yaml", "--variant", "mesh") == 0
    run = RunFolder(Path("runs/compare/runs/mesh-seed0"))
    noted = json.loads(run.provenance.read_text())
    noted["sittings"][-1]["workers"] = 2  # as if two had trained it
    run.provenance.write_text(json.dumps(noted))
    assert len(compare("compare.yaml").rows) == 1
    with pytest.raises(ConfigError, match=r"now 2 .*set training.global_batch_size=4 to keep them"):
        compare(written(config | {"seeds": [0, 1]}))


def test_a_moved_comparison_whose_text_is_gone_goes_on_and_each_of_its_runs_finds_its_data(
    config: dict[str, Any],
    in_this_process: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config["variants"] = {name: VARIANTS[name] for name in ("base", "mesh")}
    path = written(config).absolute()
    before = compare(path, folder="out").rows
    shutil.rmtree("texts")
    Path("moved/away").mkdir(parents=True)
    Path("out").rename("moved/out")
    monkeypatch.chdir("moved/away")
    for name in ("base", "mesh"):  # as if they had been stopped
        run = RunFolder(Path(f"../out/runs/{name}-seed0"))
        run.summary.unlink()
        shutil.rmtree(run.model)
    alone, place = choose_run(read_yaml(path), "base")
    train(alone, Path("../out") / place)  # with the comparison's data
    rows = compare(path, folder="../out").rows
    assert [row.validation_loss for row in rows] == [row.validation_loss for row in before]
    assert capsys.readouterr().err.count("their text is gone: texts") == 2
    assert not any(Path("../out/runs").glob("*/data*"))
    for name in ("base", "mesh"):
        samples = held_out_samples(open_trained(f"../out/runs/{name}-seed0"), [], None)
        assert samples is not None and len(samples) > 0


@pytest.mark.parametrize(
    ("variant", "seed", "said"),
    [
        ("mush", None, "--variant.*mush.*did you mean mesh"),
        ("mesh", 7, "--seed.*7"),
        (None, 7, "training.seed"),
    ],
)
def test_a_variant_or_seed_that_is_not_there_is_an_error(
    config: dict[str, Any], variant: str | None, seed: int | None, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        choose_run(read_yaml(written(config)), variant, seed)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"variants": {}}, ConfigError, "variants is missing"),
        ({"variants": {"a/b": {}}}, ConfigError, "can't name a folder"),
        ({"variants": {"a": {"layuot": "4"}}}, ConfigError, "variant a.*layout"),
        ({"variants": {"a": {"layout": "4+R2"}}}, LayoutError, "variant a.*4\\+8R2\\+4"),
        (
            {"variants": {"a": {"layout": "4", "recurrence": "anchor"}}},
            LayoutError,
            "variant a.*needs a looped",
        ),
        ({"variants": {"a": {"layout": "4", "recurrence": "mehs"}}}, RecurrenceError, "mesh"),
        ({"variants": ["a"]}, ConfigError, "variants"),
        ({"seeds": []}, ConfigError, "seeds"),
        ({"seeds": [1, 1]}, ConfigError, "seeds"),
        ({"varaints": {}}, ConfigError, "variants"),
        ({"data": {"train": "texts", "sequence_length": 128}}, ConfigError, "128"),
    ],
)
def test_a_mistake_in_any_variant_is_told_before_anything_is_trained(
    config: dict[str, Any], change: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        compare(written(config | change), folder="out")
    assert "\n" not in str(caught.value)
    assert not Path("out").exists()


def test_a_prompt_that_fills_a_model_s_context_is_told_before_anything_is_trained(
    config: dict[str, Any],
) -> None:
    with pytest.raises(ConfigError, match="the model reads 64 at most: shorten the prompt"):
        compare(written(config | {"prompt": "the state " * 64}), folder="out")
    assert not Path("out/runs").exists()


def test_a_fresh_comparison_keeps_only_prepared_text_that_it_asks_for(
    config: dict[str, Any], in_this_process: None
) -> None:
    config |= {"probe_samples": 0, "variants": {"mesh": VARIANTS["mesh"]}}
    other, path = {"other": VARIANTS["base"]}, written(config)
    compare(path, folder="out")
    prepared_at = Path("out/data/manifest.json").stat().st_mtime_ns
    with pytest.raises(ConfigError, match="delete its runs with --fresh"):
        compare(written(config | {"variants": other}), folder="out")
    compare(path, folder="out", fresh=True)
    assert [run.name for run in Path("out/runs").iterdir()] == ["other-seed0"]
    assert Path("out/data/manifest.json").stat().st_mtime_ns == prepared_at
    (Path("out/runs/notes")).mkdir()
    compare(path, ["data.vocab_size=270"], "out", fresh=True)
    assert Path("out/data/manifest.json").stat().st_mtime_ns != prepared_at


def test_a_comparison_without_validation_text_is_refused(config: dict[str, Any]) -> None:
    config["data"]["validation_fraction"] = 0
    with pytest.raises(ConfigError, match="validation"):
        compare(written(config), folder="out")
    assert not Path("out").exists()


def test_a_folder_of_something_else_and_missing_text_leave_everything_as_it_was(
    config: dict[str, Any],
) -> None:
    path = written(config)
    Path("mine").mkdir()
    Path("mine/table.md").write_text("mine")
    for folder in ("mine", "compare.yaml"):
        with pytest.raises(ConfigError, match="holds no comparison"):
            compare(path, folder=folder)
    assert [p.name for p in Path("mine").iterdir()] == ["table.md"]
    with pytest.raises(DataError, match="nowhere"):
        compare(path, ["data.train=nowhere.txt"], "out")
    assert not Path("out").exists()


def test_a_comparison_that_cannot_begin_removes_only_what_it_made(config: dict[str, Any]) -> None:
    path = written(config)
    Path("out/runs/base-seed0").mkdir(parents=True)  # as trained alone
    Path("out/.comparison.json.partial").touch()  # as of a start that was killed
    with pytest.raises(DataError, match="nowhere"):
        compare(path, ["data.train=nowhere.txt"], "out")
    assert [str(path) for path in Path("out").rglob("*")] == ["out/runs", "out/runs/base-seed0"]


def test_a_run_that_fails_stops_the_comparison_with_one_line(
    config: dict[str, Any],
    in_own_processes: None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    config["training"]["adam_epsilon"] = 1e-300  # 0 in float32
    assert run_main(monkeypatch, "compare", str(written(config)), "--out", "out") == 2
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert error.splitlines()[-1].startswith("loopway: vanilla-seed0: training failed")


def test_a_recurrence_from_a_user_s_file_is_compared(config: dict[str, Any], in_own_processes: None) -> None:
    Path("half.py").write_text(
        "import loopway\n"
        "class HalfAnchor(loopway.Recurrence):\n"
        "    needs_loop = True\n"
        "    def start(self, embeddings):\n"
        "        return embeddings\n"
        "    def advance(self, state, step, stage_input, stage_output):\n"
        "        return stage_output + state / 2, state\n"
        "loopway.register_recurrence('half-anchor', HalfAnchor)\n"
    )
    config |= {
        "plugins": ["half.py"],
        "variants": {"half": {"layout": "1+1R2+1", "recurrence": "half-anchor"}},
    }
    row = compare(written(config | {"seeds": [0, 1]}), folder="out").rows[0]
    assert row.recurrence == "half-anchor"
    assert row.seeds == 2 and row.seed_deviation is not None


def test_the_embedded_demo_is_equal_compute_and_a_third_fewer_layers() -> None:
    plan = CompareConfig.load()
    layouts = {name: loopway.Layout.parse(run[0].model.layout or "") for name, run in plan.runs.items()}
    assert list(layouts) == ["vanilla", "base", "anchor", "mesh"]
    assert len({layout.compute_depth for layout in layouts.values()}) == 1
    assert {layout.parameter_depth for name, layout in layouts.items() if name != "vanilla"} == {
        layouts["vanilla"].parameter_depth * 2 // 3
    }

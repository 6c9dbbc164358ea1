import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loopway.cli import app
from loopway.training.run_folder import RunFolder
from tests.command_line import run_main, train_here
from tests.processes import Processes

RUN = """
model: {preset: pythia-14m, hidden_size: 32, layout: 1+1R2+1, recurrence: mesh}
data: {train: text.jsonl, sequence_length: 32, vocab_size: 300}
training: {global_batch_size: 4, max_steps: 4, use_cpu: true}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a corpus and a run.yaml."""
    choose = random.Random(0)
    texts = [
        " ".join(choose.choices(["the", "a", "cat", "dog", "runs", "sees", "house", "tree"], k=100))
        for _ in range(40)
    ]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "run.yaml").write_text(RUN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_help_names_the_verbs_that_exist() -> None:
    text = CliRunner().invoke(app, ["--help"]).output
    assert "<" not in text
    assert all(
        verb in text
        for verb in (
            "check",
            "train",
            "compare",
            "prepare",
            "evaluate",
            "probe",
            "generate",
            "chat",
            "retrofit",
            "export",
            "params",
            "runs",
            "schema",
        )
    )


@pytest.mark.parametrize(
    "verb", [each.callback.__name__ for each in app.registered_commands if each.callback]
)
def test_help_of_a_verb_has_an_example_that_works_and_no_python_types(verb: str) -> None:
    text = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200"}).output
    assert "<" not in text.replace("runs/<name of the config>", "")
    example = text.partition(f"Example: loopway {verb} ")[2]
    for option in re.findall(r"--[a-z-]+", example):
        assert option in text.partition("Example")[0]


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, loopway.cli; from typer.testing import CliRunner; "
        "CliRunner().invoke(loopway.cli.app, ['--help']); "
        "sys.exit(' '.join({'torch', 'transformers', 'numpy', 'datasets'} & sys.modules.keys()) or None)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr.strip()) == (0, "")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "gone.yaml"], "no config file gone.yaml"),
        (["train", "run.yaml", "training.learning_rat=1"], "did you mean learning_rate?"),
        (["train", "run.yaml", "training.max_steps=many"], "expected a whole number"),
        (["train", "run.yaml", "model.hiden_size=32"], "did you mean hidden_size?"),
        (["train", "run.yaml", "model.layout=4+R2"], "layout '4+R2': segment 'R2' is invalid"),
        (["train", "run.yaml", "data.sequence_length=0"], "data.sequence_length: got 0"),
        (["train", "run.yaml", "variants.a.layout=4"], "loopway compare run.yaml"),
        (
            ["compare", "run.yaml", "variants.wide.layuot=4"],
            "variant wide: unknown key model.layuot; did you mean layout?",
        ),
        (
            ["compare", "run.yaml", "variants.wide=null"],
            "variants.wide: got None, expected a name in text, and a mapping",
        ),
        (["train", "run.yaml", "model.hidden_size=0"], "model.hidden_size: got 0, expected at least 1"),
        (["train", "run.yaml", "model.bos_token_id=-1"], "model.bos_token_id: got -1, expected at least 0"),
        (["train", "run.yaml", "model.preset=null"], "model: give one of preset"),
        (["train", "run.yaml", "training.weight_decay=-1"], "weight_decay: got -1, expected at least 0"),
        (["train", "run.yaml", "data.train=*.txt"], "put text that begins with * in quotes"),
        (["compare", "seed=[1]"], "unknown key seed; did you mean seeds?"),
    ],
)
def test_a_typing_mistake_is_told_before_anything_heavy_is_loaded(
    here: Path, arguments: list[str], message: str
) -> None:
    code = (
        "import sys; from loopway.cli import main\n"
        "try: main()\n"
        "finally: print({'torch', 'transformers', 'numpy', 'datasets'} & sys.modules.keys())"
    )
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=here)
    assert (result.returncode, result.stdout) == (2, "set()\n")
    assert message in result.stderr and len(result.stderr.splitlines()) == 1


def test_loopway_debug_shows_the_traceback_and_the_first_cause(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("model: {layout: [")
    assert run_main(monkeypatch, "train", str(config)) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    monkeypatch.setenv("LOOPWAY_DEBUG", "1")
    assert run_main(monkeypatch, "train", str(config)) == 2
    shown = capsys.readouterr().err
    assert "ruamel.yaml.parser.ParserError" in shown and "Traceback" in shown
    assert shown.splitlines()[-1].startswith("loopway: ")


def test_version_is_the_package_s() -> None:
    from loopway import __version__

    assert CliRunner().invoke(app, ["--version"]).output == f"loopway {__version__}\n"


def test_shells_can_complete() -> None:
    assert "--install-completion" in CliRunner().invoke(app, ["--help"]).output


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["gone.yaml"], "no config file gone.yaml"),
        (["broken.yaml"], "broken.yaml, line 2: not valid YAML"),
        (
            ["run.yaml", "training.learning_rat=1"],
            "unknown key training.learning_rat; did you mean learning_rate?",
        ),
        (["run.yaml", "model.layuot=4"], "unknown key model.layuot; did you mean layout?"),
        (["run.yaml", "training.max_steps=many"], "training.max_steps: got 'many', expected a whole number"),
        (["run.yaml", "training.bf16=true", "training.fp16=true"], "training: "),
        (["run.yaml", "model.layout=4+R2"], "'4+R2'"),
        (
            ["run.yaml", "model.layout=4", "model.recurrence=anchor"],
            "recurrence 'anchor' needs a looped segment",
        ),
        (["run.yaml", "data.train=gone.txt"], "gone.txt"),
        (["run.yaml", "data.train=empty.txt"], "empty.txt"),
        (["run.yaml", "data.train=binary.txt"], "binary.txt"),
        (
            ["run.yaml", "data.sequence_length=4096"],
            "data.sequence_length: 4096 tokens are more than the model's",
        ),
        (["run.yaml", "data.tokenizer=nowhere"], "nowhere"),
        (["run.yaml", "--out", "taken"], "taken exists and holds no run"),
        (["run.yaml", "--out", "other"], "model.layout was '4', now '1+1R2+1'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2_and_leaves_nothing_behind(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    (here / "broken.yaml").write_text("model: {\nlayout: [4}\n")
    (here / "empty.txt").write_text("")
    (here / "binary.txt").write_bytes(b"\x00\x01\x02" * 100)
    (here / "taken").mkdir()
    (here / "taken" / "letter.txt").write_text("dear reader")
    (here / "other").mkdir()
    from loopway.training.config.run_config import RunConfig

    (here / "other" / "config.yaml").write_text(RunConfig.load("run.yaml", ["model.layout=4"]).to_yaml())
    (here / "other" / "metrics.jsonl").write_text("{}\n")

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}

    before = files()
    assert run_main(monkeypatch, "train", *arguments) == 2
    output = capfd.readouterr()
    assert output.out == ""
    lines = output.err.splitlines()
    assert len(lines) == 1, output.err
    assert lines[0].startswith("loopway: ") and message in lines[0]
    assert files() == before
    assert not (here / "runs" / "run").exists()


def test_too_little_text_is_one_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "short.txt").write_text("few words\n")
    short = ["data.train=short.txt", "data.validation_fraction=0"]
    assert run_main(monkeypatch, "train", "run.yaml", *short) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("loopway: data.train: ") and "fewer than one sample of sequence_length" in line


def test_train_then_generate(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "train", "run.yaml", "training.max_steps=3", "--out", "mine") == 0
    assert "3 steps, 384 tokens; training loss" in capfd.readouterr().out
    assert run_main(monkeypatch, "generate", "mine", "the cat", "--max-new-tokens", "5", "--greedy") == 0
    told = capfd.readouterr().out
    assert told.startswith("the cat")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the cat")))
    assert run_main(monkeypatch, "generate", "mine", "-", "--max-new-tokens", "5", "--greedy") == 0
    assert capfd.readouterr().out == told
    assert run_main(monkeypatch, "generate", "nothing", "the cat") == 2
    assert capfd.readouterr().err == "loopway: no folder nothing; give a run folder or a model folder\n"


def test_a_run_goes_to_a_folder_named_after_its_config(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_main(monkeypatch, "train", "run.yaml", "training.max_steps=1") == 0
    assert (here / "runs" / "run" / "summary.json").exists()


def test_params_shows_a_model_beside_vanilla(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["params", "1.4b", "--layout", "4+8R2+4", "--recurrence", "mesh"]
    assert run_main(monkeypatch, *arguments) == 0
    table = capfd.readouterr().out
    assert "1,208,602,624" in table and "805,797,918 (66.7%)" in table
    assert run_main(monkeypatch, "params", "run.yaml", "--layout", "2+2R3") == 0
    assert "8 vanilla" in capfd.readouterr().out
    assert run_main(monkeypatch, "params", "1.5b") == 2
    assert capfd.readouterr().err.startswith("loopway: unknown Pythia size")


def test_ctrl_c_saves_says_how_to_go_on_and_exits_130(here: Path, processes: Processes) -> None:
    overrides = ["max_steps=100000", "save_steps=100000", "eval_strategy=no", "logging_steps=1"]
    errors, metrics = here / "errors.txt", here / "long" / "metrics.jsonl"
    command = ("train", "run.yaml", *(f"training.{each}" for each in overrides), "--out", "long")
    with processes.start(*command, errors=errors) as process:
        while not (metrics.exists() and metrics.read_text()):
            assert process.poll() is None, errors.read_text()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
    error = errors.read_text()
    assert "rerun to resume" in error.splitlines()[-1]
    assert "Traceback" not in error
    assert list((here / "long" / "checkpoints").glob("checkpoint-*/trainer_state.json"))


@pytest.mark.parametrize("option", ["--vocab-size=-4", "--context-length=0", "--num-slots=0"])
def test_params_refuses_sizes_below_one(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], option: str
) -> None:
    assert run_main(monkeypatch, "params", "160m", option) == 2
    assert option.partition("=")[0] in (error := capfd.readouterr().err) and "Traceback" not in error


def test_a_run_folder_that_cannot_be_made_is_one_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "train", "run.yaml", "--out", "text.jsonl/run") == 2
    assert capfd.readouterr().err.startswith("loopway: text.jsonl/run can't be made: ")


def test_a_full_disk_is_one_line_and_the_same_command_works_once_there_is_room(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import resource

    (here / "long.txt").write_text("a state of our union, and then another state\n" * 4000)
    (here / "held.txt").write_text("the state of the union is strong\n" * 100)
    arguments = ["train", "run.yaml", "--out", "out", "data.train=long.txt", "data.validation=held.txt"]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
        assert run_main(monkeypatch, *arguments) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    errors = capfd.readouterr().err
    assert errors.splitlines()[-1].startswith("loopway: the system says 'File too large'")
    assert "Traceback" not in errors
    assert run_main(monkeypatch, *arguments) == 0


def test_check_tells_what_runs_will_take_and_writes_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {*here.rglob("*")}
    assert run_main(monkeypatch, "check", "run.yaml") == 0
    told = capfd.readouterr().out
    assert "512 tokens in 4 steps, seconds at best" in told and "parameters on cpu" in told
    variants = ["variants.base.recurrence=base", "variants.mesh.num_slots=7", "seeds=[0, 1]"]
    assert run_main(monkeypatch, "check", "run.yaml", *variants) == 0
    first, base, mesh = capfd.readouterr().out.splitlines()
    assert first.endswith("2 variants, 2 seeds")
    parameters = [int(line.split()[1].replace(",", "")) for line in (base, mesh)]
    assert base.strip().startswith("base: ") and parameters[0] < parameters[1]
    assert run_main(monkeypatch, "check", "run.yaml", "data.train=gone.jsonl") == 2
    assert run_main(monkeypatch, "check", "run.yaml", "data.validation=[{tokens: x.bin}]") == 2
    assert run_main(monkeypatch, "check", "run.yaml", "data.sampling=preshuffled") == 2
    assert len(capfd.readouterr().err.splitlines()) == 3
    assert run_main(monkeypatch, "check", "run.yaml", "training.per_device_train_batch_size=3") == 2
    assert {*here.rglob("*")} == before


def test_runs_are_listed_as_their_folders_tell(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "runs") == 2 and "runs: no such folder" in capfd.readouterr().err
    (here / "runs" / "other").mkdir(parents=True)
    assert run_main(monkeypatch, "runs") == 0 and capfd.readouterr().out == "no runs in runs\n"
    assert run_main(monkeypatch, "train", "run.yaml", "--out", "runs/some/done") == 0
    shutil.copytree("runs/some/done", "runs/stopped")
    Path("runs/stopped/summary.json").unlink()
    (here / "runs" / "torn").mkdir()
    Path("runs/torn/config.yaml").write_text("model: [")
    capfd.readouterr()
    assert run_main(monkeypatch, "runs", "--json") == 0
    done, stopped, torn = json.loads(capfd.readouterr().out)
    summary = json.loads(Path("runs/some/done/summary.json").read_text())
    assert done | {"state": "finished", "step": 4, "max_steps": 4, "layout": "1+1R2+1"} == done
    assert done["validation_loss"] == summary["validation_loss"] and done["folder"] == "runs/some/done"
    assert done["bytes"] > Path("runs/some/done/model/model.safetensors").stat().st_size
    assert (stopped["state"], torn["state"], torn["step"]) == ("begun", "damaged", 0)
    assert run_main(monkeypatch, "runs", "runs/some", "--compare") == 2
    assert "needs two runs or more" in capfd.readouterr().err
    assert run_main(monkeypatch, "train", "run.yaml", "--out", "runs/some/other", "training.seed=5") == 0
    capfd.readouterr()
    assert run_main(monkeypatch, "runs", "runs/some", "--compare", "--json") == 0
    told = json.loads(capfd.readouterr().out)
    assert told["keys"] == {"training.seed": [0, 5]} and [run["step"] for run in told["runs"]] == [4, 4]
    assert run_main(monkeypatch, "runs", "runs/some", "--compare") == 0
    shown = capfd.readouterr().out
    assert "training.seed" in shown and f"{summary['validation_loss']:.4f}" in shown
    assert run_main(monkeypatch, "runs", "runs/some") == 0
    assert f"{summary['validation_loss']:.4f}" in capfd.readouterr().out


def test_runs_are_deleted_when_that_is_confirmed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        assert run_main(monkeypatch, "train", "run.yaml", "--out", f"runs/{name}", "--quiet") == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert run_main(monkeypatch, "runs", "--delete") == 0
    assert {path.name for path in Path("runs").iterdir()} == {"a", "b"}
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert run_main(monkeypatch, "runs", "runs/a", "--delete") == 0
    assert {path.name for path in Path("runs").iterdir()} == {"b"}
    assert run_main(monkeypatch, "runs", "--delete", "--compare", "--yes") == 2
    with RunFolder(Path("runs/b")).locked():
        assert run_main(monkeypatch, "runs", "--delete", "--yes") == 2
    assert Path("runs/b/model").is_dir()
    assert run_main(monkeypatch, "runs", "--delete", "--yes") == 0
    assert not any(Path("runs").iterdir())


@pytest.mark.parametrize("variable", ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
def test_a_restart_by_a_launcher_resumes_a_fresh_run(
    here: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    command = ["train", "run.yaml", "--out", "runs/a", "--fresh", "--quiet"]
    assert run_main(monkeypatch, *command) == 0
    finished = Path("runs/a/summary.json").stat().st_mtime_ns
    monkeypatch.setenv(variable, "1")
    assert run_main(monkeypatch, *command) == 0
    assert Path("runs/a/summary.json").stat().st_mtime_ns == finished
    monkeypatch.setenv(variable, "0")
    assert run_main(monkeypatch, *command) == 0
    assert Path("runs/a/summary.json").stat().st_mtime_ns != finished


def test_switches_and_disabled_intervals_are_no_sizes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    switches = ["model.tie_word_embeddings=false", "model.scale_embeddings=false", "model.pad_token_id=300"]
    intervals = ["training.save_strategy=no", "training.save_steps=0", "training.logging_strategy=no"]
    assert run_main(monkeypatch, "check", "run.yaml", *switches, *intervals, "training.logging_steps=0") == 0


def test_quiet_prints_errors_alone_and_json_what_the_files_hold(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("loopway.comparison.planned._run_in_process", train_here)
    variants = "variants={b: {}, a: {recurrence: base}}"
    command = [
        "compare",
        "run.yaml",
        variants,
        "probe_samples=2",
        "prompt=the",
        "data.validation_fraction=0.2",
    ]
    assert run_main(monkeypatch, *command, "--json") == 0
    rows = json.loads(capfd.readouterr().out)
    assert rows == json.loads(Path("runs/run/results.json").read_text()) and len(rows) == 2
    assert run_main(monkeypatch, "probe", "runs/run/runs/b-seed0", "--samples", "2", "--json") == 0
    assert json.loads(capfd.readouterr().out) == json.loads(Path("probes/probes.json").read_text())
    assert run_main(monkeypatch, "params", "run.yaml", "--json") == 0
    vanilla, mesh = json.loads(capfd.readouterr().out)
    assert vanilla["layout"] == "4" and mesh["total"] == rows[0]["parameters"]
    for quiet in (command, ["train", "run.yaml", "--out", "new"], ["probe", "runs/run/runs/b-seed0"]):
        assert run_main(monkeypatch, *quiet, "--quiet") == 0
        assert "".join(capfd.readouterr()) == ""
    assert run_main(monkeypatch, "train", "run.yaml", "--out", "new", "training.seed=4", "--quiet") == 2
    assert "training.seed" in capfd.readouterr().err


def test_check_counts_the_steps_of_epochs_of_tokens(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "prepare", "text.jsonl", "--out", "tokens", "--vocab-size", "300") == 0
    fields = ["data={train: tokens, sequence_length: 32}", "training={num_train_epochs: 2, use_cpu: true}"]
    Path("epochs.yaml").write_text("model: {preset: pythia-14m, hidden_size: 32, layout: 1+1R2+1}")
    capfd.readouterr()
    assert run_main(monkeypatch, "check", "epochs.yaml", *fields) == 0
    (steps,) = re.findall(r"tokens in (\d+) steps", capfd.readouterr().out)
    assert run_main(monkeypatch, "train", "epochs.yaml", *fields, "--out", "run") == 0
    assert f"step {steps}/{steps} " in capfd.readouterr().err
    assert run_main(monkeypatch, "check", "epochs.yaml", *fields, "data.sequence_length=90000") == 2
    assert run_main(monkeypatch, "check", "epochs.yaml", *fields, "model.vocab_size=50") == 2


def test_a_comparison_may_name_families_in_its_variants_alone(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("families.yaml").write_text(
        "extends: run.yaml\nmodel: {preset: null, hidden_size: 32, intermediate_size: 64, num_attention_heads: 4, num_key_value_heads: 2,"
        " layout: null, recurrence: base}\ntraining: {learning_rate: 1e-3}\n"
        "variants: {a: {family: llama, layout: 2}, b: {family: qwen2, layout: 1+2R2+1}}\n"
    )
    assert run_main(monkeypatch, "check", "families.yaml") == 0
    assert capfd.readouterr().out.count("parameters on cpu") == 2
    assert run_main(monkeypatch, "check", "families.yaml", "variants.a.family=gpt2") == 2
    assert "family 'gpt2' is not supported" in capfd.readouterr().err


def test_a_config_is_read_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fifo = here / "pipe.yaml"
    os.mkfifo(fifo)
    writing = threading.Thread(target=lambda: fifo.write_text(RUN))
    writing.start()
    assert run_main(monkeypatch, "train", "pipe.yaml", "training.max_steps=1", "--out", "once") == 0
    writing.join()


def test_a_run_begins_with_what_it_will_take_and_logs_its_first_step(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "train", "run.yaml", "--out", "run") == 0
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("run")]
    assert "parameters on cpu" in lines[0] and "512 tokens in 4 steps" in lines[0]
    assert lines[1].startswith("run  step 1/4  loss ") and "validation" not in lines[1]
    assert lines[2].startswith("run  step 1/4  validation ")

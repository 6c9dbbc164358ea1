"""`loopway evaluate` from the outside: the paper's suite, going on after a kill, one line for each mistake."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lm_eval
import pytest
import yaml
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from loopway.cli import main
from loopway.data import PreparationConfig, prepare, write_token_file
from loopway.training.config.run_config import RunConfig
from loopway.training.run import train
from tests.processes import Processes

Run = Callable[..., tuple[int, str, str]]
DEFINITIONS = Path(lm_eval.__path__[0]) / "tasks"


@pytest.fixture
def run(
    mesh_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Run:
    """Runs `loopway evaluate ARGUMENTS` where `mesh` is a model; gives exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    Path("mesh").symlink_to(mesh_model)

    def run_main(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["loopway", "evaluate", *arguments])
        capfd.readouterr()
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        output = capfd.readouterr()
        return code, output.out, output.err

    return run_main


def write_task(folder: Path, task: str, **fields: object) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{task}.yaml").write_text(yaml.safe_dump({"task": task} | fields))


def write_wikitext(folder: Path) -> None:
    """The harness's task on a page that lies here."""
    (folder / "page.jsonl").write_text(json.dumps({"page": "The river and the stone .\n" * 20}) + "\n")
    write_task(
        folder,
        "wikitext",
        include=str(DEFINITIONS / "wikitext" / "wikitext.yaml"),
        dataset_path="json",
        dataset_name=None,
        dataset_kwargs={"data_files": {"test": str(folder / "page.jsonl")}},
        training_split=None,
        validation_split=None,
    )


def write_riddles(folder: Path, output_type: str, count: int = 8, **fields: object) -> None:
    """A task of one's own, `riddles`: questions with four answers of one word."""
    folder.mkdir(exist_ok=True)
    words = ("stone", "river", "light", "machine", "garden", "number", "winter", "engine")
    with (folder / "riddles.jsonl").open("w") as file:
        for number in range(count):
            choices = [words[(number + step) % len(words)] for step in range(4)]
            row = {"text": f"Riddle {number}: what is it?", "choices": choices, "answer": number % 4}
            file.write(json.dumps(row) + "\n")
    write_task(
        folder,
        "riddles",
        dataset_path="json",
        dataset_kwargs={"data_files": {"test": str(folder / "riddles.jsonl")}},
        test_split="test",
        output_type=output_type,
        doc_to_text="{{text}}",
        **fields,
    )


@pytest.fixture(scope="module")
def held_out(mesh_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared text, in the tokens of the model."""
    folder = tmp_path_factory.mktemp("held-out")
    texts = "".join(json.dumps({"text": f"the stone of river {n} " * 30}) + "\n" for n in range(40))
    (folder / "text.jsonl").write_text(texts)
    config = PreparationConfig(train=[str(folder / "text.jsonl")], tokenizer=str(mesh_model))
    prepare(config, folder / "data", processes=1)
    return folder / "data"


def test_the_paper_s_suite_gives_four_perplexities_and_both_means(
    run: Run, mesh_model: Path, local_tasks: Path, held_out: Path, tmp_path: Path
) -> None:
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    for file in local_tasks.glob("*.yaml"):
        (tasks / file.name).symlink_to(file)
    write_wikitext(tasks)
    code, output, errors = run(
        "mesh", "--include-path", "tasks", "--limit", "1", "--held-out", str(held_out), "--out", "out"
    )
    assert code == 0, errors
    assert "mean acc, 0-shot" in output and "Everything is in out: table.md, results.json" in output
    content = json.loads(Path("out/results.json").read_text())
    (model,) = content["models"]
    assert model["model"] == "mesh" and model["missing"] == [] and len(model["key"]) == 64
    assert [r["metric"] for r in model["results"][:4]] == [
        "perplexity",
        "word_perplexity",
        *["perplexity"] * 2,
    ]
    assert [(r["task"], r["shots"]) for r in model["results"][4:]] == [
        (task, shots)
        for shots in (0, 5)
        for task in (
            *("lambada_openai", "lambada_standard", "piqa", "hellaswag", "winogrande", "arc_easy"),
            *("arc_challenge", "sciq", "mmlu_continuation"),
        )
    ]
    assert {r["samples"] for r in model["results"]} == {1, 57}
    assert all(isinstance(r["value"], float) and r["version"] != "" for r in model["results"][1:-1])
    assert {"loopway", "lm_eval", "torch", "transformers", "datasets", "python"} <= content["versions"].keys()
    assert content["settings"]["limit"] == 1
    table = Path("out/table.md").read_text()
    heads, _, row = table.splitlines()[:3]
    assert heads == (
        "| model | held-out loss ↓ | held-out ppl ↓ | wikitext ppl ↓ | LAMBADA-O ppl ↓ | LAMBADA-S ppl ↓ "
        "| mean acc, 0-shot ↑ | mean acc, 5-shot ↑ |"
    )
    assert "–" not in row and "incomplete" not in row
    for shots in (0, 5):
        values = [r["value"] for r in model["results"] if r["in_mean"] and r["shots"] == shots]
        assert len(values) == 9 and f"| {100 * sum(values) / 9:.1f}" in row
    assert "| mmlu_continuation, 5-shot | acc ↑ |" in table


DIES_AFTER_30_ANSWERS = """
import os, signal
from loopway.cli import main
from loopway.evaluation.answers import Answers

add = Answers.add_partial

def add_and_die(self, *arguments):
    add(self, *arguments)
    if len(self._known) == 30:
        os.kill(os.getpid(), signal.SIGKILL)

Answers.add_partial = add_and_die
main()
"""


def test_a_killed_evaluation_goes_on_and_ends_the_same(
    run: Run, processes: Processes, tmp_path: Path
) -> None:
    choices = {"doc_to_choice": "{{choices}}", "doc_to_target": "answer"}
    write_riddles(tmp_path / "tasks", "multiple_choice", 40, **choices)

    arguments = ["mesh", "--tasks", "riddles", "--include-path", "tasks", "--batch-size", "2", "--out"]

    assert run(*arguments, "straight")[0] == 0
    (script := tmp_path / "script.py").write_text(DIES_AFTER_30_ANSWERS)
    killed = processes.start("evaluate", *arguments, "out", script=script, errors=tmp_path / "errors.txt")
    assert killed.wait() == -signal.SIGKILL, (tmp_path / "errors.txt").read_text()
    known = answers_of(tmp_path / "out")
    whole = answers_of(tmp_path / "straight")
    assert len(known) == 30 < len(whole)
    assert not (tmp_path / "out" / "results.json").exists()
    assert run(*arguments, "out")[0] == 0
    lines = answers_of(tmp_path / "out")
    assert lines[: len(known)] == known and len(lines) == len(whole) == len({json.loads(x)[0] for x in lines})
    results = [json.loads((tmp_path / out / "results.json").read_text()) for out in ("straight", "out")]
    assert results[0]["models"] == results[1]["models"]


def answers_of(out: Path) -> list[str]:
    """The whole lines of the one file of answers."""
    files = list((out / "answers").glob("*.jsonl"))
    return [
        line for file in files for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")
    ]


@pytest.mark.parametrize("kind", ["recursive", "plain"])
def test_a_task_that_asks_for_text_is_answered(run: Run, tmp_path: Path, mesh_model: Path, kind: str) -> None:
    write_riddles(
        tmp_path / "tasks",
        "generate_until",
        doc_to_target="{{choices[0]}}",
        generation_kwargs={"until": ["\n"], "max_gen_toks": 8},
        metric_list=[{"metric": "exact_match"}],
    )
    model = mesh_model if kind == "recursive" else make_plain_model(tmp_path / "llama", mesh_model)
    arguments = [str(model), "--tasks", "riddles", "--include-path", "tasks", "--out", "out"]
    code, output, errors = run(*arguments, "--batch-size", "2")
    assert code == 0, errors
    assert "riddles exact_match" in output
    lines = answers_of(Path("out"))
    assert len(lines) == 8 and all(isinstance(json.loads(line)[1], str) for line in lines)
    assert run(*arguments)[0] == 0 and answers_of(Path("out")) == lines
    code, _, errors = run(*arguments[:-1], "alone", "--batch-size", "1")  # padding changes nothing
    assert sorted(answers_of(Path("alone"))) == sorted(lines)


def make_plain_model(folder: Path, tokenizer: Path) -> Path:
    """A model of the library's own, with random weights."""
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


def test_what_can_t_be_asked_is_left_out_and_said(run: Run, tmp_path: Path, local_tasks: Path) -> None:
    """Text longer than the model's context, examples where there are none, held-out text that nobody named."""
    tasks = tmp_path / "tasks"
    write_riddles(tasks, "generate_until", doc_to_target="", metric_list=[{"metric": "exact_match"}])
    options = ["--include-path", "tasks", "--tasks", "riddles,held-out,wikitext", "--out", "out"]
    write_wikitext(tasks)
    code, output, errors = run("mesh", *options)
    assert code == 0 and "wikitext ppl" in output
    reasons = [
        entry["why"] for entry in json.loads(Path("out/results.json").read_text())["models"][0]["missing"]
    ]
    assert reasons[0].startswith(
        "riddles: the harness says AssertionError: Invalid configuration: requested max"
    )
    assert reasons[1].startswith("held-out perplexity: there is no validation set")
    assert all(f"skipped: {reason[:40]}" in errors for reason in reasons)
    write_task(
        tasks,
        "never_shown",
        include=str(local_tasks / "piqa.yaml"),
        num_fewshot=0,
    )
    code, _, errors = run("mesh", "--include-path", "tasks", "--tasks", "never_shown", "--shots", "5")
    assert (code, "never_shown: the harness asks it without examples, not with 5" in errors) == (2, True)


def test_a_run_s_own_text_is_read_after_a_move_and_left_out_when_it_is_gone(run: Run, tmp_path: Path) -> None:
    texts = [f"the {a} of the {b} " * 8 for a in "abcd" for b in "efgh"]
    Path("text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = {
        "model": {"preset": "pythia-14m", "hidden_size": 32, "layout": "1+1R2+1", "recurrence": "mesh"},
        "data": {"train": "text.jsonl", "sequence_length": 16, "vocab_size": 280, "validation_fraction": 0.3},
        "training": {"max_steps": 1, "global_batch_size": 2, "learning_rate": 0.01, "use_cpu": True},
    }
    summary = train(RunConfig.from_dict(config), "run")
    Path("text.jsonl").unlink()
    Path("run").rename(tmp_path / "moved")
    assert run("moved", "--tasks", "held-out", "--out", "out")[0] == 0
    result = json.loads(Path("out/results.json").read_text())["models"][0]["results"][0]
    assert result["metrics"]["loss"] == pytest.approx(summary.validation_loss)
    shutil.rmtree("moved/data")
    code, _, errors = run("moved", "--tasks", "held-out", "--out", "out")
    assert code == 2
    assert "put back what it was trained on, or give token files with --held-out" in errors


def test_models_named_twice_are_one_and_results_are_json(
    run: Run, mesh_model: Path, local_tasks: Path
) -> None:
    arguments = ["--tasks", "piqa", "--limit", "1", "--include-path", str(local_tasks), "--out", "out"]
    code, _, errors = run("mesh", "mesh/", "./mesh", str(mesh_model), *arguments)
    assert code == 0, errors

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    content = json.loads(Path("out/results.json").read_text(), parse_constant=refuse)
    assert [model["model"] for model in content["models"]] == ["mesh", str(mesh_model)]
    assert content["models"][0]["results"][0]["error"] is None  # of a single question
    assert len({model["key"] for model in content["models"]}) == 1
    assert len(list(Path("out/answers").iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone"], "'gone' is no folder here, and as a name on the Hugging Face Hub it can't be opened"),
        (["./gone"], "no folder gone; give a run folder or a model folder"),
        (["tasks"], "tasks: holds no model (no config.json); give a run folder or a model folder"),
        (["mesh", "--tasks", ","], "--tasks: names no task; for example --tasks piqa,arc_easy"),
        (["mesh", "--tasks", "riddles", "--suite", "tasks"], "give --suite or --tasks, not both"),
        (["mesh", "--suite", "papper"], "--suite: got 'papper'; did you mean paper"),
        (["mesh", "--suite", "perplexity", "--shots", "5"], "--shots: perplexities are taken without examples"),
        (["mesh", "--shots", "0;5"], "--shots: got '0;5', expected whole numbers with commas between, as in 0,5"),
        (["mesh", "--shots", "-1"], "--shots: got '-1', expected whole numbers"),
        (["mesh", "--batch-size", "0"], "--batch-size: got '0', expected a whole number from 1, or auto"),
        (["mesh", "--batch-size", "big"], "--batch-size: got 'big', expected a whole number from 1, or auto"),
        (["mesh", "--dtype", "float"], "--dtype: got 'float'; did you mean float32, bfloat16, float16"),
        (["mesh", "--include-path", "nowhere"], "--include-path: no folder nowhere"),
        (["mesh", "--include-path", "broken"], "--include-path: broken/piqa.yaml is no YAML: "),
        (["mesh", "--include-path", "dangling"], "--include-path: the harness passes dangling/piqa.yaml over"),
        (["mesh", "--every-checkpoint"], "mesh: is no run folder, which --every-checkpoint needs"),
        (["mesh", "--held-out", "nowhere"], "'nowhere' does not exist"),
        (["mesh", "--held-out", "text.txt"], "'text.txt' is neither a .bin file nor a folder of loopway prepare"),
        (["mesh", "--held-out", "other"], "other: was made with another tokenizer than mesh; prepare its text"),
        (["mesh", "--held-out", "wide.bin"], "wide: token 512 has the id 512, outside 0..511"),
        (["mesh", "--out", "damaged"], "damaged; delete it, and what it held is computed again"),
        (["mesh", "--out", "text.txt"], "the system says 'File exists': text.txt"),
        (["mesh", "--out", "text.txt/below"], "the system says 'Not a directory': text.txt/below"),
        (["mesh", "--tasks", "piqa", "--include-path", "odd"], "the metric of piqa: got 'acc_norm', expected one of acc"),
        (["mesh", "--plugin", "gone.py"], "plugins: no file gone.py"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(
    run: Run, tmp_path: Path, arguments: list[str], message: str
) -> None:
    write_riddles(Path("tasks"), "multiple_choice", doc_to_choice="{{choices}}", doc_to_target="answer")
    write_wikitext(Path("tasks"))
    Path("text.txt").write_text("some text")
    if "--held-out" in arguments:
        arguments = [*arguments, "--tasks", "held-out"]
        write_token_file(Path("wide"), [range(601)], 601)
        Path("text.jsonl").write_text("".join(json.dumps({"text": f"word {n}"}) + "\n" for n in range(40)))
        prepare(PreparationConfig(train=["text.jsonl"], vocab_size=300), Path("other"), processes=1)
    elif not {"--tasks", "--suite"} & set(arguments):
        arguments = [*arguments, "--suite", "tasks"]
    if "broken" in arguments:
        Path("broken").mkdir()
        Path("broken/piqa.yaml").write_text("task: [piqa\n")
    if "dangling" in arguments:
        write_task(Path("dangling"), "piqa", include="gone.yaml")
    if "damaged" in arguments:
        assert run("mesh", "--tasks", "wikitext", "--include-path", "tasks", "--out", "damaged")[0] == 0
        (answers,) = Path("damaged/answers").iterdir()
        answers.write_text("5\n")
        arguments = ["mesh", "--tasks", "wikitext", "--out", "damaged"]
    if "odd" in arguments:
        write_riddles(
            Path("odd"), "multiple_choice", doc_to_choice="{{choices}}", doc_to_target="answer",
            metric_list=[{"metric": "acc"}],
        )  # fmt: skip
        content = yaml.safe_load(Path("odd/riddles.yaml").read_text()) | {"task": "piqa"}
        Path("odd/riddles.yaml").write_text(yaml.safe_dump(content))
    if "--include-path" not in arguments:
        arguments = [*arguments, "--include-path", "tasks"]
    code, output, errors = run(*arguments)
    last = errors.splitlines()[-1]
    assert (code, output) == (2, ""), errors
    assert last.startswith("loopway: ") and message in last
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    "option", [["--limit", "0"], ["--sequence-length", "0"], ["--limit", "x"]], ids=" ".join
)
def test_a_number_out_of_range_is_refused(run: Run, option: list[str]) -> None:
    code, output, errors = run("mesh", *option)
    assert (code, output) == (2, "") and option[0] in errors


def test_a_model_that_is_not_there_leaves_nothing_behind(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("loopway.modeling.pretrained_folder.is_offline_mode", lambda: True)
    for name in ("nope", "./nope"):
        code, _, error = run(name, "--tasks", "held-out")
        assert code == 2 and "nope" in error and not Path("evaluations").exists()


def test_a_folder_takes_one_evaluation_at_a_time(run: Run, local_tasks: Path) -> None:
    Path("out").mkdir()
    lock = (
        "import fcntl, sys; f = open('out/.lock', 'w'); fcntl.flock(f, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        code, _, errors = run("mesh", "--tasks", "piqa", "--include-path", str(local_tasks), "--out", "out")
        other.communicate("")
    assert code == 2 and errors.startswith("loopway: another process evaluates into out; wait for it")


def test_without_the_harness_one_line_says_how_to_get_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    for name in ("evaluate", "dynamics", "harness"):  # as if they were imported now
        monkeypatch.delitem(sys.modules, f"loopway.evaluation.{name}", raising=False)
    code, _, errors = run("mesh")
    assert (code, errors) == (
        2,
        "loopway: evaluation needs lm-evaluation-harness, which isn't installed: pip install lm-eval\n",
    )

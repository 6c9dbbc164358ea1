"""What the harness says of a model is what the model's own log-likelihoods say, on real rows."""

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from loopway.data.beginnings import chosen_beginning, set_beginning
from loopway.evaluation import harness
from loopway.evaluation.answers import Answers, request_key
from loopway.evaluation.evaluate import evaluate
from loopway.evaluation.harness import HarnessModel, Tasks
from loopway.evaluation.suite import Measure, suite_measures, task_measures
from loopway.options import EvaluationOptions
from tests.processes import Processes


class Scorer:
    """Log-likelihoods, computed one text at a time in the plainest way."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def __call__(self, context: str, continuation: str) -> tuple[float, bool]:
        """Sum of the continuation's log-probabilities, and whether each of its tokens is the likeliest."""
        end = self.tokenizer.eos_token_id
        # As the harness does: spaces at the end of a context belong to the continuation.
        spaces = len(context) - len(context.rstrip())
        if spaces:
            continuation = context[-spaces:] + continuation
            context = context[:-spaces]
        whole = self.tokenizer(context + continuation)["input_ids"]
        before = len(self.tokenizer(context)["input_ids"]) if context else 0
        ids = torch.tensor([[end, *whole] if not context else whole])
        first = 1 if not context else before
        ids, cut = ids[:, -257:], max(ids.shape[1] - 257, 0)
        first -= cut
        with torch.no_grad():
            logits = self.model(ids[:, :-1]).logits[0, first - 1 :]
        targets = ids[0, first:]
        scores = F.log_softmax(logits, dim=-1)
        return (
            scores.gather(1, targets[:, None]).sum().item(),
            bool((scores.argmax(-1) == targets).all()),
        )


def run(model: Path, measures: list[Measure], folder: Path, tasks: Path, limit: int = 12):
    (evaluation,) = evaluate(
        [str(model)], measures, folder, EvaluationOptions(limit=limit, include_path=tasks)
    )
    return evaluation


def rows_of(tasks: Path, task: str, limit: int) -> list[tuple]:
    """The harness's own documents of a task, and the task."""
    from lm_eval.tasks import TaskManager

    (loaded,) = TaskManager(include_path=str(tasks), include_defaults=False).load([task])["tasks"].values()
    return [(loaded, doc) for doc in list(loaded.eval_docs)[:limit]]


@pytest.mark.parametrize("task", ["piqa", "hellaswag", "arc_easy", "arc_challenge", "sciq"])
def test_multiple_choice_is_what_log_likelihoods_give(
    mesh_model: Path, local_tasks: Path, tmp_path: Path, task: str
) -> None:
    measure = task_measures([task], [0])[0]
    result = run(mesh_model, [measure], tmp_path, local_tasks).results[measure]
    score, right, right_normalised = Scorer(mesh_model), 0, 0
    rows = rows_of(local_tasks, task, 12)
    for loaded, doc in rows:
        context, choices = loaded.doc_to_text(doc), loaded.doc_to_choice(doc)
        target = loaded.doc_to_target(doc)
        scores = [score(context, f" {choice}")[0] for choice in choices]
        right += max(range(len(scores)), key=scores.__getitem__) == target
        normalised = [s / len(choice) for s, choice in zip(scores, choices, strict=True)]
        right_normalised += max(range(len(scores)), key=normalised.__getitem__) == target
    assert result.samples == len(rows) == 12
    assert result.metric == "acc_norm"
    assert result.value == pytest.approx(right_normalised / 12, abs=1e-9)
    assert result.metrics["acc"] == pytest.approx(right / 12, abs=1e-9)


def test_winogrande_is_scored_on_what_follows_each_name(
    mesh_model: Path, local_tasks: Path, tmp_path: Path
) -> None:
    """Its choices are contexts; what is scored is the same for both."""
    (measure,) = task_measures(["winogrande"], [0])
    result = run(mesh_model, [measure], tmp_path, local_tasks).results[measure]
    score, right = Scorer(mesh_model), 0
    for loaded, doc in rows_of(local_tasks, "winogrande", 12):
        scores = [score(context, f" {loaded.doc_to_target(doc)}")[0] for context in loaded.doc_to_choice(doc)]
        right += max((0, 1), key=scores.__getitem__) == loaded.doc_to_text(doc)
    assert (result.metric, result.value) == ("acc", pytest.approx(right / 12))


def test_choices_of_one_token_share_one_computation(mesh_model: Path, tmp_path: Path) -> None:
    """What the harness offers for a shared prefix; answers are the same without it."""
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(mesh_model),
        AutoTokenizer.from_pretrained(mesh_model),
    )
    letters = [" the", " of", " and", " is"]
    assert all(len(tokenizer(letter)["input_ids"]) == 1 for letter in letters)
    pairs = [(f"Question {n}: what is a stone?\nAnswer:", letter) for n in range(5) for letter in letters]
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=number)
        for number, pair in enumerate(pairs)
    ]

    def ask(cached: bool) -> tuple[list[tuple[float, bool]], int]:
        """Answers, and how many rows the model has read for them."""
        answers, rows = Answers(tmp_path / f"{cached}.jsonl"), []
        harness_model = HarnessModel(model, tokenizer, batch_size=8, answers=answers)
        assert harness_model.logits_cache  # type: ignore[attr-defined]
        harness_model.logits_cache = cached  # type: ignore[attr-defined]
        hook = model.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
        found = harness_model.loglikelihood(requests, disable_tqdm=True)
        hook.remove()
        answers.close()
        return found, sum(rows)

    (shared, rows), (alone, all_rows) = ask(True), ask(False)
    assert (rows, all_rows) == (5, 20)
    assert [greedy for _, greedy in shared] == [greedy for _, greedy in alone]
    assert [value for value, _ in shared] == pytest.approx([value for value, _ in alone], rel=1e-5)


@pytest.mark.parametrize("add_bos_token", [True, False])
def test_a_text_is_asked_about_as_documents_begin(
    add_bos_token: bool, mesh_model: Path, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(mesh_model)
    tokenizer = AutoTokenizer.from_pretrained(mesh_model)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    set_beginning(tokenizer, chosen_beginning(tokenizer, add_bos_token))
    text = tokenizer(" the stone", add_special_tokens=False)["input_ids"]
    begun = [tokenizer.bos_token_id if add_bos_token else tokenizer.eos_token_id, *text]
    with torch.no_grad():
        scores = F.log_softmax(model(torch.tensor([begun])).logits[0, :-1], dim=-1)
    expected = scores.gather(1, torch.tensor(text)[:, None]).sum().item()
    asked = HarnessModel(model, tokenizer, batch_size=1, answers=Answers(tmp_path / "answers.jsonl"))

    def request(kind: Any, *arguments: str) -> list[Instance]:
        return [Instance(request_type=kind, doc={}, arguments=arguments, idx=0)]

    (rolling,) = asked.loglikelihood_rolling(request("loglikelihood_rolling", " the stone"), True)
    ((alone, _),) = asked.loglikelihood(request("loglikelihood", "", " the stone"), True)
    assert (rolling, alone) == (pytest.approx(expected, rel=1e-4), pytest.approx(expected, rel=1e-4))
    asked.add_bos_token = True
    asked.loglikelihood_rolling(request("loglikelihood_rolling", " the tree"), True)
    assert asked.add_bos_token is True
    # As docs/evaluation.md says of the harness's own command line.
    prefix = None if add_bos_token else tokenizer.eos_token_id
    options: Any = {"tokenizer": tokenizer, "add_bos_token": False, "prefix_token_id": prefix}
    plain: Any = HFLM(model, **options)  # type: ignore[arg-type]
    assert plain.loglikelihood_rolling(request("loglikelihood_rolling", " the stone"), True) == [
        pytest.approx(expected, rel=1e-4)
    ]


def test_every_answer_is_the_model_s_own_log_likelihood(
    mesh_model: Path, local_tasks: Path, tmp_path: Path
) -> None:
    measures = task_measures(["piqa", "lambada_openai"], [0])
    run(mesh_model, measures, tmp_path, local_tasks)
    (path,) = (tmp_path / "answers").iterdir()
    answers, score, seen = Answers(path), Scorer(mesh_model), 0
    for loaded, doc in rows_of(local_tasks, "piqa", 12):
        for choice in loaded.doc_to_choice(doc):
            request = (loaded.doc_to_text(doc), f" {choice}")
            answer = answers.get("loglikelihood", request)
            assert answer is not None
            assert answer[0] == pytest.approx(score(*request)[0], abs=1e-4 * abs(answer[0]))
            assert answer[1] == score(*request)[1]
            seen += 1
    for loaded, doc in rows_of(local_tasks, "lambada_openai", 12):
        request = (loaded.doc_to_text(doc), loaded.doc_to_target(doc))
        answer = answers.get("loglikelihood", request)
        assert answer is not None and answer[0] == pytest.approx(score(*request)[0], rel=1e-4)
        seen += 1
    assert seen == 36 == len(path.read_text().splitlines())


def test_lambada_gives_accuracy_and_perplexity_and_forks_nothing(
    mesh_model: Path, local_tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        os, "fork", lambda: pytest.fail("a child may inherit a lock that another thread holds")
    )
    measures = [m for m in suite_measures("paper") if m.task == "lambada_openai" and m.shots == 0]
    results = run(mesh_model, measures, tmp_path, local_tasks).results
    score = Scorer(mesh_model)
    found = [
        score(loaded.doc_to_text(doc), loaded.doc_to_target(doc))
        for loaded, doc in rows_of(local_tasks, "lambada_openai", 12)
    ]
    by_metric = {measure.metric: results[measure].value for measure in measures}
    expected = math.exp(-sum(value for value, _ in found) / 12)
    assert by_metric["perplexity"] == pytest.approx(expected, rel=1e-4)
    assert by_metric["acc"] == pytest.approx(sum(greedy for _, greedy in found) / 12)


def test_word_perplexity_of_text_of_one_s_own(mesh_model: Path, tmp_path: Path) -> None:
    """WikiText's task on a page that lies here: rolling windows, words counted as the harness counts them."""
    import lm_eval

    page = "The river and the stone .\n" * 100  # several windows
    (tmp_path / "page.jsonl").write_text(json.dumps({"page": page}) + "\n")
    definition = Path(str(lm_eval.__file__)).parent / "tasks" / "wikitext" / "wikitext.yaml"
    content = {
        "include": str(definition),
        "task": "wikitext",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "page.jsonl")}},
        "training_split": None,
        "validation_split": None,
    }
    (tmp_path / "wikitext.yaml").write_text(json.dumps(content))
    (measure,) = task_measures(["wikitext"])
    result = run(mesh_model, [measure], tmp_path / "out", tmp_path).results[measure]
    ((loaded, doc),) = rows_of(tmp_path, "wikitext", 1)
    scorer = Scorer(mesh_model)
    ids = scorer.tokenizer(loaded.doc_to_target(doc))["input_ids"]
    total, length = 0.0, 256
    for start in range(0, len(ids), length):
        stop = min(start + length, len(ids))
        first = 0 if start == 0 else stop - length - 1  # every window but the first is full
        inputs = [0, *ids[: stop - 1]] if start == 0 else ids[first : stop - 1]
        with torch.no_grad():
            scores = F.log_softmax(scorer.model(torch.tensor([inputs])).logits[0, start - stop :], dim=-1)
        total += scores.gather(1, torch.tensor(ids[start:stop])[:, None]).sum().item()
    assert len(ids) > 2 * length
    assert result.metric == "word_perplexity"
    words = len(re.split(r"\s+", page))  # as the harness counts them: one more behind the last newline
    assert math.log(result.value) == pytest.approx(-total / words, rel=1e-5)


def test_examples_before_a_question_change_the_request(
    mesh_model: Path, local_tasks: Path, tmp_path: Path
) -> None:
    measures = task_measures(["piqa"], [0, 5])
    evaluation = run(mesh_model, measures, tmp_path, local_tasks, limit=3)
    (path,) = (tmp_path / "answers").iterdir()
    assert len(path.read_text().splitlines()) == 2 * 3 * 2
    assert [measure.shots for measure in evaluation.results] == [0, 5]


def test_no_question_of_the_local_tasks_is_among_its_own_examples(local_tasks: Path) -> None:
    from lm_eval.tasks import TaskManager

    names = [
        "piqa",
        "hellaswag",
        "winogrande",
        "arc_easy",
        "arc_challenge",
        "sciq",
        "mmlu_anatomy_continuation",
    ]
    manager = TaskManager(include_path=str(local_tasks), include_defaults=False)
    tasks: dict[str, Any] = dict(manager.load(names)["tasks"])
    for name, task in tasks.items():
        assert task.fewshot_cfg.split == (task.config.test_split if "mmlu" not in name else "dev"), name
    piqa = tasks["piqa"]
    piqa.sampler.df = docs = list(piqa.eval_docs)[:4]  # so few that all are examples, but for the question
    context = piqa.fewshot_context(docs[0], 3)
    assert context.count(docs[0]["goal"]) == 1 and docs[1]["goal"] in context


def test_a_group_is_all_of_its_tasks(mesh_model: Path, local_tasks: Path, tmp_path: Path) -> None:
    (measure,) = task_measures(["mmlu_continuation"], [0])
    result = run(mesh_model, [measure], tmp_path, local_tasks, limit=2).results[measure]
    assert result.samples == 2 * 57
    assert result.metric == "acc" and 0 <= result.value <= 1 and result.error is not None


def test_the_harness_s_own_command_line_knows_our_models_and_gives_the_same_numbers(
    mesh_model: Path, local_tasks: Path, processes: Processes, tmp_path: Path
) -> None:
    measures = task_measures(["arc_easy"], [5])
    ours = run(mesh_model, measures, tmp_path / "ours", local_tasks).results[measures[0]]
    command = ["run", "--model", "hf"]
    command += ["--model_args", f"pretrained={mesh_model}", "--tasks", "arc_easy", "--num_fewshot", "5"]
    command += ["--include_path", str(local_tasks), "--limit", "12", "--device", "cpu"]
    command += ["--batch_size", "8", "--output_path", str(tmp_path / "theirs.json")]
    errors = tmp_path / "errors.txt"
    process = processes.start(*command, module="loopway.evaluation.lm_eval", errors=errors)
    assert process.wait() == 0, errors.read_text()[-2000:]
    (path,) = tmp_path.glob("theirs*.json")
    theirs = json.loads(path.read_text())["results"]["arc_easy"]
    assert theirs["acc_norm,none"] == pytest.approx(ours.value, abs=1e-9)
    assert theirs["acc,none"] == pytest.approx(ours.metrics["acc"], abs=1e-9)


def test_answers_are_found_again_by_the_text_of_a_request(tmp_path: Path) -> None:
    answers = Answers(tmp_path / "a.jsonl")
    answers.add_partial("loglikelihood", ("a", " b"), (-1.5, True))
    answers.close()
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('["cut o')  # killed while it wrote
    again = Answers(tmp_path / "a.jsonl")
    assert again.get("loglikelihood", ["a", " b"]) == [-1.5, True]
    assert again.get("loglikelihood", ["a", " c"]) is None
    assert again.get("loglikelihood_rolling", ["a", " b"]) is None
    again.add_partial("loglikelihood", ("a", " c"), (-2.0, False))
    again.close()
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert [json.loads(line)[0] for line in lines] == [
        request_key("loglikelihood", ("a", " b")),
        request_key("loglikelihood", ("a", " c")),
    ]


def test_any_task_of_the_harness_is_known_and_a_misspelt_one_is_named_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tag,) = task_measures(["ai2_arc"], [0])
    tasks = Tasks(["ai2_arc"])
    expanded = tasks.expand([tag])
    assert [(measure.task, measure.shots) for measure in expanded] == [("arc_challenge", 0), ("arc_easy", 0)]
    monkeypatch.setattr(harness, "TaskManager", lambda **_: tasks._manager)  # which takes long to make
    with pytest.raises(ValueError, match=r"--tasks: got 'piqqa'; did you mean .*piqa"):
        Tasks(["piqqa"])

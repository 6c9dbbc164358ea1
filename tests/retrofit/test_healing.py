"""Healing: a retrofit is trained further, beside its original's loss, by its predictions, its core first."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pretrained import TEXTS, save_pretrained
from rich.console import Console
from transformers import AutoModelForCausalLM, PreTrainedModel, TrainerCallback

from loopway.comparison.figures import plot_curves
from loopway.comparison.run import compare
from loopway.data.run_data import open_data
from loopway.data.tokenizer import train_tokenizer
from loopway.errors import ConfigError
from loopway.modeling.loss import distillation_loss
from loopway.modeling.stack import core_parameters, find_stack
from loopway.options import RetrofitOptions
from loopway.retrofit.command import retrofit_command
from loopway.training.config.run_config import RunConfig
from loopway.training.config.yaml_files import merge
from loopway.training.metrics_log import read_metrics
from loopway.training.original import Original, OriginalConfig
from loopway.training.run import train
from loopway.training.run_folder import RunFolder
from tests.command_line import train_here


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text, a pretrained Llama of six layers, and what it was retrofitted to."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[:300]))
    save_pretrained(folder / "llama", pad_token_id=0)
    save_pretrained(folder / "other", vocab_size=384)
    train_tokenizer(TEXTS, 280).save_pretrained(folder / "strange")
    for name, layout, recurrence in (
        ("mesh", "1+2R2+1", "mesh"),
        ("base", "1+2R2+1", "base"),
        ("grafted", "2+2+2", "mesh"),
        ("plain", "6", "base"),
    ):
        retrofit_command(
            str(folder / "llama"),
            folder / name,
            RetrofitOptions(layout=layout, recurrence=recurrence, fill="average"),
        )
    return folder


@pytest.fixture
def config(models: Path) -> Callable[..., RunConfig]:
    """A short run that begins with one of the models."""

    def make(name: str = "mesh", *, original: dict[str, Any] | None = None, **training: Any) -> RunConfig:
        content = {
            "model": {"pretrained": str(models / name)},
            "data": {"train": str(models / "text.jsonl"), "sequence_length": 16, "validation_fraction": 0.1},
            "training": {
                "max_steps": 4,
                "per_device_train_batch_size": 4,
                "learning_rate": 1e-3,
                "warmup_steps": 0,
                "logging_steps": 1,
                "save_steps": 2,
                "eval_steps": 2,
                "use_cpu": True,
                **training,
            },
        }
        return RunConfig.from_dict(content | ({"original": original} if original is not None else {}))

    return make


def trained(config: RunConfig, folder: Path, console: Console | None = None) -> PreTrainedModel:
    train(config, folder, console=console or Console(quiet=True))
    return AutoModelForCausalLM.from_pretrained(RunFolder(folder).model)


def mean_loss(model: PreTrainedModel, config: RunConfig, folder: Path) -> float:
    samples = open_data(config.data, RunFolder(folder).data).validation_samples()
    assert samples is not None
    losses = []
    with torch.no_grad():
        for index in range(len(samples)):
            logits = model(samples[index]["input_ids"][None]).logits[0]
            losses.append(F.cross_entropy(logits, samples[index]["shift_labels"]).item())
    return sum(losses) / len(losses)


def test_a_run_begins_with_the_pretrained_weights_and_shows_the_line_to_reach(
    config: Callable[..., RunConfig], models: Path, tmp_path: Path
) -> None:
    run, console = config(learning_rate=1e-12, eval_on_start=True), Console(record=True, width=200)
    model = trained(run, tmp_path / "run", console)
    begun = AutoModelForCausalLM.from_pretrained(models / "mesh")
    for name, value in begun.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=1e-8, msg=name)
    assert model.generation_config.max_new_tokens == begun.generation_config.max_new_tokens
    assert run.data.tokenizer == run.model.pretrained

    original = mean_loss(AutoModelForCausalLM.from_pretrained(models / "llama"), run, tmp_path / "run")
    first = read_metrics(RunFolder(tmp_path / "run").metrics)[0]
    assert first["step"] == 0 and first["validation_loss"] == pytest.approx(
        mean_loss(begun, run, tmp_path / "run"), abs=1e-5
    )
    summary = json.loads(RunFolder(tmp_path / "run").summary.read_text())
    assert summary["original_loss"] == pytest.approx(original, abs=1e-5)
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "`loopway retrofit` made it from `llama`" in card and "## Training" in card
    assert f"| validation loss of the original | {original:.4f} |" in card
    record = (tmp_path / "run" / "model" / "retrofit.json").read_text()
    assert record == (models / "mesh" / "retrofit.json").read_text()  # so that it may be healed further
    said = console.export_text()
    assert f"the original, {models / 'llama'}, has validation loss {original:.4f}" in said
    assert f"(original {original:.3f})" in said


def test_the_token_that_pads_is_trained_like_any_other(
    config: Callable[..., RunConfig], models: Path, tmp_path: Path
) -> None:
    before = AutoModelForCausalLM.from_pretrained(models / "mesh")
    assert before.config.pad_token_id == before.config.eos_token_id == 0  # which stands between documents
    after = trained(config(weight_decay=0), tmp_path / "run")
    assert not torch.equal(
        *(model.get_input_embeddings().get_parameter("weight")[0] for model in (before, after))
    )


class Weights(TrainerCallback):
    """The weights after every step."""

    def __init__(self) -> None:
        self.after: list[dict[str, torch.Tensor]] = []

    def on_step_end(self, *_: Any, model: Any, **__: Any) -> None:
        self.after.append({name: value.clone() for name, value in model.state_dict().items()})


@pytest.mark.parametrize(("name", "core_first"), [("mesh", 2), ("mesh", 0.5), ("base", 2), ("grafted", 2)])
def test_the_core_is_trained_alone_first(
    name: str,
    core_first: float,
    config: Callable[..., RunConfig],
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = Weights()
    monkeypatch.setattr("loopway.training.run._Run._probes", lambda *_: [seen])
    trained(config(name, core_first=core_first), tmp_path / "run")
    begun = AutoModelForCausalLM.from_pretrained(models / name)
    core = {id(parameter) for parameter in core_parameters(begun)}
    inside = {key for key, parameter in begun.named_parameters() if id(parameter) in core}
    steps = [begun.state_dict(), *seen.after]
    changed = [
        {key for key in inside | set(dict(begun.named_parameters())) if not before[key].equal(after[key])}
        for before, after in itertools.pairwise(steps)
    ]
    looped = {key for key in inside if ".recurrence." not in key}
    assert bool(looped) == find_stack(begun).layout.is_looped
    assert all(found <= inside and looped <= found for found in changed[:2])
    assert all(found > inside - {key for key in inside if ".recurrence." in key} for found in changed[2:])
    assert any(".embed_tokens." in key for key in changed[2])


def test_distillation_is_what_its_formula_says() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, taught = torch.randn(2, 2, 700, 11, generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    targets = torch.randint(11, (2, 700), generator=generator)
    targets[0, :100] = -100
    kept, share, heat = targets != -100, 0.3, 2.5
    hard = F.cross_entropy(logits[kept], targets[kept], reduction="sum")
    p, q = (F.softmax(each[kept] / heat, dim=-1) for each in (taught, logits))
    soft = (p * (p.log() - q.log())).sum()
    for num_items in (None, 17):
        expected = ((1 - share) * hard + share * heat**2 * soft) / (num_items or kept.sum())
        loss = distillation_loss(logits, taught, targets, share=share, temperature=heat, num_items=num_items)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(
            *(torch.autograd.grad(each, logits, retain_graph=True)[0] for each in (loss, expected))
        )


def test_a_model_that_predicts_what_its_teacher_does_has_nothing_to_learn(
    config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    trained(config("plain", original={"distillation": 1}, learning_rate=1e-12), tmp_path / "plain")
    trained(config("base", original={"distillation": 1}, learning_rate=1e-12), tmp_path / "base")
    plain, base = (
        [line["loss"] for line in read_metrics(tmp_path / name / "metrics.jsonl") if "loss" in line]
        for name in ("plain", "base")
    )
    assert max(plain) < 1e-6 and min(base) > 1e-3

    # Half of it from a teacher who says the same: half of the text's own loss is left.
    for name, original in (("text", None), ("half", {"distillation": 0.5})):
        trained(config("plain", original=original, learning_rate=1e-12), tmp_path / name)
    text, half = (
        [line["loss"] for line in read_metrics(tmp_path / name / "metrics.jsonl") if "loss" in line]
        for name in ("text", "half")
    )
    assert half == pytest.approx([loss / 2 for loss in text], rel=1e-5)


def test_a_teacher_teaches(config: Callable[..., RunConfig], models: Path, tmp_path: Path) -> None:
    alone = trained(config(max_steps=30), tmp_path / "alone")
    taught = trained(
        config(max_steps=30, original={"distillation": 1, "temperature": 2}), tmp_path / "taught"
    )
    llama = AutoModelForCausalLM.from_pretrained(models / "llama")
    ids = open_data(config().data, tmp_path / "alone" / "data").training_samples()[0]["input_ids"][None]
    with torch.no_grad():
        wanted, *found = (F.log_softmax(model(ids).logits, -1) for model in (llama, alone, taught))
    apart = [F.kl_div(each, wanted, log_target=True, reduction="sum").item() for each in found]
    assert apart[1] < 0.8 * apart[0], apart


def test_micro_batches_and_interruptions_change_nothing(
    config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    healing: dict[str, Any] = {"original": {"distillation": 0.5}, "core_first": 3, "max_steps": 6}
    whole = trained(config(**healing), tmp_path / "whole").state_dict()
    small = {"per_device_train_batch_size": 2, "global_batch_size": 4}
    for name, value in trained(config(**healing, **small), tmp_path / "small").state_dict().items():
        torch.testing.assert_close(value, whole[name], rtol=1e-4, atol=1e-5, msg=name)

    class Stopped(Exception):
        pass

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 3:
                raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loopway.training.run._Run._probes", lambda *_: [Stop()])
        with pytest.raises(Stopped):
            train(config(**healing), tmp_path / "halved", console=Console(quiet=True))
    again = trained(config(**healing), tmp_path / "halved").state_dict()
    assert all(value.equal(whole[name]) for name, value in again.items())


def test_variants_are_healed_side_by_side(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {
        "data": {"train": str(models / "text.jsonl"), "sequence_length": 16, "validation_fraction": 0.1},
        "training": {
            "max_steps": 2,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-3,
            "use_cpu": True,
        },
        "variants": {name: {"pretrained": str(models / name)} for name in ("base", "mesh")},
    }
    (tmp_path / "heal.yaml").write_text(json.dumps(content))

    monkeypatch.setattr("loopway.comparison.planned._run_in_process", train_here)
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(
        "loopway.comparison.report.plot_curves",
        lambda *given, **more: (drawn.update(more), plot_curves(*given, **more))[1],
    )
    rows = compare(tmp_path / "heal.yaml", [], tmp_path / "out", console=Console(quiet=True)).rows
    summary = json.loads((tmp_path / "out" / "runs" / "mesh-seed0" / "summary.json").read_text())
    assert drawn["original"] == summary["original_loss"] > 1
    assert [(row.variant, row.layout, row.recurrence) for row in rows] == [
        ("base", "1+2R2+1", "base"),
        ("mesh", "1+2R2+1", "mesh"),
    ]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"layout": "1+2R2+1"}}, "model.layout can't be set beside model.pretrained"),
        ({"model": {"hidden_size": 64}}, "model.hidden_size can't be set beside model.pretrained"),
        ({"model": {"family": "llama"}}, "model: give one of preset"),
        ({"model": {"pretrained": "llama"}}, "is a llama without a layout; make it recursive first: loopway ret"),
        ({"model": {"pretrained": "gone"}}, "can't be opened: it holds no model"),
        ({"data": {"tokenizer": "strange"}}, "isn't the tokenizer that"),
        ({"original": {"model": "gone"}}, "gone can't be opened: it holds no model"),
        ({"original": {"model": "other"}}, "other predicts 384 tokens and "),
        ({"original": {"distilation": 1}}, "unknown key original.distilation; did you mean distillation?"),
        ({"original": {"distillation": 2}}, "original.distillation: got 2, expected at most 1"),
        ({"original": {"temperature": 0}}, "original.temperature: got 0, expected more than 0"),
        ({"training": {"core_first": -1}}, "training.core_first: got -1, expected more than 0"),
        ({"training": {"core_first": 1, "deepspeed": "x"}}, "training.core_first doesn't work with deepspeed"),
        ({"model": {"pretrained": "plain"}, "training": {"core_first": 1}}, "has neither looped layers nor"),
    ],
)  # fmt: skip
def test_what_cannot_be_healed_is_said_at_once(
    sections: dict[str, Any],
    message: str,
    config: Callable[..., RunConfig],
    models: Path,
    tmp_path: Path,
) -> None:
    places = ("pretrained", "tokenizer", "model")
    named = {
        section: {key: str(models / value) if key in places else value for key, value in fields.items()}
        for section, fields in sections.items()
    }
    content = merge(config().to_dict(), named)
    with pytest.raises(ConfigError) as refused:
        train(RunConfig.from_dict(content), tmp_path / "run", console=Console(quiet=True))
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_the_original_is_found_in_the_record_or_named(models: Path, tmp_path: Path) -> None:
    mesh = str(models / "mesh")
    found = Original.find(None, mesh)
    assert found is not None and (found.name, found.is_named) == (str(models / "llama"), False)
    found = Original.find(OriginalConfig(model="mine"), mesh)
    assert found is not None and (found.name, found.is_named) == ("mine", True)
    assert Original.find(None, str(models / "llama")) is None
    assert Original.find(None, None) is None
    with pytest.raises(ConfigError, match=r"original.model is missing, and .*llama has no retrofit.json"):
        Original.find(OriginalConfig(), str(models / "llama"))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"source": 7, "layout": "no"}', "{"])
def test_a_record_that_is_broken_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "retrofit.json").write_text(content)
    with pytest.raises(ConfigError, match=r"retrofit.json: isn't what loopway retrofit wrote; put it back"):
        Original.find(None, str(tmp_path))


def test_a_run_goes_on_without_a_line_where_the_original_is_gone(
    config: Callable[..., RunConfig], models: Path, tmp_path: Path
) -> None:
    record = models / "mesh" / "retrofit.json"
    content = record.read_text()
    console = Console(record=True, width=300)
    try:
        record.write_text(json.dumps(json.loads(content) | {"source": str(tmp_path / "gone")}))
        trained(config(max_steps=1), tmp_path / "run", console)
    finally:
        record.write_text(content)
    assert "without the original's loss: " in console.export_text()
    assert json.loads(RunFolder(tmp_path / "run").summary.read_text())["original_loss"] is None

import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch.utils.data import default_collate
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, set_seed

import loopway
from loopway.data.run_data import open_data
from loopway.errors import ConfigError, DataError, LoopwayError
from loopway.inference.held_out import held_out_samples, sample_losses
from loopway.inference.trained_model import open_trained
from loopway.modeling import recompute
from loopway.training.config.run_config import RunConfig
from loopway.training.config.yaml_files import merge
from loopway.training.extensions import CALLBACKS
from loopway.training.metrics_log import MetricsLog, read_metrics
from loopway.training.run import train
from loopway.training.run_folder import RunFolder

Build = Callable[..., RunConfig]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(RunFolder(folder).model).state_dict()


def same_bits(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in line.items() if k not in ("seconds", "tokens_per_second", "mfu")} for line in lines
    ]


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def finished_config(corpus: Path) -> RunConfig:
    return RunConfig.from_dict(
        {
            "model": {
                "preset": "pythia-14m",
                "hidden_size": 32,
                "layout": "1+1R2+1",
                "recurrence": "mesh",
            },
            "data": {"train": str(corpus), "sequence_length": 32, "vocab_size": 300},
            "training": {
                "global_batch_size": 4,
                "per_device_train_batch_size": 2,
                "max_steps": 12,
                "learning_rate": 6e-3,
                "logging_steps": 2,
                "eval_steps": 5,
                "save_steps": 5,
                "use_cpu": True,
            },
        }
    )


@pytest.fixture(scope="module")
def finished(finished_config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(finished_config, folder)
    return folder


@pytest.mark.parametrize("level", ["selective", "stage"])
def test_recomputation_leaves_a_run_its_bits(
    level: str, finished: Path, finished_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels: list[str] = []
    run_layers = recompute.run_layers

    def watched(*args: Any) -> torch.Tensor:
        levels.append(args[-1])
        return run_layers(*args)

    monkeypatch.setattr("loopway.modeling.stack.run_layers", watched)
    config = RunConfig.from_dict(merge(finished_config.to_dict(), {"training": {"recompute": level}}))
    train(config, tmp_path / "run")
    assert set(levels) >= {level}
    assert same_bits(tmp_path / "run", finished)


def test_the_folder_holds_what_the_run_was_and_gave(finished: Path, finished_config: RunConfig) -> None:
    assert RunConfig.load(finished / "config.yaml") == finished_config
    names = {path.name for path in finished.iterdir()}
    assert names == {
        ".lock",
        "config.yaml",
        "run.json",
        "data",
        "tokens.json",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
        "model",
        "validation_losses.json",
        "summary.json",
    }


def test_it_learns(finished: Path) -> None:
    losses = [
        line["validation_loss"]
        for line in read_metrics(finished / "metrics.jsonl")
        if "validation_loss" in line
    ]
    assert losses[-1] < losses[0] - 0.1


def test_metrics_are_logged_at_every_interval_and_at_the_last_step(finished: Path) -> None:
    lines = read_metrics(finished / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in lines if "validation_loss" in line] == [5, 10, 12]
    assert all(line["tokens"] == line["step"] * 4 * 32 for line in lines)
    first = lines[0]
    assert {
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens_per_second",
        "mfu",
        "epoch",
        "seconds",
    } <= first.keys()


def test_the_validation_loss_is_the_mean_over_every_target(
    finished: Path, finished_config: RunConfig
) -> None:
    data = open_data(finished_config.data, finished / "data")
    samples = data.validation_samples()
    assert samples is not None
    model = AutoModelForCausalLM.from_pretrained(finished / "model").eval()
    inputs = torch.stack([sample["input_ids"] for sample in samples])  # type: ignore[attr-defined]
    targets = torch.stack([sample["shift_labels"] for sample in samples])  # type: ignore[attr-defined]
    with torch.no_grad():
        logits = model(inputs).logits
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["validation_loss"] == pytest.approx(expected.mean().item(), abs=1e-6)
    per_sample = json.loads((finished / "validation_losses.json").read_text())
    assert per_sample["targets"] == [32] * len(samples)
    assert per_sample["sums"] == pytest.approx(expected.sum(dim=1).tolist(), abs=1e-4)


def test_neither_training_s_evaluation_nor_a_trained_model_s_makes_all_logits_at_once(
    tiny_config: Build, tmp_path: Path
) -> None:
    rows = []

    def watch(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(module, torch.nn.Linear) and module.out_features == 384:
            rows.append(output.numel() // 384)

    config = tiny_config(
        data={"validation_fraction": 0.3}, training={"max_steps": 1, "per_device_eval_batch_size": 32}
    )
    hook = torch.nn.modules.module.register_module_forward_hook(watch)
    try:
        train(config, tmp_path / "run")
        during, rows = rows, []
        trained = open_trained(str(tmp_path / "run"))
        samples = held_out_samples(trained, [], None)
        assert samples is not None and len(samples) > 32
        sample_losses(trained.model, default_collate([samples[index] for index in range(32)]))
    finally:
        hook.remove()
    assert sum(during) >= 32 * 32 and sum(rows) == 32 * 32
    assert max(*during, *rows) < 32 * 32 / 2


def test_the_summary_counts_what_was_done(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(finished / "model")
    assert summary["parameters"] == model.num_parameters()
    assert summary["non_embedding_parameters"] == model.num_parameters() - 2 * 384 * 32
    assert (summary["steps"], summary["tokens"]) == (12, 12 * 4 * 32)
    assert summary["tokens_per_second"] > 0
    assert summary["peak_memory_bytes"] > 50e6
    assert summary["versions"]["transformers"]


def test_the_model_opens_with_its_tokenizer_and_knows_its_end_of_text(finished: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(finished / "model")
    tokenizer = AutoTokenizer.from_pretrained(finished / "model")
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert model.config.vocab_size == 384  # 300 rounded up to a multiple of 128
    assert model.config.use_cache


def test_no_training_arguments_are_pickled(finished: Path) -> None:
    assert not list(finished.rglob("training_args.bin"))


def test_the_saved_tokenizer_knows_the_model_s_context(finished: Path) -> None:
    settings, config = (
        json.loads((finished / "model" / name).read_text())
        for name in ("tokenizer_config.json", "config.json")
    )
    assert settings["model_max_length"] == config["max_position_embeddings"]


@pytest.mark.parametrize("stopped_after", [4, 5, 7])
def test_the_first_loss_after_a_resume_is_of_the_same_steps(
    tiny_config: Build, tmp_path: Path, stopped_after: int
) -> None:
    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == stopped_after:
                signal.raise_signal(signal.SIGINT)

    config = tiny_config(training={"logging_steps": 5, "save_steps": 100, "max_steps": 12})
    train(config, tmp_path / "straight")
    loopway.register_callback("stop", Stop)
    try:
        stopping = tiny_config(
            training={"logging_steps": 5, "save_steps": 100, "max_steps": 12, "callbacks": ["stop"]}
        )
        with pytest.raises(KeyboardInterrupt):
            train(stopping, tmp_path / "run")
        train(stopping, tmp_path / "run")
    finally:
        CALLBACKS.pop("stop")
    lines = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("straight", "run")]
    assert without_times(lines[0]) == without_times(lines[1])


def test_a_fresh_run_begins_anew_and_keeps_prepared_text_that_it_asks_for(
    tiny_config: Build, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    train(tiny_config(), run.path)
    prepared_at = (run.data / "manifest.json").stat().st_mtime_ns
    other = tiny_config(training={"seed": 7, "max_steps": 2})
    with pytest.raises(ConfigError, match=r"training.seed was 0, now 7.*--fresh"):
        train(other, run.path)
    assert train(other, run.path, fresh=True).steps == 2
    assert (run.data / "manifest.json").stat().st_mtime_ns == prepared_at
    assert [path.name for path in run.checkpoints.iterdir()] == ["checkpoint-2"]
    train(tiny_config(data={"vocab_size": 290}), run.path, fresh=True)
    assert (run.data / "manifest.json").stat().st_mtime_ns != prepared_at
    (run.path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="nowhere"):
        train(tiny_config(data={"train": ["nowhere.txt"]}), run.path, fresh=True)
    assert run.is_finished
    train(other, run.path, fresh=True)
    assert (run.path / "notes.txt").exists()


def test_tensorboard_has_the_losses_by_steps_and_by_tokens(finished: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 4, 6, 8, 10, 12]
    assert [event.step for event in events.Scalars("eval/loss")] == [5, 10, 12]
    lines = [line for line in read_metrics(finished / "metrics.jsonl") if "tokens_per_second" in line]
    for name in ("tokens_per_second", "mfu"):
        told = {event.step: event.value for event in events.Scalars(f"train/{name}")}
        assert told == {line["step"]: pytest.approx(line[name]) for line in lines} and told
    by_tokens = EventAccumulator(str(finished / "tensorboard" / "by_tokens"))
    by_tokens.Reload()
    lines = [line for line in read_metrics(finished / "metrics.jsonl") if "validation_loss" in line]
    for name, told in (("loss", "validation_loss"), ("perplexity", "validation_perplexity")):
        expected = [(line["tokens"], pytest.approx(line[told])) for line in lines]
        assert [(event.step, event.value) for event in by_tokens.Scalars(f"eval/{name}")] == expected
        assert len(events.Scalars(f"eval/{name}")) == len(expected)


def test_a_finished_run_whose_model_is_gone_says_so_and_makes_it_again(
    finished: Path, finished_config: RunConfig, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    shutil.copytree(finished, run.path)
    shutil.rmtree(run.model)
    with pytest.raises(ConfigError, match=r"its model/ is gone; .* delete .*summary.json and rerun"):
        train(finished_config, run.path)
    run.summary.unlink()
    train(finished_config, run.path)
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (finished, run.path)]
    assert weights[0] == weights[1]


def test_started_again_it_says_so_and_changes_nothing(
    finished: Path, finished_config: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    before = listing(finished)
    summary = train(finished_config, finished)
    assert "already finished" in capsys.readouterr().err
    assert summary.validation_loss == json.loads(before["summary.json"])["validation_loss"]
    assert listing(finished) == before


def test_another_config_is_refused_and_changes_nothing(finished: Path, finished_config: RunConfig) -> None:
    before = listing(finished)
    other = RunConfig.from_dict(
        finished_config.to_dict() | {"training": finished_config.training.to_dict() | {"weight_decay": 0.5}}
    )
    with pytest.raises(ConfigError, match=r"training.weight_decay was 0.01, now 0.5"):
        train(other, finished)
    assert listing(finished) == before


def test_it_gives_the_same_bits_again(finished: Path, finished_config: RunConfig, tmp_path: Path) -> None:
    train(finished_config, tmp_path / "again", data_folder=finished / "data")
    assert same_bits(finished, tmp_path / "again")
    assert not (tmp_path / "again" / "data").exists()


@pytest.fixture
def with_dropout(tiny_config: Build) -> RunConfig:
    """A run whose steps also depend on the state of the random number generators."""
    return tiny_config(
        model={"hidden_dropout": 0.2}, training={"max_steps": 12, "save_total_limit": 10, "warmup_steps": 2}
    )


def test_a_resume_that_changes_nothing_is_not_told_of_changed_arguments(
    tiny_config: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(training={"eval_steps": 0.5, "save_steps": 0.3, "logging_steps": 0.1})
    train(config, tmp_path / "run")
    assert {path.name for path in (tmp_path / "run/checkpoints").iterdir()} == {
        "checkpoint-6",
        "checkpoint-8",
    }
    (tmp_path / "run/summary.json").unlink()  # as if the last moment had been cut off
    said: list[str] = []
    monkeypatch.setattr("transformers.trainer_utils.logger.warning_once", said.append)
    train(config, tmp_path / "run")
    assert said == []


def test_a_run_resumed_from_a_checkpoint_has_the_bits_and_metrics_of_one_that_was_not(
    with_dropout: RunConfig, tmp_path: Path
) -> None:
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    train(with_dropout, straight)
    shutil.copytree(straight, resumed)
    for later in ("checkpoints/checkpoint-8", "checkpoints/checkpoint-12", "model"):
        shutil.rmtree(resumed / later)
    for later in ("summary.json", "validation_losses.json"):
        (resumed / later).unlink()
    lines = read_metrics(resumed / "metrics.jsonl")
    stale = [line | {"tokens": -1} if line["step"] > 4 else line for line in lines]
    text = "".join(json.dumps(line) + "\n" for line in stale)
    (resumed / "metrics.jsonl").write_text(text + '{"step": 12, "loss"')  # a line that a crash cut off
    summary = train(with_dropout, resumed)
    assert same_bits(straight, resumed)
    straight_lines, resumed_lines = (read_metrics(folder / "metrics.jsonl") for folder in (straight, resumed))
    assert without_times(resumed_lines) == without_times(straight_lines)
    assert summary.tokens == 12 * 4 * 32
    losses = [json.loads((folder / "validation_losses.json").read_text()) for folder in (straight, resumed)]
    assert losses[0] == losses[1]


def test_a_run_that_only_lacks_its_summary_is_finished_without_training(
    tiny_config: Build, tmp_path: Path
) -> None:
    config, folder = tiny_config(), tmp_path / "run"
    first = train(config, folder)
    lines = read_metrics(folder / "metrics.jsonl")
    (folder / "summary.json").unlink()
    second = train(config, folder)
    assert second.validation_loss == first.validation_loss
    assert read_metrics(folder / "metrics.jsonl") == lines


def test_a_broken_checkpoint_is_passed_over_with_a_message(
    tiny_config: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, folder = tiny_config(), tmp_path / "run"
    train(config, folder)
    before = weights(folder)
    (folder / "summary.json").unlink()
    broken = folder / "checkpoints" / "checkpoint-8" / "trainer_state.json"
    broken.write_text(broken.read_text()[:100])
    train(config, folder)
    messages = " ".join(capsys.readouterr().err.split())
    assert "checkpoint-8: skipped, since it isn't whole (trainer_state.json isn't what was saved)" in messages
    assert "resuming after step 4" in messages
    assert all(torch.equal(before[name], value) for name, value in weights(folder).items())


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "rng_state.pth"])
def test_a_checkpoint_with_a_cut_off_file_is_not_whole(tiny_config: Build, tmp_path: Path, name: str) -> None:
    run = RunFolder(tmp_path / "run")
    train(tiny_config(), run.path)
    last = run.checkpoints / "checkpoint-8"
    assert run.newest_checkpoint() == (last, {})
    os.truncate(last / name, (last / name).stat().st_size // 2)
    found = run.newest_checkpoint()
    assert found == (run.checkpoints / "checkpoint-4", {last: f"{name} isn't what was saved"})


@pytest.mark.parametrize(
    "number, error",
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit), (signal.SIGHUP, SystemExit)],
)
def test_an_interrupted_run_goes_on_to_the_same_bits(
    tiny_config: Build,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    number: signal.Signals,
    error: type[BaseException],
) -> None:
    config = tiny_config(training={"save_steps": 100})
    train(config, tmp_path / "straight")
    append = MetricsLog.append

    def append_and_be_interrupted(self: MetricsLog, line: dict[str, Any]) -> None:
        append(self, line)
        if line["step"] == 2:
            signal.raise_signal(number)

    monkeypatch.setattr(MetricsLog, "append", append_and_be_interrupted)
    before = signal.getsignal(number)
    with pytest.raises(error):
        train(config, tmp_path / "run")
    assert signal.getsignal(number) == before
    message = " ".join(capfd.readouterr().err.split())
    assert f"{number.name}: stops after this step, with a checkpoint" in message
    assert "stopped after step 3; rerun to resume" in message
    assert not (tmp_path / "run" / "summary.json").exists()
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["checkpoint-3"]
    monkeypatch.setattr(MetricsLog, "append", append)
    train(config, tmp_path / "run")
    assert same_bits(tmp_path / "straight", tmp_path / "run")


def test_steps_see_the_samples_in_the_order_of_the_data_set(tiny_config: Build, tmp_path: Path) -> None:
    """The first loss is that of the model as it was initialised on the first samples."""
    config = tiny_config(training={"logging_steps": 1, "max_steps": 3})
    train(config, tmp_path / "run")
    data = open_data(config.data, tmp_path / "run" / "data")
    samples = data.training_samples()
    set_seed(config.training.hugging_face["seed"])
    model = AutoModelForCausalLM.from_config(config.build_model_config(data.tokenizer)).eval()
    inputs, targets = (
        torch.stack([samples[i][key] for i in range(4)]) for key in ("input_ids", "shift_labels")
    )
    loss = model(inputs, shift_labels=targets).loss
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[0]["loss"] == pytest.approx(loss.item(), abs=1e-5)


def test_a_step_s_gradient_is_the_mean_over_its_targets_however_the_batch_is_cut(
    tiny_config: Build, tmp_path: Path
) -> None:
    """Masked documents of very different lengths: some samples have few targets."""
    texts = ["the cat"] * 40 + ["the dog runs over the house " * 20] * 10
    (tmp_path / "uneven.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    first = []
    for size in (1, 4):
        config = tiny_config(
            data={"train": str(tmp_path / "uneven.jsonl"), "mask_documents": True, "validation_fraction": 0},
            training={
                "per_device_train_batch_size": size,
                "max_steps": 3,
                "logging_steps": 1,
                "global_batch_size": 8,
            },
        )
        train(config, tmp_path / f"by{size}", data_folder=tmp_path / "data")
        first.append(read_metrics(tmp_path / f"by{size}" / "metrics.jsonl")[0])
    assert first[0]["loss"] == pytest.approx(first[1]["loss"], rel=1e-5)
    assert first[0]["grad_norm"] == pytest.approx(first[1]["grad_norm"], rel=1e-4)


def test_masked_documents_do_not_see_each_other_in_training_and_evaluation(
    tiny_config: Build, tmp_path: Path
) -> None:
    """The validation loss is that of each document's part of a sample on its own."""
    config = tiny_config(data={"mask_documents": True, "sequence_length": 200})
    summary = train(config, tmp_path / "run")
    data = open_data(config.data, tmp_path / "run" / "data")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model").eval()
    samples = data.validation_samples()
    assert samples is not None
    sums, targets, parts = 0.0, 0, 0
    for index in range(len(samples)):
        sample = samples[index]
        starts = [*(sample["position_ids"] == 0).nonzero().flatten().tolist(), 200]
        for start, end in itertools.pairwise(starts):
            labels = sample["shift_labels"][start:end]
            with torch.no_grad():
                logits = model(sample["input_ids"][None, start:end]).logits[0]
            sums += F.cross_entropy(logits, labels, reduction="sum").item()
            targets += int((labels != -100).sum())
            parts += 1
    assert parts > len(samples)
    assert summary.validation_loss == pytest.approx(sums / targets, abs=1e-5)


def test_whole_epochs_repeat_nothing_but_the_epochs(tiny_config: Build, tmp_path: Path) -> None:
    config = tiny_config(
        data={"sequence_length": 512},
        training={"max_steps": None, "num_train_epochs": 2, "global_batch_size": 8, "eval_strategy": "no"},
    )
    summary = train(config, tmp_path / "run")
    data = open_data(config.data, tmp_path / "run" / "data")
    per_epoch = len(data.training_samples())
    assert summary.steps == 2 * per_epoch // 8
    assert summary.tokens == summary.steps * 8 * 512
    assert 1.5 < summary.epochs <= 2


def test_a_run_of_epochs_keeps_the_steps_that_it_began_with(
    tiny_config: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(training={"max_steps": None, "num_train_epochs": 0.5, "save_steps": 2})
    with monkeypatch.context() as patch:
        patch.setattr(
            "loopway.training.config.arguments.steps_of_epochs", lambda *_: 4
        )  # as another release counts
        train(config, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    run.summary.unlink()
    shutil.rmtree(run.checkpoints / "checkpoint-4")
    assert train(config, run.path).steps == 4


def test_without_a_validation_set_there_is_no_validation_loss(tiny_config: Build, tmp_path: Path) -> None:
    summary = train(tiny_config(data={"validation_fraction": 0}), tmp_path / "run")
    assert summary.validation_loss is None
    assert not (tmp_path / "run" / "validation_losses.json").exists()


def test_a_loss_that_is_not_finite_stops_the_run_with_one_line(tiny_config: Build, tmp_path: Path) -> None:
    config = tiny_config(training={"max_grad_norm": 0.0, "save_steps": 1})
    config.training.hugging_face["learning_rate"] = 1e30  # which a file can't ask for
    with pytest.raises(
        LoopwayError,
        match=r"the loss became (nan|inf) at step \d \(training samples \d+ to \d+\), first in gpt_neox",
    ) as error:
        train(config, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "model").exists()


def test_gradient_checkpointing_trains_the_same_model(tiny_config: Build, tmp_path: Path) -> None:
    summaries = [
        train(
            tiny_config(training={"gradient_checkpointing": checkpointing, "max_steps": 4}),
            tmp_path / str(checkpointing),
            data_folder=tmp_path / "data",
        )
        for checkpointing in (False, True)
    ]
    assert summaries[0].validation_loss == pytest.approx(summaries[1].validation_loss, abs=1e-4)


@pytest.mark.parametrize(
    "sections, error",
    [
        ({"model": {"layout": "banana"}}, LoopwayError),
        ({"data": {"train": "gone.txt"}}, DataError),
        ({"training": {"global_batch_size": 5}}, ConfigError),
    ],
)
def test_a_run_that_cannot_begin_leaves_nothing_behind(
    tiny_config: Build, tmp_path: Path, sections: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        train(tiny_config(**sections), tmp_path / "runs" / "run")
    assert not (tmp_path / "runs" / "run").exists()


@pytest.mark.parametrize(
    "sections, error",
    [
        ({"model": {"vocab_size": 258}}, ConfigError),
        ({"data": {"sequence_length": 20_000}, "model": {"max_position_embeddings": 20_000}}, DataError),
    ],
)
def test_a_run_that_cannot_begin_keeps_its_data_and_may_be_corrected(
    tiny_config: Build, tmp_path: Path, sections: dict[str, Any], error: type[Exception]
) -> None:
    run = RunFolder(tmp_path / "run")
    with pytest.raises(error):
        train(tiny_config(**sections), run.path)
    assert run.has_data and not run.has_progress
    prepared = (run.data / "manifest.json").stat().st_mtime_ns
    train(tiny_config(), run.path)
    assert run.is_finished
    assert (run.data / "manifest.json").stat().st_mtime_ns == prepared


def test_a_folder_that_holds_something_else_is_left_alone(tiny_config: Build, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(ConfigError, match="holds no run"):
        train(tiny_config(), tmp_path)
    assert listing(tmp_path) == {"letter.txt": b"dear reader"}


def test_progress_without_a_terminal_is_plain_lines(tiny_config: Build, tmp_path: Path) -> None:
    with (tmp_path / "log.txt").open("w") as file:
        train(tiny_config(), tmp_path / "run", title="mine", console=Console(file=file, width=200))
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert all("\x1b" not in line for line in lines)
    assert any(line.startswith("mine  step 8/8  loss ") and "tokens/s" in line for line in lines)


def test_whatever_fails_before_the_first_step_leaves_its_data_alone_behind(
    tiny_config: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("nobody expected this")

    with monkeypatch.context() as broken:
        broken.setattr("loopway.training.trainer.SampleTrainer.training_step", fail)
        with pytest.raises(RuntimeError):
            train(tiny_config(), tmp_path / "run")
    assert RunFolder(tmp_path / "run").has_data and not RunFolder(tmp_path / "run").has_progress
    train(tiny_config(), tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    monkeypatch.setattr("loopway.training.run._Run._finish", fail)
    with pytest.raises(RuntimeError):
        train(tiny_config(), tmp_path / "run")
    assert RunFolder(tmp_path / "run").newest_checkpoint()[0] is not None


def test_two_processes_never_train_in_one_folder(tiny_config: Build, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.begin(tiny_config().to_dict(), [])
    with run.locked(), pytest.raises(ConfigError, match="another process is training in"):
        train(tiny_config(), run.path)
    assert not run.data.exists()
    train(tiny_config(training={}), run.path)


def test_a_run_whose_weights_were_not_written_is_not_finished(
    tiny_config: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loopway.training.trainer.SampleTrainer.save_model", lambda *_, **__: None)
    with pytest.raises(LoopwayError, match="weights were not written"):
        train(tiny_config(training={"save_strategy": "no"}), tmp_path / "run")
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_step_is_judged_as_a_whole_before_the_update(
    tiny_config: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([float("nan"), 1.0])  # of the two micro-batches of step 1
    monkeypatch.setattr("transformers.Trainer.training_step", lambda *_, **__: torch.tensor(next(losses)))
    with pytest.raises(LoopwayError, match="the loss became nan at step 1"):
        train(tiny_config(), tmp_path / "run")
    assert next(losses, None) is None

"""Keys that define no result may change when a run resumes; all others are refused, with their names."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainingArguments

from loopway.errors import ConfigError
from loopway.training.checkpoint import steps_of
from loopway.training.config.free_keys import FREE_KEYS, free_settings
from loopway.training.config.keys import REFUSED_OF_TRAINING as REFUSED
from loopway.training.config.run_config import RunConfig
from loopway.training.metrics_log import read_metrics
from loopway.training.run import train
from loopway.training.run_folder import RunFolder

Build = Callable[..., RunConfig]
DEFINING = """
    accelerator_config activation_checkpointing_kwargs adam_beta1 adam_beta2 adam_epsilon average_tokens_across_devices bf16
    bf16_full_eval dataloader_in_order ddp_broadcast_buffers ddp_bucket_cap_mb ddp_find_unused_parameters ddp_static_graph
    debug deepspeed eval_delay eval_on_start eval_steps eval_strategy eval_use_gather_object fp16 fp16_full_eval fsdp
    fsdp_config full_determinism gradient_checkpointing_kwargs greater_is_better learning_rate
    lr_scheduler_kwargs lr_scheduler_type max_grad_norm max_steps metric_for_best_model neftune_noise_alpha num_train_epochs
    optim optim_args optim_target_modules seed skip_memory_metrics tf32 torch_compile torch_compile_backend
    torch_compile_mode warmup_steps weight_decay
"""


def test_every_field_of_transformers_is_known_to_define_the_result_or_not_to() -> None:
    fields = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
    free = {name.removeprefix("training.") for name in FREE_KEYS}
    assert fields - REFUSED.keys() - free <= {*DEFINING.split()}
    assert not free & {*DEFINING.split()} and free & REFUSED.keys() == {
        "hub_token"
    }  # of folders that an earlier release wrote


def stopped_after(step: int, run: RunFolder) -> None:
    """Make a finished run one that was stopped after one of its checkpoints."""
    run.summary.unlink()
    shutil.rmtree(run.model)
    for later in steps_of(run.checkpoints):
        if later > step:
            shutil.rmtree(run.checkpoints / f"checkpoint-{later}")


def test_a_run_resumes_with_another_batch_split_and_other_settings_and_notes_them(
    tiny_config: Build, tmp_path: Path
) -> None:
    straight, run = RunFolder(tmp_path / "straight"), RunFolder(tmp_path / "run")
    train(tiny_config(), straight.path)
    shutil.copytree(straight.path, run.path)
    stopped_after(4, run)
    others: dict[str, Any] = {
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": 3,
        "recompute": "stage",
        "dataloader_num_workers": 1,
        "logging_steps": 1,
        "save_steps": 1,
        "save_total_limit": 3,
        "ddp_timeout": 100,
    }
    config = tiny_config(training=others).model_copy(update={"probe_every": 2})
    train(config, run.path)
    weights, expected = (load_file(folder.model / "model.safetensors") for folder in (run, straight))
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-4, atol=1e-5)
    losses = [json.loads(folder.summary.read_text())["validation_loss"] for folder in (run, straight)]
    assert math.isclose(*losses, rel_tol=1e-5)
    assert [line["step"] for line in read_metrics(run.metrics) if "loss" in line] == [1, 2, 4, 5, 6, 7, 8]
    assert [*steps_of(run.checkpoints)] == [8, 7, 6]
    first, second = (sitting["settings"] for sitting in json.loads(run.provenance.read_text())["sittings"])
    assert first["training.per_device_train_batch_size"] == 2 and "training.ddp_timeout" not in first
    named = {f"training.{key}": value for key, value in others.items()} | {"probe_every": 2}
    assert {key: second[key] for key in named} == named
    assert "training.learning_rate" not in second and RunConfig.load(run.config) == tiny_config()


def test_a_refused_resume_names_all_keys_that_differ_and_how_to_start_anew(
    tiny_config: Build, tmp_path: Path
) -> None:
    config, run = tiny_config(training={"max_steps": 1}), RunFolder(tmp_path / "run")
    train(config, run.path)
    changed = {"learning_rate": 1.0, "seed": 3, "bf16": True, "eval_steps": 7, "logging_steps": 1}
    with pytest.raises(ConfigError) as caught:
        train(tiny_config(training={"max_steps": 1, **changed}), run.path)
    told = str(caught.value)
    assert (
        "training.learning_rate was 0.006, now 1.0" in told
        and "logging_steps" not in told
        and "\n" not in told
    )
    assert all(f"training.{key}" in told for key in ("seed", "bf16", "eval_steps"))
    assert (
        "choose another folder with --out, or delete this run, or all runs of its comparison, with --fresh"
        in told
    )


def test_without_a_global_batch_the_batch_and_the_number_of_workers_define_the_result(
    tiny_config: Build, tmp_path: Path
) -> None:
    implicit, run = tiny_config(training={"global_batch_size": None}), RunFolder(tmp_path / "run")
    train(implicit, run.path)
    stopped_after(4, run)
    smaller = {"per_device_train_batch_size": 1}
    with pytest.raises(ConfigError, match=r"were 2 \(workers 1 × batch 2\), now 1 \(workers 1 × batch 1\)"):
        train(tiny_config(training={"global_batch_size": None, **smaller}), run.path)
    with pytest.raises(
        ConfigError, match=r"now 4 \(workers 2 × batch 2\): set training.global_batch_size=2 to"
    ):
        run.check_same(implicit.to_dict(), [], workers=2)
    run.check_same(tiny_config(training={"global_batch_size": 2, **smaller}).to_dict(), [], workers=2)
    train(tiny_config(training={"global_batch_size": 2, **smaller}), run.path)
    assert run.is_finished


def test_a_third_sitting_has_the_step_of_the_second_and_a_finished_run_no_step_to_come(
    tiny_config: Build, tmp_path: Path
) -> None:
    def batch(size: int) -> dict[str, Any]:
        return tiny_config(
            training={"global_batch_size": None, "per_device_train_batch_size": size}
        ).to_dict()

    run = RunFolder(tmp_path / "run")
    run.begin(batch(8), [], workers=2)
    run.metrics.write_text("{}\n")
    latest = {"config": batch(16), "sittings": [{"workers": 2}, {"workers": 1}]}
    run.provenance.write_text(json.dumps(latest))
    assert not run.begin(batch(16), [], workers=1) and not run.begin(batch(8), [], workers=2)
    with pytest.raises(ConfigError, match=r"were 16 \(workers 1 × batch 16\), now 8 \(workers 1 × batch 8\)"):
        run.begin(batch(8), [], workers=1)
    run.summary.touch()
    assert not run.begin(batch(8), [], workers=1)
    with pytest.raises(ConfigError, match=r"now 4 \(training.global_batch_size\)"):
        run.begin(tiny_config().to_dict(), [], workers=1)


def test_a_plugin_may_be_named_by_another_path_and_must_be_the_same(
    tiny_config: Build, tmp_path: Path
) -> None:
    for folder, text in (("here", ""), ("there", ""), ("other", "# changed\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(text)
    config = tiny_config().to_dict()
    run = RunFolder(tmp_path / "run")
    here, there, other = (str(tmp_path / folder / "mine.py") for folder in ("here", "there", "other"))
    run.begin(config | {"plugins": [here]}, [here])
    run.check_same(config | {"plugins": [there]}, [there])
    with pytest.raises(ConfigError, match=r"the plugin .*other/mine.py has changed"):
        run.check_same(config | {"plugins": [other]}, [other])


def test_a_run_that_has_no_step_yet_takes_any_config(tiny_config: Build, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    for config in (
        tiny_config(),
        tiny_config(training={"logging_steps": 1}),
        tiny_config(training={"seed": 3}),
    ):
        run.begin(config.to_dict(), [])
        assert RunConfig.load(run.config) == config


def test_a_secret_is_not_noted() -> None:
    config = {"data": {}, "training": {"hub_token": "secret", "logging_steps": 5}}
    assert free_settings(config) == {"training.logging_steps": 5}

import importlib.util
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from transformers import TrainingArguments

from loopway.errors import ConfigError
from loopway.training.config.arguments import training_arguments
from loopway.training.config.engines import check_deepspeed, check_fsdp
from loopway.training.config.run_config import RunConfig
from loopway.training.run import train
from loopway.training.run_folder import RunFolder

Build = Callable[..., RunConfig]


@pytest.mark.parametrize("asked", ["training.fsdp", "accelerate's configuration"])
def test_fsdp_on_a_cpu_is_an_error_and_not_silently_ddp(
    tiny_config: Build, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    if asked == "training.fsdp":
        config = tiny_config(training={"fsdp": True})
    else:
        config = tiny_config()
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError) as error:
        training_arguments(config.training, Path("unused"))
    assert str(error.value).startswith(f"{asked} asks for FSDP, and this run is on a CPU")


@pytest.mark.parametrize("has_gpu", [False, True])
def test_where_there_is_only_a_cpu_workers_need_not_be_told_so(
    tiny_config: Build, monkeypatch: pytest.MonkeyPatch, has_gpu: bool
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: has_gpu)
    config = tiny_config(training={"use_cpu": None})
    assert training_arguments(config.training, Path("unused")).use_cpu != has_gpu


def test_fsdp_of_one_process_is_an_error_and_of_several_is_not() -> None:
    def arguments(distributed_type: DistributedType) -> Any:
        state = SimpleNamespace(distributed_type=distributed_type)
        return SimpleNamespace(fsdp=True, device=torch.device("cuda", 0), distributed_state=state)

    with pytest.raises(ConfigError, match="this is one process: start it with torchrun"):
        check_fsdp(arguments(DistributedType.NO))
    check_fsdp(arguments(DistributedType.MULTI_GPU))


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "can't be read: No such file or directory; give a JSON file"),
        ('{"zero_optimization": {"stage": 2},}', "is not JSON: "),
        ("[]", "must hold a mapping"),
    ],
)
def test_a_deepspeed_config_that_cannot_be_read_is_one_line(
    tiny_config: Build, tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "zero.json"
    if content is not None:
        path.write_text(content)
    config = tiny_config(training={"deepspeed": str(path)})
    with pytest.raises(ConfigError) as error:
        training_arguments(config.training, Path("unused"))
    assert str(error.value).startswith(f"training.deepspeed: {path} {message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"split_batches": True}, r"split_batches can't be set: what a step sees follows from"),
        ({"even_batches": False}, r"even_batches can't be set: .*waiting"),
        ({"split_batch": True}, r"unknown key training.accelerator_config.split_batch"),
        ({"non_blocking": "yes"}, r"accelerator_config.non_blocking: got 'yes', expected true or false"),
        (
            {"gradient_accumulation_kwargs": {"num_steps": 4}},
            r"gradient_accumulation_kwargs.num_steps can't be set",
        ),
        ({"gradient_accumulation_kwargs": {"sync_each": True}}, r"did you mean sync_each_batch\?"),
    ],
)
@pytest.mark.parametrize("in_file", [False, True])
def test_accelerate_s_own_settings_are_looked_at_wherever_they_stand(
    tiny_config: Build, tmp_path: Path, section: dict[str, Any], message: str, in_file: bool
) -> None:
    path = tmp_path / "accelerator.json"
    path.write_text(json.dumps(section))
    with pytest.raises(ConfigError, match=message):
        tiny_config(training={"accelerator_config": str(path) if in_file else section})


def test_settings_of_accelerate_that_change_no_result_are_free_and_unknown_ones_of_fsdp_are_not(
    tiny_config: Build,
) -> None:
    kept = {"non_blocking": True, "gradient_accumulation_kwargs": {"sync_each_batch": True}}
    section = tiny_config(training={"accelerator_config": kept, "fsdp_config": {"fsdp_version": 2}}).training
    training_arguments(section, Path("unused"))
    with pytest.raises(ConfigError, match=r"fsdp_config.min_num_param; did you mean min_num_params\?"):
        tiny_config(training={"fsdp_config": {"min_num_param": 5}})


def test_every_key_that_transformers_reads_of_fsdp_config_is_known(tiny_config: Build) -> None:
    source = inspect.getsource(TrainingArguments._process_fsdp_args)
    read = re.findall(r"self\.fsdp_config(?:\[|\.get\(|\.setdefault\()[\"'](\w+)", source)
    assert {"version", "min_num_params", "reshard_after_forward"} <= {*read}
    tiny_config(training={"fsdp_config": {key: None for key in read}})


def test_a_hub_that_cannot_be_used_is_told_before_data_is_prepared_unless_the_run_is_finished(
    tiny_config: Build, tmp_path: Path
) -> None:
    config = tiny_config(training={"push_to_hub": True})
    with pytest.raises(ConfigError, match=r"training.push_to_hub: the Hub can't be used: .*omit it") as error:
        train(config, tmp_path / "run")  # tests have no network
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
    run = RunFolder(tmp_path / "run")
    done = train(tiny_config(training={"max_steps": 1}), run.path)
    assert train(tiny_config(training={"max_steps": 1, "push_to_hub": True}), run.path) == done


def test_fp16_on_a_cpu_is_an_error_and_not_silently_float32(tiny_config: Build) -> None:
    with pytest.raises(ConfigError, match=r"training.fp16: a CPU can't train in it.*set bf16"):
        training_arguments(tiny_config(training={"fp16": True}).training, Path("unused"))


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is not None, reason="DeepSpeed is installed")
def test_deepspeed_that_is_not_installed_is_one_line_that_says_so() -> None:
    with pytest.raises(ConfigError, match="DeepSpeed is not installed: pip install deepspeed"):
        check_deepspeed({"zero_optimization": {"stage": 2}})

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType

from loopway.errors import ConfigError
from loopway.training.arguments import training_arguments
from loopway.training.engines import check_deepspeed, check_fsdp
from loopway.training.run_config import RunConfig

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
        training_arguments(config.training, Path("unused"), validate=True)
    assert str(error.value).startswith(f"{asked} asks for FSDP, and this run is on a CPU")


@pytest.mark.parametrize("has_gpu", [False, True])
def test_where_there_is_only_a_cpu_workers_need_not_be_told_so(
    tiny_config: Build, monkeypatch: pytest.MonkeyPatch, has_gpu: bool
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: has_gpu)
    config = tiny_config(training={"use_cpu": None})
    assert training_arguments(config.training, Path("unused"), validate=True).use_cpu != has_gpu


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
        ("[]", "holds no mapping"),
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
        training_arguments(config.training, Path("unused"), validate=True)
    assert str(error.value).startswith(f"training.deepspeed: {path} {message}")
    assert "\n" not in str(error.value)


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is not None, reason="DeepSpeed is installed")
def test_deepspeed_that_is_not_installed_is_one_line_that_says_so() -> None:
    with pytest.raises(ConfigError, match="DeepSpeed is not installed: pip install deepspeed"):
        check_deepspeed({"zero_optimization": {"stage": 2}})

"""What lies in configs/ is read, and filled in, by the code that will read it; a Slurm job is run with Slurm played.

Knows nothing of GPUs and DeepSpeed: none of them is here.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed.run
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from accelerate.utils.deepspeed import HfDeepSpeedConfig
from accelerate.utils.launch import prepare_multi_gpu_env
from torch.distributed.fsdp import StateDictType
from transformers import AutoModelForCausalLM
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig
from typer.main import get_command

from loopway.cli import app
from loopway.modeling.stack import find_stack
from loopway.training.config.arguments import training_arguments
from loopway.training.config.run_config import RunConfig
from loopway.training.run_folder import RunFolder

Build = Callable[..., RunConfig]
CONFIGS = Path(__file__).parents[2] / "configs"


class DeepSpeedConfig(HfTrainerDeepSpeedConfig, HfDeepSpeedConfig):
    """The Trainer's DeepSpeed config, which is filled in from its arguments, without asking for the package."""

    def __init__(self, path: str) -> None:
        HfDeepSpeedConfig.__init__(self, path)
        self._dtype = None
        self.mismatches = []


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_deepspeed_config_is_filled_in_from_the_run_s(tiny_config: Build, stage: int) -> None:
    batches = {"global_batch_size": 8, "per_device_train_batch_size": 2}
    config = tiny_config(training=batches | {"bf16": True, "max_grad_norm": 0.5})
    arguments = training_arguments(config.training, Path("unused"))
    filled = DeepSpeedConfig(str(CONFIGS / f"zero{stage}.json"))
    filled.trainer_config_process(arguments)
    plugin = DeepSpeedPlugin(hf_ds_config=filled)
    filled.trainer_config_finalize(arguments, SimpleNamespace(config=config.build_model_config()), 8)
    expected: dict[str, Any] = {
        "train_batch_size": 8,
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 4,
        "gradient_clipping": 0.5,
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": stage},
        "steps_per_print": float("inf"),
    }
    if stage > 0:  # without ZeRO, DeepSpeed accumulates in bfloat16 and refuses anything else
        expected["data_types"] = {"grad_accum_dtype": "fp32"}
    if stage == 3:
        expected["zero_optimization"] |= {
            "reduce_bucket_size": 32 * 32,
            "stage3_prefetch_bucket_size": int(0.9 * 32 * 32),
            "stage3_param_persistence_threshold": 10 * 32,
            "stage3_gather_16bit_weights_on_model_save": True,
        }
    assert filled.config == expected
    assert (plugin.zero_stage, plugin.zero3_save_16bit_model) == (stage, stage == 3)


def launched(config: str) -> dict[str, str]:
    """The environment that `accelerate launch` gives to workers with a file of configs/, and what it was given."""
    command = f"--config_file {CONFIGS / config} --num_processes 2 -m loopway train r.yaml".split()
    parser = launch_command_parser()
    known = set(vars(parser.parse_args(["script"])))
    arguments, defaults, _ = _validate_launch_command(parser.parse_args(command))
    assert isinstance(defaults, ClusterConfig)
    assert {*(defaults.fsdp_config or {})} <= known, "accelerate takes unknown keys in silence"
    assert (arguments.module, arguments.training_script) == (True, "loopway")
    assert arguments.training_script_args == ["train", "r.yaml"]
    assert arguments.multi_gpu or arguments.use_fsdp
    return prepare_multi_gpu_env(arguments)


def test_accelerate_s_ddp_config_leaves_everything_to_the_run() -> None:
    environment = launched("ddp.yaml")
    assert environment["ACCELERATE_MIXED_PRECISION"] == "no"  # which training.bf16 overrules
    assert "ACCELERATE_USE_FSDP" not in environment


def test_accelerate_s_fsdp_config_shards_layers_and_writes_whole_weights(
    tiny_config: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = launched("fsdp2.yaml")
    assert environment["ACCELERATE_USE_FSDP"] == "true"
    assert environment["ACCELERATE_MIXED_PRECISION"] == "no"
    for name, value in environment.items():
        if name.startswith("FSDP_"):
            monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward) == (2, True)
    assert plugin.state_dict_type == StateDictType.FULL_STATE_DICT
    assert not plugin.cpu_ram_efficient_loading
    model = AutoModelForCausalLM.from_config(tiny_config().build_model_config())
    plugin.set_auto_wrap_policy(model)
    policy: Any = plugin.auto_wrap_policy
    assert policy.keywords == {"transformer_layer_cls": {type(find_stack(model).layers[0])}}


SBATCH = CONFIGS / "slurm.sbatch"
needs_shutdown_timeout = pytest.mark.skipif(
    "--shutdown-timeout" not in torch.distributed.run.get_args_parser().format_help(),
    reason="torchrun of this torch has no --shutdown-timeout",
)


@needs_shutdown_timeout
def test_the_slurm_script_starts_torchrun_with_loopway_s_own_command() -> None:
    text = SBATCH.read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^srun .*torchrun +(.*) &$", text, re.MULTILINE)
    words = shlex.split(line.replace("$SLURM_GPUS_ON_NODE", "8").replace("$SLURM_NNODES", "2"))
    parsed = torch.distributed.run.get_args_parser().parse_args(words)
    assert (parsed.nnodes, parsed.nproc_per_node, parsed.rdzv_backend) == ("2", "8", "c10d")
    assert (parsed.module, parsed.training_script) == (True, "loopway")
    assert parsed.training_script_args == ["train", "$@"]
    assert parsed.training_script_args[0] in get_command(app).commands  # type: ignore[attr-defined]
    seconds = re.findall(r"^#SBATCH --signal=B:USR1@(\d+)$", text, re.MULTILINE)
    assert [parsed.shutdown_timeout < int(before) for before in seconds] == [True]


def played_slurm(folder: Path) -> dict[str, str]:
    """An environment in which this machine is a cluster of one node with two workers.

    `srun` starts what it is given, `scancel` sends TERM to it, `scontrol` knows the node and writes down the rest.
    """
    programs = {
        "srun": 'shift; echo $$ > "$PLAYED/srun.pid"; exec "$@"',
        "scancel": 'test "$1" = --signal=TERM && kill -TERM "$(cat "$PLAYED/srun.pid")"',
        "scontrol": 'if [ "$1" = show ]; then echo localhost; else echo "$@" > "$PLAYED/told"; fi',
        "torchrun": f'exec "{sys.executable}" -m torch.distributed.run "$@"',
    }
    for name, line in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{line}\n")
        (folder / name).chmod(0o755)
    slurm = {"JOB_ID": str(os.getpid()), "JOB_NODELIST": "node1", "NNODES": "1", "GPUS_ON_NODE": "2"}
    slurm_variables = {f"SLURM_{name}": value for name, value in slurm.items()}
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return os.environ | slurm_variables | {"PATH": path, "PLAYED": str(folder), "OMP_NUM_THREADS": "1"}


def job_until(seen: str, folder: Path, environment: dict[str, str]) -> str:
    """What a job says whose script gets SIGUSR1, which is Slurm's word that time is nearly up, when it has said `seen`."""
    log = folder / "log"
    with log.open("w") as output:
        job = subprocess.Popen(
            ["bash", str(SBATCH), "run.yaml"],
            cwd=folder,
            env=environment,
            stderr=output,
            start_new_session=True,
        )
    try:
        while seen not in log.read_text() and job.poll() is None:
            time.sleep(0.1)
        job.send_signal(signal.SIGUSR1)
        job.wait()
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    return log.read_text()


@needs_shutdown_timeout
def test_a_slurm_job_whose_time_is_up_saves_requeues_and_goes_on(tiny_config: Build, tmp_path: Path) -> None:
    (tmp_path / "slurm").mkdir()
    environment = played_slurm(tmp_path / "slurm")
    training = {"max_steps": 100_000, "save_steps": 50_000, "eval_strategy": "no", "logging_steps": 1}
    (tmp_path / "run.yaml").write_text(tiny_config(training=training).to_yaml())
    assert "stopped after step" in job_until("run  step 2/", tmp_path, environment)
    assert (tmp_path / "slurm" / "told").read_text().split() == ["requeue", environment["SLURM_JOB_ID"]]
    checkpoint, broken = RunFolder(tmp_path / "runs" / "run").newest_checkpoint()
    assert checkpoint is not None and not broken
    going_on = f"resuming after step {checkpoint.name.rpartition('-')[2]}\n"
    assert going_on in job_until(going_on, tmp_path, environment)

# pyright: reportMissingImports=false
"""Models that are trained here with their greedy answers, and vLLM's engine in this process."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before vLLM is imported: its engine in this process, few blocks of cache, and no lines but errors.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import pytest

from loopway.training.config.run_config import RunConfig
from loopway.training.run import train
from tests.serving.trained import DOCS, FAMILIES, VARIANTS, Trained, answered


class TrainedModels(dict[tuple[str, str], Trained]):
    """Models by family and variant, each trained on Loopway's own documentation when a test first asks for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "text").mkdir()
        for page in sorted(DOCS.glob("*.md")):
            (folder / "text" / f"{page.stem}.txt").write_text(
                page.read_text(encoding="utf-8"), encoding="utf-8"
            )

    def __missing__(self, key: tuple[str, str]) -> Trained:
        family, variant = key
        config = {
            "model": {
                "family": family,
                "max_position_embeddings": 256,
                **FAMILIES[family],
                **VARIANTS[variant],
            },
            "data": {"train": f"{self.folder}/text/*.txt", "vocab_size": 512, "sequence_length": 64},
            "training": {
                "max_steps": 60,
                "global_batch_size": 16,
                "per_device_train_batch_size": 16,
                "learning_rate": 3e-3,
                "bf16": False,
            },
        }
        path = self.folder / f"{family}-{variant}.yaml"
        path.write_text(json.dumps(config), encoding="utf-8")
        train(RunConfig.load(path), self.folder / family / variant, data_folder=self.folder / "data")
        self[key] = answered(self.folder / family / variant / "model")
        return self[key]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedModels:
    """The trained models, in run folders ``FAMILY/VARIANT``."""
    return TrainedModels(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def serve() -> Iterator[Callable[..., Any]]:
    """Starts vLLM's engine in this process, and ends it after the test."""
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    def start(folder: Path, **options: Any) -> Any:
        options = {"dtype": "float32", "enforce_eager": True, "max_num_seqs": 16, "seed": 0, **options}
        return LLM(str(folder), **options)

    yield start
    cleanup_dist_env_and_memory()

# pyright: reportMissingImports=false
"""Models that are trained here with their greedy answers, and vLLM's engine in this process."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before vLLM is imported: its engine in this process, few blocks of cache, and no lines but errors.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import pytest

from tests.processes import Processes
from tests.serving.trained import Trained


class TrainedModels(dict[tuple[str, str], Trained]):
    """Models by family and variant, each trained when a test first asks for it.

    A process of its own trains it: engines change the classes of models in this one.
    """

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.folder, self.processes = folder, processes

    def __missing__(self, key: tuple[str, str]) -> Trained:
        log = self.folder / "log"
        training = self.processes.start(
            self.folder, *key, module="tests.serving.trained", output=log, errors=log
        )
        assert training.wait() == 0, log.read_text()[-3000:]
        self[key] = Trained.read(self.folder.joinpath(*key))
        return self[key]


@pytest.fixture(scope="session")
def trained(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> TrainedModels:
    """The trained models, in run folders ``FAMILY/VARIANT``."""
    return TrainedModels(tmp_path_factory.mktemp("runs"), processes)


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

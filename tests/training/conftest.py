"""A corpus and a model so small that a whole run takes a second."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loopway.training.config.run_config import RunConfig
from loopway.training.config.yaml_files import merge

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "runs",
    "sees",
    "house",
    "tree",
    "red",
    "blue",
    "quickly",
    "slowly",
    "over",
    "under",
    "and",
    "then",
]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 documents of a few hundred words."""
    choose = random.Random(0)
    path = tmp_path_factory.mktemp("corpus") / "text.jsonl"
    lengths = [choose.randint(40, 300) for _ in range(60)]
    texts = [" ".join(choose.choice(WORDS) for _ in range(length)) for length in lengths]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture
def tiny(corpus: Path) -> dict[str, Any]:
    """The content of a config file."""
    return {
        "model": {"preset": "pythia-14m", "hidden_size": 32, "layout": "1+1R2+1", "recurrence": "mesh"},
        "data": {"train": str(corpus), "sequence_length": 32, "vocab_size": 300},
        "training": {
            "global_batch_size": 4,
            "per_device_train_batch_size": 2,
            "max_steps": 8,
            "learning_rate": 6e-3,
            "logging_steps": 2,
            "eval_steps": 4,
            "save_steps": 4,
            "use_cpu": True,
        },
    }


@pytest.fixture
def tiny_config(tiny: dict[str, Any]) -> Callable[..., RunConfig]:
    """A RunConfig with what is given laid over the tiny one: `tiny_config(model={"layout": "4"})`."""

    def build(**sections: dict[str, Any]) -> RunConfig:
        return RunConfig.from_dict(merge(tiny, sections))

    return build

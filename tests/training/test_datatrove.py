"""What datatrove's Megatron writer wrote is trained on as it is."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from loopway.data import TokenFile
from loopway.data.tokenizer import train_tokenizer
from loopway.training.config.run_config import RunConfig
from loopway.training.run import train


def test_what_two_tasks_of_datatrove_wrote_is_trained_on(tmp_path: Path) -> None:
    local = pytest.importorskip("datatrove.executor.local")
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens.megatron_tokenizer import MegatronDocumentTokenizer

    random_numbers, words = np.random.default_rng(0), ["the", "cat", "sees", "a", "red", "house"]
    texts = [[" ".join(random_numbers.choice(words, 40)) for _ in range(20)] for _ in range(2)]
    (tmp_path / "texts").mkdir()
    for number, documents in enumerate(texts):
        lines = [json.dumps({"text": text}) + "\n" for text in documents]
        (tmp_path / "texts" / f"{number}.jsonl").write_text("".join(lines))
    tokenizer = train_tokenizer(texts[0], 280)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    local.LocalPipelineExecutor(
        pipeline=[
            JsonlReader(str(tmp_path / "texts")),
            MegatronDocumentTokenizer(
                str(tmp_path / "tokens"),
                tokenizer_name_or_path=str(tmp_path / "tokenizer" / "tokenizer.json"),
                eos_token="<|endoftext|>",
            ),
        ],
        tasks=2,
        logging_dir=str(tmp_path / "logs"),
    ).run()
    files = [TokenFile.open(path) for path in sorted((tmp_path / "tokens").glob("*.bin"))]
    for file, documents in zip(files, texts, strict=True):
        file.verify(len(tokenizer))
        decoded = [str(tokenizer.decode(ids[:-1])) for ids in file.documents()]
        assert decoded == documents
        assert all(ids[-1] == tokenizer.eos_token_id for ids in file.documents())
    config = {
        "model": {"preset": "pythia-14m", "hidden_size": 32, "layout": "1+1R2+1", "recurrence": "mesh"},
        "data": {
            "train": str(tmp_path / "tokens" / "*.bin"),
            "tokenizer": str(tmp_path / "tokenizer"),
            "sequence_length": 32,
        },
        "training": {"global_batch_size": 4, "per_device_train_batch_size": 4, "max_steps": 2}
        | {"use_cpu": True, "save_strategy": "no"},
    }
    summary = train(RunConfig.from_dict(config), tmp_path / "run")
    assert summary.tokens == 2 * 4 * 32 and math.isfinite(summary.train_loss or math.nan)

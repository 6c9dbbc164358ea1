"""Memory doesn't grow with the text."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import WORDS, jsonl, make_texts, zstd
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")

PEAK = """
import resource, sys
from pathlib import Path
from loopway.data import PreparationConfig, prepare

def peak():  # ru_maxrss of this process would begin with that of the one that started it
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return int(line.split()[1])

if __name__ == "__main__":
    config = PreparationConfig(train=sys.argv[3:], tokenizer=sys.argv[2], validation_fraction=0.1)
    imports = peak()  # hundreds of MB with a torch for GPUs
    prepare(config, sys.argv[1], processes=2, progress=False)
    print(peak() - imports, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss - imports)
"""


def peak(folder: Path, tokenizer: Path, megabytes: int) -> list[float]:
    """MB that the main process and the largest of the others take, beside imports, to prepare so much text of several kinds."""
    folder.mkdir()
    texts = make_texts(250, words=700)  # a megabyte
    share = megabytes // 4
    with (folder / "a.txt").open("wb") as file:
        for _ in range(share):
            file.write(" ".join(texts).encode())
    with (folder / "b.jsonl").open("wb") as file:
        for _ in range(share):
            file.write(jsonl(texts))
    with (folder / "c.jsonl.zst").open("wb") as file:
        for _ in range(share):
            file.write(zstd(jsonl(texts)))
    table = pa.table({"text": texts * share})
    pq.write_table(table, folder / "d.parquet", row_group_size=len(table), use_dictionary=False)
    (folder / "script.py").write_text(PEAK)
    sources = [str(path) for path in sorted(folder.glob("?.*"))]
    command = [sys.executable, str(folder / "script.py"), str(folder / "out"), str(tokenizer), *sources]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    manifest = json.loads((folder / "out" / "manifest.json").read_text())
    assert manifest["train"]["bytes"] + (manifest["validation"] or {"bytes": 0})["bytes"] > 0.95e6 * megabytes
    return [int(kilobytes) / 1000 for kilobytes in result.stdout.split()]


def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    words = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(["", *WORDS])}, unk_token="")
    )
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # as little work as can be
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="").save_pretrained(tmp_path / "tokenizer")
    small, large = (peak(tmp_path / str(size), tmp_path / "tokenizer", size) for size in (20, 72))
    for before, after in zip(small, large, strict=True):
        assert after < before + 40, (small, large)
    assert sum(large) < 400

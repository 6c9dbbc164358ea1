"""How fast text becomes tokens and tokens become batches, beside the best that could be hoped for.

One process measures the variants of a comparison in turn, in several rounds; figures are medians. The last line is JSON,
which benchmarks/README.md explains.
"""

# The processes that encode import this script, as they do that of the command line: heavy imports are in functions.
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from common import GB, MB, arguments, grouped, measure, middle, read_text, report, times_as_fast, write_text
from tokenizers import Tokenizer

BATCH = 2**20  # characters that the baseline encodes in one call
SAMPLE = 2048  # tokens, of which one more is read
VOCABULARY = 50_277
PARTS = ("tokenising", "reading", "training")


def tokenising(
    tokenizer: str, text: Path, work: Path, *, rounds: int, processes: int, patience: float
) -> dict[str, Any]:
    """`prepare`, from JSONL to manifest, against encoding alone of text that lies in memory, ids as lists."""
    from loopway.data import PreparationConfig, prepare
    from loopway.data.tokenizer import load_tokenizer

    backend = load_tokenizer(tokenizer).backend_tokenizer
    texts, little = read_text(text), write_text(work / "little.jsonl", 0.05 * MB)
    size = sum(len(text.encode()) for text in texts)
    batches = list(grouped(texts, BATCH))

    def prepared(source: Path) -> None:
        config = PreparationConfig(train=[str(source)], tokenizer=tokenizer, validation_fraction=0)
        prepare(config, tempfile.mkdtemp(dir=work), processes=processes, progress=False)

    with ProcessPoolExecutor(processes, get_context("spawn"), hold, (backend.to_str(), batches)) as pool:
        variants: dict[str, Callable[[], Any]] = {
            "prepare": lambda: prepared(text),
            "start_up": lambda: prepared(little),
            "processes": lambda: list(pool.map(encode_held, range(len(batches)))),
            "threads": lambda: [encode(backend, batch) for batch in batches],
        }
        measure({name: variants[name] for name in ("processes", "threads")}, 1)  # to warm them up
        seconds = measure(variants, rounds, patience)
    steady = [whole - start for whole, start in zip(seconds["prepare"], seconds["start_up"], strict=True)]
    return {
        "vocabulary": backend.get_vocab_size(),
        "text_mb": round(size / MB, 1),
        "documents": len(texts),
        "processes": processes,
        "start_up_seconds": middle(seconds["start_up"]),
        "prepare_mb_per_second": middle([size / MB / value for value in seconds["prepare"]]),
        "prepare_without_start_up_mb_per_second": middle([size / MB / value for value in steady]),
        "tokenizers_in_processes_mb_per_second": middle([size / MB / it for it in seconds["processes"]]),
        "tokenizers_in_threads_mb_per_second": middle([size / MB / it for it in seconds["threads"]]),
        "ratio": times_as_fast(steady, seconds["processes"]),
        "ratio_with_start_up": times_as_fast(seconds["prepare"], seconds["processes"]),
        "ratio_to_threads": times_as_fast(steady, seconds["threads"]),
    }


_held: tuple[Tokenizer, list[list[str]]]
"""Of a process of the baseline."""


def hold(tokenizer: str, batches: list[list[str]]) -> None:
    global _held
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _held = Tokenizer.from_str(tokenizer), batches


def encode_held(number: int) -> None:
    tokenizer, batches = _held
    encode(tokenizer, batches[number])


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def reading(work: Path, size: float, rounds: int) -> dict[str, Any]:
    """Random samples of a token file in the page cache: a `numpy.memmap` against `TokenFile` and `TokenSamples`."""
    import numpy as np
    import torch

    from loopway.data import Source, TokenFile, TokenSamples, TokenWriter

    random_numbers, lengths = np.random.default_rng(0), np.full(700, 1500)
    writer = TokenWriter(work / "random", VOCABULARY)
    while writer.tokens * writer.dtype.itemsize < size:
        writer.append(random_numbers.integers(VOCABULARY, size=lengths.sum(), dtype=np.uint16), lengths)
    writer.finish()
    file = TokenFile.open(work / "random")
    memmap = np.memmap(work / "random.bin", np.uint16, "r")
    count = min(5_000, len(memmap) // (SAMPLE + 1))
    starts = random_numbers.integers(len(memmap) - SAMPLE, size=count).tolist()
    items, masked = (
        TokenSamples([Source([file])], SAMPLE, seed=0, vocab_size=VOCABULARY, mask_documents=mask)
        for mask in (False, True)
    )

    def tensor(start: int) -> torch.Tensor:
        return torch.from_numpy(memmap[start : start + SAMPLE + 1].astype(np.int64))

    def tensors(start: int) -> dict[str, torch.Tensor]:
        row = tensor(start)
        return {"input_ids": row[:-1], "shift_labels": row[1:]}

    def read(start: int) -> torch.Tensor:
        return torch.from_numpy(file.read(start, start + SAMPLE + 1).astype(np.int64))

    def each(read_one: Callable[[int], Any], of: Iterable[int]) -> None:
        for number in of:
            read_one(number)

    variants: dict[str, Callable[[], Any]] = {
        "memmap": lambda: each(tensor, starts),
        "read": lambda: each(read, starts),
        "memmap_item": lambda: each(tensors, starts),
        "item": lambda: each(items.__getitem__, range(count)),
        "masked_item": lambda: each(masked.__getitem__, range(count)),
    }
    for tokens in (memmap, file.read(0, file.num_tokens)):
        tokens[::SAMPLE].sum()  # every page is in memory and mapped
    seconds = measure(variants, 10 * rounds)  # rounds are short
    return {
        "file_gb": round(memmap.nbytes / GB, 2),
        "sample_tokens": SAMPLE + 1,
        "microseconds": {
            name: middle([1e6 * it / count for it in values]) for name, values in seconds.items()
        },
        "read_ratio": times_as_fast(seconds["read"], seconds["memmap"]),
        "item_ratio": times_as_fast(seconds["item"], seconds["memmap_item"]),
        "item_ratio_to_one_tensor": times_as_fast(seconds["item"], seconds["memmap"]),
        "masked_item_ratio": times_as_fast(seconds["masked_item"], seconds["memmap_item"]),
    }


def training(tokenizer: str, work: Path, steps: int, rounds: int) -> dict[str, Any]:
    """How long the steps of a real run wait for their batches, which its own process makes between them."""
    from torch.utils.data import DataLoader, dataloader
    from transformers import default_data_collator

    from loopway.data import Source, TokenFile, TokenSamples
    from loopway.training.config.run_config import RunConfig
    from loopway.training.run import train
    from loopway.training.trainer import SampleTrainer

    batch, length = 8, 512
    text = write_text(work / "training.jsonl", 2 * MB)
    config = RunConfig.from_dict(
        {
            "model": {"preset": "pythia-14m"},
            "data": {"train": [str(text)], "tokenizer": tokenizer, "sequence_length": length},
            "training": {"global_batch_size": batch, "per_device_train_batch_size": batch, "max_steps": steps}
            | {"eval_strategy": "no", "save_strategy": "no", "dataloader_num_workers": 0},
        }
    )
    with (
        timed(dataloader._BaseDataLoaderIter, "__next__") as fetches,
        timed(SampleTrainer, "get_batch_samples") as waits,
    ):
        summary = train(config, work / "run")
    fetches, waits = fetches[:steps], waits[:steps]  # the others are of the validation set
    step = batch * length / (summary.tokens_per_second or 0)
    samples = TokenSamples([Source([TokenFile.open(work / "run" / "data" / "train")])], length, seed=0)
    loader = DataLoader(samples, batch, collate_fn=default_data_collator)
    seconds = measure({"loader": lambda: sum(len(rows["input_ids"]) for rows in loader)}, rounds)["loader"]
    return {
        "model": "pythia-14m",
        "device": summary.device,
        "tokens_a_step": batch * length,
        "step_seconds": middle([step]),
        "fetch_seconds": middle(fetches),
        "share": middle([statistics.median(fetches) / step]),
        "share_with_trainer": middle([statistics.median(waits) / step]),
        "loader_tokens_per_second": middle([len(samples) // batch * batch * length / it for it in seconds]),
    }


@contextlib.contextmanager
def timed(owner: type, name: str) -> Iterator[list[float]]:
    """Seconds of every call of a method, in order."""
    seconds, method = [], getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        result = method(*args, **kwargs)
        seconds.append(time.perf_counter() - started)
        return result

    setattr(owner, name, call)
    try:
        yield seconds
    finally:
        setattr(owner, name, method)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--tokenizer", help="folder of a tokenizer to measure beside a BPE that is trained here"
    )
    parser.add_argument("--megabytes", type=float, default=64, help="text to tokenise")
    parser.add_argument("--gigabytes", type=float, default=1.1, help="token file to read")
    parser.add_argument("--steps", type=int, default=30, help="steps to train")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--patience", type=float, default=60, help="seconds to wait for an idle machine, each round"
    )
    options = parser.parse_args()
    if options.quick:
        options.megabytes, options.gigabytes, options.steps, options.rounds = 0.2, 0.01, 2, 1
        options.patience = 0
    os.environ |= {"RAYON_NUM_THREADS": str(options.processes), "TOKENIZERS_PARALLELISM": "true"}
    from loopway.data.tokenizer import train_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        work, rounds = Path(folder), options.rounds
        text, own = write_text(work / "text.jsonl", options.megabytes * MB), str(work / "bpe")
        train_tokenizer(read_text(text)[:1000], 4096).save_pretrained(own)
        tokenizers = {"bpe": own} | ({"given": options.tokenizer} if options.tokenizer else {})
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            f"tokenising_{name}": lambda it=it: tokenising(
                it,
                text,
                work,
                rounds=rounds,
                processes=options.processes,
                patience=options.patience,
            )
            for name, it in tokenizers.items()
        }
        parts["reading"] = lambda: reading(work, options.gigabytes * GB, rounds)
        parts["training"] = lambda: training(own, work, options.steps, rounds)
        report({name: part for name, part in parts.items() if name.startswith(tuple(options.only))})


if __name__ == "__main__":
    main()

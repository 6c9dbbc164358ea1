"""Does a long run hold its memory, its files and its processes?

    python benchmarks/soak.py [--minutes 60]

A small run saves, evaluates and probes itself every few steps, with one loading process beside it, until SIGTERM ends it.
All the while its resident memory, open files, threads and processes are counted; the first sixth is left to warm up.
The last line is JSON.
"""

import signal
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import common
import psutil
from kills import Started, newest_step

from loopway.training.metrics_log import read_metrics
from loopway.training.run_folder import RunFolder

CONFIG = """
model: {{preset: pythia-14m, layout: 1+2R2+1, recurrence: mesh, hidden_size: 128, num_attention_heads: 2}}
data: {{train: {text}, sequence_length: 128, vocab_size: 2048, validation_samples: 64}}
training: {{max_steps: 10000000, global_batch_size: 8, save_steps: 50, eval_steps: 25, logging_steps: 5, use_cpu: true,
           dataloader_num_workers: 1}}
probe_every: 10
"""
_WARM_UP = 1 / 6
_WINDOW = 1 / 10  # of the minutes: what is held against each other at both ends


class Sample(NamedTuple):
    resident: int  # bytes, of all processes
    files: int
    threads: int
    processes: int


def sample(process: psutil.Process) -> Sample:
    tree = [process, *process.children(recursive=True)]
    return Sample(
        sum(each.memory_info().rss for each in tree),
        sum(each.num_fds() for each in tree),
        sum(each.num_threads() for each in tree),
        len(tree),
    )


def soaked(minutes: float) -> dict[str, Any]:
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        text, config = common.write_text(folder / "text.jsonl", 1 * common.MB), folder / "run.yaml"
        config.write_text(CONFIG.format(text=text))
        run = RunFolder(folder / "run")
        started = Started(config, run)
        started.wait_for_step(1)
        end = time.monotonic() + 60 * minutes
        while time.monotonic() < end:
            samples.append(sample(psutil.Process(started.workers[0].pid)))
            time.sleep(60 * minutes / 720)
        stopping = time.monotonic()
        started.workers[0].send_signal(signal.SIGTERM)
        started.finish()
        lines = read_metrics(run.metrics)
        return growth(samples) | {
            "minutes": minutes,
            "steps": newest_step(run),
            "evaluations": sum("validation_loss" in line for line in lines),
            "probes": len({line["step"] for line in read_metrics(run.probes)}),
            "seconds_from_sigterm_to_end": common.middle([time.monotonic() - stopping]),
        }


def growth(samples: list[Sample]) -> dict[str, Any]:
    """From the beginning after the warm-up to the end: medians over a window each."""
    warm = samples[int(len(samples) * _WARM_UP) :]
    window = max(1, int(len(samples) * _WINDOW))
    ends = warm[:window], warm[-window:]
    found: dict[str, Any] = {}
    for name in Sample._fields:
        first, last = (statistics.median(getattr(each, name) for each in end) for end in ends)
        found[name] = {"first": first, "last": last, "growth_percent": round(100 * (last / first - 1), 3)}
    found["resident"]["highest"] = max(each.resident for each in warm)
    return found


def main() -> None:
    parser = common.arguments(__doc__, rounds=None)
    parser.add_argument("--minutes", type=float, default=60)
    options = parser.parse_args()
    if options.quick:
        options.minutes = 0.05
    common.report({"one_process": partial(soaked, options.minutes)})


if __name__ == "__main__":
    main()

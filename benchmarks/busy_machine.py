"""How fast does a small model train on all cores, alone and beside other work, by how OpenMP's threads wait for each other?

    python benchmarks/busy_machine.py [--rounds 30] [--steps 4]

A process for each way of waiting takes the same training steps, in turn; what a process of Loopway sets itself is `loopway`.
Beside other work: one busy process per core. The last line is JSON.
"""

import contextlib
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import common

from loopway.threads import BY_USER, WAITING

#: Environment variables of the GNU OpenMP runtime, which PyTorch's builds for Linux use. Not its ACTIVE, whose threads would
#: spin while others are measured.
WAYS: dict[str, dict[str, str]] = {
    "unset": {},
    "spin_30000": {"GOMP_SPINCOUNT": "30000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
}
_BUSY = "while True: pass"
_SIZE = {"hidden_size": 128, "num_attention_heads": 4, "vocab_size": 2048, "max_position_embeddings": 128}


def train(connection: Connection, layout: str, tokens: int) -> None:
    """Take as many steps as the other end asks for, and answer with their seconds."""
    import torch
    from transformers import AutoModelForCausalLM

    import loopway

    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(
        loopway.pythia_config("14m", layout=layout, recurrence="mesh", **_SIZE)
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(_SIZE["vocab_size"], (tokens // 128, 128))
    while steps := connection.recv():  # 0 ends it
        started = time.perf_counter()
        for _ in range(steps):
            model(ids, labels=ids, use_cache=False).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        connection.send(time.perf_counter() - started)


def begin(context: common.OwnProcesses, settings: dict[str, str], layout: str, tokens: int) -> Connection:
    """Start a process with these variables set before anything is loaded."""
    here, there = multiprocessing.Pipe()
    before = {name: os.environ.pop(name, None) for name in BY_USER}
    os.environ.update(settings)
    process = context.Process(target=train, args=(there, layout, tokens), daemon=True)
    process.start()
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    return here


def seconds_of(connection: Connection, steps: int) -> float:
    connection.send(steps)
    return connection.recv()


def measured(processes: dict[str, Connection], steps: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way's steps in each round; every other round goes backwards."""
    found: dict[str, list[float]] = {name: [] for name in processes}
    for number in range(rounds):
        for name in list(processes)[:: -1 if number % 2 else 1]:
            found[name].append(seconds_of(processes[name], steps))
    return found


def main() -> None:
    parser = common.arguments(__doc__, rounds=30)
    parser.add_argument("--steps", type=int, default=4, help="of a round")
    options = parser.parse_args()
    layout, tokens, steps, rounds = "1+2R2+1", 2048, options.steps, options.rounds
    if options.quick:
        layout, tokens, steps, rounds = "1+1R2+1", 256, 1, 2
    ways = {"loopway": WAITING} | WAYS
    context = common.own_processes(quick=options.quick)
    processes = {name: begin(context, settings, layout, tokens) for name, settings in ways.items()}
    for connection in processes.values():
        seconds_of(connection, 2)

    speed_alone: dict[str, float] = {}

    def alone() -> dict[str, Any]:
        found = measured(processes, steps, rounds)
        speed_alone.update({name: common.middle(steps * tokens / s for s in found[name]) for name in found})
        over = {
            name: common.median_with_interval(
                [one / other for one, other in zip(found[name], found["unset"], strict=True)]
            )
            for name in found
            if name != "unset"
        }
        return {"rounds": rounds, "tokens_per_second": speed_alone, "time_over_unset": over}

    def beside() -> dict[str, Any]:
        fewer = max(1, steps // 4)
        with busy_cores():
            found = measured(processes, fewer, max(2, rounds // 3))
        speed = {name: common.middle(fewer * tokens / s for s in found[name]) for name in found}
        # Beside one other process a core, half of a machine is a fair share.
        shares = {name: speed[name] / (speed_alone[name] / 2) for name in speed}
        return {"tokens_per_second": speed, "of_fair_share": shares}

    common.report({"alone": alone, "beside_busy_processes": beside})
    for connection in processes.values():
        connection.send(0)


@contextlib.contextmanager
def busy_cores() -> Iterator[None]:
    """One process a core that computes without end."""
    others = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


if __name__ == "__main__":
    main()

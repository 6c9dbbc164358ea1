"""What do workers send each other in a step of a sharded model, if its core is gathered once a loop, or once a step?

    python benchmarks/sharding.py [--workers 2]

Processes on this machine (gloo) share a MeSH model of Pythia-160M's size by FSDP2, with a small vocabulary, and train on
one sequence each, with `gather_core_once` and without; beside them plain data parallelism. Bytes are counted where the
collectives are called, one worker's. The last line is JSON.
"""

import json
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import common
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM

import loopway

LAYOUTS = ("2+4R2+2", "2+4R4+2")
PLANS = ("whole", "layers", "core once")
SIZES = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "vocab_size": 4096}
SMALL = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 2, "vocab_size": 256}
_COUNTED = {"_allgather_base_": "gathered", "_reduce_scatter_base_": "summed", "allreduce_": "summed"}


class Counting(TorchDispatchMode):
    """Counts the calls of collectives and the bytes of the larger side of each."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kind = _COUNTED.get(operation._schema.name.removeprefix("c10d::"))
        if kind is not None:
            self.calls[kind] += 1
            tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)]
            self.bytes[kind] += max(tensor.nbytes for tensor in tensors)
        return operation(*args, **(kwargs or {}))


def new_model(layout: str, plan: str, sizes: dict[str, int]) -> Any:
    torch.manual_seed(0)
    config = loopway.pythia_config("14m", layout=layout, recurrence="mesh", **sizes)
    model = AutoModelForCausalLM.from_config(config).train()
    if plan == "whole":
        return DistributedDataParallel(model)
    loopway.shard_model(model, gather_core_once=plan == "core once")
    return model


def step(model: Any, ids: torch.Tensor) -> None:
    model(ids, labels=ids, skip_logits=True, use_cache=False).loss.backward()
    model.zero_grad()


def worker(rank: int, workers: int, tokens: int, sizes: dict[str, int], folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=workers)
    ids = torch.randint(sizes["vocab_size"], (1, tokens), generator=torch.Generator().manual_seed(rank))
    found = {}
    for layout in LAYOUTS:
        found[layout] = {}
        for plan in PLANS:
            model = new_model(layout, plan, sizes)
            step(model, ids)  # which prepares more than others do
            with Counting() as counting:
                step(model, ids)
            found[layout][plan] = {
                kind: {
                    "calls": counting.calls[kind],
                    "megabytes": common.middle([counting.bytes[kind] / common.MB]),
                }
                for kind in ("gathered", "summed")
            }
    if rank == 0:
        (folder / "found.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def shared(context: common.OwnProcesses, workers: int, tokens: int, sizes: dict[str, int]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        given = (workers, tokens, sizes, folder)
        start_processes(worker, given, nprocs=workers, start_method=context.get_start_method())  # type: ignore[no-untyped-call]
        return json.loads((folder / "found.json").read_text())


def main() -> None:
    parser = common.arguments(__doc__, rounds=None)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    tokens, sizes = 256, SIZES
    if options.quick:
        tokens, sizes = 16, SMALL
    context = common.own_processes(quick=options.quick)
    common.report({f"{options.workers}_workers": partial(shared, context, options.workers, tokens, sizes)})


if __name__ == "__main__":
    main()

"""One of several workers that train a sharded model: torchrun runs this, and the first worker writes what came out."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tiny_models import random_ids, tiny_config
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

import loopway
from loopway.modeling.recompute import RECOMPUTE_LEVELS

STEPS, ROWS = 20, 4


def losses(model: Any, rank: int, workers: int) -> list[float]:
    """Of the whole batch, of which each worker takes its rows."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    found = []
    for step in range(STEPS):
        ids = random_ids(ROWS, 16, seed=step % 5)[rank * ROWS // workers : (rank + 1) * ROWS // workers]
        loss = model(ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        total = loss.detach()
        if workers > 1:
            dist.all_reduce(total)
        found.append(total.item() / workers)
    return found


def new_model(recompute: str = "none") -> Any:
    torch.manual_seed(0)
    config = tiny_config("1+2R3+1", "mesh")
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()
    loopway.set_recompute(model, recompute)
    return model


def main(out: Path) -> None:
    dist.init_process_group("gloo")
    rank, workers = dist.get_rank(), dist.get_world_size()
    found = {}
    for core_once in (False, True):
        for recompute in RECOMPUTE_LEVELS if core_once else ("none",):
            model = new_model(recompute)
            loopway.shard_model(model, gather_core_once=core_once)
            assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
            found[f"{core_once} {recompute}"] = losses(model, rank, workers)
            whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
            if rank == 0:
                torch.save(whole, out / f"{core_once} {recompute}.pt")
    if rank == 0:
        (out / "losses.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

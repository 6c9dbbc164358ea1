"""One of two workers that open models spread by transformers' own plans: torchrun runs this, and the first writes what came out."""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tiny_models import random_ids
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._redistribute import _gen_transform_infos
from transformers import AutoModelForCausalLM
from transformers.distributed.configuration_utils import DistributedConfig

import loopway  # noqa: F401  (makes the recursive families known)

ROWS = 4


def computed(model: Any) -> dict[str, Any]:
    """What a model computes: logits, text, and its gradients and weights when it learns from one step."""
    ids = random_ids(ROWS)
    with torch.no_grad():
        found: dict[str, Any] = {"logits": model.eval()(ids).logits}
    found["generated"] = model.generate(ids[:1], max_new_tokens=2, do_sample=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found["loss"] = backward(model, ids)
    found["gradients"] = whole_gradients(model)
    optimizer.step()
    found["weights"] = {name: whole(weight) for name, weight in model.named_parameters()}
    return found


def backward(model: Any, ids: Tensor) -> Tensor:
    loss = model.train()(ids, labels=ids, use_cache=False, skip_logits=True).loss
    loss.backward()
    return loss.detach()


def whole_gradients(model: Any) -> dict[str, Tensor]:
    return {name: whole(weight.grad) for name, weight in model.named_parameters()}


def whole(tensor: Tensor) -> Tensor:
    """A copy of the whole tensor; one that isn't sharded is the same in every worker."""
    if isinstance(tensor, DTensor):
        return tensor.full_tensor().detach().clone()
    if dist.is_initialized():
        copies = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(copies, tensor.detach())
        for copy in copies[1:]:
            torch.testing.assert_close(copy, copies[0], rtol=0.0, atol=1e-12)
    return tensor.detach().clone()


def opened(place: Path, **spread: Any) -> Any:
    spread = {"distributed_config": DistributedConfig(**spread)} if spread else {}
    return AutoModelForCausalLM.from_pretrained(place, dtype=torch.float64, **spread)


def sharded(model: Any) -> set[str]:
    return {name for name, weight in model.named_parameters() if isinstance(weight, DTensor)}


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    rank, workers = dist.get_rank(), dist.get_world_size()
    found: dict[str, dict[str, Any]] = {}
    for place in sorted(folder.glob("*/*")):  # family/kind
        _gen_transform_infos.cache_clear()  # torch 2.9 would mask by the embedding of the model before
        model = opened(place, tp_size=workers, tp_plan="auto")
        results: dict[str, Any] = {"sharded": sharded(model)}
        if place.name != "own":
            results |= computed(model)
            model.save_pretrained(folder / "saved" / place.parent.name / place.name)
        if place.name == "tied":
            model = opened(place, fsdp_size=workers)
            units = {name for name, module in model.named_modules() if isinstance(module, FSDPModule)}
            loss = backward(model, random_ids(ROWS).chunk(workers)[rank])
            dist.all_reduce(loss)
            results["fsdp"] = {"units": units, "loss": loss / workers, "gradients": whole_gradients(model)}
        found[f"{place.parent.name}/{place.name}"] = results
    if rank == 0:
        torch.save(found, folder / "found.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Every recurrence against golden vectors, in float64: states to 1e-10, and MeSH's gradients too."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from running import build, run_stages
from torch import Tensor

from loopway import Layout

EXACT: dict[str, Any] = {"rtol": 0.0, "atol": 1e-10}
MESH = ["2R2", "3loops", "8loops", "few_slots", "unshared"]
FIXED = [
    "base",
    "residual",
    "anchor",
    "anchor*",
    "residual+anchor",
    "anchor+anchor*",
    "residual+anchor+anchor*",
]


def load(path: Path) -> dict[str, Tensor]:
    return {name: torch.tensor(array) for name, array in np.load(path).items()}


@pytest.mark.parametrize("case", MESH)
def test_mesh_gives_the_golden_states_and_gradients(case: str, golden: Path) -> None:
    data = load(golden / f"mesh_{case}.npz")
    _, num_slots, hidden_size = data["write_weight"].shape
    layout = Layout.parse("+".join(f"1R{loops}" for loops in data["segment_loops"].tolist()))
    mesh = build("mesh", layout, hidden_size, num_slots=num_slots)
    kinds = ("write", "read")
    with torch.no_grad():
        for kind in kinds:
            for step in range(layout.num_boundaries):
                router = mesh.get_submodule(f"{kind}_routers.{step}")
                router.get_parameter("weight").copy_(data[f"{kind}_weight"][step])
                router.get_parameter("bias").copy_(data[f"{kind}_bias"][step])

    embeddings = data["embeddings"].requires_grad_()
    stages = run_stages(mesh, layout, embeddings, data["block_matrices"])
    torch.testing.assert_close(torch.stack(stages.inputs), data["stage_inputs"], **EXACT)
    torch.testing.assert_close(torch.stack(stages.outputs), data["stage_outputs"], **EXACT)

    (stages.outputs[-1] * data["output_cotangent"]).sum().backward()
    torch.testing.assert_close(embeddings.grad, data["grad_embeddings"], **EXACT)
    for kind in kinds:
        for name in ("weight", "bias"):
            for step in range(layout.num_boundaries):
                grad = mesh.get_parameter(f"{kind}_routers.{step}.{name}").grad
                torch.testing.assert_close(grad, data[f"grad_{kind}_{name}"][step], **EXACT)


@pytest.mark.parametrize("name", FIXED)
def test_fixed_schemes_give_the_golden_states(name: str, golden: Path) -> None:
    data = load(golden / f"fixed_{name.replace('*', '_star')}.npz")
    layout = Layout.parse(f"1+1R{int(data['loops'])}+1")
    recurrence = build(name, layout, data["embeddings"].shape[-1])
    stages = run_stages(recurrence, layout, data["embeddings"], data["block_matrices"])
    torch.testing.assert_close(torch.stack(stages.inputs[1:]), data["states"], **EXACT)  # h(0)..h(K)
    torch.testing.assert_close(stages.outputs[-1], data["final"], **EXACT)


def test_no_golden_vector_is_forgotten(golden: Path) -> None:
    cases = {f"mesh_{case}" for case in MESH} | {f"fixed_{name.replace('*', '_star')}" for name in FIXED}
    assert {path.stem for path in golden.glob("*.npz") if path.stem.startswith(("mesh_", "fixed_"))} == cases

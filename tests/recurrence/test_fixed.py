"""The schemes without a buffer: each is its line in the paper, in every looped segment and nowhere else."""

from itertools import combinations

import pytest
import torch
from running import build, random_blocks, randomize, run_stages
from torch import Tensor

from loopway import Layout
from loopway.recurrence import RecurrenceOptions, build_recurrence

SUPPLEMENTS = ("residual", "anchor", "anchor*")
SUMS = ["+".join(names) for size in (1, 2, 3) for names in combinations(SUPPLEMENTS, size)]
HIDDEN = 6


def problem(layout: Layout) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.randn(2, 3, HIDDEN, generator=generator, dtype=torch.float64)
    return embeddings, random_blocks(layout, HIDDEN, generator)


@pytest.mark.parametrize("name", SUMS)
def test_a_sum_adds_the_supplements_of_its_parts(name: str) -> None:
    layout = Layout.parse("1+1R3+1")
    embeddings, blocks = problem(layout)
    stages = run_stages(build(name, layout, HIDDEN), layout, embeddings, blocks)
    for step in (1, 2, 3):
        given = {"residual": stages.inputs[step], "anchor": stages.inputs[1], "anchor*": embeddings}
        expected = stages.outputs[step] + sum(given[part] for part in name.split("+"))
        torch.testing.assert_close(stages.inputs[step + 1], expected, rtol=0.0, atol=1e-13)


def test_the_order_of_a_sum_does_not_matter() -> None:
    layout = Layout.parse("1+1R3+1")
    runs = [
        run_stages(build(name, layout, HIDDEN), layout, *problem(layout)).outputs[-1]
        for name in ("residual+anchor*", "anchor*+residual")
    ]
    assert torch.equal(*runs)


@pytest.mark.parametrize("name", [*SUMS, "static", "dynamic"])
def test_boundaries_outside_loops_pass_the_state_through(name: str) -> None:
    layout = Layout.parse("1+1+1R2+1+1")
    recurrence = build(name, layout, HIDDEN)
    randomize(recurrence, torch.Generator().manual_seed(0))
    stages = run_stages(recurrence, layout, *problem(layout))
    passed = [stages.inputs[n + 1] is stages.outputs[n] for n in range(layout.num_boundaries)]
    assert passed == [True, True, False, False, True]


def test_every_looped_segment_has_its_own_anchor() -> None:
    layout = Layout.parse("1+1R2+1+1R3+1")
    embeddings, blocks = problem(layout)
    stages = run_stages(build("anchor", layout, HIDDEN), layout, embeddings, blocks)
    anchors = {1: stages.inputs[1], 2: stages.inputs[1], **dict.fromkeys((4, 5, 6), stages.inputs[4])}
    for step, anchor in anchors.items():
        torch.testing.assert_close(stages.inputs[step + 1], stages.outputs[step] + anchor)


def test_a_loop_that_comes_first_is_anchored_at_the_embeddings_and_one_that_comes_last_ends_plainly() -> None:
    layout = Layout.parse("1R3")
    embeddings, blocks = problem(layout)
    stages = run_stages(build("anchor", layout, HIDDEN), layout, embeddings, blocks)
    assert len(stages.inputs) == 3
    for step in (0, 1):
        torch.testing.assert_close(stages.inputs[step + 1], stages.outputs[step] + embeddings)


@pytest.mark.parametrize("name", ["static", "dynamic"])
def test_trained_sums_start_equal_to_base_and_every_coefficient_learns(name: str) -> None:
    layout = Layout.parse("1+1R3+1")
    embeddings, blocks = problem(layout)
    recurrence = build(name, layout, HIDDEN)
    base = run_stages(build("base", layout, HIDDEN), layout, embeddings, blocks)
    trained = run_stages(recurrence, layout, embeddings, blocks)
    assert torch.equal(torch.stack(base.inputs), torch.stack(trained.inputs))
    assert torch.equal(base.outputs[-1], trained.outputs[-1])

    trained.outputs[-1].square().sum().backward()
    parameters = dict(recurrence.named_parameters())
    assert len(parameters) == 3 * (1 if name == "static" else 2)  # one set a step of the loop
    for parameter_name, parameter in parameters.items():
        assert parameter.grad is not None and (parameter.grad != 0).all(), parameter_name


def test_static_is_a_weighted_sum_with_one_triple_a_step() -> None:
    layout = Layout.parse("1+1R3+1")
    embeddings, blocks = problem(layout)
    recurrence = build("static", layout, HIDDEN)
    randomize(recurrence, torch.Generator().manual_seed(0))
    stages = run_stages(recurrence, layout, embeddings, blocks)
    for step in (1, 2, 3):
        a1, a2, a3 = recurrence.get_parameter(f"coefficients.{step}")
        expected = a1 * stages.outputs[step] + a2 * stages.inputs[1] + a3 * embeddings
        torch.testing.assert_close(stages.inputs[step + 1], expected)


def test_dynamic_computes_its_triple_per_token_from_the_stages_input() -> None:
    layout = Layout.parse("1+1R3+1")
    embeddings, blocks = problem(layout)
    recurrence = build("dynamic", layout, HIDDEN)
    randomize(recurrence, torch.Generator().manual_seed(0))
    stages = run_stages(recurrence, layout, embeddings, blocks)
    for step in (1, 2, 3):
        weight = recurrence.get_parameter(f"coefficients.{step}.weight")
        bias = recurrence.get_parameter(f"coefficients.{step}.bias")
        a1, a2, a3 = (stages.inputs[step] @ weight.T + bias).split(1, dim=-1)
        expected = a1 * stages.outputs[step] + a2 * stages.inputs[1] + a3 * embeddings
        torch.testing.assert_close(stages.inputs[step + 1], expected)


def test_dynamic_coefficients_keep_their_precision_under_autocast() -> None:
    options = RecurrenceOptions(Layout.parse("1R3"), 8)
    dynamic = build_recurrence("dynamic", options)
    with torch.no_grad():
        for linear in dynamic.get_submodule("coefficients").children():
            linear.get_parameter("bias").copy_(torch.tensor([1.001, 0.0, 0.0]))
    states = torch.ones(1, 2, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, _ = dynamic.advance(dynamic.start(states), 0, states, states)
    torch.testing.assert_close(mixed, torch.full_like(states, 1.001))

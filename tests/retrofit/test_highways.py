"""MeSH starts as close to the layers without it as the gap says, and no closer."""

import itertools
import math
from typing import Any

import pytest
import torch
from pretrained import FAMILIES, cases, logits_of, pretrained

import loopway
from loopway.modeling.stack import find_stack
from loopway.retrofit.highways import leak_bound, measure_start
from tests.modeling.tiny_models import random_ids

LAYOUTS = ["1+2R2+1", "2+2+2", "1+1R4+1", "2R3"]


def with_mesh(model: Any, layout: str, gap: float | None = None, **options: Any) -> Any:
    return loopway.retrofit_model(model, layout=layout, recurrence="mesh", router_gap=gap, **options)


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """At the worst token."""
    return float(((actual - expected).norm(dim=-1) / expected.norm(dim=-1)).max())


@pytest.mark.parametrize("gap", [3.0, 6.0, 12.0, 24.0])
@pytest.mark.parametrize("num_slots", [None, 5, 9])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_mixing_weights_are_the_derived_ones_and_within_the_bound(
    layout: str, num_slots: int | None, gap: float
) -> None:
    boundaries = loopway.Layout.parse(layout).num_boundaries
    if num_slots is not None and num_slots <= boundaries:
        pytest.skip("too few slots")
    model = with_mesh(pretrained(), layout, gap, num_slots=num_slots)
    slots = num_slots or boundaries + 2
    with torch.no_grad(), loopway.trace_stages(model) as records:
        model(random_ids())
    other = 1 / (math.exp(gap) + slots - 1)
    own = 1 - (slots - 1) * other
    for boundary, (record, following) in enumerate(itertools.pairwise(records)):
        assert record.weights is not None
        embedding, *earlier, latest = record.weights.unbind(-1)
        # Of the latest, what is missing to one: computed from it, it would be the rounding of one.
        missing = 2 * (slots - 1) * other * own + (slots - 1) * (slots - 2) * other**2
        torch.testing.assert_close(1 - latest, torch.full_like(latest, missing), rtol=1e-9, atol=1e-15)
        torch.testing.assert_close(embedding, torch.full_like(embedding, other), rtol=1e-9, atol=0)
        expected = 2 * own * other + (slots - 2) * other**2
        for weight in earlier:
            torch.testing.assert_close(weight, torch.full_like(weight, expected), rtol=1e-9, atol=0)
        leak = float((embedding + sum(earlier) + (1 - latest).abs()).max())
        bound = leak_bound(slots, boundary, gap)
        assert leak <= bound * (1 + 1e-9) + 1e-15
        assert leak > 0.9 * bound or gap < 6
        # And so of the states themselves.
        states = [records[0].input, *(earlier.output for earlier in records[: boundary + 1])]
        largest = torch.stack([state.norm(dim=-1) for state in states]).amax(0)
        difference = (following.input - record.output).norm(dim=-1)
        assert (difference <= bound * largest * (1 + 1e-9) + 1e-13 * largest).all()


@pytest.mark.parametrize(("family", "layout"), cases(*LAYOUTS))
def test_logits_come_closer_to_those_without_mesh_as_the_gap_widens(family: str, layout: str) -> None:
    model = pretrained(family)
    base = logits_of(loopway.retrofit_model(model, layout=layout), random_ids())
    gaps = [4.0, 8.0, 12.0, 16.0, 24.0]
    differences = [relative(logits_of(with_mesh(model, layout, gap), random_ids()), base) for gap in gaps]
    # The norms of all families but GPT-NeoX are computed in float32, also in float64 models.
    rounding = 1e-10 if family == "gpt_neox" else 1e-5
    assert all(wider < max(narrower / 5, rounding) for narrower, wider in itertools.pairwise(differences))
    assert differences[2] < 1e-3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("family", FAMILIES)
def test_mesh_between_a_models_own_layers_leaves_its_logits_within_a_thousandth(
    family: str, dtype: torch.dtype
) -> None:
    model = pretrained(family, depth=12, dtype=dtype)
    for layout in ("2+4+4+2", "1+1+1+1+1+1+1+1+1+1+1+1"):
        grafted = with_mesh(model, layout)
        assert relative(logits_of(grafted, random_ids()), logits_of(model, random_ids())) < 1e-3


def test_in_half_precision_the_start_is_lost_in_the_rounding() -> None:
    model = pretrained(dtype=torch.bfloat16)
    base = logits_of(loopway.retrofit_model(model, layout="1+2R2+1"), random_ids()).float()
    exact = logits_of(loopway.retrofit_model(model.float(), layout="1+2R2+1"), random_ids())
    mesh = logits_of(with_mesh(model.bfloat16(), "1+2R2+1"), random_ids()).float()
    assert relative(mesh, base) <= relative(base, exact)


def test_the_widest_gap_gives_the_same_bits_and_routers_that_cannot_learn() -> None:
    model = pretrained(dtype=torch.float32)
    mesh = with_mesh(model, "1+2R2+1", 110.0)
    base = loopway.retrofit_model(model, layout="1+2R2+1")
    assert torch.equal(logits_of(mesh, random_ids()), logits_of(base, random_ids()))
    assert measure_start(mesh, random_ids()).gradient_norm == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_routers_gradient_shrinks_with_e_to_the_gap(family: str) -> None:
    model = pretrained(family)
    norms = [
        measure_start(with_mesh(model, "1+2R2+1", gap), random_ids()).gradient_norm for gap in (10.0, 14.0)
    ]
    assert norms[0] / norms[1] == pytest.approx(math.exp(4), rel=0.05)


def test_what_is_measured_is_what_it_says_and_the_model_is_left_as_it_is() -> None:
    model = with_mesh(pretrained(), "1+2R2+1", 5.0)
    base = loopway.retrofit_model(pretrained(), layout="1+2R2+1")
    ids = random_ids()
    before = logits_of(model, ids)
    report = measure_start(model, ids)
    assert torch.equal(logits_of(model, ids), before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert report.tokens == ids.numel()
    assert report.logits == pytest.approx(relative(before, logits_of(base, ids)), rel=1e-9)
    assert 0.9 * leak_bound(5, 2, 5.0) < report.leak <= leak_bound(5, 2, 5.0)
    model(ids, labels=ids).loss.backward()
    routers = find_stack(model).recurrence.parameters()
    norm = torch.stack([parameter.grad.norm() for parameter in routers]).norm()  # type: ignore[union-attr]
    assert report.gradient_norm == pytest.approx(float(norm), rel=1e-9)


def test_a_slot_for_every_boundary_is_enough_and_one_fewer_is_refused() -> None:
    model = pretrained()  # 1+2R2+1 has three boundaries
    base = logits_of(loopway.retrofit_model(model, layout="1+2R2+1"), random_ids())
    enough = with_mesh(model, "1+2R2+1", num_slots=4)
    assert relative(logits_of(enough, random_ids()), base) < 1e-3
    with pytest.raises(loopway.LoopwayError, match=r"num_slots is 3, and .* MeSH needs 4"):
        with_mesh(model, "1+2R2+1", num_slots=3)
    with_mesh(model, "1+2R2+1", num_slots=3, start_at_base=False)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_gap_that_is_not_given_keeps_the_leaks_together_within_a_ten_thousandth(layout: str) -> None:
    model = with_mesh(pretrained(), layout)
    with torch.no_grad(), loopway.trace_stages(model) as records:
        model(random_ids())
    leaks = [
        float((2 - 2 * record.weights[..., -1] + record.weights.sum(-1) - 1).max())
        for record in records[:-1]
        if record.weights is not None
    ]
    assert 2e-5 < sum(leaks) < 1e-4


def test_routers_start_at_random_where_that_is_asked_for() -> None:
    torch.manual_seed(0)
    recurrence = find_stack(with_mesh(pretrained(), "1+2R2+1", start_at_base=False)).recurrence
    assert all(router.weight.std() > 0.01 for router in recurrence.write_routers)  # type: ignore[union-attr]


def test_with_fewer_slots_no_routing_is_base_recursion() -> None:
    """The best that any write and read weights do, found by descent, stays far from it."""
    torch.manual_seed(0)

    def best(slots: int, boundaries: int) -> float:
        logits = torch.randn(32, 2, boundaries, slots, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([logits], lr=0.1)
        target = torch.cat([torch.zeros(boundaries, 1), torch.eye(boundaries)], dim=1).double()
        for _ in range(1500):
            write, read = logits.softmax(-1).unbind(1)
            mixed = torch.cat([read[..., :1], (read @ write.mT).tril()], dim=-1)
            errors = (mixed - target).abs().sum((-1, -2))
            optimizer.zero_grad()
            errors.sum().backward()
            optimizer.step()
        return errors.min().item()

    assert best(4, 3) < 0.01
    assert best(3, 3) > 0.9


@pytest.mark.parametrize("gap", [0.0, -1.0, math.inf, math.nan])
def test_a_gap_that_is_none_is_refused(gap: float) -> None:
    with pytest.raises(loopway.LoopwayError, match=r"router_gap: got .*, expected a number above 0"):
        with_mesh(pretrained(), "1+2R2+1", gap)


def test_other_recurrences_have_no_routers_to_measure() -> None:
    with pytest.raises(loopway.LoopwayError, match="only MeSH has routers, not Base"):
        measure_start(loopway.retrofit_model(pretrained(), layout="1+2R2+1"), random_ids())

"""What probes collect over samples is what the records of single samples say."""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_models import VOCABULARY, small_batch, small_model

import loopway
from loopway.layout import Layout
from loopway.modeling.stack import StageRecord, find_stack
from loopway.probing.loops import probe_loops
from loopway.traces.findings import Spread
from loopway.traces.measures import relative_update
from loopway.traces.reading import traced
from loopway.traces.routers import RouterProbe, TokenGroups, has_routers
from loopway.traces.spread import RunningSpread
from loopway.traces.states import StateProbe


def traced_once(model, batch) -> Any:
    """Records whose routing isn't None for a type checker."""
    with torch.no_grad(), loopway.trace_stages(model) as records:
        model(batch["input_ids"])
    return records


def probed_states(model, batches, cut=None):
    probe = None
    for _, records in traced(model, batches, cut):
        probe = probe or StateProbe([record.stage for record in records])
        probe.add(records)
    assert probe is not None
    return probe.result()


def test_a_running_spread_is_that_of_all_values_at_once_and_leaves_nan_out() -> None:
    values = torch.randn(50, 3, 4, dtype=torch.float64) * 1e-3 + 1e3
    values[7, 1, 1] = values[8, 1, 1] = torch.nan
    values[:, 2, 2] = torch.nan
    running = RunningSpread()
    for value in values:
        running.add(value)
    found = running.spread()
    with np.errstate(all="ignore"), pytest.warns(RuntimeWarning):
        mean, std = np.nanmean(values.numpy(), 0), np.nanstd(values.numpy(), 0)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(found.std, std, rtol=1e-6)
    assert np.isnan(found.mean[2, 2]) and np.isnan(found.std[2, 2])


def assert_same(found: Spread, expected: Spread) -> None:
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.std, expected.std, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize(
    ("layout", "recurrence"), [("1+1R2+1", "mesh"), ("1+2R3+1", "anchor"), ("2R2", "base"), ("1+1+1", "mesh")]
)
def test_state_probes_have_a_value_for_every_stage_and_state_of_any_layout(
    layout: str, recurrence: str
) -> None:
    model, batch = small_model(layout, recurrence), small_batch()
    found = probed_states(model, [batch])
    stages = Layout.parse(layout).stages
    assert found.stages == [stage.name for stage in stages]
    assert found.states[0] == "h_emb" and found.states[-1] == "h_out" and len(found.states) == len(stages) + 1
    records = traced_once(model, batch)
    updates = np.array([[relative_update(r.input[n], r.output[n]).item() for r in records] for n in range(3)])
    assert_same(found.relative_update, Spread(updates.mean(0), updates.std(0)))
    assert found.cka.mean.shape == (len(stages) + 1,) * 2
    assert found.spectrum.mean.shape == (len(stages) + 1, 12)  # a sample has 12 tokens
    np.testing.assert_allclose(found.spectrum.mean[:, 0], 1)
    looped = Layout.parse(layout).is_looped
    assert (found.balance is not None) == (found.stagnation is not None) == looped
    assert found.looped == [stage.name.startswith("core") for stage in stages]


def test_a_model_that_is_read_in_part_is_as_it_was() -> None:
    model, batches = small_model("4", "base"), [small_batch(), small_batch()]
    stack = find_stack(model)
    before = dict(vars(stack))
    reading = traced(model, batches, "1+1R2+1")
    next(reading)
    assert vars(stack) == before and torch.is_grad_enabled()


def test_a_probe_leaves_the_number_of_threads_as_it_was() -> None:
    torch.set_num_threads(2)
    try:
        probed_states(small_model(), [small_batch()])
        with ThreadPoolExecutor(1) as pool:
            assert torch.get_num_threads() == pool.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(1)


def test_batches_don_t_matter() -> None:
    model, batch = small_model(), small_batch(4)
    one_by_one = [{name: value[n : n + 1] for name, value in batch.items()} for n in range(4)]
    together, apart = probed_states(model, [batch]), probed_states(model, one_by_one)
    for name in ("relative_update", "cka", "spectrum", "balance", "stagnation", "effective_rank"):
        assert_same(getattr(together, name), getattr(apart, name))


def test_stagnation_is_the_similarity_of_neighbours_in_the_loop() -> None:
    found = probed_states(small_model("1+1R3+1", "base"), [small_batch()])
    assert found.states == ["h_emb", "h(0)", "h(1)", "h(2)", "h(3)", "h_out"]
    assert found.stagnation is not None
    neighbours = [found.cka.mean[state, state + 1] for state in (1, 2, 3)]
    assert found.stagnation.mean == pytest.approx(np.mean(neighbours))


def test_a_loop_that_does_nothing_is_seen_as_such() -> None:
    model = small_model("1+1R3+1", "base")
    stack = find_stack(model)
    with torch.no_grad():
        for name, parameter in stack.layers[1].named_parameters():
            if "dense" in name:
                parameter.mul_(1e-9)
    found = probed_states(model, [small_batch()])
    assert (found.relative_update.mean[1:4] < 1e-6).all()
    assert found.stagnation is not None and found.stagnation.mean == pytest.approx(1, abs=1e-6)


def test_a_vanilla_model_is_probed_as_the_blocks_of_another_layout() -> None:
    model, batch = small_model("5", "base"), small_batch()
    found = probed_states(model, [batch], "1+1R3+1")
    assert found.stages == ["prelude", "core[0]", "core[1]", "core[2]", "coda"]
    assert found.balance is not None
    with torch.no_grad():
        hidden = model(batch["input_ids"], output_hidden_states=True).hidden_states
    expected = np.mean([relative_update(hidden[2][n], hidden[3][n]).item() for n in range(3)])
    assert found.relative_update.mean[2] == pytest.approx(expected)


def probed_routers(model, batch, counts=None) -> tuple[Any, Any]:
    ((_, records),) = traced(model, [batch])
    assert has_routers(records)
    counts = np.bincount(batch["input_ids"].flatten(), minlength=VOCABULARY) if counts is None else counts
    probe = RouterProbe(
        [record.stage for record in records], batch["input_ids"].shape[1], TokenGroups(counts)
    )
    probe.add(records, batch["input_ids"])
    return probe.result(), records


def test_router_probes_are_means_over_tokens() -> None:
    model, batch = small_model("1+1R2+1"), small_batch(3, 12)
    found, records = probed_routers(model, batch)
    assert found.boundaries == ["after prelude", "after core[0]", "after core[1]"]
    assert found.sources == ["h_emb", "prelude", "core[0]", "core[1]"]
    for boundary, record in enumerate(records[:-1]):
        np.testing.assert_allclose(found.write.mean[boundary], record.write.mean((0, 1)))
        np.testing.assert_allclose(found.read.mean[boundary], record.read.mean((0, 1)))
        np.testing.assert_allclose(found.mixing.mean[boundary, : boundary + 2], record.weights.mean((0, 1)))
        assert np.isnan(found.mixing.mean[boundary, boundary + 2 :]).all()
        entropies = -(record.write * record.write.log()).sum(-1)
        assert found.write_entropy.mean[boundary] == pytest.approx(entropies.mean().item())
        assert 0 < found.read_entropy.mean[boundary] <= math.log(5)
    np.testing.assert_allclose(found.flow.mean.sum(1), np.nansum(found.mixing.mean, axis=1))


def test_each_token_s_mixing_weights_are_those_of_its_routers() -> None:
    model, batch = small_model("1+1R2+1"), small_batch(3, 12)
    found, records = probed_routers(model, batch)
    assert found.token_ids.tolist() == batch["input_ids"][0].tolist()
    for boundary, record in enumerate(records[:-1]):
        np.testing.assert_array_equal(found.mixing_by_token[:, boundary, : boundary + 2], record.weights[0])
        assert np.isnan(found.mixing_by_token[:, boundary, boundary + 2 :]).all()
    alone, _ = probed_routers(model, {name: values[:1] for name, values in batch.items()})
    np.testing.assert_allclose(alone.mixing_by_token.mean(0), alone.mixing.mean)


def test_a_token_reads_what_its_router_is_set_to_read() -> None:
    """Each token id writes to slot 1 or 2, and everything is read from slot 1: a(t, s) is 1 for those that wrote there."""
    write = torch.tensor([[0.0, 1, 0], [0, 0, 1]])[torch.tensor([[0, 1, 0]])].double()
    read = torch.tensor([0.0, 1, 0]).expand(1, 3, 3).double()
    stages = Layout.parse("1+1R2+1").stages
    boundaries = [
        StageRecord(
            stage,
            read,
            read,
            write,
            read,
            torch.cat([torch.zeros(1, 3, 1), write[..., 1:2].expand(1, 3, n)], -1),
        )
        for n, stage in enumerate(stages[:-1], 1)
    ]
    probe = RouterProbe(stages, 3, TokenGroups(np.array([2, 1])))
    probe.add([*boundaries, StageRecord(stages[-1], read, read, None, None, None)], torch.tensor([[0, 1, 0]]))
    found = probe.result()
    assert found.mixing_by_token[0, 2].tolist() == [0, 1, 1, 1] and found.mixing_by_token[1, 2].tolist() == [
        0,
        0,
        0,
        0,
    ]


@pytest.mark.parametrize(("layout", "length", "kept"), [("1+1R2+1", 300, 200), ("1+1R30+1", 50, 18)])
def test_so_many_tokens_are_kept_one_by_one_as_a_page_bears(layout: str, length: int, kept: int) -> None:
    found, _ = probed_routers(small_model(layout), small_batch(2, length))
    assert found.mixing_by_token.shape == (kept, len(found.boundaries), len(found.sources))
    assert len(found.token_ids) == kept


def test_what_flows_through_the_slots_is_what_a_buffer_would_give() -> None:
    model, batch = small_model("1+1R2+1"), small_batch(2, 5)
    found, records = probed_routers(model, batch)
    held = torch.zeros(2, 5, 5, dtype=torch.float64)
    held[..., 0] = 1
    for boundary, record in enumerate(records[:-1]):
        held = held + record.write
        np.testing.assert_allclose(found.flow.mean[boundary], (record.read * held).mean((0, 1)))


def test_a_slot_that_is_never_read_is_named() -> None:
    model = small_model("1+1R2+1")
    with torch.no_grad():
        for router in find_stack(model).recurrence.get_submodule("read_routers").children():
            router.get_parameter("bias")[3] = -30
    found, _ = probed_routers(model, small_batch())
    assert found.unused_slots == [3]
    assert probed_routers(small_model("1+1R2+1"), small_batch())[0].unused_slots == []


def test_mixing_by_position_and_by_frequency_are_means_over_those_tokens() -> None:
    model, batch = small_model("1+1R2+1"), small_batch(4, 13)
    found, records = probed_routers(model, batch)
    assert found.positions.tolist() == [0, 1, 2, 4, 8]
    weights = records[1].weights  # [batch, seq, 3]
    for group, (first, end) in enumerate([(0, 1), (1, 2), (2, 4), (4, 8), (8, 13)]):
        np.testing.assert_allclose(
            found.mixing_by_position[group, 1, :3], weights[:, first:end].mean((0, 1)), rtol=1e-9
        )
    ids = batch["input_ids"]
    groups = TokenGroups(np.bincount(ids.flatten(), minlength=VOCABULARY))
    of_token = torch.from_numpy(groups.of_token)[ids]
    for group in range(10):
        chosen = weights[of_token == group]
        if len(chosen):
            np.testing.assert_allclose(found.mixing_by_frequency[group, 1, :3], chosen.mean(0), rtol=1e-9)
        else:
            assert np.isnan(found.mixing_by_frequency[group]).all()


def test_groups_go_from_frequent_to_rare_and_share_the_text() -> None:
    counts = np.random.default_rng(0).zipf(1.3, 500).clip(max=300)
    groups = TokenGroups(counts)
    shares = np.bincount(groups.of_token, weights=counts, minlength=10) / counts.sum()
    assert shares.min() > 0.05 and shares.max() < 0.15
    assert (np.diff(groups.least) <= 0).all()
    for group in range(9):
        assert counts[groups.of_token == group].min() >= counts[groups.of_token == group + 1].max()


def test_a_recurrence_without_routers_has_none() -> None:
    ((_, records),) = traced(small_model("1+1R2+1", "anchor"), [small_batch()])
    assert not has_routers(records)
    ((_, records),) = traced(small_model("4", "base"), [small_batch()])
    assert not has_routers(records)


def losses_of(model, batch) -> torch.Tensor:
    with torch.no_grad():
        logits = model(batch["input_ids"]).logits
    losses = F.cross_entropy(logits.flatten(0, 1), batch["shift_labels"].flatten(), reduction="none")
    return losses.view(len(logits), -1).mean(1)


def test_the_loss_with_more_or_fewer_loops_is_that_of_the_model_with_so_many() -> None:
    """Of a naive recursion, whose weights fit any number of loops."""
    batch = small_batch(4)
    model = small_model("1+1R2+1", "base")
    (found,) = probe_loops(model, [batch])
    whole = losses_of(model, batch)
    assert found.loss == pytest.approx(whole.mean().item()) and found.samples == 4
    assert (found.segment, found.trained_loops) == ("core", 2)
    assert [change.loops for change in found.by_loops] == [0, 1, 2, 3, 4]
    assert found.without_write == []
    for change in found.by_loops[1:]:
        other = (
            small_model(f"1+1R{change.loops}+1", "base")
            if change.loops != 1
            else small_model("1+1+1", "base")
        )
        other.load_state_dict(model.state_dict())
        losses = losses_of(other, batch)
        assert change.loss == pytest.approx(losses.mean().item())
        differences = losses - whole
        assert change.difference == pytest.approx(differences.mean().item(), abs=1e-12)
        assert change.error == pytest.approx(differences.std().item() / 2, abs=1e-12)
    assert found.by_loops[2].difference == found.by_loops[2].error == 0


def test_after_each_loop_the_coda_reads_what_that_loop_hands_on() -> None:
    model, batch = small_model("1+1R3+1", "mesh"), small_batch(2)
    (found,) = probe_loops(model, [batch])
    records = traced_once(model, batch)
    stack, coda = find_stack(model), records[-1].stage
    for loops in range(3):
        # The coda's layer on h(loops), which stands at the input of stage loops + 1.
        first, last = stack.layers[0], stack.layers[coda.layers[0]]
        state = records[loops + 1].input

        def hand_over(module, args, kwargs, state=state):
            return (state, *args[1:]), kwargs

        handle = last.register_forward_pre_hook(hand_over, with_kwargs=True)
        assert first is not last
        expected = losses_of(model, batch).mean().item()
        handle.remove()
        assert found.by_loops[loops].loss == pytest.approx(expected)


def test_the_losses_by_loops_are_the_layouts_whatever_the_configs_loops() -> None:
    model, batch = small_model("1+1R3+1", "mesh"), small_batch(2)
    expected = probe_loops(model, [batch])
    model.config.loops = 5
    assert probe_loops(model, [batch]) == expected


def test_a_withheld_write_leaves_the_mix_without_it() -> None:
    model, batch = small_model("1+1R2+1", "mesh"), small_batch(2)
    (found,) = probe_loops(model, [batch])
    assert [change.change for change in found.without_write] == ["without core[0]", "without core[1]"]
    records = traced_once(model, batch)
    # Without what core[1] wrote, the coda reads the other states with the same weights.
    states = [records[0].input, records[0].output, records[1].output]
    weights = records[2].weights
    mixed = sum(weights[..., n : n + 1] * state for n, state in enumerate(states))
    coda = find_stack(model).layers[2]
    handle = coda.register_forward_pre_hook(lambda m, args: (mixed, *args[1:]))
    expected = losses_of(model, batch).mean().item()
    handle.remove()
    assert found.without_write[1].loss == pytest.approx(expected)
    assert found.without_write[1].difference != 0


@pytest.mark.parametrize("layout", ["2R2", "1+1R3", "1R2+1R2+1", "1R3+1"])
@pytest.mark.parametrize("recurrence", ["base", "anchor", "static", "dynamic", "mesh"])
def test_loops_of_any_layout_can_be_changed_and_nothing_stays_changed(layout: str, recurrence: str) -> None:
    model, batch = small_model(layout, recurrence), small_batch(2)
    before = losses_of(model, batch)
    found = probe_loops(model, [batch])
    assert len(found) == layout.count("R")
    for segment in found:
        assert all(math.isfinite(change.loss) for change in (*segment.by_loops, *segment.without_write))
    assert torch.equal(losses_of(model, batch), before)
    assert "advance" not in vars(find_stack(model).recurrence)


def test_a_model_without_loops_has_no_loops_to_probe() -> None:
    assert probe_loops(small_model("1+2+1", "mesh"), [small_batch()]) == []

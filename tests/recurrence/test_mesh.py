"""MeSH: the factored highway equals the buffer, forward and backward, and never builds it."""

from itertools import pairwise

import pytest
import torch
from buffer_mesh import BufferMeSH
from hypothesis import given, settings
from hypothesis import strategies as st
from running import build, random_blocks, randomize, run_stages
from torch import Tensor

from loopway import Layout, RecurrenceOptions
from loopway.errors import RecurrenceError
from loopway.layout import Segment
from loopway.recurrence.mesh import MeSH, over_slots

segments = st.builds(Segment, layers=st.just(1), loops=st.integers(1, 6))
layouts = (
    st.lists(segments, min_size=1, max_size=4)
    .map(lambda parts: Layout(tuple(parts)))
    .filter(lambda layout: layout.num_boundaries > 0)
)


@settings(max_examples=60)
@given(layout=layouts, num_slots=st.integers(1, 12), seed=st.integers(0, 2**31))
def test_the_factored_highway_equals_the_buffer(layout: Layout, num_slots: int, seed: int) -> None:
    hidden_size = 6
    generator = torch.Generator().manual_seed(seed)
    factored = build("mesh", layout, hidden_size, num_slots=num_slots)
    randomize(factored, generator)
    buffer = BufferMeSH(layout, hidden_size, num_slots).double()
    buffer.load_state_dict(factored.state_dict())
    blocks = random_blocks(layout, hidden_size, generator)
    embeddings = torch.randn(2, 3, hidden_size, generator=generator, dtype=torch.float64)
    cotangent = torch.randn(2, 3, hidden_size, generator=generator, dtype=torch.float64)

    results = []
    for recurrence in (factored, buffer):
        leaves = [embeddings.clone().requires_grad_(), blocks.clone().requires_grad_()]
        stages = run_stages(recurrence, layout, *leaves)
        parameters = [parameter for _, parameter in sorted(recurrence.named_parameters())]
        grads = torch.autograd.grad((stages.outputs[-1] * cotangent).sum(), [*leaves, *parameters])
        results.append([*stages.inputs, *stages.outputs, *grads])
    for ours, reference in zip(*results, strict=True):
        scale = max(1.0, reference.abs().max().item())
        torch.testing.assert_close(ours / scale, reference / scale, rtol=0.0, atol=1e-10)


def fresh_mesh(layout: Layout, hidden_size: int) -> MeSH:
    mesh = MeSH(RecurrenceOptions(layout, hidden_size))
    mesh.reset_parameters()
    return mesh


def saved_for_backward(mesh: MeSH, layout: Layout, embeddings: Tensor) -> dict[int, Tensor]:
    """Storages that autograd keeps for the boundaries alone; the stages' outputs are given."""
    outputs = [torch.randn_like(embeddings, requires_grad=True) for _ in range(layout.num_boundaries)]
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden, state = embeddings, mesh.start(embeddings)
        for step, output in enumerate(outputs):
            hidden, state = mesh.advance(state, step, hidden, output)
    known = {tensor.untyped_storage().data_ptr() for tensor in mesh.parameters()}
    return {pointer: tensor for pointer, tensor in saved.items() if pointer not in known}


@pytest.mark.parametrize("loops", [2, 4, 6])
def test_backward_keeps_states_and_router_scalars_and_never_the_buffer(loops: int) -> None:
    layout, hidden_size, tokens = Layout.parse(f"1+1R{loops}+1"), 512, 8
    mesh = fresh_mesh(layout, hidden_size).double()
    state_size = tokens * hidden_size
    embeddings = torch.randn(1, tokens, hidden_size, dtype=torch.float64, requires_grad=True)
    saved = list(saved_for_backward(mesh, layout, embeddings).values())

    assert max(tensor.untyped_storage().nbytes() // 8 for tensor in saved) <= state_size
    # h_emb, and per boundary the block's output and the mix that the next block and its routers read.
    whole_states = sum(tensor.numel() == state_size for tensor in saved)
    assert whole_states == 1 + layout.num_boundaries + (layout.num_boundaries - 1)
    scalars = sum(tensor.numel() for tensor in saved if tensor.numel() != state_size)
    boundaries, slots = layout.num_boundaries, mesh.num_slots
    assert scalars <= tokens * boundaries * (4 * slots + boundaries * (slots + 2))


def test_saved_memory_grows_by_one_output_a_boundary_beyond_what_the_next_stage_reads() -> None:
    hidden_size, tokens = 2048, 4
    sizes = []
    for loops in (2, 3, 4, 5):
        layout = Layout.parse(f"1+1R{loops}+1")
        mesh = fresh_mesh(layout, hidden_size)
        embeddings = torch.randn(1, tokens, hidden_size, requires_grad=True)
        saved = saved_for_backward(mesh, layout, embeddings)
        sizes.append(sum(tensor.untyped_storage().nbytes() for tensor in saved.values()))
    state_bytes = tokens * hidden_size * 4
    growth = [(after - before) / state_bytes for before, after in pairwise(sizes)]
    assert growth == pytest.approx([2, 2, 2], abs=0.1)  # the mix, which base keeps as well, and the output


@pytest.mark.parametrize(("layout", "slots"), [("1+1R2+1", 5), ("1+1R3+1", 6), ("1+1+1+1", 5), ("2R2", 3)])
def test_the_default_number_of_slots_is_boundaries_plus_two(layout: str, slots: int) -> None:
    mesh = build("mesh", layout, 4)
    assert mesh.num_slots == slots
    assert mesh.get_parameter("write_routers.0.weight").shape == (slots, 4)


def test_routers_are_plain_linear_maps_so_that_adapters_fit() -> None:
    """LoRA adds to what a linear map returns: a softmax inside it would come before the addition."""
    mesh = build("mesh", "1+1R2+1", 4)
    for router in (
        *mesh.get_submodule("write_routers").children(),
        *mesh.get_submodule("read_routers").children(),
    ):
        assert type(router) is torch.nn.Linear


def test_every_boundary_has_routers_of_its_own() -> None:
    mesh = build("mesh", "1+1R3+1", 4)
    pointers = {parameter.data_ptr() for parameter in mesh.parameters()}
    assert len(pointers) == len(list(mesh.parameters())) == 4 * 2 * 2  # (K + 1) pairs of weight and bias


def test_routers_start_near_uniform() -> None:
    mesh = build("mesh", "1+1R3+1", 2048, initializer_range=0.02)
    for name, parameter in mesh.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all()
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("sees", ["embedding", "prelude"])
def test_the_transitional_cycles_routers_see_what_the_option_says(sees: str) -> None:
    mesh = build("mesh", "1+1R2+1", 4, transition_router_input=sees)
    randomize(mesh, torch.Generator().manual_seed(0))
    embeddings, output = torch.randn(2, 1, 3, 4, dtype=torch.float64)
    _, state = mesh.advance(mesh.start(embeddings), 0, embeddings, output)
    seen = embeddings if sees == "embedding" else output
    for kind in ("write", "read"):
        expected = over_slots(mesh.get_submodule(f"{kind}_routers.0")(seen))
        torch.testing.assert_close(mesh.routing(state)[kind], expected, rtol=0.0, atol=0.0)
    # Later boundaries see the stage's input either way.
    _, state = mesh.advance(state, 1, embeddings, output)
    expected = over_slots(mesh.get_submodule("write_routers.1")(embeddings))
    torch.testing.assert_close(mesh.routing(state)["write"], expected, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_normalised_in_float32(dtype: torch.dtype) -> None:
    mesh = build("mesh", "1+1R2+1", 16, num_slots=12).to(dtype)
    randomize(mesh, torch.Generator().manual_seed(0))
    hidden = torch.randn(5, 16).to(dtype)
    _, state = mesh.advance(mesh.start(hidden), 0, hidden, hidden)
    weights = mesh.routing(state)["write"]
    assert weights.dtype == torch.float32
    logits = mesh.get_submodule("write_routers.0")(hidden)
    torch.testing.assert_close(weights, logits.float().softmax(-1), rtol=0.0, atol=0.0)
    torch.testing.assert_close(weights.sum(-1), torch.ones(5), rtol=0.0, atol=1e-6)


def test_double_precision_stays_double() -> None:
    assert over_slots(torch.randn(2, 4, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_next_state_has_the_type_of_the_stages(dtype: torch.dtype) -> None:
    mesh = build("mesh", "1+1R2+1", 8).to(dtype)
    embeddings, output = torch.randn(2, 1, 3, 8).to(dtype)
    mixed, _ = mesh.advance(mesh.start(embeddings), 0, embeddings, output)
    assert mixed.dtype == dtype


@pytest.mark.parametrize("num_slots", [0, -3])
def test_a_buffer_without_slots_is_refused(num_slots: int) -> None:
    with pytest.raises(RecurrenceError, match=rf"num_slots is {num_slots}; it must be at least 1, or None"):
        build("mesh", "1+1R2+1", 4, num_slots=num_slots)


def test_an_unknown_router_input_is_refused() -> None:
    with pytest.raises(RecurrenceError, match="'output'; it must be 'embedding' or 'prelude'"):
        build("mesh", "1+1R2+1", 4, transition_router_input="output")


def test_the_prelude_switch_needs_a_prelude() -> None:
    with pytest.raises(RecurrenceError, match=r"2R2\+1 begins with a loop: use 'embedding'"):
        build("mesh", "2R2+1", 4, transition_router_input="prelude")

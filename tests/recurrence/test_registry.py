"""Recurrences by name: errors that help, and recurrences of one's own."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from running import build
from torch import Tensor, nn

import loopway
from loopway.errors import LayoutError, RecurrenceError
from loopway.recurrence import registry


@pytest.fixture(autouse=True)
def clean_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(registry, "_RECURRENCES", dict(registry._RECURRENCES))
    yield


class Halving(loopway.Recurrence):
    """h(t+1) = gain · h_m(t), a user's own rule with a parameter."""

    needs_loop = True

    def __init__(self, options: loopway.RecurrenceOptions) -> None:
        super().__init__(options)
        self.gain = nn.Parameter(torch.empty(options.layout.num_boundaries))

    def reset_parameters(self) -> None:
        nn.init.constant_(self.gain, 0.5)

    def start(self, embeddings: Tensor) -> int:
        return 0

    def advance(self, state: int, step: int, stage_input: Tensor, stage_output: Tensor) -> tuple[Tensor, Any]:
        return self.gain[step] * stage_output, state + 1


@pytest.mark.parametrize(
    ("given", "meant"),
    [("mehs", "mesh"), ("Mesh", "mesh"), ("ancor", "anchor"), ("statik", "static"), ("bas", "base")],
)
def test_a_misspelt_name_is_answered_with_the_nearest(given: str, meant: str) -> None:
    with pytest.raises(RecurrenceError) as caught:
        build(given, "1+1R2+1", 4)
    message = str(caught.value)
    assert f"unknown recurrence {given!r} (did you mean {meant!r}?)" in message
    # Between them stands what other tests have registered.
    assert "known: base, static, dynamic, mesh, " in message and "residual, anchor, anchor" in message
    assert "register_recurrence" in message and "\n" not in message


@pytest.mark.parametrize("name", ["", "xyz", "base+anchor", "mesh+anchor", "anchor+anchor", "anchor+", "+"])
def test_what_is_no_recurrence_is_refused(name: str) -> None:
    with pytest.raises(RecurrenceError, match="unknown recurrence"):
        build(name, "1+1R2+1", 4)


def test_a_registered_recurrence_is_built_and_initialised() -> None:
    loopway.register_recurrence("halving", Halving)
    recurrence = build("halving", "1+1R2+1", 4)
    assert torch.equal(recurrence.get_parameter("gain"), torch.full((3,), 0.5, dtype=torch.float64))
    with pytest.raises(RecurrenceError, match=r"did you mean 'halving'\?"):
        build("halvin", "1+1R2+1", 4)


def test_a_registered_recurrence_that_needs_a_loop_is_held_to_it() -> None:
    loopway.register_recurrence("halving", Halving)
    with pytest.raises(LayoutError, match="'halving' needs a looped segment and layout 2"):
        build("halving", "2+2", 4)


def test_registering_again_replaces_so_that_a_notebook_cell_runs_twice() -> None:
    class Second(Halving):
        pass

    loopway.register_recurrence("halving", Halving)
    loopway.register_recurrence("halving", Second)
    assert type(build("halving", "1+1R2+1", 4)) is Second


@pytest.mark.parametrize("name", ["base", "mesh", "anchor", "anchor*", "my+rule", "", None])
def test_a_name_that_is_taken_or_reads_as_a_sum_is_refused(name: Any) -> None:
    with pytest.raises(RecurrenceError, match="can't be registered as"):
        loopway.register_recurrence(name, Halving)


@pytest.mark.parametrize("cls", [nn.Linear, Halving.advance, "Halving", None])
def test_only_recurrences_are_registered(cls: Any) -> None:
    with pytest.raises(RecurrenceError, match="is not a subclass of loopway"):
        loopway.register_recurrence("mine", cls)

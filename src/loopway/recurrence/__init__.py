"""Recurrences: rules that pass a state between stages. Knows tensors, nothing of Hugging Face."""

from loopway.recurrence.interface import Recurrence, RecurrenceOptions
from loopway.recurrence.mixing import mix_states
from loopway.recurrence.registry import build_recurrence, check_recurrence, register_recurrence

__all__ = [
    "Recurrence",
    "RecurrenceOptions",
    "build_recurrence",
    "check_recurrence",
    "mix_states",
    "register_recurrence",
]

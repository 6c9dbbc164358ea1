"""Separate random streams for recurrences: layers draw from torch's stream, a recurrence from another.

With equal seeds, models that differ only in their recurrence therefore start with equal layers. Knows nothing of what
the numbers are for.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def _derived_seed(name: str) -> int:
    """Return a seed derived from torch's current seed and a name."""
    digest = hashlib.sha256(f"{torch.initial_seed()} {name}".encode()).digest()
    return int.from_bytes(digest[:4], "big")  # torch's CPU generator uses 32 bits of a seed


def generator_for(name: str, device: torch.device) -> torch.Generator:
    """Return a generator seeded from torch's current seed and a parameter's name alone."""
    if device.type == "meta":  # weights are offloaded to disk: drawing has no effect
        device = torch.device("cpu")
    return torch.Generator(device).manual_seed(_derived_seed(name))


@contextmanager
def own_stream() -> Iterator[None]:
    """Seed torch's generators from the current seed and "recurrence" within the block; then restore them."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    seed = _derived_seed("recurrence")
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed_all(seed)
        yield

"""Several variants under matched compute, from one config to a table, figures and trained models."""

from loopway.comparison.run import Comparison, compare

__all__ = ["Comparison", "compare"]

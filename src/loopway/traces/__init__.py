"""Measure a model's states and routers stage by stage over samples. Knows nothing of runs and pages."""

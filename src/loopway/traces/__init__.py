"""States and routers of a model, measured stage by stage over samples. Knows nothing of runs and pages."""

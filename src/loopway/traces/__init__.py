"""What a model does inside, stage by stage: states and routers, measured over samples. Knows nothing of runs and pages."""

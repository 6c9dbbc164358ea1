from made_up import made_up_probes, spread  # noqa: F401

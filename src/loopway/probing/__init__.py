"""Probe recursive models: how loops share the work, whether states stagnate or collapse, how routers act.

Implements section 6 of the paper, and further probes. Knows models and held-out samples; nothing of training.
"""

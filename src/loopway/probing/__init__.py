"""Probes of recursive models: how the loops share the work, whether states stagnate or collapse, what routers do.

Knows models and held-out samples; nothing of how models were trained. Section 6 of the paper, and beyond it.
"""

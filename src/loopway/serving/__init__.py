"""Recursive models in inference engines. Nothing else in Loopway imports an engine."""

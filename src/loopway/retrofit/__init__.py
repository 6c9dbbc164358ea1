"""A pretrained decoder becomes a recursive model, and a recursive model a plain decoder again.

Knows models and texts; nothing of training.
"""

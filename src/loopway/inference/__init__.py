"""Trained models: open them, identify them, generate text and compute losses. Knows nothing of training."""

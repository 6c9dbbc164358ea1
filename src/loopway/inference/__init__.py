"""Trained models: opened from where they lie, told apart, asked for text and for losses. Knows nothing of training."""

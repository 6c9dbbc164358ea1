"""Text to token files. Knows nothing of samples and runs."""

"""Token files, read and written, and the samples that they hold. Knows nothing of text."""

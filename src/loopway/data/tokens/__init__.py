"""Read and write token files, and cut samples from them. Knows nothing of text."""

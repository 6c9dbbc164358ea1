"""One training run: a config file, Hugging Face's Trainer, a run folder."""

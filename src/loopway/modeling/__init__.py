"""Recursive models as native Hugging Face models. Everything that touches transformers' internals is in here."""

"""Several variants under matched compute, from one config to a table, figures and trained models."""

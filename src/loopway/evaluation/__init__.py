"""The paper's evaluation: perplexities and downstream tasks, through EleutherAI's lm-evaluation-harness.

Knows models and token files; nothing of how models were trained.
"""

"""Model folders that open elsewhere: with a model card, and without Loopway where the modelling code lies beside the weights."""

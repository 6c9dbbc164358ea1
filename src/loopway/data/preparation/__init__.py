"""Text to token files. Knows nothing of samples and runs. (`loopway.data.prepare` is its function: hence the name.)"""

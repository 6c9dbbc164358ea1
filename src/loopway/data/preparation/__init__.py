"""From text to token files. Knows nothing of samples and runs.

(The package isn't called `prepare`, since `loopway.data.prepare` is its main function.)
"""

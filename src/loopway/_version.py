"""The version, read by the build and by ``loopway --version``; imports nothing."""

__version__ = "0.1.0"

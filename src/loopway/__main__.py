"""``python -m loopway``."""

from loopway.cli import main

main()

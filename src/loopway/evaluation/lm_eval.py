"""lm-evaluation-harness's own command line, with the recursive families known: `python -m loopway.evaluation.lm_eval`.

The harness knows no plug-ins; importing anything of Loopway makes the families known. Every option and every task is its
own. Knows nothing else.
"""

from loopway.errors import ConfigError, exit_on_error


def main() -> None:
    """Run `lm_eval` with this program's arguments."""
    with exit_on_error():
        try:
            from lm_eval.__main__ import cli_evaluate
        except ImportError:
            raise ConfigError("lm-evaluation-harness isn't installed: pip install 'loopway[eval]'") from None
        cli_evaluate()


if __name__ == "__main__":
    main()

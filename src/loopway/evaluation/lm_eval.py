"""lm-evaluation-harness's command line with the recursive families: `python -m loopway.evaluation.lm_eval`.

Importing Loopway registers the families. All options and tasks are the harness's. Knows nothing else.
"""

from loopway.errors import ConfigError, exit_on_error


def main() -> None:
    """Run `lm_eval` with this program's arguments."""
    with exit_on_error():
        try:
            from lm_eval.__main__ import cli_evaluate
        except ImportError:
            raise ConfigError("lm-evaluation-harness isn't installed: pip install lm-eval") from None
        cli_evaluate()


if __name__ == "__main__":
    main()

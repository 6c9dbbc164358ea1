"""One run of a comparison, as a process of its own, so that its peak memory is its own.

``python -m loopway.comparison.worker CONFIG RUN_FOLDER DATA_FOLDER TITLE``. Knows nothing of the other variants; what
goes wrong is shown and told by the exit code, as on the command line.
"""

import sys

from loopway.errors import exit_on_error


def main() -> None:
    config, folder, data, title = sys.argv[1:]
    with exit_on_error():
        from loopway.training.run import train
        from loopway.training.run_config import RunConfig

        train(RunConfig.load(config), folder, data_folder=data, title=title)


if __name__ == "__main__":
    main()

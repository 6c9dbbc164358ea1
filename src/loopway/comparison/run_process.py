"""One run of a comparison in a separate process, which measures its own peak memory.

It ends with its parent process. Errors are printed and set the exit code, as on the command line. Knows nothing of the other
variants.
"""

import os
import sys
from pathlib import Path

from loopway.children import end_with
from loopway.errors import exit_on_error


def worker_command(config: Path, folder: Path, data: Path, title: str) -> list[str]:
    """Return the command that starts such a run.

    Args:
        config: YAML file of the run.
        folder: the run folder.
        data: folder of the prepared data.
        title: name on the progress bar.
    """
    module = ["-m", "loopway.comparison.run_process"]
    return [sys.executable, *module, str(os.getpid()), str(config), str(folder), str(data), title]


def main() -> None:
    parent, config, folder, data, title = sys.argv[1:]
    end_with(int(parent))
    with exit_on_error():
        from loopway.training.config.run_config import RunConfig
        from loopway.training.run import train

        train(RunConfig.load(config), folder, data_folder=data, title=title)


if __name__ == "__main__":
    main()

"""One run of a comparison in a process of its own, so that its peak memory is its own.

``python -m loopway.comparison.worker CONFIG RUN_FOLDER DATA_FOLDER TITLE``. Knows nothing of the other variants.
"""

import subprocess
import sys
from pathlib import Path

from loopway.errors import LoopwayError


def run_in_process(config: Path, folder: Path, data: Path, title: str) -> None:
    """Train the run of ``config`` in ``folder`` on the data prepared in ``data``; the terminal is shared.

    Raises:
        LoopwayError: the run failed; its own message has been shown.
        KeyboardInterrupt: it was interrupted.
    """
    command = [sys.executable, "-m", "loopway.comparison.worker", str(config), str(folder), str(data), title]
    with subprocess.Popen(command) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()  # it saves what it has
            raise
    if code == 130:
        raise KeyboardInterrupt
    if code == 128 + 15:
        sys.exit(code)
    if code:
        raise LoopwayError(f"{title}: training failed with exit code {code}; what was done is in {folder}")


def main() -> None:
    config, folder, data, title = sys.argv[1:]

    from loopway.training.run import train
    from loopway.training.run_config import RunConfig

    try:
        train(RunConfig.load(config), folder, data_folder=data, title=title)
    except LoopwayError as error:
        print(f"loopway: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()

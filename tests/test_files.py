"""Files that are whole or not there, and folders that one process has for itself."""

import os
from pathlib import Path

import pytest

from loopway.errors import ConfigError
from loopway.files import locked


def test_a_lock_is_held_once_and_never_by_a_forked_process(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    begun, ends = os.pipe(), os.pipe()
    with locked(path, "taken"):
        with pytest.raises(ConfigError, match="taken; wait for it"), locked(path, "taken"):
            pass
        child = os.fork()
        if child == 0:
            os.write(begun[1], b"x")
            os.close(ends[1])
            os.read(ends[0], 1)  # as long as this test goes on
            os._exit(0)
        os.read(begun[0], 1)
    try:
        with locked(path, "taken"):
            pass
    finally:
        os.close(ends[1])
        os.waitpid(child, 0)
        for descriptor in (*begun, ends[0]):
            os.close(descriptor)

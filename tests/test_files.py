"""Files that are whole or not there, and folders that one process has for itself."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from loopway.errors import ConfigError
from loopway.files import locked, write_json


def test_what_json_does_not_know_is_written_as_what_it_knows(tmp_path: Path) -> None:
    content = {
        "a": [float("nan"), -math.inf, 1.5],
        "b": np.array([[1.0, np.nan]]),
        "c": (np.int64(3), Path("d/e")),
    }
    write_json(tmp_path / "x.json", content)
    assert json.loads((tmp_path / "x.json").read_text()) == {
        "a": [None, None, 1.5],
        "b": [[1.0, None]],
        "c": [3, "d/e"],
    }


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

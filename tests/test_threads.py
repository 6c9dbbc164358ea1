"""Processes of the command line set how OpenMP's threads wait, unless the user has."""

import os
import subprocess
import sys

import pytest

from loopway.threads import BY_USER, WAITING, wait_without_spinning


def test_the_command_line_sets_it_before_torch_is_loaded() -> None:
    code = (
        "import os, sys, loopway.cli, loopway.threads\n"
        "assert 'torch' not in sys.modules\n"
        "set_it = loopway.threads.wait_without_spinning\n"
        "def main_sets_it():\n"
        "    assert 'torch' not in sys.modules\n"
        "    set_it()\n"
        "loopway.cli.wait_without_spinning = main_sets_it\n"
        "try: loopway.cli.main()\n"
        "finally: print({name: os.environ.get(name) for name in loopway.threads.WAITING})\n"
    )
    clean = {name: value for name, value in os.environ.items() if name not in BY_USER}
    done = subprocess.run(
        [sys.executable, "-c", code, "--version"], env=clean, capture_output=True, text=True
    )
    assert str(WAITING) in done.stdout, done.stderr


@pytest.mark.parametrize("name", BY_USER)
def test_the_users_own_setting_is_left(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for one in BY_USER:
        monkeypatch.delenv(one, raising=False)
    monkeypatch.setenv(name, "1")
    wait_without_spinning()
    assert {one: os.environ[one] for one in BY_USER if one in os.environ} == {name: "1"}

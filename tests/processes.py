"""Processes whose imports are done: forked from one that did nothing else. An interpreter of its own imports for 7 seconds.

Each is a process as any other: with its own memory, arguments, environment, group, signals and exit code.
"""

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Self

_SERVE = "from tests.processes import serve; serve()"
_IMPORTED = (
    "loopway.cli",
    "loopway.comparison.run",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "torch.utils.tensorboard",
    "transformers.models.gpt_neox.modeling_gpt_neox",
)


class Process:
    """A process that was begun by :class:`Processes`, with the methods of `subprocess.Popen`. A context that kills it."""

    def __init__(self, processes: "Processes", pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._processes = processes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def poll(self) -> int | None:
        """The exit code, negative after a signal; None while the process runs."""
        if self.returncode is None:
            self.returncode = self._processes.ask({"ended": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raises TimeoutError after so many seconds."""
        started = time.monotonic()
        while (code := self.poll()) is None:
            if timeout is not None and time.monotonic() - started > timeout:
                raise TimeoutError(f"process {self.pid} still runs after {timeout} s")
            time.sleep(0.02)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Processes:
    """Begins processes. The first one waits until the imports are done."""

    def __init__(self) -> None:
        self._ours: socket.socket | None = None
        self._server: subprocess.Popen | None = None

    def start(
        self,
        *arguments: object,
        script: Path | None = None,
        environment: Mapping[str, str] | None = None,
        output: Path | None = None,
        errors: Path | None = None,
    ) -> Process:
        """Run `loopway ARGUMENTS`, or `script ARGUMENTS`, in the working directory, as the leader of a process group.

        Args:
            arguments: of the command line.
            script: a Python file to run instead.
            environment: beside this process's own.
            output: file that standard output is appended to; None drops it.
            errors: likewise for standard error; perhaps the same file.
        """
        request = {
            "script": str(script) if script else None,
            "arguments": [str(argument) for argument in arguments],
            "environment": os.environ | (environment or {}),
            "directory": str(Path.cwd()),
            "output": str(output or os.devnull),
            "errors": str(errors or os.devnull),
        }
        return Process(self, self.ask({"start": request}))

    def start_workers(
        self, count: int, *arguments: object, errors: Sequence[Path], **options: Any
    ) -> list[Process]:
        """Begin `count` processes that are the workers of one run, as torchrun does, which would also end them itself."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            group = {
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(listener.getsockname()[1]),
                "WORLD_SIZE": str(count),
            }
        return [
            self.start(
                *arguments,
                environment=group | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                errors=errors[rank],
                **options,
            )
            for rank in range(count)
        ]

    def run_workers(self, count: int, *arguments: object, logs: Path, script: Path | None = None) -> str:
        """Wait for such workers; returns what they said on standard error, the first one's first.

        Raises:
            AssertionError: one of them failed, or was left waiting by another that did.
        """
        errors = [logs / f"worker-{rank}.txt" for rank in range(count)]
        for path in errors:
            path.unlink(missing_ok=True)
        workers = self.start_workers(count, *arguments, errors=errors, script=script)
        while any(worker.poll() is None for worker in workers) and not any(w.returncode for w in workers):
            time.sleep(0.02)
        for worker in workers:
            worker.kill()
        told = [path.read_text() for path in errors]
        assert not any(worker.wait() for worker in workers), "\n".join(text[-3000:] for text in told)
        return "".join(told)

    def ask(self, request: dict[str, Any]) -> Any:
        if self._ours is None:
            self._ours, theirs = socket.socketpair()
            path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
            self._server = subprocess.Popen(
                [sys.executable, "-c", _SERVE],
                stdin=theirs.fileno(),
                env=os.environ | {"PYTHONPATH": path},
            )
            theirs.close()
        self._ours.sendall(json.dumps(request).encode() + b"\n")
        return json.loads(_line_from(self._ours))

    def close(self) -> None:
        if self._ours is not None and self._server is not None:
            self._ours.close()
            self._server.wait()


def _line_from(connection: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        received = connection.recv(2**16)
        if not received:
            raise EOFError("the process that forks others has ended")
        line += received
    return line


def serve() -> None:
    """Fork a process for each request on standard input; in it, return from here only to run what was asked for."""
    for name in _IMPORTED:
        import_module(name)

    connection = socket.socket(fileno=os.dup(0))
    running: set[int] = set()
    while True:
        try:
            request = json.loads(_line_from(connection))
        except EOFError:
            break
        if "ended" in request:
            pid, status = os.waitpid(request["ended"], os.WNOHANG)
            running.discard(pid)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if not answer:
                connection.close()
                _become(**request["start"])
                return
            running.add(answer)
        connection.sendall(json.dumps(answer).encode() + b"\n")
    for pid in running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _become(
    script: str | None,
    arguments: list[str],
    environment: dict[str, str],
    directory: str,
    output: str,
    errors: str,
) -> None:
    os.setpgid(0, 0)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for number, path in ((0, os.devnull), (1, output), (2, errors)):
        opened = os.open(path, os.O_RDONLY if number == 0 else flags, 0o644)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    sys.argv = [script or "loopway", *arguments]
    if script:
        sys.path[0] = str(Path(script).parent)
        runpy.run_path(script, run_name="__main__")
    else:
        runpy.run_module("loopway", run_name="__main__")

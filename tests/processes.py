"""Processes whose imports are done: forked from one that did nothing else. An interpreter of its own imports for 7 seconds.

Each is a process as any other: with its own memory, arguments, environment, group, signals and exit code.
"""

import gc
import json
import os
import runpy
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from importlib import import_module
from pathlib import Path
from subprocess import STDOUT, Popen
from typing import Any, Self

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
        self._ours, self._theirs = socket.socketpair()

    @cached_property
    def server(self) -> Popen:
        path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
        environment = os.environ | {"PYTHONPATH": path}
        command = [sys.executable, "-c", "from tests.processes import serve; serve()"]
        with self._theirs:
            return Popen(command, stdin=self._theirs.fileno(), env=environment)

    def start(
        self,
        *arguments: object,
        script: Path | None = None,
        module: str = "loopway",
        environment: Mapping[str, str] | None = None,
        output: Path | int | None = None,
        errors: Path | int | None = None,
    ) -> Process:
        """Run `loopway ARGUMENTS` in the working directory, as the leader of a process group.

        Args:
            arguments: of the command line.
            script: a Python file to run instead.
            module: to run instead of `loopway`.
            environment: beside this process's own.
            output: file that standard output is appended to, or a descriptor; None drops it.
            errors: likewise for standard error; perhaps the same file.
        """
        request = {
            "script": str(script) if script else None,
            "module": module,
            "arguments": [str(argument) for argument in arguments],
            "environment": os.environ | (environment or {}),
            "directory": str(Path.cwd()),
        }
        with ExitStack() as opened:
            files = [
                each
                if isinstance(each, int)
                else opened.enter_context(Path(each or os.devnull).open("ab")).fileno()
                for each in (output, errors)
            ]
            return Process(self, self.ask({"start": request}, files))

    def popen(
        self,
        command: list[str],
        *,
        env: Mapping[str, str] | None = None,
        stdout: Any = 1,
        stderr: Any = 2,
        **_: Any,
    ) -> Process:
        """Stand in for `subprocess.Popen`, where the command is `python -m MODULE ARGUMENTS`."""
        python, option, module, *arguments = command
        assert (python, option) == (sys.executable, "-m"), command
        files = [each if isinstance(each, int) else each.fileno() for each in (stdout, stderr)]
        if files[1] == STDOUT:
            files[1] = files[0]
        beginner = str(self.server.pid)  # of whom a run of a comparison is told, to end with it
        arguments = [beginner if each == str(os.getpid()) else each for each in arguments]
        return self.start(*arguments, module=module, environment=env, output=files[0], errors=files[1])

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

    def run_workers(self, count: int, *arguments: object, logs: Path, **options: Any) -> str:
        """Wait for such workers; returns what they said on standard error, the first one's first.

        Raises:
            AssertionError: one of them failed, or was left waiting by another that did.
        """
        errors = [logs / f"worker-{rank}.log" for rank in range(count)]
        for path in errors:
            path.unlink(missing_ok=True)
        workers = self.start_workers(count, *arguments, errors=errors, **options)
        while any(worker.poll() is None for worker in workers) and not any(w.returncode for w in workers):
            time.sleep(0.02)
        for worker in workers:
            worker.kill()
        told = [path.read_text() for path in errors]
        assert not any(worker.wait() for worker in workers), "\n".join(text[-3000:] for text in told)
        return "".join(told)

    def ask(self, request: dict[str, Any], files: Sequence[int] = ()) -> Any:
        assert self.server.poll() is None
        socket.send_fds(self._ours, [json.dumps(request).encode() + b"\n"], files)
        return json.loads(_received(self._ours)[0])

    def close(self) -> None:
        """Kill what still runs."""
        self._ours.close()
        if "server" in vars(self):
            self.server.wait()


def _received(connection: socket.socket) -> tuple[bytes, list[int]]:
    """A line and the files that came with it; raises EOFError where the other end has closed."""
    line, files = b"", []
    while not line.endswith(b"\n"):
        received, descriptors, _, _ = socket.recv_fds(connection, 2**16, 2)
        if not received:
            raise EOFError("the other end has ended")
        line, files = line + received, files + descriptors
    return line, files


def serve() -> None:
    """Fork a process for each request on standard input; in it, return from here only to run what was asked for."""
    for name in _IMPORTED:
        import_module(name)
    gc.freeze()  # or garbage collection would write to pages that forked processes share

    connection = socket.socket(fileno=os.dup(0))
    running: set[int] = set()
    while True:
        try:
            line, files = _received(connection)
        except EOFError:
            break
        request = json.loads(line)
        if "ended" in request:
            pid, status = os.waitpid(request["ended"], os.WNOHANG)
            running.discard(pid)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if not answer:
                connection.close()
                _become(files, **request["start"])
                return
            running.add(answer)
            for descriptor in files:
                os.close(descriptor)
        connection.sendall(json.dumps(answer).encode() + b"\n")
    for pid in running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _become(
    files: list[int],
    script: str | None,
    module: str,
    arguments: list[str],
    environment: dict[str, str],
    directory: str,
) -> None:
    os.setpgid(0, 0)
    for number, opened in enumerate([os.open(os.devnull, os.O_RDONLY), *files]):
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    sys.argv = [script or module, *arguments]
    if script:
        sys.path[0] = str(Path(script).parent)
        runpy.run_path(script, run_name="__main__")
    else:
        runpy.run_module(module, run_name="__main__")

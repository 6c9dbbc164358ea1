# pyright: reportMissingImports=false
"""`vllm serve` as docs/serving.md shows it: a process that is started, asked by OpenAI's client, and stopped."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.serving.page import command, python_block
from tests.serving.trained import Trained

pytest.importorskip("vllm")

STREAMED = 16  # tokens
QUICK = ["--enforce-eager", "--dtype", "float32", "--max-num-seqs", "8"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def running(words: list[str], log: Path) -> Iterator[subprocess.Popen]:
    """A process with a group of its own, of which nothing is left afterwards."""
    environment = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    script = Path(sys.executable).with_name(words[0])
    with log.open("wb") as output:
        process = subprocess.Popen(
            [script, *words[1:]], stdout=output, stderr=output, env=environment, start_new_session=True
        )
    try:
        yield process
    finally:
        if group_runs(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def group_runs(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_ready(process: subprocess.Popen, port: int, log: Path) -> None:
    while True:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)


@pytest.fixture
def folder_of_runs(
    trained: dict[tuple[str, str], Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The working directory has the page's `runs/mesh`."""
    (tmp_path / "runs").symlink_to(trained["llama", "mesh"].folder.parents[1])
    monkeypatch.chdir(tmp_path)


def test_a_server_streams_the_text_of_generate_and_stops(
    trained: dict[tuple[str, str], Trained], folder_of_runs: None, tmp_path: Path
) -> None:
    from openai import OpenAI

    model = trained["llama", "mesh"]
    tokenizer = AutoTokenizer.from_pretrained(model.folder)
    # A tie can go either way, and a character in parts is shown differently.
    chosen = [
        (prompt, answer)
        for prompt, answer in zip(model.prompts, model.answers, strict=True)
        if min(answer.leads[:STREAMED]) > 1e-3 and "\ufffd" not in tokenizer.decode(answer.tokens[:STREAMED])
    ][:4]
    assert len(chosen) == 4
    port, log = free_port(), tmp_path / "log"
    words = command("vllm serve")
    with running([*words, "--host", "127.0.0.1", "--port", str(port), *QUICK], log) as server:
        wait_until_ready(server, port, log)
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")

        def streamed(prompt: str) -> list[str]:
            stream = client.completions.create(
                model=words[-1],
                prompt=prompt,
                max_tokens=STREAMED,
                temperature=0,
                stream=True,
                extra_body={"ignore_eos": True},
            )
            return [event.choices[0].text for event in stream]

        with ThreadPoolExecutor(len(chosen)) as threads:
            for parts, (_, answer) in zip(threads.map(streamed, [p for p, _ in chosen]), chosen, strict=True):
                assert len(parts) > 2
                assert "".join(parts) == tokenizer.decode(answer.tokens[:STREAMED])

        shown = python_block().replace("localhost:8000", f"127.0.0.1:{port}")
        exec(shown, namespace := {})
        curl = command("curl")
        body = json.loads(curl[curl.index("-d") + 1])
        request = urllib.request.Request(
            curl[1].replace("localhost:8000", f"127.0.0.1:{port}"),
            json.dumps(body | {"temperature": 0}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as response:
            assert json.load(response)["choices"][0]["text"] == namespace["text"] != ""

        server.send_signal(signal.SIGINT)
        assert server.wait() in (0, -signal.SIGINT, 130), log.read_text()[-3000:]
        while group_runs(server.pid):  # its engine ends with it
            time.sleep(0.1)

# pyright: reportMissingImports=false
"""Two tensor-parallel workers give the tokens of one: heads are split, cache entries per loop stay."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.trained import Trained, assert_same, outputs_of, steps_of

pytest.importorskip("vllm")


def serve_on_two(folder: str, prompts: str) -> None:
    """Print the tokens and log-probabilities of two workers as JSON; vLLM starts them from a process of its own."""
    import loopway  # noqa: F401, I001
    from vllm import LLM

    engine = LLM(folder, dtype="float32", enforce_eager=True, seed=0, tensor_parallel_size=2)
    answers = [
        [list(got.token_ids), [step[token].logprob for step, token in steps_of(got)]]
        for got in (output.outputs[0] for output in outputs_of(engine, json.loads(prompts)))
    ]
    print(f"\n{json.dumps(answers)}")


def test_two_workers_give_the_tokens_of_generate(trained: dict[tuple[str, str], Trained]) -> None:
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        pytest.skip("vLLM needs a core per worker")
    model = trained["llama", "mesh"]
    answers = model.answers[-4:]
    prompts = json.dumps([answer.prompt for answer in answers])
    environment = {
        **os.environ,
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "|".join(map(str, cores)),  # otherwise each worker wants a NUMA node
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.serving.test_tensor_parallel", str(model.folder), prompts],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    [line] = [line for line in done.stdout.splitlines() if line.startswith("[[")]
    for answer, (tokens, logprobs) in zip(answers, json.loads(line), strict=True):
        assert_same(answer, tokens, logprobs)


if __name__ == "__main__":
    serve_on_two(*sys.argv[1:])

"""How many tokens a second does vLLM serve with MeSH, beside `generate` and beside vLLM with a plain model of equal compute?

    python benchmarks/serving.py [--rounds 4] [--engines eager compiled] [--threads 1]

It runs in the environment of `make test-serving`. A process for each contestant answers the same requests, in turn: vLLM changes
the classes of the models that it serves, so `generate` needs a process of its own. Random weights, greedy, in float32 on a CPU.
The last line is JSON.
"""

import json
import os
import random
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import common

#: Layout with MeSH, and the layers of the plain model: as many as the layout computes.
LAYOUT, LAYERS = "1+2R3+1", 8
SIZE = {"hidden_size": 512, "intermediate_size": 1408, "num_attention_heads": 8, "vocab_size": 8192}
QUICK_SIZE = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "vocab_size": 256}
#: Shortest and longest.
PROMPT_TOKENS, NEW_TOKENS = (16, 128), (8, 128)
QUICK_PROMPT_TOKENS, QUICK_NEW_TOKENS = (4, 16), (2, 8)
REQUESTS, EQUAL_REQUESTS = (1, 4, 16, 64), 16
#: Share of requests with `generate`'s tokens; below 1, since two candidates can be equally probable up to rounding.
_AT_LEAST_SAME = 0.9
#: vLLM's models by contestant: the folder, and `model_impl`. For MeSH, "auto" is Loopway's model on the Transformers backend.
SERVED = {"mesh": ("mesh", "auto"), "plain": ("plain", "transformers"), "native": ("plain", "vllm")}


class Request(NamedTuple):
    """A prompt, and how many tokens should follow."""

    prompt: list[int]
    new: int


def spread(ends: tuple[int, int], count: int, draw: random.Random) -> list[int]:
    """Lengths in random order whose logarithms are evenly spread: many short ones, few long ones."""
    low, high = ends
    lengths = [round(low * (high / low) ** ((number + 0.5) / count)) for number in range(count)]
    draw.shuffle(lengths)
    return lengths


def requests(
    count: int, prompts: tuple[int, int], new: tuple[int, int], vocabulary: int, *, equal: bool
) -> list[Request]:
    """Random prompts; equal lengths are the means of the unequal ones."""
    draw = random.Random(count)
    lengths = [spread(ends, count, draw) for ends in (prompts, new)]
    if equal:
        lengths = [[round(sum(each) / count)] * count for each in lengths]
    return [Request(draw.choices(range(vocabulary), k=k), n) for k, n in zip(*lengths, strict=True)]


def make_models(folder: Path, size: dict[str, int]) -> dict[str, int]:
    """Save both models, and return their numbers of parameters."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    import loopway

    plain = LlamaConfig(num_hidden_layers=LAYERS, max_position_embeddings=512, **size)  # type: ignore[arg-type]
    configs = {
        "mesh": loopway.recursive_config(plain, layout=LAYOUT, recurrence="mesh"),
        "plain": plain,
    }
    parameters = {}
    for name, config in configs.items():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        model.save_pretrained(folder / name)
        parameters[name] = model.num_parameters()
    return parameters


def generate_with_transformers(folder: Path, threads: int) -> Callable[[list[Request]], list[list[int]]]:
    """`generate` with all requests as one batch: prompts padded, as many steps as the longest answer has tokens."""
    import torch
    from transformers import AutoModelForCausalLM

    import loopway  # noqa: F401  (registers recursive models)

    torch.set_num_threads(threads)
    model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()

    def answer(asked: list[Request]) -> list[list[int]]:
        width = max(len(request.prompt) for request in asked)
        padding = [width - len(request.prompt) for request in asked]
        rows = zip(padding, asked, strict=True)
        made = model.generate(
            torch.tensor([[0] * pad + request.prompt for pad, request in rows]),
            attention_mask=torch.tensor([[0] * pad + [1] * (width - pad) for pad in padding]),
            max_new_tokens=max(request.new for request in asked),
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        return [row[width : width + request.new].tolist() for row, request in zip(made, asked, strict=True)]

    return answer


def generate_with_vllm(
    folder: Path, implementation: str, *, compiled: bool, most: int, longest: int
) -> Callable[[list[Request]], list[list[int]]]:
    """vLLM with all requests at once."""
    from vllm import LLM, SamplingParams  # pyright: ignore[reportMissingImports]

    engine = LLM(
        str(folder),
        model_impl=implementation,
        dtype="float32",
        enforce_eager=not compiled,
        max_num_seqs=most,
        max_model_len=longest,
        enable_prefix_caching=False,  # every round asks the same prompts
        skip_tokenizer_init=True,
        seed=0,
    )

    def answer(asked: list[Request]) -> list[list[int]]:
        outputs = engine.generate(
            [{"prompt_token_ids": request.prompt} for request in asked],
            [
                SamplingParams(temperature=0, max_tokens=request.new, ignore_eos=True, detokenize=False)
                for request in asked
            ],
            use_tqdm=False,
        )
        return [list(output.outputs[0].token_ids) for output in outputs]

    return answer


def serve(connection: Connection, start: Callable[[], Callable[[list[Request]], list[list[int]]]]) -> None:
    """Answer requests from the other end until it sends none."""
    os.dup2(2, 1)  # engines print; standard output is for the result
    answer = start()
    connection.send(None)
    while asked := connection.recv():
        connection.send(answer(asked))


def ask(connection: Connection, asked: list[Request]) -> list[list[int]]:
    connection.send(asked)
    return connection.recv()


def begin(
    starts: dict[str, Callable[[], Callable[[list[Request]], list[list[int]]]]],
) -> dict[str, Connection]:
    """Start a process per contestant, all at once, and wait for them."""
    context = common.own_processes(quick=False)
    ends: dict[str, Connection] = {}
    for name, start in starts.items():
        ends[name], there = context.Pipe()
        context.Process(target=serve, args=(there, start), daemon=True).start()
        there.close()  # one that dies ends the wait
    for name, connection in ends.items():
        try:
            connection.recv()
        except EOFError:
            sys.exit(f"{name} didn't start: see its error above")
        print(f"{name} is ready", file=sys.stderr)
    return ends


def equal_share(one: list[list[int]], other: list[list[int]]) -> float:
    """Return the share of requests with the same tokens."""
    return sum(first == second for first, second in zip(one, other, strict=True)) / len(one)


def case(
    contestants: dict[str, Connection], asked: list[Request], rounds: int, patience: float
) -> dict[str, Any]:
    """So many requests at once, all contestants."""
    answers = {name: ask(connection, asked) for name, connection in contestants.items()}  # warm-up
    mesh = {name: tokens for name, tokens in answers.items() if name.startswith(("generate", "mesh"))}
    plain = {name: tokens for name, tokens in answers.items() if name not in mesh}
    same = {
        name: equal_share(next(iter(alike.values())), alike[name])
        for alike in (mesh, plain)
        for name in list(alike)[1:]
    }
    differing = {name: share for name, share in same.items() if name in mesh and share < _AT_LEAST_SAME}
    if differing:
        sys.exit(
            f"vLLM and generate give different tokens; share of requests with the same ones: {differing}"
        )
    seconds = common.measure(
        {name: partial(ask, connection, asked) for name, connection in contestants.items()}, rounds, patience
    )
    new = sum(request.new for request in asked)

    def over(one: str, other: str) -> dict[str, float]:
        pairs = zip(seconds[one], seconds[other], strict=True)
        return common.median_with_interval([there / here for here, there in pairs])

    engines = [name.removeprefix("mesh_") for name in contestants if name.startswith("mesh_")]
    return {
        "rounds": rounds,
        "prompt_tokens": sum(len(request.prompt) for request in asked),
        "new_tokens": new,
        "steps_of_generate": max(request.new for request in asked),
        "same_tokens": same,
        "tokens_per_second": {name: common.middle(new / s for s in seconds[name]) for name in contestants},
        "times_as_fast_as_generate": {
            name: over(name, "generate") for name in contestants if name != "generate"
        },
        "mesh_over_plain": {engine: over(f"mesh_{engine}", f"plain_{engine}") for engine in engines},
        "mesh_over_native": {engine: over(f"mesh_{engine}", f"native_{engine}") for engine in engines},
    }


def table(result: dict[str, Any]) -> str:
    """Return the Markdown table of docs/performance.md."""
    parts = {name: part for name, part in result.items() if name.startswith(("unequal_", "equal_"))}
    contestants = list(next(iter(parts.values()))["tokens_per_second"])
    engines = list(next(iter(parts.values()))["mesh_over_plain"])
    heads = ["requests", *(name.replace("_", ", ") for name in contestants)]
    heads += [f"MeSH over plain, {engine}" for engine in engines]
    lines = [heads, [":--", *["--:"] * (len(heads) - 1)]]
    for name, part in parts.items():
        lengths, count = name.split("_")
        cells = [count if lengths == "unequal" else f"{count}, equal lengths"]
        for contestant in contestants:
            faster = part["times_as_fast_as_generate"].get(contestant)
            speed = f"{part['tokens_per_second'][contestant]:,.0f}"
            cells.append(speed if faster is None else f"{speed} ({faster['median']:.2f})")
        for engine in engines:
            over = part["mesh_over_plain"][engine]
            cells.append(f"{over['median']:.2f} [{over['low']:.2f}, {over['high']:.2f}]")
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    parser = common.arguments(__doc__, rounds=4)
    parser.add_argument("--engines", nargs="+", choices=("eager", "compiled"), default=["eager", "compiled"])
    parser.add_argument("--requests", type=int, nargs="+", default=list(REQUESTS), help="at once")
    parser.add_argument("--threads", type=int, default=1, help="of each contestant")
    parser.add_argument(
        "--patience", type=float, default=0, help="seconds to wait for an idle machine, each part"
    )
    parser.add_argument("--table", type=Path, help="print the table of this result instead")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.table.read_text(encoding="utf-8"))))
        return
    rounds, engines, counts, equal, size = (
        options.rounds,
        options.engines,
        options.requests,
        EQUAL_REQUESTS,
        SIZE,
    )
    prompts, new = PROMPT_TOKENS, NEW_TOKENS
    if options.quick:
        rounds, engines, counts, equal, size = 1, ["eager"], [1, 4], 4, QUICK_SIZE
        prompts, new = QUICK_PROMPT_TOKENS, QUICK_NEW_TOKENS
    os.environ |= {
        "OMP_NUM_THREADS": str(options.threads),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # as generate's threads
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    with tempfile.TemporaryDirectory() as folder:
        parameters = make_models(Path(folder), size)
        starts = {"generate": partial(generate_with_transformers, Path(folder, "mesh"), options.threads)}
        for engine in engines:
            for name, (model, implementation) in SERVED.items():
                starts[f"{name}_{engine}"] = partial(
                    generate_with_vllm,
                    Path(folder, model),
                    implementation,
                    compiled=engine == "compiled",
                    most=max(*counts, equal),
                    longest=prompts[1] + new[1],
                )
        contestants = begin(starts)

    def part(count: int, *, equal: bool) -> dict[str, Any]:
        asked = requests(count, prompts, new, size["vocab_size"], equal=equal)
        return case(contestants, asked, rounds, options.patience)

    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "models": lambda: {
            "parameters": parameters,
            "layout": LAYOUT,
            "layers": LAYERS,
            "size": size,
            "threads": options.threads,
            "vllm": version("vllm-cpu"),
        }
    }
    parts |= {f"unequal_{count}": partial(part, count, equal=False) for count in counts}
    parts |= {f"equal_{equal}": partial(part, equal, equal=True)}
    common.report(parts)
    for connection in contestants.values():
        connection.send([])


if __name__ == "__main__":
    main()

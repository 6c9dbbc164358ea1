"""Run where Loopway isn't installed: opens the folders beside it with the code that they bring, and asks the stock harness.

What it finds goes to `found.pt`; the tests hold it against Loopway's own models.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)


def found_in(model: PreTrainedModel, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        logits = model(ids).logits
    return {"logits": logits, "generated": model.generate(ids[:1], max_new_tokens=8, do_sample=False)}  # type: ignore[operator]


def listed(model: PreTrainedModel, ids: torch.Tensor, folder: Path) -> dict[str, Any]:
    """What libraries do that go by lists of names."""
    smoothing = TrainingArguments(
        str(folder / "trainer"), label_smoothing_factor=0.1, use_cpu=True, report_to="none"
    )
    loss = Trainer(model, smoothing).compute_loss(model, {"input_ids": ids, "labels": ids})
    adapted: Any = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM"))  # type: ignore[arg-type]
    targets = adapted.peft_config["default"].target_modules
    named = getattr(transformers, model.config.architectures[0])  # type: ignore[index]
    served = named.from_pretrained(model.config.name_or_path)  # as `transformers serve` does
    return {"smoothed": loss.detach(), "targets": sorted(targets), "served": served(ids).logits.detach()}  # type: ignore[arg-type]


def main(folder: Path, tasks: Path) -> None:
    assert find_spec("loopway") is None, "Loopway is installed here"
    ids = torch.load(folder / "ids.pt")
    found: dict[str, Any] = {}
    places = sorted(path for path in folder.iterdir() if path.is_dir())
    for place in places:
        model = AutoModelForCausalLM.from_pretrained(place, trust_remote_code=True)
        found[place.name] = found_in(model, ids)
    base = AutoModel.from_pretrained(places[0], trust_remote_code=True)
    with torch.no_grad():
        hidden = base(ids).last_hidden_state
    found["hidden"] = {"name": places[0].name, "states": hidden}

    model = AutoModelForCausalLM.from_pretrained(places[0], trust_remote_code=True)
    model.train()(ids, labels=ids).loss.backward()
    found["trained"] = {"gradients": all(weight.grad is not None for weight in model.parameters())}
    model.save_pretrained(folder / "again")
    found["listed"] = listed(model, ids, folder)
    classifier = AutoModelForSequenceClassification.from_pretrained(
        places[0], num_labels=3, trust_remote_code=True
    )
    found["classifier"] = {
        "name": type(classifier).__name__,
        "shape": tuple(classifier(ids[:1]).logits.shape),
    }
    again = AutoModelForCausalLM.from_pretrained(folder / "again", trust_remote_code=True)
    found["again"] = {"name": places[0].name, **found_in(again.eval(), ids)}
    assert AutoTokenizer.from_pretrained(places[0], trust_remote_code=True).eos_token_id == 0
    # Its own tasks are thousands of files; which are there makes no difference to how a model is opened.
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    arguments = {"pretrained": str(places[0]), "trust_remote_code": True}
    evaluate: Any = simple_evaluate
    scored = evaluate("hf", arguments, ["riddles"], device="cpu", batch_size=4, task_manager=manager)
    rows = [{"doc": row["doc"], "answers": row["filtered_resps"]} for row in scored["samples"]["riddles"]]
    found["harness"] = {"rows": rows, "results": dict(scored["results"]["riddles"])}
    torch.save(found, folder / "found.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

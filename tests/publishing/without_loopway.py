"""Run where Loopway isn't installed: opens the folders beside it with the code that they bring, and asks the stock harness.

What it finds goes to `found.pt`; the tests hold it against Loopway's own models.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel


def found_in(model: PreTrainedModel, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        logits = model(ids).logits
    return {"logits": logits, "generated": model.generate(ids[:1], max_new_tokens=8, do_sample=False)}  # type: ignore[operator]


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

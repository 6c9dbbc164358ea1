"""The model card, README.md beside the weights: the model, how to open it, how it was trained, what to cite.

Made from the model's config and the run's records. Knows nothing of folders and of a model's life after its run; callers add
sections.
"""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import torch
import yaml
from huggingface_hub import ModelCardData
from transformers import PreTrainedConfig

from loopway._version import __version__
from loopway.modeling.accounting import parameter_report
from loopway.modeling.registration import TESTED_TRANSFORMERS
from loopway.recurrence import build_recurrence
from loopway.training.summary import RunSummary

CARD = "README.md"
_CITATION = """\
## Citation

MeSH ([arXiv 2510.07739](https://arxiv.org/abs/2510.07739)) and Loopway, which this model was made with:

```bibtex
@article{yu2025mesh,
  title   = {MeSH: Memory-as-State-Highways for Recursive Transformers},
  author  = {Yu, Chengting and Shu, Xiaobo and Wang, Yadao and Zhang, Yizhen and Wu, Haoyi and Li, Jiaang and
             Long, Rujiao and Chen, Ziheng and Xu, Yuchi and Su, Wenbo and Zheng, Bo},
  journal = {arXiv preprint arXiv:2510.07739},
  year    = {2025}
}
@software{loopway,
  title   = {Loopway},
  author  = {{The Loopway developers}},
  version = {VERSION},
  license = {Apache-2.0}
}
```"""
_OPENING = """\
## How to open it

With Loopway installed, where `NAME` is this folder:

```python
import loopway
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("NAME")
tokenizer = AutoTokenizer.from_pretrained("NAME")
```"""
_WITHOUT_LOOPWAY = """

Without Loopway: `CODE` beside the weights is its modelling code, which transformers runs if it is told to.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("NAME", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("NAME", trust_remote_code=True)
```

```bash
lm_eval run --model hf --model_args pretrained=NAME,trust_remote_code=True --tasks arc_easy
```"""
_OPTIMIZER = {
    "learning_rate": "peak learning rate",
    "lr_scheduler_type": "learning rate schedule",
    "warmup_steps": "warmup (steps, or their share)",
    "optim": "optimizer",
    "weight_decay": "weight decay",
    "max_grad_norm": "gradient norm, clipped at",
    "seed": "seed",
}


def model_card(
    config: PreTrainedConfig,
    name: str,
    sections: Sequence[str] = (),
    *,
    code: str | None = None,
    **header: Any,
) -> str:
    """The card of a recursive model.

    Args:
        config: the model's.
        name: its title.
        sections: further ones, in Markdown, between how to open the model and what to cite.
        code: the file beside the weights that holds its modelling code, if there is one.
        header: further fields of the YAML header, by the names of huggingface_hub's ``ModelCardData``.
    """
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["loopway", "recursive-transformer", config.recurrence],
        **header,
    )
    citation = _CITATION.replace("VERSION", __version__)
    parts = [f"# {name}", _about(config), _opening(name, code), *sections, citation]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"


def run_sections(config: Mapping[str, Any], summary: RunSummary) -> list[str]:
    """Return a finished run's sections: its recipe and its losses.

    Args:
        config: the run's, as plain values; the card shows only the last part of absolute paths, and no password.
        summary: what it gave.
    """
    content = {key: _public(value) for key, value in config.items() if value}
    data, training = content["data"], content["training"]
    sequences = summary.tokens // summary.steps // data["sequence_length"]
    rows = {
        "text": ", ".join(map(_source, data["train"])),
        "tokens, repeats included": f"{summary.tokens:,} ({summary.epochs:g} epochs)",
        "steps": f"{summary.steps:,}",
        "batch": f"{sequences} sequences of {data['sequence_length']} tokens",
        **{title: training[key] for key, title in _OPTIMIZER.items() if key in training},
        "device": summary.device,
        "versions": ", ".join(f"{package} {version}" for package, version in summary.versions.items()),
    }
    whole = yaml.safe_dump(content, sort_keys=False, allow_unicode=True).strip()
    recipe = f"## Training\n\n{_table(rows)}\n\nThe run's whole config, for `loopway train`:\n\n```yaml\n{whole}\n```"
    losses = {
        "training loss, mean since the log before the last": (summary.train_loss, 4),
        "validation loss": (summary.validation_loss, 4),
        "validation perplexity": (summary.validation_perplexity, 2),
        "validation loss of the original": (summary.original_loss, 4),
    }
    known = {title: f"{value:.{digits}f}" for title, (value, digits) in losses.items() if value is not None}
    return [recipe, f"## Losses\n\nLosses in nats per token.\n\n{_table(known)}"] if known else [recipe]


def _about(config: PreTrainedConfig) -> str:
    report = parameter_report(config)
    with torch.device("meta"):
        recurrence = build_recurrence(config.recurrence, config.recurrence_options)
    rule = (type(recurrence).__doc__ or "").strip().partition("\n")[0]
    slots = getattr(recurrence, "num_slots", None)
    rows = {
        "decoder family": config.family.prefix,
        "layout": f"`{report.layout}`",
        "recurrence": f"`{report.recurrence}`" + (f", {slots} slots" if slots else ""),
        "layers of compute": report.compute_depth,
        "layers with parameters": report.parameter_depth,
        "parameters": f"{report.total:,}",
        "of these, not embeddings": f"{report.non_embedding:,}",
        "of these, the recurrence's": f"{report.router:,}",
        "context": f"{report.context_length:,} tokens",
        "FLOPs per token, forward at full context": f"{report.forward_flops:,}",
        "KV cache bytes per token, in 16 bit": f"{report.kv_cache_bytes:,}",
    }
    looped = config.parsed_layout.is_looped
    kind = "A recursive (looped) language model" if looped else "A language model"
    passing = f" How the state passes from stage to stage: {rule}" if rule else ""
    return (
        f"{kind}: {report.parameter_depth} layers with parameters compute {report.compute_depth}, arranged as "
        f"`{report.layout}` (`R` says how often a segment runs).{passing}\n\n## Model\n\n{_table(rows)}"
    )


def _opening(name: str, code: str | None) -> str:
    first, after = TESTED_TRANSFORMERS
    opening = _OPENING.replace("NAME", name)
    if code is not None:
        opening += _WITHOUT_LOOPWAY.replace("NAME", name).replace("CODE", code)
    return opening + f"\n\nTested with transformers {first} up to (not including) {after}."


def _table(rows: Mapping[str, Any]) -> str:
    return "\n".join(["| | |", "| :-- | :-- |", *(f"| {title} | {value} |" for title, value in rows.items())])


def _source(entry: Any) -> str:
    """An entry of `data.train` in a few words."""
    if isinstance(entry, str):
        return f"`{entry}`"
    named = entry.get("dataset") or entry.get("tokens")
    more = [f"{key} {entry[key]}" for key in ("config", "split", "weight") if entry.get(key) is not None]
    return f"`{named}`" + (f" ({', '.join(more)})" if more else "")


def _public(value: Any) -> Any:
    """Remove the folders of paths on the author's machine, and tokens of the Hub."""
    if isinstance(value, dict):
        return {key: _public(item) for key, item in value.items() if not str(key).endswith("_token")}
    if isinstance(value, list):
        return [_public(item) for item in value]
    is_rooted = isinstance(value, str) and (PurePath(value).is_absolute() or value.startswith("~"))
    return PurePath(value).name if is_rooted else value

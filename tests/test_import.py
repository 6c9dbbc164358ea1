"""What ``import loopway`` does and doesn't do, each time in a fresh interpreter."""

import subprocess
import sys
from pathlib import Path

import pytest

import loopway


def run(code: str, *options: str) -> str:
    """What ``code`` prints in a fresh interpreter, where it must succeed."""
    result = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_loopway_imports_neither_torch_nor_transformers() -> None:
    heavy = ("torch", "transformers", "numpy", "datasets", "accelerate", "huggingface_hub")
    code = f"import sys, loopway; print([name for name in {heavy} if name in sys.modules])"
    assert run(code) == "[]"


def test_layouts_need_no_torch() -> None:
    code = "import sys, loopway; print(len(loopway.Layout.parse('4+8R2+4').stages), 'torch' in sys.modules)"
    assert run(code) == "4 False"


def test_every_public_name_is_there_and_listed() -> None:
    for name in loopway.__all__:
        assert getattr(loopway, name) is not None, name
    assert set(loopway.__all__) <= set(dir(loopway))
    with pytest.raises(AttributeError, match="no attribute 'Banana'"):
        loopway.Banana  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'RecursiveBananaForCausalLM'"):
        loopway.RecursiveBananaForCausalLM  # noqa: B018


def test_the_class_of_every_family_is_a_public_name() -> None:
    from loopway.modeling.families import FAMILIES

    prefixes = [family.prefix for family in FAMILIES.values()]
    assert {"GPTNeoX", "Llama", "Gemma3Text", "Qwen3Moe"} <= set(prefixes)
    for prefix in prefixes:
        for suffix in ("Config", "Model", "ForCausalLM", "ForSequenceClassification"):
            name = f"Recursive{prefix}{suffix}"
            assert getattr(loopway, name).__name__ == name


FIRST_IMPORTS = [
    "import transformers; from transformers import AutoConfig",
    "from transformers import Trainer",  # which imports the models' modules, too
]


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny recursive Llama in Hugging Face format, with the logits that it gives."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    folder = tmp_path_factory.mktemp("model")
    family_config = LlamaConfig(
        vocab_size=37, hidden_size=16, intermediate_size=24, num_attention_heads=2, num_key_value_heads=1
    )
    config = loopway.recursive_config(family_config, layout="1+1R2+1", recurrence="mesh")
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


OPEN = """
import sys
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
model = AutoModelForCausalLM.from_pretrained({folder!r})
assert type(AutoModel.from_pretrained({folder!r})).__name__ == "RecursiveLlamaModel"
config = AutoConfig.from_pretrained({folder!r})
assert type(config) is type(AutoConfig.for_model("recursive_llama")) is type(model.config)
assert MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["recursive_llama"] == type(model).__name__
for module in (sys.modules["transformers"], globals().get("transformers", sys.modules["transformers"])):
    assert module.RecursiveLlamaForCausalLM is type(model)  # transformers imports itself twice
print(type(model).__name__, config.layout, config.recurrence)
"""


@pytest.mark.parametrize(
    ("order", "first"),
    [("loopway first", FIRST_IMPORTS[-1]), *(("transformers first", first) for first in FIRST_IMPORTS)],
)
def test_the_auto_classes_know_the_families_in_either_import_order(
    order: str, first: str, saved_model: Path
) -> None:
    imports = ["import loopway", first]
    if order == "transformers first":
        imports.reverse()
    # The warning about the version of transformers would be an error here: inside the tested range there is none.
    answer = run("\n".join(imports) + OPEN.format(folder=str(saved_model)), "-Werror:this version of loopway")
    assert answer == "RecursiveLlamaForCausalLM 1+1R2+1 mesh"


def test_one_warning_outside_the_tested_range_of_transformers() -> None:
    code = """
import transformers, warnings
transformers.__version__ = "99.0.0"
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import loopway
    loopway.pythia_config("14m"), loopway.pythia_config("31m", layout="2+2R2", recurrence="mesh")
    transformers.AutoConfig.for_model("recursive_llama")
print([str(warning.message) for warning in caught if "loopway" in str(warning.message)])
"""
    answer = run(code)
    assert answer.count("was tested with transformers") == 1
    assert "99.0.0 is installed" in answer and "pip install" in answer

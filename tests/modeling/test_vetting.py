"""A model folder is data: what would run code, read from outside or exhaust memory is refused in one line."""

import json
import pickle
import re
import resource
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import snapshot_download
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

import loopway
from loopway.data.tokenizer import train_tokenizer
from loopway.errors import ConfigError
from loopway.inference.trained_model import open_model, open_trained
from loopway.modeling import pretrained_folder
from loopway.modeling.vetting import check_model_folder

# fmt: off
SIZES: dict[str, Any] = {
    "vocab_size": 304, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0,
}
# fmt: on
CONFIG, TOKENIZER, HEAD = "config.json", "tokenizer_config.json", "lm_head.weight"
BILLION = 10**9
HASH = "0123456789abcdef0123456789abcdef01234567"


def recursive_model(**fields: Any) -> PreTrainedModel:
    config = loopway.recursive_config(GPTNeoXConfig(**SIZES), layout="1+1R2+1", recurrence="mesh", **fields)
    return AutoModelForCausalLM.from_config(config)


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "recursive": recursive_model,
    "recursive_tied": lambda: recursive_model(tie_word_embeddings=True),
    "recursive_half": lambda: recursive_model().to(torch.float16),  # type: ignore[arg-type]
    "recursive_bfloat16": lambda: recursive_model().to(torch.bfloat16),  # type: ignore[arg-type]
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "llama_tied": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder of every model, whole and harmless."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer(["the cat sees the dog", "the dog runs over the house"], 304)
    for name, make in MODELS.items():
        torch.manual_seed(0)
        make().save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture
def folder(models: Path, tmp_path: Path) -> Path:
    """A recursive model, to be spoilt."""
    return Path(shutil.copytree(models / "recursive", tmp_path / "model"))


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | changes))


def refusal(folder: Path) -> str:
    """The line with which opening is refused before transformers has seen the folder."""
    with pytest.raises(ConfigError) as refused:
        open_model(folder)
    assert isinstance(refused.value.__cause__, ConfigError), "found by what was vetted for"
    line = str(refused.value)
    assert line.startswith(f"{folder} can't be opened: ") and "\n" not in line and len(line) < 1000
    return line


def opens(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model, tokenizer = open_model(folder)
    ids = tokenizer("the cat", return_tensors="pt").input_ids
    with torch.no_grad():
        assert model(ids).logits.isfinite().all()
    return model, tokenizer


@pytest.mark.parametrize("name", MODELS)
def test_a_whole_model_opens(name: str, models: Path) -> None:
    opened = opens(models / name)[0]
    torch.manual_seed(0)
    state = MODELS[name]().state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in opened.state_dict().items())


def test_a_checkpoint_opens_and_what_is_pickled_beside_its_weights_is_left_alone(folder: Path) -> None:
    for name in ("optimizer.pt", "rng_state.pth", "scheduler.pt", "training_args.bin"):
        (folder / name).write_bytes(pickle.dumps(Payload(folder / "was_run")))
    opens(folder)
    assert not (folder / "was_run").exists()


# Code that a folder brings along.


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


def code(canary: Path) -> str:
    return f"import pathlib\npathlib.Path({str(canary)!r}).touch()\nclass Mine: pass\ndef generate(*a, **k): pass\n"


def test_the_canaries_sing(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "pickled")))
    exec(code(tmp_path / "executed"))
    assert (tmp_path / "pickled").exists() and (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "weights.pkl"])
def test_pickled_weights_are_not_opened(name: str, folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Payload(tmp_path / "was_run")))
    assert f"pickled weights ({name}) are not opened" in refusal(folder)
    assert not (tmp_path / "was_run").exists()


AUTO_MAP = {
    "AutoConfig": "mine.Mine",
    "AutoModelForCausalLM": "mine.Mine",
    "AutoTokenizer": ["mine.Mine"] * 2,
}


@pytest.fixture
def with_code(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that names code in every place that transformers knows; nobody may be asked whether to run it."""

    def asked(question: str = "") -> str:
        raise AssertionError(question)

    monkeypatch.setattr("builtins.input", asked)
    (folder / "custom_generate").mkdir()
    for place in (folder / "mine.py", folder / "custom_generate" / "generate.py"):
        place.write_text(code(tmp_path / "was_run"))
    edit(folder / "config.json", auto_map=AUTO_MAP)
    edit(folder / "tokenizer_config.json", auto_map=AUTO_MAP)
    yield folder
    assert not (tmp_path / "was_run").exists()


def test_code_beside_a_model_of_a_known_type_is_passed_over(with_code: Path) -> None:
    opens(with_code)


# fmt: off
REFUSED = [
    (CONFIG, {"model_type": "mine"}, "got 'mine', expected one that transformers or a plugin knows; code that a"),
    (CONFIG, {"model_type": ["llama"]}, "model_type: got ['llama']"),
    (CONFIG, {"transformers_weights": "../other.safetensors"}, "refers to more"),
    (CONFIG, {"configuration_files": ["config.1.0.0.json"]}, "refers to more"),
    (CONFIG, {"model_args": ["x"]}, "refers to more"),
    (CONFIG, {"quantization_config": {"quant_method": "awq"}}, "says that the weights are quantised"),
    (CONFIG, {"text_config": {"quantization_config": {"bits": 4}}}, "says that the weights are quantised"),
    (CONFIG, {"attn_implementation": "evil/kernel"}, "got 'evil/kernel', expected one of eager, sdpa"),
    (CONFIG, {"_attn_implementation": {"": "evil/kernel"}}, "expected one of eager, sdpa"),
    (CONFIG, {"attn_implementation": "flash_attention_2"}, "got 'flash_attention_2', expected one of"),
    (CONFIG, {"experts_implementation": "sonicmoe"}, "got 'sonicmoe', expected one of eager"),
    (CONFIG, {"dtype": "load"}, "has no attribute"),
    (CONFIG, {"dtype": "complex64"}, "not a floating-point dtype"),
    (CONFIG, {"tokenizer_class": "AutoTokenizer"}, "got 'AutoTokenizer', expected a tokenizer"),
    (TOKENIZER, {"tokenizer_class": "AutoTokenizerFastFast"}, "got 'AutoTokenizerFastFast'"),
    (TOKENIZER, {"tokenizer_class": "AutoModelForCausalLM"}, "expected a tokenizer"),
    (TOKENIZER, {"tokenizer_class": "Fast" * 10**6}, "expected a tokenizer"),
    (TOKENIZER, {"tokenizer_class": ["AutoTokenizer"]}, "got ['AutoTokenizer'], expected a tokenizer"),
    (TOKENIZER, {"vocab_file": "/etc/passwd"}, "vocab_file': got '/etc/passwd', expected a file name without a path"),
    (TOKENIZER, {"merges_file": "../merges.txt"}, "merges_file': got '../merges.txt', expected a file name without a path"),
    (TOKENIZER, {"fast_tokenizer_files": ["tokenizer./../../5.0.0.json"]}, "expected a file name without a path"),
    (TOKENIZER, {"vocab": "/etc/passwd"}, "vocab': got '/etc/passwd', expected a file name without a path"),
    (TOKENIZER, {"init_inputs": ["/etc/passwd"]}, "refers to more"),
    (TOKENIZER, {"gguf_file": "model.gguf"}, "refers to more"),
    ("generation_config.json", {"num_beams": BILLION}, "'num_beams': got 1000000000, expected at most 100000"),
    ("special_tokens_map.json", {"tokenizer_file": "/etc/passwd"}, "tokenizer_file': got '/etc/passwd'"),
    (TOKENIZER, {"tokenizer_class": "Mine"}, "names code for its tokenizer (auto_map), which is never run"),
    (TOKENIZER, {"tokenizer_class": None}, "names code for its tokenizer (auto_map), which is never run"),
]
# fmt: on


@pytest.mark.parametrize(("file", "changes", "reason"), REFUSED)
def test_a_setting_that_leads_out_of_the_folder_is_named(
    file: str, changes: dict[str, Any], reason: str, with_code: Path
) -> None:
    edit(with_code / file, **changes)
    line = refusal(with_code)
    assert reason in line and f": {file}: " in line


def test_paths_that_transformers_passes_over_are_no_reason_to_refuse(folder: Path) -> None:
    files = {name: f"/srv/author/{name}.json" for name in ("special_tokens_map_file", "tokenizer_file")}
    edit(folder / TOKENIZER, name_or_path="/srv/author/model", vocab_file=None, **files)
    edit(folder / CONFIG, _name_or_path="/srv/author", quantization_config=None, attn_implementation="eager")
    opens(folder)


def test_adapters_and_weights_of_many_processes_are_not_opened(folder: Path) -> None:
    edit(folder / "adapter_config.json", base_model_name_or_path="evil/model", peft_type="LORA")
    assert "adapter_config.json: adapters and" in refusal(folder)
    (folder / "adapter_config.json").unlink()
    (folder / "shard-00001-model-00001-of-00001.safetensors").touch()
    assert "shard-00001-model-00001-of-00001.safetensors: adapters and per-process" in refusal(folder)


@pytest.mark.parametrize("name", ["model.safetensors", CONFIG, "tokenizer.json", "chat_template.jinja"])
def test_links_stay_in_the_folder(name: str, folder: Path, tmp_path: Path) -> None:
    if not (folder / name).exists():
        (folder / name).touch()
    (folder / name).rename(folder / "inside")
    (folder / name).symlink_to("inside")
    opens(folder)
    (folder / name).unlink()
    (folder / "inside").rename(tmp_path / "outside")
    (folder / name).symlink_to(tmp_path / "outside")
    assert f"{name}: is a link that leads out of the folder" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (CONFIG, b"[1, 2]", "got [1, 2], expected a JSON object"),
        (CONFIG, b"{", "invalid JSON"),
        (CONFIG, b"\xff\xfe", "invalid JSON"),
        (CONFIG, b'{"a": ' * 10**5, "invalid JSON"),
        (CONFIG, b'{"a": ' + b"1" * 10**5 + b"}", "invalid JSON"),
        (CONFIG, b" " * (8 * 2**20 + 1), "bytes, expected at most 8388608"),
        ("generation_config.json", b"nothing", "invalid JSON"),
        (TOKENIZER, b"null", "got None, expected a JSON object"),
        ("tokenizer.json", b" " * (64 * 2**20 + 1), "bytes, expected at most 67108864"),
    ],
)
def test_files_that_are_no_settings_are_named(name: str, content: bytes, reason: str, folder: Path) -> None:
    (folder / name).write_bytes(content)
    line = refusal(folder)
    assert f"{name}: " in line and reason in line


def test_a_panic_of_the_tokenizers_library_is_one_line(folder: Path) -> None:
    edit(folder / "tokenizer.json", normalizer={"type": "Precompiled", "precompiled_charsmap": "x"})
    assert "tokenizer: Precompiled: Error" in refusal(folder)


# Weights: the index, the headers, and what the config says of them.


@pytest.fixture
def sharded(models: Path, tmp_path: Path) -> Path:
    model, tokenizer = open_model(models / "recursive")
    model.save_pretrained(tmp_path / "sharded", max_shard_size="10KB")
    tokenizer.save_pretrained(tmp_path / "sharded")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 2
    return tmp_path / "sharded"


def test_shards_open(sharded: Path, models: Path) -> None:
    whole, opened = (opens(folder)[0].state_dict() for folder in (models / "recursive", sharded))
    assert all(torch.equal(opened[key], tensor) for key, tensor in whole.items())


@pytest.mark.parametrize("file", ["../x.safetensors", "/x.safetensors", "x.bin", "", None, ["a"]])
def test_an_index_lists_safetensors_of_its_folder(file: Any, sharded: Path) -> None:
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][HEAD] = file
    path.write_text(json.dumps(index))
    line = refusal(sharded)
    assert "weight_map: got" in line and "expected the name of a .safetensors file in the folder" in line


@pytest.mark.parametrize(
    "index", [{}, {"weight_map": {}}, {"weight_map": ["a"]}, {"weight_map": {"a": "b.safetensors"}}]
)
def test_an_index_is_whole(index: dict[str, Any], sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    assert re.search(r"expected a weight_map|b\.safetensors: is missing", refusal(sharded))


UNFIT: list[tuple[dict[str, torch.Tensor | None], str]] = [
    ({HEAD: None}, f"missing keys: {HEAD}"),
    ({HEAD: torch.zeros(304, 17)}, f"{HEAD} is [304, 17], expected [304, 16]"),
    ({HEAD: torch.zeros(304, 16, dtype=torch.int8)}, f"{HEAD}: got 'I8'"),
    ({"more\n": torch.zeros(1)}, "unexpected keys: more"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused(folder: Path, dtype: torch.dtype) -> None:
    weights = load_file(folder / "model.safetensors")
    name = sorted(weights)[-1]
    weights = {key: value.to(dtype) for key, value in weights.items()}
    weights[name].view(-1)[-1] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert f"its weight {name} isn't finite in float32" in refusal(folder)


@pytest.mark.parametrize(("changes", "reason"), UNFIT)
def test_weights_and_config_fit(changes: dict[str, torch.Tensor | None], reason: str, folder: Path) -> None:
    weights = load_file(folder / "model.safetensors") | changes
    kept = {name: tensor for name, tensor in weights.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    assert reason in refusal(folder)


@contextmanager
def little_memory() -> Iterator[None]:
    """Within, the process may take 1 GiB more than it has; on a GPU, whose driver reserves far more, as much as it wants."""
    if sys.platform != "linux" or torch.cuda.is_available():
        yield
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def is_about_memory(error: BaseException | None) -> bool:
    """Whether an error says that memory was asked for and not there, instead of that a size was refused."""
    if error is None:
        return False
    said = re.search("(can't|cannot) allocate|bad_alloc", str(error), re.IGNORECASE) is not None
    return said or isinstance(error, MemoryError) or is_about_memory(error.__cause__)


WIDE_ROPE = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1e9}
# fmt: off
ABSURD: list[tuple[str, dict[str, Any]]] = [
    ("recursive", {"layout": "99999"}),
    ("recursive", {"layout": "3R30000"}),
    ("recursive", {"layout": str(BILLION)}),
    ("recursive", {"layout": None, "num_hidden_layers": BILLION}),
    ("recursive", {"num_slots": BILLION}),
    ("recursive", {"num_slots": 10**30}),
    ("recursive", {"vocab_size": 10**12}),
    ("recursive", {"hidden_size": BILLION, "num_attention_heads": 1}),
    ("recursive", {"num_labels": BILLION}),
    ("recursive", {"rope_parameters": WIDE_ROPE}),
    ("llama", {"num_hidden_layers": BILLION}),
    ("llama", {"num_hidden_layers": 99_999}),
    ("llama", {"head_dim": BILLION}),
    ("llama", {"num_labels": 1e9}),
    ("gpt_neox", {"model_type": "gpt_neo", "attention_types": [[["global"], BILLION]]}),
    ("gpt_neox", {"model_type": "mixtral", "num_local_experts": BILLION}),
    ("gpt_neox", {"model_type": "gpt2", "max_position_embeddings": 10**7}),
]
# fmt: on


@pytest.mark.parametrize(("name", "changes"), ABSURD)
def test_absurd_sizes_are_refused_before_anything_is_allocated(
    name: str, changes: dict[str, Any], models: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(models / name, tmp_path / "model"))
    edit(folder / CONFIG, **changes)
    with little_memory(), pytest.raises(ConfigError) as refused:
        check_model_folder(folder)
    assert not is_about_memory(refused.value)
    assert refusal(folder)


# The Hugging Face Hub, as its cache looks like.


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot of `org/tiny`: names that link to contents. Nothing can be fetched."""
    cached = tmp_path / "cache" / "models--org--tiny"
    for part in ("blobs", "refs", f"snapshots/{HASH}"):
        (cached / part).mkdir(parents=True)
    (cached / "refs" / "main").write_text(HASH)
    for number, path in enumerate(folder.iterdir()):
        path.rename(cached / "blobs" / str(number))
        (cached / "snapshots" / HASH / path.name).symlink_to(f"../../blobs/{number}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return cached / "snapshots" / HASH


def test_a_model_of_the_hub_opens(hub: Path, models: Path) -> None:
    trained = open_trained("org/tiny")
    assert (trained.name, trained.key) == ("org/tiny", open_trained(str(models / "recursive")).key)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_model_of_the_hub_is_vetted(name: str, hub: Path, tmp_path: Path) -> None:
    shutil.move((hub / name).resolve(), tmp_path / "outside")
    (hub / name).unlink()
    (hub / name).symlink_to(tmp_path / "outside")
    told = rf"'org/tiny' is no folder here, and as .*{name}: is "
    with pytest.raises(ConfigError, match=f"{told}a link that leads out"):
        open_trained("org/tiny")
    (hub / name).unlink()
    with pytest.raises(ConfigError, match=f"{told}missing"):
        open_trained("org/tiny")


def test_weights_that_come_with_hostile_settings_are_not_fetched(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []

    def fetch(name: str, *, allow_patterns: list[str], **options: Any) -> str:
        fetched.extend(allow_patterns)
        return snapshot_download(name, allow_patterns=allow_patterns, **options)

    monkeypatch.setattr(pretrained_folder, "snapshot_download", fetch)
    open_trained("org/tiny")
    assert "model.safetensors" in fetched
    fetched.clear()
    edit(hub / CONFIG, model_type="mine")
    with pytest.raises(ConfigError, match="model_type: got 'mine'"):
        open_trained("org/tiny")
    assert fetched == ["*.json", "*.jinja", "*.model", "*.txt"]


# Whatever else a file holds: a model or one line.


def opens_or_is_refused(folder: Path) -> None:
    with little_memory():
        try:
            open_model(folder)
        except ConfigError as error:
            assert "\n" not in str(error) and not is_about_memory(error), error


HARD_NUMBERS = [0, -1, 1e9, -1e9, BILLION, 10**12, 2**31, 2**63, 2**64, float("inf"), float("nan")]
NUMBERS = st.integers(-(2**70), 2**70) | st.integers(-2, 300) | st.floats() | st.sampled_from(HARD_NUMBERS)
# fmt: off
HARD_WORDS = [
    "4+8R2+4", "1R99999", "mesh", "static", "gelu", "float64", "float8_e4m3fn", "eager", "prelude", "recursive_llama",
    "llama", "gpt_neox", "mamba", "yarn", "dynamic", "longrope", "full_attention", "../x",
]
MORE_KEYS = [
    "__dict__", "architectures", "attention_bias", "attribute_map", "auto_map", "dtype", "head_dim", "id2label",
    "is_encoder_decoder", "label2id", "layer_types", "num_key_value_heads", "num_labels", "num_slots",
    "output_attentions", "pad_token_id", "partial_rotary_factor", "per_layer_config", "problem_type", "rope_parameters",
    "rope_scaling", "rotary_pct", "sliding_window", "tie_word_embeddings", "tokenizer_class", "torch_dtype", "validate",
]
# fmt: on
WORDS = st.text(max_size=8) | st.sampled_from(HARD_WORDS)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def spoilt(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Copies that examples write into, one after the other."""
    copies = tmp_path_factory.mktemp("spoilt")
    return {name: Path(shutil.copytree(models / name, copies / name)) for name in ("recursive", "llama")}


@settings(max_examples=180)
@given(
    data=st.data(),
    name=st.sampled_from(["recursive", "llama"]),
    file=st.sampled_from([CONFIG, CONFIG, CONFIG, "generation_config.json", TOKENIZER, "tokenizer.json"]),
)
def test_any_settings_open_or_are_refused_in_one_line(
    data: st.DataObject, name: str, file: str, models: Path, spoilt: dict[str, Path]
) -> None:
    original = (models / name / file).read_text()
    content = json.loads(original)
    keys = st.sampled_from([*content, *(MORE_KEYS if file == CONFIG else ())]) | WORDS
    content |= data.draw(st.dictionaries(keys, JSON, min_size=1, max_size=3))
    for key in data.draw(st.lists(st.sampled_from(list(content)), max_size=2)):
        content.pop(key, None)
    (spoilt[name] / file).write_text(json.dumps(content))
    opens_or_is_refused(spoilt[name])
    (spoilt[name] / file).write_text(original)


@settings(max_examples=60)
@given(
    entry=st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets"]), JSON),
    length=st.none() | st.integers(0, 2**64 - 1),
    cut=st.none() | st.integers(0, 200),
    byte=st.none() | st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)),
)
@example(entry={}, length=2**64 - 1, cut=None, byte=None)
@example(entry={}, length=10**8, cut=8, byte=None)
@example(entry={"shape": [2**32, 2**32]}, length=None, cut=None, byte=None)
@example(entry={"shape": [BILLION], "data_offsets": [0, 4 * BILLION]}, length=None, cut=None, byte=None)
def test_any_header_opens_or_is_refused_in_one_line(
    models: Path,
    spoilt: dict[str, Path],
    entry: dict[str, Any],
    length: int | None,
    cut: int | None,
    byte: tuple[float, int] | None,
) -> None:
    weights = (models / "recursive" / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", weights[:8])
    header = json.loads(weights[8 : 8 + size])
    header[HEAD] |= entry
    content = bytearray(json.dumps(header).encode())
    if byte is not None:
        content[int(byte[0] * len(content))] = byte[1]
    start = struct.pack("<Q", len(content) if length is None else length)
    (spoilt["recursive"] / "model.safetensors").write_bytes((start + content + weights[8 + size :])[:cut])
    opens_or_is_refused(spoilt["recursive"])


def test_a_plain_folder_that_lacks_a_weight_is_an_error(tmp_path: Path) -> None:
    """Transformers would make it up."""
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"missing keys: model.layers.1.mlp.down_proj.weight"):
        pretrained_folder.PretrainedFolder(str(tmp_path)).model()

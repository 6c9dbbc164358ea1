"""`loopway retrofit` and `loopway export`, from folder to folder."""

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pretrained import FAMILIES, TEXTS, logits_of, save_pretrained
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig

from tests.command_line import run_main
from tests.modeling.tiny_models import random_ids


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a text and a pretrained Llama of six layers in `llama`."""
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[:200]))
    save_pretrained(tmp_path / "llama")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("family", FAMILIES)
def test_from_a_folder_to_a_recursive_model_and_back(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_pretrained(Path("plain"), family)
    made = run_main(
        monkeypatch, "retrofit", "plain", "--layout", "1+2R2+1", "--recurrence", "mesh", "--out", "mesh"
    )
    assert made == 0
    said = capfd.readouterr().out
    assert "plain: 6 layers as 1+2R2+1, 4 of them with parameters" in said
    assert "shared layer 1: spaced, from 1" in said and "shared layer 2: spaced, from 4" in said
    assert "routers start 13 apart" in said and said.splitlines()[-1] == "in mesh"
    recursive = AutoModelForCausalLM.from_pretrained("mesh")
    assert recursive.config.recurrence == "mesh" and not recursive.config.scale_embeddings
    assert recursive.generation_config.max_new_tokens == 7
    before, after = AutoTokenizer.from_pretrained("plain"), AutoTokenizer.from_pretrained("mesh")
    assert before("The stone of a river").input_ids == after("The stone of a river").input_ids
    record = json.loads(Path("mesh/retrofit.json").read_text())
    assert record["source"] == "plain" and record["layers"] == [[0], [1], [4], [5]]
    assert record["start"]["logits"] < 1e-3 and record["start"]["gradient_norm"] > 0
    assert run_main(monkeypatch, "generate", "mesh", "The stone", "--max-new-tokens", "3") == 0
    assert capfd.readouterr().out.startswith("The stone")

    assert run_main(monkeypatch, "export", "mesh", "--out", "layers", "--drop-recurrence") == 0
    assert "layout 1+2R2+1 as" in capfd.readouterr().out
    ids = random_ids()
    layers = AutoModelForCausalLM.from_pretrained("layers")
    torch.testing.assert_close(logits_of(layers, ids), logits_of(recursive, ids), rtol=1e-3, atol=1e-3)

    assert run_main(monkeypatch, "retrofit", "plain", "--layout", "2+4", "--out", "unshared") == 0
    assert run_main(monkeypatch, "export", "unshared", "--out", "back") == 0
    plain, back = (
        {path.name: path.read_bytes() for path in Path(name).iterdir()} for name in ("plain", "back")
    )
    assert plain.keys() == back.keys()
    # A tokenizer notes where it was loaded from; transformers opens one in a folder of Qwen 2 as that family's.
    expected = {"tokenizer_config.json"} | ({"tokenizer.json"} if family == "qwen2" else set())
    assert {name for name in plain if plain[name] != back[name]} == expected


@pytest.mark.parametrize("way", ["important", "least-squares"])
def test_a_core_filled_by_a_text(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], way: str
) -> None:
    options = [
        "--layout",
        "1+2R2+1",
        "--fill",
        way,
        "--calibration",
        "text.jsonl",
        "--calibration-tokens",
        "600",
    ]
    options += ["--recurrence", "mesh", "--router-gap", "9", "--num-slots", "6", "--dtype", "bfloat16"]
    assert run_main(monkeypatch, "retrofit", "llama", *options, "--out", "deep/er/out") == 0
    assert "128 tokens of the calibration text" in capfd.readouterr().out
    model = AutoModelForCausalLM.from_pretrained("deep/er/out")
    assert model.dtype == torch.bfloat16 and model.config.num_slots == 6
    record = json.loads(Path("deep/er/out/retrofit.json").read_text())
    assert record["calibration_tokens"] == 512 and record["router_gap"] == 9
    assert [path.name for path in Path("deep/er").iterdir()] == ["out"]


def shards(here: Path) -> None:
    AutoModelForCausalLM.from_pretrained("llama").save_pretrained("sharded", max_shard_size="60KB")
    next(iter(sorted(Path("sharded").glob("model-*.safetensors")))).unlink()


def config_with(name: str, **fields: object) -> Callable[[Path], None]:
    def make(here: Path) -> None:
        shutil.copytree("llama", name)
        config = json.loads(Path(name, "config.json").read_text())
        Path(name, "config.json").write_text(json.dumps(config | fields))

    return make


def cut_short(here: Path) -> None:
    shutil.copytree("llama", "cut")
    weights = Path("cut/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])


def without_tokenizer(here: Path) -> None:
    shutil.copytree("llama", "mute")
    for path in Path("mute").glob("tokenizer*"):
        path.unlink()


def full(here: Path) -> None:
    Path("full").mkdir()
    Path("full/letter.txt").write_text("dear reader")


def nothing(here: Path) -> None:
    pass


MIXED = {"layer_types": ["full_attention", "sliding_attention"] * 3, "use_sliding_window": True}
BASE = ["--layout", "1+2R2+1"]


@pytest.mark.parametrize(
    ("prepare", "arguments", "message"),
    [
        (nothing, ["llama", "--layout", "2+4R2+2"], "computes 12 layers and the model has 6; these would fit: 2+1R2+2,"),
        (nothing, ["llama", "--layout", "2+R2"], "layout '2+R2': segment 'R2' is invalid"),
        (nothing, ["llama", *BASE, "--recurrence", "mash"], "unknown recurrence 'mash' (did you mean 'mesh'?)"),
        (nothing, ["llama", "--layout", "6", "--recurrence", "mesh"], "needs two stages or more"),
        (nothing, ["llama", *BASE, "--fill", "avrage"], "fill: got 'avrage'; did you mean average"),
        (nothing, ["llama", *BASE, "--fill", "important"], "give --calibration FILE"),
        (nothing, ["llama", *BASE, "--calibration", "gone.txt"], "--calibration: 'gone.txt' does not exist"),
        (nothing, ["llama", *BASE, "--dtype", "int8"], "--dtype: got 'int8'"),
        (nothing, ["llama", *BASE, "--recurrence", "mesh", "--router-gap", "-1"], "router_gap: got -1.0"),
        (nothing, ["llama", *BASE, "--recurrence", "mesh", "--num-slots", "3"], "MeSH needs 4"),
        (nothing, ["./gone", *BASE], "gone can't be opened: it holds no model (no config.json)"),
        (nothing, ["no/such-model", *BASE], "'no/such-model' is no folder here, and as a name on the Hugging Face Hub it"),
        (full, ["llama", *BASE, "--out", "full"], "full exists and isn't empty"),
        (shards, ["sharded", *BASE], "model-00001-of-00005.safetensors: is missing"),
        (cut_short, ["cut", *BASE], "cut can't be opened"),
        (without_tokenizer, ["mute", *BASE], "mute can't be opened"),
        (config_with("deeper", num_hidden_layers=7), ["deeper", "--layout", "7"], "weights don't fit the config (missing keys"),
        (config_with("less", num_hidden_layers=4), ["less", "--layout", "4"], "weights don't fit the config (unexpected keys"),
        (
            config_with("quantised", quantization_config={"quant_method": "gptq", "bits": 4}),
            ["quantised", *BASE],
            "says that the weights are quantised",
        ),
        (config_with("bert", **BertConfig().to_dict()), ["bert", *BASE], "family 'bert' is not supported"),
        (
            config_with("mixed", model_type="qwen3", sliding_window=4, **MIXED),
            ["mixed", "--layout", "1+1R4+1"],
            "would fold layers 1 (sliding_attention) and 2 (full_attention) into one",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2_and_leaves_nothing_behind(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    prepare: Callable[[Path], None],
    arguments: list[str],
    message: str,
) -> None:
    prepare(here)
    capfd.readouterr()
    before = sorted(path.relative_to(here) for path in here.rglob("*"))
    out = [] if "--out" in arguments else ["--out", "out"]
    assert run_main(monkeypatch, "retrofit", *arguments, *out) == 2
    output = capfd.readouterr()
    lines = output.err.splitlines()
    assert output.out == "" and len(lines) == 1, output.err
    assert lines[0].startswith("loopway: ") and message in lines[0], lines[0]
    assert sorted(path.relative_to(here) for path in here.rglob("*")) == before


def test_a_full_disk_is_one_line_and_leaves_nothing_behind(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before, limits = sorted(here.rglob("*")), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        code = run_main(monkeypatch, "retrofit", "llama", *BASE, "--out", "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (line,) = capfd.readouterr().err.splitlines()
    assert code == 2 and line.startswith("loopway: out can't be written: ") and "too large" in line
    assert sorted(here.rglob("*")) == before


def test_what_cannot_be_exported_is_one_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "retrofit", "llama", *BASE, "--recurrence", "mesh", "--out", "mesh") == 0
    assert run_main(monkeypatch, "retrofit", "mesh", *BASE, "--out", "again") == 2
    capfd.readouterr()
    for arguments, message in (
        (["mesh", "--out", "plain"], "recurrence 'mesh' can't"),
        (["llama", "--out", "plain"], "is not a recursive model"),
        (["gone", "--out", "plain"], "'gone' is no folder here"),
        (["mesh", "--out", "llama"], "llama exists and isn't empty"),
    ):
        assert run_main(monkeypatch, "export", *arguments) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert message in line
    assert not (here / "plain").exists()

"""`loopway probe` from a trained run to its page, and one line for each mistake."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch.utils.data import default_collate
from transformers import AutoModelForCausalLM, GPT2Config
from typer.testing import CliRunner

from loopway.cli import app, main
from loopway.comparison.planned import PlannedRun
from loopway.comparison.run import probe_models
from loopway.inference.held_out import held_out_samples, sample_losses
from loopway.inference.trained_model import open_trained
from loopway.options import ProbeOptions
from loopway.probing.probe import probe
from loopway.traces.reading import evenly_spread
from loopway.training.config.run_config import RunConfig
from loopway.training.run import train


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of three finished runs on the same text: mesh, base and vanilla."""
    folder = tmp_path_factory.mktemp("runs")
    texts = [f"the {a} of the {b} and the {c} " * 8 for a in "abcd" for b in "efgh" for c in "ijkl"]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    for name, layout in (("mesh", "1+1R2+1"), ("base", "1+1R2+1"), ("vanilla", "4")):
        content = {
            "model": {"preset": "pythia-14m", "hidden_size": 32, "layout": layout},
            "data": {"train": str(folder / "text.jsonl"), "sequence_length": 32, "vocab_size": 300},
            "training": {"global_batch_size": 4, "max_steps": 3, "learning_rate": 1e-2, "use_cpu": True},
        }
        content["model"]["recurrence"] = name if name == "mesh" else "base"
        content["data"]["validation_fraction"] = 0.3
        train(RunConfig.from_dict(content), folder / name)
    return folder


def test_a_run_s_own_validation_text_is_probed_and_everything_is_written(runs: Path, tmp_path: Path) -> None:
    names = [str(runs / name) for name in ("vanilla", "base", "mesh")]
    result = CliRunner().invoke(
        app, ["probe", *names, "--samples", "6", "--loop-samples", "3", "--out", str(tmp_path / "out")]
    )
    assert result.exit_code == 0, result.output
    assert "one loop fewer" in result.stdout and "last write withheld" in result.stdout
    assert re.search(r"balance ↑.*\d\.\d+ ± 0\.\d+", result.stdout)
    content = json.loads((tmp_path / "out" / "probes.json").read_text())
    vanilla, base, mesh = content["models"]
    assert [model["name"] for model in content["models"]] == names
    assert vanilla["cut"] == "1+1R2+1" and base["cut"] is mesh["cut"] is None
    assert {model["samples"] for model in content["models"]} == {6}
    assert len({model["text"] for model in content["models"]}) == 1
    assert vanilla["routers"] is base["routers"] is None and mesh["routers"]["sources"][0] == "h_emb"
    assert vanilla["loops"] == [] and mesh["loops"][0]["samples"] == 3
    trained = open_trained(str(runs / "mesh"))
    ids = held_out_samples(trained, [], None)[0]["input_ids"].tolist()
    assert mesh["routers"]["token_ids"] == ids and len(ids) == 32
    assert "".join(mesh["tokens"]) == trained.tokenizer.decode(ids) and base["tokens"] == []
    page = (tmp_path / "out" / "probes.html").read_text()
    assert "loopway" in page and "1+1R2+1" in page
    figures = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert {"relative-updates.png", "relative-updates.svg", "routers-mesh.svg", "loops.png"} <= figures


def test_the_same_run_gives_the_same_bytes(runs: Path, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        probe(
            [str(runs / "mesh")],
            tmp_path / folder,
            ProbeOptions(samples=4, loop_samples=2),
            command="loopway probe",
        )
    for name in ("probes.json", "probes.html", "figures/spectra.svg"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_checkpoints_and_named_token_files_can_be_probed(runs: Path, tmp_path: Path) -> None:
    checkpoint = max((runs / "mesh" / "checkpoints").glob("checkpoint-*"))
    settings = ProbeOptions(samples=3, loop_samples=0)
    (own,) = probe([str(checkpoint)], tmp_path / "own", settings)
    assert own.loops == []
    named = ProbeOptions(data=[str(runs / "mesh" / "data")], samples=3, loop_samples=0, sequence_length=16)
    (given,) = probe([str(runs / "mesh" / "model")], tmp_path / "given", named)
    assert (given.sequence_length, own.sequence_length) == (16, 32)
    assert given.key == own.key


def test_a_plain_hugging_face_model_is_probed_as_the_vanilla_one(runs: Path, tmp_path: Path) -> None:
    vanilla = AutoModelForCausalLM.from_pretrained(runs / "vanilla" / "model")
    from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

    fields = vanilla.config.to_dict()
    known = GPTNeoXConfig().to_dict().keys() - {"model_type", "architectures"}
    plain: Any = GPTNeoXForCausalLM(GPTNeoXConfig(**{key: fields[key] for key in known if key in fields}))
    weights = {name.replace("layers.0.layers.", "layers."): w for name, w in vanilla.state_dict().items()}
    plain.load_state_dict(weights)
    with torch.no_grad():  # which the recursive one does as it runs
        plain.get_input_embeddings().weight.mul_(32**0.5)
    plain.save_pretrained(tmp_path / "plain")
    AutoTokenizer.from_pretrained(runs / "vanilla" / "model").save_pretrained(tmp_path / "plain")
    settings = ProbeOptions(data=[str(runs / "mesh" / "data")], samples=4, sequence_length=32, cut="1+1R2+1")
    own, ours = probe([str(tmp_path / "plain"), str(runs / "vanilla")], tmp_path / "out", settings)
    assert (own.family, own.layout, own.cut) == ("gpt_neox", "4", "1+1R2+1")
    for name in ("relative_update", "cka", "spectrum", "effective_rank"):
        torch.testing.assert_close(
            torch.tensor(getattr(own.states, name).mean),
            torch.tensor(getattr(ours.states, name).mean),
            rtol=1e-4,
            atol=1e-4,
        )


def line_of(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """The one line that a mistake gets, with exit code 2."""
    monkeypatch.setattr("sys.argv", ["loopway", "probe", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("loopway: ")]
    assert len(told) == 1
    return told[0]


def test_mistakes_are_one_line(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def line(*arguments: str) -> str:
        return line_of(capsys, monkeypatch, *arguments, "--out", str(tmp_path / "out"))

    mesh, vanilla = str(runs / "mesh"), str(runs / "vanilla")
    assert "no folder" in line(str(tmp_path / "nowhere"))
    assert "--dtype: got 'float8'" in line(mesh, "--dtype", "float8")
    assert "layout '1+R2': segment 'R2' is invalid" in line(mesh, "--cut", "1+R2")
    assert "--sequence-length: got 9999, expected at most the" in line(mesh, "--sequence-length", "9999")
    assert "can't be cut as 1+2R2+1, which has 6" in line(vanilla, "--cut", "1+2R2+1")
    assert "no" in line(mesh, "--data", str(tmp_path / "nothing"))
    assert (
        "there is no validation set: give a run that has one, or give held-out token files with --data"
        in line(str(shutil_copy(runs / "mesh" / "model", tmp_path / "model")))
    )
    emptied = shutil_copy(runs / "mesh", tmp_path / "emptied")
    shutil.rmtree(emptied / "data")
    told = "put back what it was trained on, or give held-out token files with --data"
    assert told in line(str(emptied)) and not (emptied / "data").exists()
    (tmp_path / "file").write_text("")
    assert "file" in line_of(capsys, monkeypatch, mesh, "--out", str(tmp_path / "file"))


def shutil_copy(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))


def test_losses_with_changed_loops_are_of_samples_among_those_probed(runs: Path, tmp_path: Path) -> None:
    (found,) = probe([str(runs / "mesh")], tmp_path / "out", ProbeOptions(samples=4, loop_samples=3))
    trained = open_trained(str(runs / "mesh"))
    held_out = held_out_samples(trained, [], None)
    assert held_out is not None
    four = evenly_spread(held_out, 4)
    losses = [sample_losses(trained.model, default_collate([four[index]]))[0] / 32 for index in (0, 2, 3)]
    assert found.loops[0].loss == pytest.approx(sum(losses) / 3)


def test_a_model_without_finite_states_is_one_line(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil_copy(runs / "mesh" / "model", tmp_path / "large")
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        weight = model.get_input_embeddings().get_parameter("weight")
        weight.mul_(6e4 / weight.abs().max())  # float16 holds it, and not the scaled embeddings
    model.save_pretrained(folder)
    told = line_of(
        capsys,
        monkeypatch,
        *(str(folder), "--data", str(runs / "mesh" / "data"), "--dtype", "float16", "--samples", "2"),
        *("--sequence-length", "16", "--out", str(tmp_path / "out")),
    )
    assert "large: states in float16 aren't finite" in told


def test_a_comparison_ends_with_a_page_of_its_models_and_the_command_that_makes_it_again(
    runs: Path, tmp_path: Path
) -> None:
    (tmp_path / "runs").mkdir()
    plugin = tmp_path / "own.py"
    plugin.write_text("")
    planned = {}
    for name in ("vanilla", "mesh"):
        (tmp_path / "runs" / f"{name}-seed0").symlink_to(runs / name)
        config = RunConfig.load(runs / name / "config.yaml").model_copy(update={"plugins": [str(plugin)]})
        planned[name] = [PlannedRun(f"{name}-seed0", config, tmp_path)]
    probe_models(tmp_path, planned, 3, Console(quiet=True))
    content = json.loads((tmp_path / "probes" / "probes.json").read_text())
    models = [f"{tmp_path}/runs/{name}-seed0" for name in ("vanilla", "mesh")]
    assert [(model["name"], model["samples"]) for model in content["models"]] == [(m, 3) for m in models]
    assert content["models"][0]["cut"] == "1+1R2+1"
    told = f"--samples 3 --out {tmp_path}/probes --plugin {plugin}"
    assert content["command"] == f"loopway probe {' '.join(models)} {told}"
    assert content["settings"]["plugin"] == [str(plugin)]


def test_an_unsupported_family_is_named(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil_copy(runs / "mesh" / "model", tmp_path / "gpt2")
    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=300)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    told = line_of(
        capsys, monkeypatch, str(folder), "--data", str(runs / "mesh" / "data"), "--out", str(tmp_path / "o")
    )
    assert "family 'gpt2' is not supported" in told


def test_a_vanilla_model_alone_is_one_block_and_is_told_so(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (found,) = probe([str(runs / "vanilla")], tmp_path, ProbeOptions(samples=2))
    assert (
        found.states.stages == ["block"] and found.states.states == ["h_emb", "h_out"] and found.cut is None
    )
    assert "is probed as a single block; give --cut" in capsys.readouterr().err

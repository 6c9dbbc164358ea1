"""Flattening of a package into one Python file: some of its functions and all that they use.

Reads source text and imports no more than the packages that it lies in. What is taken stands in the order in which the modules import each other, and in a
module in its own order, so that what runs there runs here. Knows nothing of models.
"""

import ast
import importlib.util
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

_RULE = "-" * 20


class FlatteningError(RuntimeError):
    """The modules can't be joined as they are written; a bug of Loopway, not a user's mistake."""


class Imported(NamedTuple):
    """The target of an imported name: `name` of `module`, or (None) the module itself."""

    module: str
    name: str | None


@dataclass(frozen=True)
class Source:
    """A module's text, taken apart."""

    name: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def imports(self) -> dict[str, Imported]:
        """Imports of its top level, by their local names."""
        found = {}
        for statement in self.tree.body:
            if isinstance(statement, ast.ImportFrom):
                if statement.level or statement.module is None:
                    raise FlatteningError(f"{self.name}: write relative imports with the package's name")
                for alias in statement.names:
                    found[alias.asname or alias.name] = Imported(statement.module, alias.name)
            elif isinstance(statement, ast.Import):
                for alias in statement.names:
                    found[alias.asname or alias.name.partition(".")[0]] = Imported(alias.name, None)
        return found

    @cached_property
    def statements(self) -> list[ast.stmt]:
        """Statements of its top level that define or do something."""
        return [
            statement
            for statement in self.tree.body
            if not isinstance(statement, ast.Import | ast.ImportFrom) and not _is_text(statement)
        ]

    @cached_property
    def definitions(self) -> dict[str, ast.stmt]:
        return {name: statement for statement in self.statements for name in bound_names(statement)}

    def text_of(self, statement: ast.stmt) -> str:
        """Its lines, decorators and the comment above it included."""
        lines = self.text.splitlines()
        decorators = getattr(statement, "decorator_list", [])
        first = min(node.lineno for node in (statement, *decorators)) - 1
        while first > 0 and lines[first - 1].startswith("#"):
            first -= 1
        return "\n".join(lines[first : statement.end_lineno])


class Flattened:
    """Parts of a package's modules: the requested definitions, and all that these use.

    Args:
        package: whose modules are put together; what they import from elsewhere stays imported.
        roots: (module, name), what is asked for.

    Raises:
        FlatteningError: two modules give one name to different things, or a module imports the package inside a function.
    """

    def __init__(self, package: str, roots: Iterable[tuple[str, str]]) -> None:
        self.package = package
        self._sources: dict[str, Source] = {}
        self._taken: dict[str, list[ast.stmt]] = defaultdict(list)
        self._meanings: dict[str, Imported] = {}
        roots = list(roots)
        for module, name in roots:
            self._take_name(module, name)
        order = dict.fromkeys(found for module, _ in roots for found in self._in_order(module, set()))
        #: The modules of which something is taken, those that others import first.
        self.modules = [module for module in order if module in self._taken]

    def text(self, *, footer: str) -> str:
        """The imports, what is taken of each module, and lines of one's own that come last."""
        for statement in ast.parse(footer).body:
            for name in bound_names(statement):
                self._claim(name, Imported(f"{self.package}.<footer>", name))
        parts = ["\n".join(self._import_lines()), *map(self._section, self.modules), footer]
        return "\n\n\n".join(part.strip() for part in parts) + "\n"

    def _source(self, module: str) -> Source:
        if module not in self._sources:
            spec = importlib.util.find_spec(module)
            text = spec and spec.loader and spec.loader.get_source(module)  # type: ignore[attr-defined]
            if not text:
                raise FlatteningError(f"{module} has no source text")
            self._sources[module] = Source(module, text)
        return self._sources[module]

    def _is_ours(self, module: str) -> bool:
        return f"{module}.".startswith(f"{self.package}.")

    def _take_name(self, module: str, name: str) -> None:
        """Take what a module calls so, if it is anything of the module's top level."""
        source = self._source(module)
        if name in source.definitions:
            self._claim(name, Imported(module, name))
            self._take(source, source.definitions[name])
        elif (meant := source.imports.get(name)) is not None:
            if not self._is_ours(meant.module):
                self._claim(name, meant)
            elif meant.name != name:
                raise FlatteningError(f"{module}: {name} is called otherwise in {meant.module}")
            else:
                self._take_name(meant.module, name)

    def _take(self, source: Source, statement: ast.stmt) -> None:
        taken = self._taken[source.name]
        if statement in taken:
            return
        effects = [] if taken else [each for each in source.statements if not bound_names(each)]
        taken.append(statement)
        for node in ast.walk(statement):
            if isinstance(node, ast.Name):
                self._take_name(source.name, node.id)
            elif isinstance(node, ast.Import | ast.ImportFrom) and any(map(self._is_ours, _modules(node))):
                raise FlatteningError(
                    f"{source.name}:{node.lineno}: imports {self.package} inside a function"
                )
        for effect in effects:  # what else a module does when it is imported
            self._take(source, effect)

    def _claim(self, name: str, meant: Imported) -> None:
        before = self._meanings.setdefault(name, meant)
        if before != meant:
            raise FlatteningError(
                f"{name} is something else in {before.module} than in {meant.module}: rename one of them"
            )

    def _in_order(self, module: str, seen: set[str]) -> Iterator[str]:
        """The modules that this one imports, and it."""
        if module in seen:
            return
        seen.add(module)
        for imported in self._source(module).imports.values():
            if self._is_ours(imported.module):
                yield from self._in_order(imported.module, seen)
        yield module

    def _import_lines(self) -> list[str]:
        wanted: dict[str, list[str]] = defaultdict(list)
        lines = []
        for name, meant in sorted(self._meanings.items()):
            if self._is_ours(meant.module):
                continue
            given = meant.name or meant.module
            shown = given if name == given else f"{given} as {name}"
            if meant.name is None:
                lines.append(f"import {shown}")
            else:
                wanted[meant.module].append(shown)
        lines += [f"from {module} import {', '.join(names)}" for module, names in wanted.items()]
        standard = [line for line in lines if line.split()[1].partition(".")[0] in sys.stdlib_module_names]
        others = [line for line in lines if line not in standard]
        return [*sorted(standard), "", *sorted(others)]

    def _section(self, module: str) -> str:
        source = self._source(module)
        about = ast.get_docstring(source.tree) or ""
        title = f"# {_RULE} {module}"
        comment = "\n".join(f"# {line}".rstrip() for line in about.splitlines())
        taken = [source.text_of(each) for each in source.statements if each in self._taken[module]]
        return f"{title}\n{comment}\n\n" + "\n\n\n".join(taken)


def bound_names(statement: ast.stmt) -> list[str]:
    """The names that a statement of the top level defines: a class's, a function's, those assigned to."""
    if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [statement.name]
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _modules(node: ast.Import | ast.ImportFrom) -> list[str]:
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]

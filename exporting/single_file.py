"""Joins modules of ours into one source file: some definitions, and whatever they use.

transformers loads foreign networks from single files. This one is made from the sources of the
package, so that nothing is written twice.
"""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

Name = tuple[str, str]  # module, and what it defines
ROOT = Path(__file__).parents[1]
# The package's name and a dot where we are installed, '' in a checkout.
PREFIX = __name__.removesuffix('exporting.single_file')


class _Import(NamedTuple):
    """An import of a module that is not ours: `from module import name`, or `import name`."""

    module: str  # '' for `import name`
    name: str  # perhaps with ` as another`


@dataclass
class _Source:
    """The top level of one module."""

    lines: list[str]
    # The statement that defines each name.
    definitions: dict[str, ast.stmt] = field(default_factory=dict)
    # Registrations: they define no name of their own, but use some.
    calls: list[ast.stmt] = field(default_factory=list)
    # What is imported, by its name here: from modules of ours, and from others.
    ours: dict[str, Name] = field(default_factory=dict)
    foreign: dict[str, _Import] = field(default_factory=dict)


def join_modules(roots: Iterable[Name]) -> str:
    """Joins definitions of ours, and whatever they use of our modules, into one source.

    Args:
        roots: (module, name) of each definition that the file is wanted for.

    Returns:
        Python source, in which each module follows those that it imports.

    Raises:
        ValueError: two modules give one name to different things, or one imports a name under
            another.
    """
    joined = _Selection()
    for module, name in roots:
        joined.choose(module, name)
    joined.refuse_clashes()
    return joined.text()


class _Selection:
    """The statements that are needed, and the modules that they come from."""

    def __init__(self) -> None:
        self.sources: dict[str, _Source] = {}
        self.chosen: dict[Name, ast.stmt] = {}
        self.calls: list[ast.stmt] = []
        self.imports: set[_Import] = set()

    def choose(self, module: str, name: str) -> None:
        """Adds what `name` means in `module`, and what that uses in turn."""
        source = self._source(module)
        if name in source.ours:
            self._choose_imported(module, name, source.ours[name])
        elif name in source.foreign:
            self.imports.add(source.foreign[name])
        elif name in source.definitions and (module, name) not in self.chosen:
            statement = source.definitions[name]
            self.chosen[module, name] = statement
            self._choose_used(module, statement)
            self._choose_calls(module, name)

    def _source(self, module: str) -> _Source:
        if module not in self.sources:
            self.sources[module] = _read(module)
        return self.sources[module]

    def _choose_imported(self, module: str, name: str, imported: Name) -> None:
        origin, original = imported
        if original != name:
            raise ValueError(
                f'{module}: {original} is imported as {name}; a joined file needs one name')
        self.choose(origin, original)

    def _choose_used(self, module: str, statement: ast.stmt) -> None:
        for used in _names(statement):
            self.choose(module, used)

    def _choose_calls(self, module: str, name: str) -> None:
        """Adds the registrations that call a method of `name`."""
        for call in self._source(module).calls:
            if call not in self.calls and name in _called(call):
                self.calls.append(call)
                self._choose_used(module, call)

    def refuse_clashes(self) -> None:
        """Raises ValueError if several modules define one name."""
        owners: dict[str, set[str]] = {}
        for module, name in self.chosen:
            owners.setdefault(name, set()).add(module)
        clashes = []
        for name, modules in owners.items():
            if len(modules) > 1:
                clashes.append(f'{name} in {", ".join(sorted(modules))}')
        if clashes:
            raise ValueError('one name for different things: ' + '; '.join(clashes))

    def text(self) -> str:
        """The joined source: imports, then the chosen statements of each module in its order."""
        lines = _import_lines(self.imports)
        for module in self._modules_in_order():
            statements = self._chosen_of(module)
            if not statements:
                continue
            lines += ['', '', f'# --- {module}']
            for statement in statements:
                if _is_block(statement):
                    lines += ['', '']
                lines += _lines(self.sources[module], statement)
        return '\n'.join(lines) + '\n'

    def _chosen_of(self, module: str) -> list[ast.stmt]:
        """The chosen statements of a module, in its order, each once."""
        source = self.sources[module]
        kept = {id(statement) for statement in (*self.chosen.values(), *self.calls)}
        # One statement may define several names.
        by_line = {}
        for statement in (*source.definitions.values(), *source.calls):
            if id(statement) in kept:
                by_line[statement.lineno] = statement
        return [by_line[line] for line in sorted(by_line)]

    def _modules_in_order(self) -> Iterator[str]:
        """The modules of chosen statements, each after those that it imports."""
        done: set[str] = set()

        def visit(module: str) -> Iterator[str]:
            if module in done:
                return
            done.add(module)
            for imported, _ in self.sources[module].ours.values():
                if imported in self.sources:
                    yield from visit(imported)
            yield module

        for module, _ in self.chosen:
            yield from visit(module)


def _import_lines(imports: Iterable[_Import]) -> list[str]:
    """Lines such as `import math`, then lines such as `from torch import Tensor, nn`."""
    whole = []
    parts: dict[str, list[str]] = {}
    for module, name in sorted(imports):
        if module:
            parts.setdefault(module, []).append(name)
        else:
            whole.append(f'import {name}')
    lines = [f'from {module} import {", ".join(names)}' for module, names in parts.items()]
    return whole + lines


def _path(module: str) -> Path:
    path = ROOT / module.replace('.', '/')
    return path / '__init__.py' if path.is_dir() else path.with_suffix('.py')


def _read(module: str) -> _Source:
    """The top level of a module of ours."""
    text = _path(module).read_text(encoding='utf-8')
    source = _Source(text.splitlines())
    for statement in ast.parse(text).body:
        match statement:
            case ast.Import():
                for alias in statement.names:
                    here = alias.asname or alias.name.split('.')[0]
                    source.foreign[here] = _Import('', ast.unparse(alias))
            case ast.ImportFrom():
                _read_import(source, statement)
            case ast.FunctionDef(name='_') | ast.Expr(value=ast.Call()):
                source.calls.append(statement)
            case ast.FunctionDef() | ast.ClassDef():
                source.definitions[statement.name] = statement
            case ast.Assign() | ast.AnnAssign():
                for name in _assigned(statement):
                    source.definitions[name] = statement
    return source


def _read_import(source: _Source, statement: ast.ImportFrom) -> None:
    """Notes the names of a `from ... import`."""
    imported = statement.module or ''
    module = imported.removeprefix(PREFIX)
    is_ours = _path(module).is_file()
    for alias in statement.names:
        here = alias.asname or alias.name
        if is_ours:
            source.ours[here] = (module, alias.name)
        else:
            source.foreign[here] = _Import(imported, ast.unparse(alias))


def _assigned(statement: ast.Assign | ast.AnnAssign) -> Iterator[str]:
    """Names that an assignment gives."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    for target in targets:
        yield from _names(target)


def _names(node: ast.AST) -> list[str]:
    """Names in a statement or an expression, each once, sorted: the joined file is reproducible."""
    return sorted({part.id for part in ast.walk(node) if isinstance(part, ast.Name)})


def _called(statement: ast.stmt) -> Iterator[str]:
    """Names whose methods a registration calls or is decorated with."""
    if isinstance(statement, ast.FunctionDef):
        heads = statement.decorator_list
    else:
        assert isinstance(statement, ast.Expr)
        assert isinstance(statement.value, ast.Call)
        heads = [statement.value.func]
    for head in heads:
        yield from _names(head)


def _is_block(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.FunctionDef | ast.ClassDef)


def _lines(source: _Source, statement: ast.stmt) -> list[str]:
    """The lines of a statement as they are in the source, with its decorators."""
    first = statement.lineno
    for decorator in getattr(statement, 'decorator_list', []):
        first = min(first, decorator.lineno)
    return source.lines[first - 1:statement.end_lineno]

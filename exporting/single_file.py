"""Our own modules joined into one source file: the definitions that given names need, in the order of their imports.

`transformers` loads foreign networks from single files. This one is made from the sources of the package, so that
nothing is written twice.
"""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

Name = tuple[str, str]  # module, and what it defines
ROOT = Path(__file__).parents[1]
PREFIX = __name__.removesuffix('exporting.single_file')  # the package's name and a dot where we are installed


@dataclass
class _Source:
    """The top level of one module: statements by the names they define, those that only call, and the imports."""

    lines: list[str]
    definitions: dict[str, ast.stmt] = field(default_factory=dict)
    calls: list[ast.stmt] = field(default_factory=list)  # registrations: no name of their own, but they use some
    ours: dict[str, tuple[str, str]] = field(default_factory=dict)  # name here -> module, name there
    foreign: dict[str, tuple[str, str]] = field(default_factory=dict)  # name here -> 'import', or module; what of it


def join_modules(roots: Iterable[Name]) -> str:
    """Python source with the definitions `roots` and all that they use of our modules.

    Raises ValueError if two modules give one name to different things, or one imports a name under another.
    """
    sources: dict[str, _Source] = {}
    chosen: dict[Name, ast.stmt] = {}
    calls: list[tuple[str, ast.stmt]] = []
    imports: set[tuple[str, str]] = set()

    def source_of(module: str) -> _Source:
        if module not in sources:
            sources[module] = _read(module)
        return sources[module]

    def choose(module: str, name: str) -> None:
        source = source_of(module)
        if name in source.ours:
            there, original = source.ours[name]
            if original != name:
                raise ValueError(f'{module}: {original} is imported as {name}; a joined file needs one name')
            choose(there, original)
        elif name in source.foreign:
            imports.add(source.foreign[name])
        elif name in source.definitions and (module, name) not in chosen:
            statement = source.definitions[name]
            chosen[module, name] = statement
            choose_all(module, statement)
            for call in source.calls:
                if (module, call) not in calls and name in _called(call):
                    calls.append((module, call))
                    choose_all(module, call)

    def choose_all(module: str, statement: ast.stmt) -> None:
        for used in _names(statement):
            choose(module, used)

    for module, name in roots:
        choose(module, name)
    _refuse_clashes(chosen)
    kept = {id(statement) for statement in (*chosen.values(), *(call for _, call in calls))}
    lines = _import_lines(imports)
    for module in _in_order(sources, [module for module, _ in chosen]):
        source = sources[module]
        own = {s.lineno: s for s in (*source.definitions.values(), *source.calls) if id(s) in kept}
        if own:
            lines += ['', '', f'# --- {module}']
            for _, statement in sorted(own.items()):
                lines += ['', ''] * _is_block(statement) + _lines(source, statement)
    return '\n'.join(lines) + '\n'


def _import_lines(imports: Iterable[tuple[str, str]]) -> list[str]:
    modules: dict[str, list[str]] = {}
    for module, name in sorted(imports):
        modules.setdefault(module, []).append(name)
    whole = [f'import {name}' for name in modules.pop('import', [])]
    return whole + [f'from {module} import {", ".join(names)}' for module, names in modules.items()]


def _path(module: str) -> Path:
    path = ROOT / module.replace('.', '/')
    return path / '__init__.py' if path.is_dir() else path.with_suffix('.py')


def _read(module: str) -> _Source:
    text = _path(module).read_text(encoding='utf-8')
    source = _Source(text.splitlines())
    for statement in ast.parse(text).body:
        match statement:
            case ast.Import():
                for alias in statement.names:
                    source.foreign[alias.asname or alias.name.split('.')[0]] = ('import', ast.unparse(alias))
            case ast.ImportFrom():
                for alias in statement.names:
                    here = alias.asname or alias.name
                    module = statement.module.removeprefix(PREFIX)
                    if _path(module).is_file():
                        source.ours[here] = (module, alias.name)
                    else:
                        source.foreign[here] = (statement.module, ast.unparse(alias))
            case ast.FunctionDef(name='_') | ast.Expr(value=ast.Call()):
                source.calls.append(statement)
            case ast.FunctionDef() | ast.ClassDef():
                source.definitions[statement.name] = statement
            case ast.Assign() | ast.AnnAssign():
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                for name in (n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)):
                    source.definitions[name] = statement
    return source


def _names(statement: ast.stmt) -> set[str]:
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}


def _called(statement: ast.stmt) -> set[str]:
    """Names whose methods a registration calls or is decorated with."""
    heads = statement.decorator_list if isinstance(statement, ast.FunctionDef) else [statement.value.func]
    return {name for head in heads for name in _names(head)}


def _refuse_clashes(chosen: dict[Name, ast.stmt]) -> None:
    owners: dict[str, set[str]] = {}
    for module, name in chosen:
        owners.setdefault(name, set()).add(module)
    clashes = []
    for name, modules in owners.items():
        if len(modules) > 1:
            clashes.append(f'{name} in {", ".join(sorted(modules))}')
    if clashes:
        raise ValueError('one name for different things: ' + '; '.join(clashes))


def _in_order(sources: dict[str, _Source], wanted: Iterable[str]) -> Iterator[str]:
    """The modules that `wanted` ones import, then they themselves, each once."""
    done: set[str] = set()

    def visit(module: str) -> Iterator[str]:
        if module not in done:
            done.add(module)
            for imported, _ in sources[module].ours.values():
                if imported in sources:
                    yield from visit(imported)
            yield module

    for module in wanted:
        yield from visit(module)


def _is_block(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.FunctionDef | ast.ClassDef)


def _lines(source: _Source, statement: ast.stmt) -> list[str]:
    """The statement as it stands in the source, with its decorators."""
    first = min([statement.lineno, *(d.lineno for d in getattr(statement, 'decorator_list', []))])
    return source.lines[first - 1:statement.end_lineno]

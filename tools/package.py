"""The checkout as one package: for the wheel, an editable installation, and torch.hub.

In the checkout `config`, `models` and the others are top-level modules. Installed like that, they would collide with
modules of other projects, so there they belong to a package: `from models.zoo import find` is rewritten to
`from birefnet.models.zoo import find`, and birefnet.py becomes the package's `__init__.py`. The package contains the
commands and whatever they import.

This file is loaded by its path, and imports the standard library alone.
"""

import ast
import importlib
import importlib.abc
import importlib.util
import re
import runpy
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib.machinery import ModuleSpec
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

TOP = 'birefnet'  # becomes the package itself
FROM = re.compile(rb'from[\s\\]+')


class _Edit(NamedTuple):
    """The bytes from `start` to `end` of a source become `text`."""

    start: int
    end: int
    text: bytes


class Checkout:
    """The sources below `root`, as modules of `package`."""

    def __init__(self, root: Path, package: str = TOP) -> None:
        self.root, self.package = root, package

    @cached_property
    def modules(self) -> set[str]:
        """Names of the modules and packages at the top of the checkout."""
        files = {path.stem for path in self.root.glob('*.py')}
        folders = {path.parent.name for path in self.root.glob('*/__init__.py')}
        return (files | folders) - {TOP, '__main__'}

    @cached_property
    def commands(self) -> dict[str, str]:
        """Names of the commands by the script that each runs."""
        table: Mapping[str, tuple[str, str]] = runpy.run_path(str(self.root / '__main__.py'))['COMMANDS']
        return {script: command for command, (script, _) in table.items() if ' ' not in script}

    def needed(self) -> set[str]:
        """The top-level modules and packages that the commands run or import, directly or not."""
        waiting = {TOP, '__main__', *self.commands}
        found: set[str] = set()
        while waiting:
            name = waiting.pop()
            found.add(name)
            sources = [path.read_bytes() for path in self.files(name) if path.suffix == '.py']
            waiting |= {head for source in sources for head in _imported(source)} & self.modules - found
        return found

    def files(self, name: str) -> list[Path]:
        """The file of a top-level module, or all files of a package."""
        module = self.root / f'{name}.py'
        if module.is_file():
            return [module]
        paths = (self.root / name).rglob('*')
        return sorted(path for path in paths if path.is_file() and '__pycache__' not in path.parts)

    def source_of(self, module: str) -> Path | None:
        """The file of a module of the checkout, or None if there is no such module; '' is the package itself."""
        base = self.root / (module or TOP).replace('.', '/')
        found = (path for path in (base / '__init__.py', base.with_name(f'{base.name}.py')) if path.is_file())
        return next(found, None)

    def write(self, target: Path) -> None:
        """Writes the package into the folder `target`."""
        for path in (path for name in self.needed() for path in self.files(name)):
            relative = path.relative_to(self.root)
            copy = target / ('__init__.py' if relative.name == f'{TOP}.py' and not relative.parent.name else relative)
            content = path.read_bytes()
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(self.rewrite(content) if path.suffix == '.py' else content)

    def rewrite(self, source: bytes) -> bytes:
        """A module's source (UTF-8) as it stands in the package: with the same lines, so tracebacks stay right."""
        starts = list(accumulate(map(len, source.splitlines(keepends=True)), initial=0))
        edits: set[_Edit] = set()
        for node in ast.walk(ast.parse(source)):
            match node:
                case ast.ImportFrom(level=0, module=str(module)) if self._is_ours(module):
                    behind = FROM.match(source, _span(node, starts)[0]).end()
                    edits.add(_Edit(behind, behind, f'{self.package}.'.encode()))
                case ast.Import(names=names):
                    edits |= {_Edit(*_span(alias, starts), self._import(alias))
                              for alias in names if self._is_ours(alias.name)}
                case ast.JoinedStr() | ast.Constant(value=str()):
                    edits |= set(self._prose(source, *_span(node, starts)))
        for start, end, text in sorted(edits, reverse=True):
            source = source[:start] + text + source[end:]
        return source

    def _is_ours(self, module: str) -> bool:
        return module.split('.')[0] in self.modules

    def _import(self, alias: ast.alias) -> bytes:
        """`import a.b` binds `a`: so must its copy, which would bind the package."""
        head = alias.name.split('.')[0]
        imported = f'{self.package}.{alias.name} as {alias.asname or head}'
        rebound = f', {self.package}.{head} as {head}' if '.' in alias.name and not alias.asname else ''
        return f'{imported}{rebound}'.encode()

    def _prose(self, source: bytes, start: int, end: int) -> Iterator[_Edit]:
        """What a docstring, help or message tells the user to type."""
        if b' ' not in source[start:end]:  # a file's name, not a sentence
            return
        for found in self._typed.finditer(source, start, end):
            script, module, extra = found['script'], found['module'], found['extra']
            if script:
                yield _Edit(*found.span(), f'{TOP} {self.commands[script.decode()]}'.encode())
            elif module and self._is_ours(module.decode()):
                yield _Edit(*found.span('module'), f'{self.package}.{module.decode()}'.encode())
            elif extra:
                yield _Edit(*found.span('extra'), TOP.encode() + extra[1:])

    @cached_property
    def _typed(self) -> re.Pattern[bytes]:
        scripts = '|'.join(map(re.escape, self.commands))
        return re.compile(rf'(?<![\w./-])(?:python )?(?P<script>{scripts})\.py\b'
                          r'|python -m (?P<module>[\w.]*\w)'
                          r'|pip install "?(?P<extra>\.\[\w+\])'.encode())


def _imported(source: bytes) -> Iterator[str]:
    """The first part of the name of every module that a source imports."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ImportFrom(level=0, module=str(module)):
                yield module.split('.')[0]
            case ast.Import(names=names):
                yield from (alias.name.split('.')[0] for alias in names)


def _span(node: Any, starts: Sequence[int]) -> tuple[int, int]:
    """Where a node begins and ends, in bytes; `starts` are the offsets of the lines."""
    return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset


class _Loader(importlib.abc.FileLoader, importlib.abc.SourceLoader):
    """Compiles the rewritten source. It writes no bytecode: that lies where the module of the checkout has its own."""

    def __init__(self, name: str, path: str, checkout: Checkout) -> None:
        super().__init__(name, path)
        self.checkout = checkout

    def source_to_code(self, data: bytes, path: str, *_: Any) -> Any:
        return compile(self.checkout.rewrite(data), path, 'exec', dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of a checkout's package, and no others."""

    def __init__(self, checkout: Checkout) -> None:
        self.checkout = checkout

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        package, _, module = name.partition('.')
        if package != self.checkout.package:
            return None
        source = self.checkout.source_of(module)
        if source is None:
            return None
        is_package = not module or source.name == '__init__.py'
        return importlib.util.spec_from_file_location(
            name, source, loader=_Loader(name, str(source), self.checkout),
            submodule_search_locations=[] if is_package else None)  # no other finder shall look for its modules


def load(root: Path, package: str = TOP) -> ModuleType:
    """Imports the checkout below `root` as `package`, rewritten in memory. What else is imported stays as it is."""
    if package not in sys.modules:
        sys.meta_path.insert(0, _Finder(Checkout(root, package)))
    return importlib.import_module(package)

"""The checkout as one package: for the wheel, an editable installation, and torch.hub.

In the checkout `config`, `models` and the others are top-level modules. Installed like that, they
would collide with modules of other projects, so there they belong to a package:
`from models.zoo import find` is rewritten to `from birefnet.models.zoo import find`, and
birefnet.py becomes the package's `__init__.py`. The package contains the commands and whatever
they import.

This file is loaded by its path, and imports the standard library alone.
"""

import ast
import importlib
import importlib.abc
import importlib.util
import re
import runpy
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.machinery import ModuleSpec
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

TOP = 'birefnet'  # the module that becomes the package itself, and the command
FROM = re.compile(rb'from[\s\\]+')


class _Edit(NamedTuple):
    """The bytes from `start` to `end` of a source become `text`."""

    start: int
    end: int
    text: bytes


class Checkout:
    """The sources below `root`, as modules of `package`."""

    def __init__(self, root: Path, package: str = TOP) -> None:
        self.root = root
        self.package = package

    # --- What there is ----------------------------------------------------------------------------

    @cached_property
    def modules(self) -> set[str]:
        """Names of the modules and packages at the top of the checkout."""
        files = {path.stem for path in self.root.glob('*.py')}
        folders = {path.parent.name for path in self.root.glob('*/__init__.py')}
        package_itself = {TOP, '__main__'}
        return (files | folders) - package_itself

    @cached_property
    def commands(self) -> dict[str, str]:
        """Names of the commands by the script that each runs."""
        content = runpy.run_path(str(self.root / '__main__.py'))
        commands = {}
        for command, (script, _) in content['COMMANDS'].items():
            if ' ' not in script:  # one with arguments has a command already
                commands[script] = command
        return commands

    def needed(self) -> set[str]:
        """The top-level modules and packages that the commands run or import, directly or not."""
        waiting = {TOP, '__main__', *self.commands}
        found: set[str] = set()
        while waiting:
            name = waiting.pop()
            found.add(name)
            for path in self.files(name):
                if path.suffix == '.py':
                    ours = self.modules.intersection(_imported(path.read_bytes()))
                    waiting |= ours - found
        return found

    def files(self, name: str) -> list[Path]:
        """All files of a package, or the file of a top-level module.

        A script beside a package of its name is not importable, and is left out.
        """
        folder = self.root / name
        if not (folder / '__init__.py').is_file():
            return [self.root / f'{name}.py']
        found = []
        for path in folder.rglob('*'):
            if path.is_file() and '__pycache__' not in path.parts:
                found.append(path)
        return sorted(found)

    def source_of(self, module: str) -> Path | None:
        """The file of a module, or None if there is no such module; '' is the package itself."""
        base = self.root / (module or TOP).replace('.', '/')
        for path in (base / '__init__.py', base.with_name(f'{base.name}.py')):
            if path.is_file():
                return path
        return None

    # --- What it becomes --------------------------------------------------------------------------

    def write(self, target: Path) -> None:
        """Writes the package into the folder `target`."""
        for name in self.needed():
            for path in self.files(name):
                relative = '__init__.py' if name == TOP else path.relative_to(self.root)
                content = path.read_bytes()
                if path.suffix == '.py':
                    content = self.rewrite(content)
                copy = target / relative
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(content)

    def rewrite(self, source: bytes) -> bytes:
        """A module's source (UTF-8) as it stands in the package.

        It keeps its lines, so that tracebacks show the right ones.
        """
        # Where each line begins, in bytes, because the parser gives places by line and column.
        lines = source.splitlines(keepends=True)
        starts = list(accumulate(map(len, lines), initial=0))

        # Imports of our modules, and what texts tell the user to type. They are a set, because the
        # parts of an f-string are nodes as well, before Python 3.12 at the place of the whole.
        edits: set[_Edit] = set()
        for node in ast.walk(ast.parse(source)):
            match node:
                case ast.ImportFrom(level=0, module=str(module)) if self._is_ours(module):
                    start, _ = _span(node, starts)
                    found = FROM.match(source, start)
                    assert found
                    name = found.end()
                    edits.add(_Edit(name, name, f'{self.package}.'.encode()))
                case ast.Import(names=names):
                    for alias in filter(lambda alias: self._is_ours(alias.name), names):
                        text = self._imported_as(alias).encode()
                        edits.add(_Edit(*_span(alias, starts), text))
                case ast.JoinedStr() | ast.Constant(value=str()):
                    edits.update(self._prose(source, *_span(node, starts)))

        # From the end to the beginning, so that places stay right.
        for start, end, text in sorted(edits, reverse=True):
            source = source[:start] + text + source[end:]
        return source

    def _is_ours(self, module: str) -> bool:
        return module.split('.')[0] in self.modules

    def _imported_as(self, alias: ast.alias) -> str:
        """`import a.b` binds `a`. So must its copy, which would bind the package."""
        head, dot, _ = alias.name.partition('.')
        imported = f'{self.package}.{alias.name} as {alias.asname or head}'
        if dot and not alias.asname:
            return f'{imported}, {self.package}.{head} as {head}'
        return imported

    def _prose(self, source: bytes, start: int, end: int) -> Iterator[_Edit]:
        """Edits of what a docstring, a help text or a message asks the user to type."""
        if b' ' not in source[start:end]:  # a file's name, not a sentence
            return
        for found in self._typed.finditer(source, start, end):
            script, module, extra = (part and part.decode() for part in found.groups())
            if script:
                text = f'{TOP} {self.commands[script]}'
                yield _Edit(*found.span(), text.encode())
            elif module and self._is_ours(module):
                text = f'{self.package}.{module}'
                yield _Edit(*found.span('module'), text.encode())
            elif extra:
                text = f'{TOP}[{extra[2:]}'
                yield _Edit(*found.span('extra'), text.encode())

    @cached_property
    def _typed(self) -> re.Pattern[bytes]:
        """`python train.py` or train.py; `python -m models.zoo`; `pip install ".[app]"`."""
        scripts = '|'.join(map(re.escape, self.commands))
        script = rf'(?<![\w./-])(?:python )?(?P<script>{scripts})\.py\b'
        module = r'python -m (?P<module>[\w.]*\w)'
        extra = r'pip install "(?P<extra>\.\[[a-z,]+\])"'
        return re.compile(f'{script}|{module}|{extra}'.encode())


def _imported(source: bytes) -> Iterator[str]:
    """The first part of the name of every module that a source imports."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ImportFrom(level=0, module=str(module)):
                yield module.split('.')[0]
            case ast.Import(names=names):
                for alias in names:
                    yield alias.name.split('.')[0]


def _span(node: Any, starts: Sequence[int]) -> tuple[int, int]:
    """Where a node begins and ends, in bytes; `starts` are the offsets of the lines."""
    start = starts[node.lineno - 1] + node.col_offset
    end = starts[node.end_lineno - 1] + node.end_col_offset
    return start, end


class _Loader(importlib.abc.FileLoader, importlib.abc.SourceLoader):
    """Compiles the rewritten source.

    It writes no bytecode, whose place is taken by that of the checkout's own module.
    """

    def __init__(self, name: str, path: str, checkout: Checkout) -> None:
        super().__init__(name, path)
        self.checkout = checkout

    def source_to_code(  # type: ignore[override]
        self, data: bytes, path: str, *_: Any,
    ) -> Any:
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

        loader = _Loader(name, str(source), self.checkout)
        is_package = not module or source.name == '__init__.py'
        # Empty, so that no other finder looks for its modules.
        folders: list[str] | None = [] if is_package else None
        return importlib.util.spec_from_file_location(
            name, source, loader=loader, submodule_search_locations=folders)


def load(root: Path, package: str = TOP) -> ModuleType:
    """Imports the checkout below `root` as `package`, rewritten in memory.

    Modules of other names stay as they are.
    """
    if package not in sys.modules:
        sys.meta_path.insert(0, _Finder(Checkout(root, package)))
    return importlib.import_module(package)

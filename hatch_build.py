"""What hatchling asks for as it builds: the rewritten sources, and the core's requirements."""

import importlib.util
import re
import shutil
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = '''\
"""The checkout {root}, imported as a package."""

import importlib.util
import sys
from pathlib import Path

spec = importlib.util.spec_from_file_location(f'{{__name__}}.package', {tool!r})
package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
del sys.modules[__name__]  # the checkout's takes its place
package.load(Path({root!r}), __name__)
'''


def link(root: Path) -> str:
    """The `__init__.py` of an editable installation, which leads to the checkout `root`."""
    return LINK.format(root=str(root), tool=str(root / 'tools/package.py'))


def package_tool(root: Path) -> ModuleType:
    """tools/package.py, which is not on the path of modules here."""
    spec = importlib.util.spec_from_file_location('package', root / 'tools/package.py')
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class PackageHook(BuildHookInterface):
    """Gives a wheel the checkout as a package, an editable one a package that leads there."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Writes the package into a temporary folder, and adds that to the wheel."""
        root = Path(self.root)
        self.folder = Path(tempfile.mkdtemp())
        if version == 'editable':
            start = self.folder / '__init__.py'
            start.write_text(link(root), encoding='utf-8')
            build_data['force_include_editable'][str(self.folder)] = 'birefnet'
        else:
            checkout = package_tool(root).Checkout(root)
            checkout.write(self.folder)
            build_data['force_include'][str(self.folder)] = 'birefnet'

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Deletes the temporary folder."""
        shutil.rmtree(self.folder)


class RequirementsHook(MetadataHookInterface):
    """The dependencies are those of requirements.txt."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Sets the dependencies."""
        text = Path(self.root, 'requirements.txt').read_text(encoding='utf-8')
        requirements = []
        for line in text.splitlines():
            without_comment = re.sub(r'(^|\s)#.*', '', line).strip()
            if without_comment:
                requirements.append(without_comment)
        metadata['dependencies'] = requirements


def get_build_hook() -> type[BuildHookInterface]:
    """The one of the two classes that hatchling shall take as the build hook."""
    return PackageHook


def get_metadata_hook() -> type[MetadataHookInterface]:
    """The one of the two classes that hatchling shall take as the metadata hook."""
    return RequirementsHook

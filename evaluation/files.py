"""Image files on a tree that no one prepared: folders and archives, which are folders here too."""

import os
from collections import defaultdict
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from evaluation.archives import (
    FOREIGN_SUFFIXES,
    Nest,
    Step,
    archive_stem,
    list_contents,
    read_member,
)
from readers import open_file, read_bytes
from runtime.fingerprints import Fingerprint, State, digest_of, state_in
from utils import IMAGE_SUFFIXES

DEEPEST = 8  # folders below the root that are looked into
ROOT = PurePosixPath('.')


class Folder(NamedTuple):
    """A folder, on the disk or in an archive.

    Attributes:
        path: On the disk; or the archive's.
        inner: In the archive; None for a folder on the disk. An archive in it is a part of this.
        nest: The way to the archive in the archive that directly holds it, if any.
    """

    path: Path
    inner: PurePosixPath | None = None
    nest: Nest = ()

    def __str__(self) -> str:
        if self.inner is None or self.inner == ROOT:
            return str(self.path)
        return f'{self.path}/{self.inner}'

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.name if self.inner is None else self.inner.name


class File(NamedTuple):
    """An image file, on the disk or in an archive.

    A tree may hold 100,000 of them, so each is small, and those of a folder share it.

    Attributes:
        folder: Where it is.
        name: With its suffix.
        size: In bytes.
        stamp: Changes with the content: ns of the last change, or in an archive as of `Member`.
        touched: ns of the last change of the file or of what is known of it; 0 in an archive.
        place: Where it is in its archive.
    """

    folder: Folder
    name: str
    size: int
    stamp: int
    touched: int = 0
    place: int = 0

    def __str__(self) -> str:
        if self.folder.inner is None:
            return str(self.folder.path / self.name)
        return f'{self.folder}/{self.name}'

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def state(self) -> State:
        """What shows, without reading it, that the file is as it was."""
        return self.size, self.stamp, self.touched

    def fingerprint(self) -> Fingerprint:
        """Reads the file for its fingerprint. In an archive the stamp is that of the content."""
        is_packed = self.folder.inner is not None
        digest = 0 if is_packed else digest_of(self.folder.path / self.name)
        return Fingerprint(*self.state, digest)

    def read_bytes(self) -> bytes:
        """Reads the file as a whole.

        Raises:
            ValueError: Naming it, if its archive is damaged there.
            OSError: If it cannot be read.
        """
        try:
            if self.folder.inner is None:
                return read_bytes(self.folder.path / self.name)
            return read_member(self.folder.path, self.place, self.size, self.folder.nest)
        except OSError as error:
            error.filename = error.filename or str(self)  # which an error in reading lacks
            raise
        except ValueError as error:
            raise ValueError(f'{self}: {error}') from None

    def open(self) -> IO[bytes]:
        """Opens the file for reading."""
        if self.folder.inner is None:
            return open_file(self.folder.path / self.name)
        return BytesIO(self.read_bytes())


class Listing(NamedTuple):
    """A folder that directly holds images.

    Attributes:
        folder: The folder.
        files: Its images: those of a folder on the disk by name, of an archive in its order.
        parts: Folders on the way from the root; an archive is one of them, without its suffix.
        top: Folders that hold all images of an archive. They add nothing to the archive's name.
    """

    folder: Folder
    files: list[File]
    parts: tuple[str, ...]
    top: tuple[str, ...] = ()


class Tree(NamedTuple):
    """The folders of images below a root, what could not be read, and notes for the user."""

    root: Path
    listings: list[Listing]
    problems: list[str]
    notes: list[str]


def list_folder(folder: Path) -> list[File]:
    """Lists the images directly in a folder, sorted by name; hidden files are left out."""
    place = Folder(folder)
    files = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_image(entry):
                state = state_in(_stat(entry))
                files.append(File(place, entry.name, *state))
    return sorted(files, key=lambda file: file.name)


def read_tree(root: Path) -> Tree:
    """Lists all folders of images below a root, which may be an archive itself.

    An archive is left out where the folder unpacked from it lies beside it.
    """
    tree = Tree(root, [], [], [])
    if root.is_file():
        _add_archive(tree, Folder(root, ROOT), (archive_stem(root.name) or root.name,))
    else:
        _add_folder(tree, root, (), frozenset())
    return tree


def _add_folder(
    tree: Tree, folder: Path, parts: tuple[str, ...], ancestors: frozenset[str],
) -> None:
    # A link may lead back to where the search comes from.
    real = os.path.realpath(folder)
    if real in ancestors:
        return
    if len(parts) > DEEPEST:
        tree.notes.append(f'{folder}: left out, as it is more than {DEEPEST} folders deep')
        return
    try:
        files = list_folder(folder)
        below = sorted(_visible(folder))
    except OSError as error:
        tree.problems.append(f'{folder}: {error.strerror}')
        return
    if files:
        tree.listings.append(Listing(Folder(folder), files, parts))

    folders = {path.name for path in below if path.is_dir()}
    for path in below:
        stem = archive_stem(path.name)
        if path.name in folders:
            _add_folder(tree, path, (*parts, path.name), ancestors | {real})
        elif stem in folders:
            tree.notes.append(f'{path}: left out, as the folder {stem} is beside it')
        elif stem is not None:
            _add_archive(tree, Folder(path, ROOT), (*parts, stem))


def _add_archive(
    tree: Tree, archive: Folder, parts: tuple[str, ...], above: tuple[str, ...] = (),
) -> None:
    """Adds the folders of an archive, and those of the archives in it.

    Args:
        tree: What is added to.
        archive: The archive, as the folder that it is.
        parts: Of its listings.
        above: Folders that hold all images of the archive around it.
    """
    assert archive.inner is not None
    try:
        if str(archive).lower().endswith(FOREIGN_SUFFIXES):
            raise ValueError('no zip or tar; unpack it')
        contents = list_contents(archive.path, archive.nest)
    except ValueError as error:
        tree.problems.append(f'{archive}: {error}')
        return
    except OSError as error:
        tree.problems.append(str(error))
        return

    # Images by the folders that they are in.
    by_folder: dict[PurePosixPath, list[File]] = defaultdict(list)
    folders: dict[PurePosixPath, Folder] = {}
    for member in contents.images:
        where = PurePosixPath(member.name)
        place = Folder(archive.path, archive.inner / where.parent, archive.nest)
        folder = folders.setdefault(where.parent, place)
        file = File(folder, where.name, member.size, member.stamp, place=member.place)
        by_folder[where.parent].append(file)

    # Archives in it, but those beside which the folder unpacked from them lies.
    nested = {}
    unpacked = {parent for inner in by_folder for parent in (inner, *inner.parents)}
    for member in contents.archives:
        where = PurePosixPath(member.name)
        named = where.with_name(archive_stem(where.name) or where.name)
        step = Step(member.place, member.size)
        folder = Folder(archive.path, archive.inner / where, (*archive.nest, step))
        if named in unpacked:
            tree.notes.append(f'{folder}: left out, as the folder {named.name} is beside it')
        else:
            nested[named] = folder

    common = _common_start([inner.parts for inner in (*by_folder, *nested)])
    top = (*above, *common)
    for inner, files in by_folder.items():
        own = inner.parts[len(common):]
        tree.listings.append(Listing(folders[inner], files, (*parts, *own), top))
    for named, folder in nested.items():
        own = named.parts[len(common):]
        _add_archive(tree, folder, (*parts, *own), top)


def _common_start(paths: list[tuple[str, ...]]) -> tuple[str, ...]:
    start = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        start.append(parts[0])
    return tuple(start)


def _visible(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if not path.name.startswith('.') and path.name != '__MACOSX':
            yield path


def _is_image(entry: os.DirEntry) -> bool:
    """Whether an entry is an image. Of a link that leads nowhere reading will say so."""
    _, suffix = os.path.splitext(entry.name)
    is_named_so = suffix.lower() in IMAGE_SUFFIXES
    is_hidden = entry.name.startswith('.')
    if not is_named_so or is_hidden:
        return False
    return not _is_folder(entry) and (entry.is_symlink() or entry.is_file())


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _stat(entry: os.DirEntry) -> os.stat_result:
    try:
        return entry.stat()
    except OSError:  # what a link leads to is gone
        return entry.stat(follow_symlinks=False)

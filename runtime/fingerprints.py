"""What tells whether a file is still the one from which something was made."""

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

State = tuple[int, int, int]

# Tables have no room for the nanoseconds of years after 2262, which some disks and clocks give.
TIMES = 1 << 63
DIGEST_BYTES = 8  # of 32: chance makes two files alike once in 2^64
# Files whose digests are remembered: a run's checkpoints are all tested on the same images.
MOST_REMEMBERED = 100_000


class Fingerprint(NamedTuple):
    """A file's size, its times and a digest of its content, as integers that JSON and tables hold.

    Unpacking, `cp -p` and `rsync -t` keep modification times, and archives for reproducible builds
    give all files one, so that a file may be replaced by another one of its size and time. The
    digest tells them apart. It takes reading the whole file, and is computed anew only when the
    system says that the file was touched.

    Attributes:
        size: in bytes.
        mtime: when the content was last changed, as programs say, in nanoseconds.
        ctime: when the file was last touched, as the system says, in nanoseconds.
        digest: of the content; 0: not computed.
    """

    size: int
    mtime: int
    ctime: int
    digest: int

    @classmethod
    def of(cls, path: Path, before: 'Fingerprint | None' = None) -> 'Fingerprint':
        """The fingerprint of a file now.

        Args:
            path: the file.
            before: an earlier fingerprint of it.

        Raises:
            OSError: the file cannot be read.
        """
        state = state_of(path)
        if before is not None and before[:-1] == state:
            return before
        return cls(*state, _remembered_digest(path, state))

    @classmethod
    def of_all(cls, paths: Sequence[Path]) -> 'Fingerprint':
        """The fingerprint of files that belong together; of a single one, as `of`.

        Raises OSError if one of them cannot be read.
        """
        found = [cls.of(path) for path in paths]
        if len(found) == 1:
            return found[0]
        digests = ','.join(str(fingerprint.digest) for fingerprint in found)
        return cls(
            size=sum(fingerprint.size for fingerprint in found),
            mtime=max(fingerprint.mtime for fingerprint in found),
            ctime=max(fingerprint.ctime for fingerprint in found),
            digest=_shortened(hashlib.sha256(digests.encode()).digest()),
        )

    def is_same(self, other: 'Fingerprint') -> bool:
        """Whether the file is the same. That it was touched, or moved, changes nothing."""
        return self._replace(ctime=0) == other._replace(ctime=0)

    def has_same_content(self, other: 'Fingerprint') -> bool:
        """Whether the content is the same, whatever the times. Without a digest these decide."""
        if self.digest:
            return (self.size, self.digest) == (other.size, other.digest)
        return self == other


def state_of(path: Path) -> State:
    """A file's size and times, as in its fingerprint; without reading it."""
    return state_in(path.stat())


def state_in(stat: os.stat_result) -> State:
    """As `state_of`, of what the system has told of a file already."""
    return stat.st_size, stat.st_mtime_ns % TIMES, stat.st_ctime_ns % TIMES


def digest_of(path: Path) -> int:
    """A digest of a file's content."""
    with open(path, 'rb') as file:
        digest = hashlib.file_digest(file, 'sha256').digest()
    return _shortened(digest)


@lru_cache(MOST_REMEMBERED)
def _remembered_digest(path: Path, _state: State) -> int:
    """As `digest_of`; `_state` tells one content of the file from another."""
    return digest_of(path)


def _shortened(digest: bytes) -> int:
    return int.from_bytes(digest[:DIGEST_BYTES], signed=True)

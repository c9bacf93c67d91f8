"""The shared cache: built once, resumed, checked against its sources.

It is refused when the disk is too small.
"""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from data import cache as cache_module
from data.cache import SharedCache
from dataset import PairCache, find_pairs, load_pair
from tests.files import replace_keeping_time
from tests.training.runs import make_data

REPOSITORY = Path(__file__).parents[1]
RECORD = 1000
# Builds a cache like `small_cache`, slowly, and appends every record it makes to `made.txt`.
SLOW_BUILD = '''
import sys, time
from pathlib import Path
import numpy as np
from data.cache import SharedCache
folder, count = Path(sys.argv[1]), int(sys.argv[2])
cache = SharedCache(folder / 'x.cache', [(folder / f'{row}.src',) for row in range(count)], 1000)
def make(row):
    with open(folder / 'made.txt', 'a') as log:
        log.write(f'{row}\\n')
    time.sleep(.01)
    return np.full(1000, row % 251, np.uint8)
cache.build(make, workers=2)
'''


def small_cache(folder: Path, count: int = 5) -> SharedCache:
    for row in range(count):
        if not (folder / f'{row}.src').exists():
            (folder / f'{row}.src').write_text('source')
    sources = [(folder / f'{row}.src',) for row in range(count)]
    return SharedCache(folder / 'x.cache', sources, RECORD)


def slow_build(folder: Path, count: int) -> subprocess.Popen:
    command = [sys.executable, '-c', SLOW_BUILD, folder, str(count)]
    return subprocess.Popen(command, cwd=REPOSITORY)


def test_data_in_a_folder_whose_name_is_not_utf8(tmp_path):
    """The folder's name is part of the cache's."""
    root = make_data(tmp_path / 'data').rename(tmp_path / os.fsdecode(b'\xb2\xe2'))
    pairs = find_pairs(root, 'Tiny', ['TE-Tiny'])
    image, _ = PairCache(pairs, (32, 32), tmp_path / 'cache')[pairs[0]]
    assert np.array_equal(image, load_pair(pairs[0], (32, 32))[0])


class Maker:
    """Makes records, remembers which, and fails on those in `bad`."""

    def __init__(self, bad=()):
        self.made, self.bad = [], bad

    def __call__(self, row: int) -> np.ndarray:
        if row in self.bad:
            raise ValueError(f'source {row} is bad')
        self.made.append(int(row))
        return np.full(RECORD, row % 251, np.uint8)


def assert_complete(cache: SharedCache) -> None:
    for row in range(len(cache)):
        assert len(cache[row]) == RECORD
        assert (cache[row] == row % 251).all()


def test_records_are_made_once_and_read_only(tmp_path):
    first, second = Maker(), Maker()
    cache = small_cache(tmp_path)
    cache.build(first)
    small_cache(tmp_path).build(second)
    assert sorted(first.made) == list(range(5))
    assert second.made == []
    assert_complete(cache)
    with pytest.raises(ValueError, match='read-only'):
        cache[0][0] = 1


def test_only_changed_sources_are_made_again(tmp_path):
    small_cache(tmp_path).build(Maker())
    (tmp_path / '1.src').write_text('longer than before')
    status = (tmp_path / '3.src').stat()
    os.utime(tmp_path / '3.src', ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    again = Maker()
    small_cache(tmp_path).build(again)
    assert sorted(again.made) == [1, 3]


def test_sources_that_changed_with_their_size_and_time_kept_are_noticed(tmp_path):
    small_cache(tmp_path).build(Maker())
    replace_keeping_time(tmp_path / '1.src', b'SOURCE')
    replace_keeping_time(tmp_path / '3.src', b'source')
    again, later = Maker(), Maker()
    cache = small_cache(tmp_path)
    cache.build(again)
    assert again.made == [1], 'the other was only touched'
    assert_complete(cache)
    cache.build(later)
    assert later.made == []


def test_every_bad_record_is_listed_and_the_others_are_kept(tmp_path):
    with pytest.raises(ValueError, match=r'(?s)2 problem.*source 1 is bad.*source 4 is bad'):
        small_cache(tmp_path).build(Maker(bad=(1, 4)))
    again = Maker()
    cache = small_cache(tmp_path)
    cache.build(again)
    assert sorted(again.made) == [1, 4]
    assert_complete(cache)


def test_with_skip_bad_a_bad_record_reads_as_none(tmp_path):
    cache = small_cache(tmp_path)
    cache.build(Maker(bad=(2,)), skip_bad=True)
    assert cache[2] is None
    assert (cache[3] == 3).all()


def test_a_changed_list_of_sources_starts_anew_and_leaves_open_readers_alone(tmp_path):
    reader, late_reader = small_cache(tmp_path), small_cache(tmp_path)
    reader.build(Maker())
    assert_complete(reader)
    maker, longer = Maker(), small_cache(tmp_path, 7)
    longer.build(maker)
    assert len(maker.made) == 7
    assert_complete(longer)
    assert_complete(reader)
    with pytest.raises(RuntimeError, match='replaced by another run'):
        late_reader[0]


def test_a_killed_build_goes_on_where_it_stopped(tmp_path):
    count = 4 * cache_module.RECORDS_PER_SYNC
    cache = small_cache(tmp_path, count)
    process = slow_build(tmp_path, count)
    log = tmp_path / 'made.txt'
    while not log.exists() or len(log.read_text().split()) < 1.5 * cache_module.RECORDS_PER_SYNC:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    maker = Maker()
    cache.build(maker)
    assert 0 < len(maker.made) <= count - cache_module.RECORDS_PER_SYNC
    assert_complete(cache)


def test_processes_that_build_at_once_make_each_record_once(tmp_path):
    cache = small_cache(tmp_path, 20)
    processes = [slow_build(tmp_path, 20) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    made = (tmp_path / 'made.txt').read_text().split()
    assert sorted(made, key=int) == [str(row) for row in range(20)]
    assert_complete(cache)


def test_too_little_disk_is_an_error_before_anything_is_made(tmp_path, monkeypatch):
    maker = Maker()
    usage = namedtuple('Usage', 'free')(2 * cache_module.PAGE)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
    with pytest.raises(ValueError, match=r'only 0\.00 GB are free there; choose another cache_dir'):
        small_cache(tmp_path).build(maker)
    assert maker.made == []
    assert not (tmp_path / 'x.cache').exists()


@pytest.mark.skipif(
    not hasattr(os, 'posix_fallocate'),
    reason='space is not taken beforehand on this system',
)
def test_a_disk_that_fills_meanwhile_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'posix_fallocate', full)
    with pytest.raises(OSError, match='No space left'):
        small_cache(tmp_path).build(Maker())
    assert {path.name for path in tmp_path.glob('x.cache*')} <= {'x.cache.lock'}


@pytest.mark.parametrize('kept', [11, 2 * cache_module.PAGE + RECORD])
def test_a_damaged_file_is_built_anew(tmp_path, kept):
    small_cache(tmp_path).build(Maker())
    os.truncate(tmp_path / 'x.cache', kept)
    maker, cache = Maker(), small_cache(tmp_path)
    cache.build(maker)
    assert len(maker.made) == 5
    assert_complete(cache)


def test_its_size_is_logged_before_it_is_built(tmp_path, caplog):
    caplog.set_level('INFO', logger='data.cache')
    logged = []

    def make(row: int) -> np.ndarray:
        logged.append(caplog.messages[0])
        return np.zeros(RECORD, np.uint8)

    small_cache(tmp_path).build(make)
    assert all('0.00 GB for 5 records' in message for message in logged)


def test_a_pickled_cache_carries_no_records(tmp_path):
    cache = small_cache(tmp_path)
    cache.build(Maker())
    assert_complete(cache)
    assert len(pickle.dumps(cache)) < RECORD
    assert_complete(pickle.loads(pickle.dumps(cache)))

"""Fingerprints of files: which changes they notice, and when files are read."""

import os

import numpy as np
import pytest

from runtime import fingerprints
from runtime.fingerprints import Fingerprint
from tests.files import replace_keeping_time


@pytest.fixture
def file(tmp_path):
    path = tmp_path / 'file'
    path.write_bytes(b'content')
    return path


def test_a_file_that_was_only_touched_is_the_same(file):
    before = Fingerprint.of(file)
    replace_keeping_time(file, b'content')
    assert Fingerprint.of(file) != before
    assert Fingerprint.of(file).is_same(before)


@pytest.mark.parametrize('content', [b'another', b'longer than it', b''])
def test_another_content_is_noticed_though_the_time_is_kept(file, content):
    before = Fingerprint.of(file)
    replace_keeping_time(file, content)
    assert not Fingerprint.of(file, before).is_same(before)


def test_another_time_is_noticed(file):
    before = Fingerprint.of(file)
    os.utime(file, ns=(before.mtime, before.mtime + 1))
    assert not Fingerprint.of(file, before).is_same(before)


@pytest.mark.parametrize('seconds', [0, -10**9, 10**10])
def test_fingerprints_of_any_time_fit_into_a_table(file, seconds):
    os.utime(file, (seconds, seconds))
    fingerprint = Fingerprint.of(file)
    assert fingerprint.mtime == seconds * 10**9 % 2**63
    np.array(fingerprint, np.int64)  # raises


def test_a_file_as_it_was_is_not_read(file, monkeypatch):
    before = Fingerprint.of(file)
    monkeypatch.setattr(fingerprints, '_remembered_digest', None)
    assert Fingerprint.of(file, before) is before

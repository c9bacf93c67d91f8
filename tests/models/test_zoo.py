"""Published weights by name: found, fetched over http, checked, and refused in words."""

import dataclasses
import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from config import BACKBONES, TASKS
from models import load_model, save_checkpoint, zoo
from models.zoo import Published, download, fetch, find
from tests.models.small import build, output

SMALL = {'dec_att': '', 'mul_scl_ipt': ''}


class Quiet(SimpleHTTPRequestHandler):
    """A server of a folder that lists its requests. Of files named short.* it sends one half."""

    asked: list[str]

    def do_GET(self):
        self.asked.append(self.path)
        super().do_GET()

    def copyfile(self, source, outputfile):
        data = source.read()
        outputfile.write(data[:len(data) // 2] if 'short' in self.path else data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """Its address, the folder that it serves, and what it was asked for."""
    folder, asked = tmp_path / 'served', []
    folder.mkdir()
    handler = type('Handler', (Quiet,), {'asked': asked})
    with ThreadingHTTPServer(('127.0.0.1', 0), partial(handler, directory=str(folder))) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f'http://127.0.0.1:{http.server_port}', folder, asked
        http.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """A folder of weights of its own, and no way out but to 127.0.0.1."""
    monkeypatch.setenv('BIREFNET_HOME', str(tmp_path / 'home'))
    monkeypatch.delenv('BIREFNET_MIRROR', raising=False)
    monkeypatch.setattr(zoo, 'RELEASE', 'http://127.0.0.1:9')  # nobody listens there

    def no_hub(repository, name, **_):
        raise OSError('no network')

    monkeypatch.setattr('models.zoo.hf_hub_download', no_hub)


@pytest.fixture
def small_entry(monkeypatch):
    """An entry whose weights are a small network's."""
    entry = Published(
        name='small',
        task='General',
        repository='some-body/Small',
        release='Small-epoch_3.pth',
        release_tile_order='column',
        backbone='pvt_v2_b0',
        size=(64, 96),
    )
    monkeypatch.setattr(zoo, 'zoo', lambda: {'small': entry})
    return entry


def test_the_entries():
    """All that users know, each with something to fetch, and fields that Config takes."""
    entries = zoo.zoo()
    known = {'general', 'lite', 'hr', 'matting', 'dynamic', 'portrait', 'lite-2k', '512x512'}
    assert known <= entries.keys()
    for entry in entries.values():
        assert entry.purpose
        assert set(entry.relatives) <= entries.keys() - {entry.name}
        assert set(entry.unverified) <= {field.name for field in dataclasses.fields(entry)}
        assert all(getattr(entry, name) for name in entry.unverified), 'nothing there to check'
        assert entry.task in TASKS
        assert entry.backbone in BACKBONES
        assert all(side % 32 == 0 for side in entry.size)
        assert {entry.tile_order, entry.release_tile_order} <= {'row', 'column', ''}
    assert find('ZhengPeng7/BiRefNet_HR') is entries['hr']
    assert find('nothing') is None
    assert entries['rmbg-2.0'].noncommercial
    release_files = {entry.release for entry in entries.values()}
    assert 'BiRefNet_dynamic-general-epoch_174.pth' in release_files


@pytest.mark.parametrize('release', ['../x.pth', '/etc/x.pth', 'a/b.pth'])
def test_no_name_leads_out_of_the_folder(release):
    with pytest.raises(AssertionError, match='plain file name'):
        Published(name='x', task='General', release=release)


def test_the_likely_tile_order_of_a_file_and_of_a_repository():
    general = find('general')
    assert general.likely_tile_order(Path('BiRefNet-general-epoch_244.pth')) == 'column'
    assert general.likely_tile_order(Path('general.safetensors')) == 'row'
    assert find('matting').likely_tile_order(Path('BiRefNet-matting-epoch_100.pth')) == 'row'
    # Their repositories hold files of August 2024.
    for name in ('dis5k', 'hrsod', 'cod'):
        assert find(name).likely_tile_order(Path('model.safetensors')) == 'column'


def test_repositories_are_found_in_any_case():
    assert find('zhengpeng7/birefnet') is find('general')
    assert find('') is None


def test_a_mirror_serves_a_release_file_once(server, monkeypatch, small_entry):
    address, folder, asked = server
    model = build(**SMALL)
    save_checkpoint(model, folder / small_entry.release, tile_order='column')
    monkeypatch.setenv('BIREFNET_MIRROR', address + '/')
    loaded = load_model('small')
    assert (loaded.config.task, loaded.config.size) == ('General', (64, 96))
    assert torch.equal(output(loaded), output(model)), 'untrained: the order is the likely one'
    assert not torch.equal(output(load_model('small', tile_order='row')), output(model))
    assert asked == ['/Small-epoch_3.pth'], 'kept after the first time'


def test_a_mirror_of_repositories(server, monkeypatch, small_entry):
    address, folder, asked = server
    target = folder / small_entry.repository / 'model.safetensors'
    save_checkpoint(build(**SMALL), target)
    monkeypatch.setenv('BIREFNET_MIRROR', address)
    file = fetch(small_entry)
    assert file.name == 'small.safetensors'
    assert file.read_bytes() == target.read_bytes()
    assert asked == ['/Small-epoch_3.pth', '/some-body/Small/model.safetensors']


def test_the_hub(tmp_path, monkeypatch, small_entry):
    """Its file is found again without it, under the entry's name."""
    weights, asked = tmp_path / 'hub' / 'model.safetensors', []
    save_checkpoint(build(**SMALL), weights)

    def hub(repository, name, **_):
        asked.append(name)
        return str(weights.with_name(name))

    monkeypatch.setattr('models.zoo.hf_hub_download', hub)
    assert load_model('small').config.size == (64, 96)
    assert load_model('some-body/Small').config.size == (64, 96)
    assert asked == ['model.safetensors', 'config.json']
    weights.unlink()
    weights.with_name('model.safetensors').write_bytes(b'')
    assert fetch(small_entry).resolve() == weights


@pytest.mark.parametrize('name', ['small.safetensors', 'Small-epoch_3.pth'])
def test_a_file_put_there_by_hand(tmp_path, small_entry, name):
    model = build(**SMALL)
    order = 'column' if name.endswith('.pth') else 'row'
    save_checkpoint(model, tmp_path / 'home' / name, tile_order=order)
    loaded = load_model('small')
    assert torch.equal(output(loaded), output(model))
    assert loaded.config.size == (64, 96)
    assert load_model(tmp_path / 'home' / name).config.size == (64, 96), 'by its path, too'


def test_without_a_network_it_says_what_to_do(tmp_path):
    advice = (r'the hub, ZhengPeng7/BiRefNet .*no network.*put model\.safetensors of '
              r'ZhengPeng7/BiRefNet as general\.safetensors or '
              r'BiRefNet-general-epoch_244\.pth into .*home.*BIREFNET_MIRROR')
    with pytest.raises(ValueError, match=advice):
        load_model('general')
    assert not list(tmp_path.glob('home/*'))
    with pytest.raises(ValueError, match='did you mean general'):
        load_model('generel')


def test_weights_without_a_known_place_are_put_there_by_hand(tmp_path):
    with pytest.raises(ValueError, match=r'toonout\.safetensors or toonout\.pth into .*home'):
        load_model('toonout')
    save_checkpoint(build(**SMALL), tmp_path / 'home' / 'toonout.pth')
    assert fetch(find('toonout')) == tmp_path / 'home' / 'toonout.pth'
    assert zoo.identify(tmp_path / 'home' / 'toonout.pth') is find('toonout')


def test_a_path_goes_before_a_name(tmp_path, monkeypatch, small_entry):
    monkeypatch.chdir(tmp_path)
    save_checkpoint(build(**SMALL), tmp_path / 'small' / 'model.safetensors')
    size = load_model('small').config.size
    assert size == (1024, 1024), 'nothing is known of it but what lies there'


def test_checksums(server, tmp_path):
    address, folder, _ = server
    (folder / 'a.pth').write_bytes(b'weights')
    good = hashlib.sha256(b'weights').hexdigest()
    assert download(f'{address}/a.pth', tmp_path / 'a.pth', good).read_bytes() == b'weights'
    with pytest.raises(ValueError, match='SHA-256'):
        download(f'{address}/a.pth', tmp_path / 'b.pth', good.replace(good[0], 'x'))
    assert not (tmp_path / 'b.pth').exists()


@pytest.mark.parametrize(('path', 'error'), [('none.pth', OSError), ('short.pth', ValueError)])
def test_downloads_that_fail_leave_nothing(server, tmp_path, path, error):
    address, folder, _ = server
    (folder / 'short.pth').write_bytes(b'weights')
    with pytest.raises(error):
        download(f'{address}/{path}', tmp_path / 'x.pth')
    assert not list(tmp_path.glob('*.pth'))
    assert not list(tmp_path.glob('.*'))


def test_only_http(tmp_path):
    with pytest.raises(ValueError, match='https://'):
        download((tmp_path / 'x').as_uri(), tmp_path / 'y')

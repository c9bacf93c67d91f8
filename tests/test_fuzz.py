"""Damaged and forged inputs end in errors of ours that name them.

They never end in an error of another type, a hang, or the use of all memory.

Every test takes files that are valid and changes bytes of them. `FUZZ_EXAMPLES=5000` looks longer,
each time in another place.
"""

import io
import json
import os
import resource
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save as save_safetensors

from config import Config, ConfigError
from inference.images import decode_image
from models import load_model
from models.checkpoints.files import read_state
from predict import find_jobs
from readers import TooManyPixels, open_image, read_image, read_mask, read_soft_mask

EXAMPLES = int(os.environ.get('FUZZ_EXAMPLES', 60))
MAX_PIXELS = 1_000_000
MOST_MEMORY = 600  # MB that a whole test may add
pytestmark = pytest.mark.filterwarnings('ignore')  # Pillow and PyTorch warn of what is damaged
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=timedelta(minutes=2),  # one takes .1 s: only what hangs is so slow
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(autouse=True)
def little_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MOST_MEMORY


@contextmanager
def only_complaints(name: str, kind: type[ValueError] = ValueError) -> Iterator[None]:
    """The block succeeds, or raises `kind`, no foreign subclass, with `name` in its message."""
    try:
        yield
    except kind as error:
        if type(error) not in (ValueError, ConfigError, TooManyPixels) or name not in str(error):
            raise AssertionError(f'not an error of ours that names {name}') from error


@st.composite
def damaged(draw, data: bytes) -> bytes:
    """Changes bytes of `data`, and cuts out or repeats parts, more often near the header."""
    data = bytearray(data)
    places = st.one_of(st.integers(0, len(data) - 1), st.integers(0, min(len(data), 96) - 1))
    for place, value in draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=6)):
        data[place] = value
    if draw(st.booleans()):
        start, length = draw(places), draw(st.integers(1, 64))
        repeated = bytes(data[start:start + length]) * 3
        data[start:start + length] = draw(st.sampled_from([b'', repeated, b'\xff' * 8]))
    return bytes(data[:draw(st.one_of(st.just(len(data)), places))])


# --- Images ---------------------------------------------------------------------------------------


def picture_file(kind: str, mode: str, **options) -> bytes:
    rng, shape = np.random.default_rng(0), {'L': (13, 17), 'RGB': (13, 17, 3), 'RGBA': (13, 17, 4)}
    if mode == 'I;16':
        image = Image.fromarray(rng.integers(0, 65536, (13, 17)).astype(np.uint16))
    elif mode == 'F':
        image = Image.fromarray(rng.random((13, 17), np.float32))
    elif mode == 'P':
        image = Image.fromarray(rng.integers(0, 255, shape['L'], dtype=np.uint8)).convert('P')
    elif mode == 'CMYK':
        image = Image.fromarray(rng.integers(0, 255, shape['RGB'], dtype=np.uint8)).convert('CMYK')
    else:
        image = Image.fromarray(rng.integers(0, 255, shape[mode], dtype=np.uint8))
    if options.get('save_all'):
        options['append_images'] = [image.rotate(180)]
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010E: 'a description'})
    buffer = io.BytesIO()
    image.save(buffer, kind, **({'exif': exif} if kind != 'GIF' else {}), **options)
    return buffer.getvalue()


PICTURES = {
    '-'.join((kind, mode, *options)): picture_file(kind, mode, **options)
    for kind, mode, options in (
        ('PNG', 'RGB', {}),
        ('PNG', 'L', {}),
        ('PNG', 'RGB', {'save_all': True}),
        ('PNG', 'RGBA', {}),
        ('PNG', 'P', {'transparency': 3}),
        ('PNG', 'I;16', {}),
        ('JPEG', 'RGB', {}),
        ('JPEG', 'L', {'progressive': True}),
        ('JPEG', 'CMYK', {}),
        ('WEBP', 'RGBA', {}),
        ('TIFF', 'RGB', {}),
        ('TIFF', 'I;16', {'compression': 'tiff_lzw'}),
        ('TIFF', 'F', {}),
        ('GIF', 'P', {'transparency': 3}),
    )
}


@pytest.mark.parametrize('name', PICTURES)
@fuzz
@given(draw=st.data())
def test_images(name, draw, tmp_path):
    data = draw.draw(damaged(PICTURES[name]))
    file = tmp_path / 'picture.bin'
    file.write_bytes(data)
    for read in (open_image, read_image, read_mask, read_soft_mask, decode_image):
        for source, called in ((data, 'image data'), (file, str(file))):
            with only_complaints(called):
                read(source, MAX_PIXELS)


@pytest.mark.parametrize('name', PICTURES)
def test_undamaged_images_are_read(name, tmp_path):
    file = tmp_path / 'picture.bin'
    file.write_bytes(PICTURES[name])
    for source in (PICTURES[name], file):
        assert open_image(source, MAX_PIXELS).size in ((17, 13), (13, 17))
        assert sorted(read_image(source, MAX_PIXELS).shape) == [3, 13, 17]
        assert sorted(read_mask(source, MAX_PIXELS).shape) == [13, 17]
        assert sorted(decode_image(source, MAX_PIXELS).pixels.shape) == [3, 13, 17]


# --- Checkpoints ----------------------------------------------------------------------------------


def torch_file(content, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


STATE = {
    'module.bb.patch_embed.proj.weight': torch.arange(24.).reshape(2, 3, 2, 2),
    'bb.norm0.bias': torch.ones(4),
    'decoder.conv_out1.0.bias': torch.zeros((), dtype=torch.float16),
}
CHECKPOINTS = {
    'safetensors': save_safetensors(STATE, {'format': 'pt'}),
    'pth': torch_file({'model': STATE}),
    'old pth': torch_file(STATE, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize('name', CHECKPOINTS)
@fuzz
@given(draw=st.data())
def test_checkpoints(name, draw, tmp_path):
    path = tmp_path / f'weights.{name.split()[-1]}'
    path.write_bytes(draw.draw(damaged(CHECKPOINTS[name])))
    with only_complaints(str(path)):
        read_state(path)


@pytest.mark.parametrize('name', CHECKPOINTS)
def test_undamaged_checkpoints_are_read(name, tmp_path):
    path = tmp_path / f'weights.{name.split()[-1]}'
    path.write_bytes(CHECKPOINTS[name])
    read = read_state(path)
    assert len(read) == len(STATE)
    for key, value in STATE.items():
        assert torch.equal(read[key.removeprefix('module.')], value)


KEYS = (
    'bb.patch_embed.proj.weight',
    'bb.layers.0.blocks.0.attn.relative_position_bias_table',
    'bb.conv1.4.0.conv1.weight',
    'bb.patch_embed1.proj.weight',
    'decoder.ipt_blk5.conv1.weight',
    'decoder.ipt_blk4.conv1.weight',
    'decoder.lateral_block4.conv.weight',
    'decoder.pyramid_neck_x3.conv.weight',
    'decoder.gdt_convs_4.0.weight',
    'decoder.decoder_block4.conv_in.weight',
    'squeeze_module.0.conv_in.weight',
    'cls_head.0.weight',
    'decoder.decoder_block4.dec_att.aspp_deforms.0.atrous_conv.regular_conv.weight',
    'squeeze_module.0.aspp2.bn.bias',
    'squeeze_module.0.global_avg_pool.1.weight',
    'decoder',
    '',
)
SHAPES = st.lists(st.sampled_from((0, 1, 2, 3, 32, 64)), max_size=4)


@pytest.mark.slow
@settings(fuzz, max_examples=max(1, EXAMPLES // 2))
@given(shapes=st.dictionaries(st.sampled_from(KEYS), SHAPES))
def test_checkpoints_of_strange_shapes(shapes, tmp_path):
    state = {}
    for key, shape in shapes.items():
        if np.prod(shape, dtype=np.int64) < 1 << 20:
            state[key] = torch.zeros(shape)
    path = tmp_path / 'weights.safetensors'
    path.write_bytes(save_safetensors(state))
    with only_complaints(str(path)):
        load_model(path)


class Malice:
    """What a pickle does on loading that a state dict may not."""

    def __reduce__(self):
        return os.mkdir, ('broken-in',)


def itself() -> dict:
    content: dict = {}
    content['model'] = content
    return content


FORGED = {
    'code': Malice,
    'itself': itself,
    'number for a name': lambda: {1: torch.zeros(2)},
    'list': list,
    'number': lambda: 3,
    'number wrapped': lambda: {'model': 3},
    'nothing': dict,
    'text': lambda: {'a': 'text'},
    'terabytes in four bytes': lambda: {'a': torch.zeros(1).expand(1 << 40)},
    'sparse': lambda: {'a': torch.eye(2).to_sparse()},
    'without values': lambda: {'a': torch.zeros(3, device='meta')},
    'quantised': lambda: {'a': torch.quantize_per_tensor(torch.zeros(3), 1., 0, torch.quint8)},
}


@pytest.mark.parametrize('name', FORGED)
def test_forged_checkpoints(name, tmp_path, monkeypatch):
    """Each is refused, in PyTorch's format of today and in the one before."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'weights.pth'
    for new in (True, False):
        path.write_bytes(torch_file(FORGED[name](), _use_new_zipfile_serialization=new))
        with pytest.raises(ValueError, match=r'weights\.pth'):
            read_state(path)
    assert not (tmp_path / 'broken-in').exists()


def test_a_compressed_checkpoint_is_refused(tmp_path):
    """PyTorch never compresses: 2 GB of zeros in 2 MB are a bomb."""
    path = tmp_path / 'weights.pth'
    with zipfile.ZipFile(io.BytesIO(torch_file({'a': torch.zeros(1 << 20)}))) as plain, \
            zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as packed:
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    with pytest.raises(ValueError, match=r'weights\.pth.*compressed'):
        read_state(path)


# --- Configs and lists ----------------------------------------------------------------------------

FIELDS = sorted(Config.__dataclass_fields__)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(FIELDS),
)


def nest(inner):
    """Lists and dictionaries of values."""
    lists = st.lists(inner, max_size=4)
    dictionaries = st.dictionaries(st.text(max_size=5), inner, max_size=4)
    return st.one_of(lists, dictionaries)


NESTED = st.recursive(SCALARS, nest, max_leaves=8)
VALUES = st.one_of(
    st.text(max_size=40),
    st.text('()[]{},:x+-.0123456789eE', max_size=30),
    NESTED.map(repr),
    st.integers(1, 400).map(lambda digits: '9' * digits),
    st.sampled_from(('(' * 5000, '-' * 5000 + '1')),
)
NAMES = st.one_of(st.sampled_from(FIELDS), st.just('lambdas_pix_last.mae'), st.text(max_size=10))
OVERRIDES = st.one_of(st.text(max_size=20), st.tuples(NAMES, VALUES).map('='.join))
SAVED_FIELDS = st.dictionaries(
    st.one_of(st.sampled_from(FIELDS), st.text(max_size=5)), NESTED, max_size=4)
SAVED_TEXTS = st.one_of(
    SAVED_FIELDS.map(json.dumps),
    NESTED.map(json.dumps),
    st.just('[' * 100_000),
    st.text(max_size=40),
)


@fuzz
@given(overrides=st.lists(OVERRIDES, max_size=3))
def test_overrides(overrides):
    with only_complaints('', kind=ConfigError):
        Config.from_overrides(overrides)


@fuzz
@given(content=SAVED_TEXTS.map(str.encode) | st.binary(max_size=40))
def test_saved_configs(content, tmp_path):
    path = tmp_path / 'config.json'
    path.write_bytes(content)
    with only_complaints(str(path), kind=ConfigError):
        Config.load(path)


def test_undamaged_configs_are_read(tmp_path):
    path = tmp_path / 'config.json'
    path.write_text(json.dumps(Config.from_overrides(['task=Demo', 'seed=5']).as_dict()))
    assert (Config.load(path).task, Config.load(path).seed) == ('Demo', 5)


@settings(fuzz, max_examples=max(1, EXAMPLES // 4))
@given(
    values=st.dictionaries(st.sampled_from(FIELDS), NESTED, max_size=4),
    content=st.binary(max_size=20),
)
def test_configs_beside_checkpoints(values, content, tmp_path):
    """A checkpoint of no known layout is refused, whatever its config says.

    The error names a file.
    """
    (tmp_path / 'weights.safetensors').write_bytes(save_safetensors(
        {'decoder.conv_out1.0.bias': torch.zeros(1), 'bb.norm0.bias': torch.zeros(4)}))
    text = json.dumps({'mul_scl_ipt': 'cat', 'tile_order': 'row', 'bb': 'pvt_v2_b0', **values})
    (tmp_path / 'config.json').write_bytes(content or text.encode())
    with pytest.raises(ValueError, match=r'weights\.safetensors|config\.json'):
        load_model(tmp_path / 'weights.safetensors')


LISTED_PATHS = ('a.png', '../b.png', '/x/../../c.png', 'd/../../../e.png', '..', '.', '/', '/..')
LISTED_LINES = st.lists(st.sampled_from(LISTED_PATHS), max_size=4)
LISTS = st.one_of(
    st.binary(max_size=60),
    st.text('ab./\\\n\0 é', max_size=40).map(str.encode),
    LISTED_LINES.map(lambda names: '\n'.join(names).encode()),
)


@fuzz
@example(content=b'//a.png')  # two slashes are another root than one
@given(content=LISTS)
def test_lists_of_images(content, tmp_path):
    """Results stay below the folder that they are to go to."""
    path, output = tmp_path / 'list.txt', tmp_path / 'out'
    path.write_bytes(content)
    with only_complaints(str(path)):
        jobs = find_jobs(str(path), str(output), '.png')
        assert all(Path(os.path.normpath(job.target)).is_relative_to(output) for job in jobs)


def test_an_undamaged_list_is_read(tmp_path):
    Image.new('L', (2, 2)).save(tmp_path / 'a.png')
    (tmp_path / 'list.txt').write_text(f'{tmp_path}/a.png\n')
    job, = find_jobs(str(tmp_path / 'list.txt'), str(tmp_path / 'out'), '.png')
    assert job.source == tmp_path / 'a.png'
    assert job.target.is_relative_to(tmp_path / 'out')

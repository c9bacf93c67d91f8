"""Scripts and Python written for the published code."""

import copy
import importlib
import pickle
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

import image_proc
import inference
import published
import test as test_script
import train
import utils
from config import Config, ConfigError
from inference.edges import estimate_foreground
from models import build_birefnet, convert_tile_order, save_checkpoint
from models.birefnet import BiRefNet
from models.checkpoints.names import to_official
from tests.models.small import build, output
from utils import check_state_dict

ROOT = Path(__file__).parents[1]


# --- Commands -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_package_is_imported_and_the_script_runs():
    """`inference` is both; Python prefers the folder, also beside the running script."""
    assert Path(inference.__file__) == ROOT / 'inference/__init__.py'
    script = (ROOT / 'inference.py').read_text(encoding='utf-8')
    assert 'test.py' in script
    command = [sys.executable, 'inference.py', '--ckpt', 'no.pth', '--testsets', 'DIS-VD']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'test: no.pth' in done.stderr, 'it came as far as looking for the checkpoint'


@pytest.mark.parametrize('text', ['config', 'config.size', 'default', ''])
def test_words_for_the_size_of_the_run(text):
    assert test_script.parse_resolution(text, Config(size=(96, 64))) == '96x64'


def test_options_of_launchers_and_scripts():
    arguments = ['--local-rank=1', '--dist', 'True', '--epochs', '3', '--ckpt_dir', 'ckpts/a']
    cfg, folder = train.parse_arguments(arguments)
    assert (cfg.epochs, folder) == (3, Path('ckpts/a'))
    options = test_script.parse_arguments(
        ['--local_rank', '0', '--ckpt', 'a.pth', '--resolution', '512x512', '--testsets', 'A+B'])
    assert (options.ckpt, options.resolution) == (['a.pth'], ['512x512'])
    assert options.overrides == ['testsets=A+B']


# --- Python ---------------------------------------------------------------------------------------


def test_the_network_without_arguments_is_the_published_one():
    with torch.device('meta'):
        found = BiRefNet(bb_pretrained=False).state_dict()
        expected = build_birefnet(Config()).state_dict()
    assert {key: value.shape for key, value in found.items()} == {
        key: value.shape for key, value in expected.items()}


def test_from_pretrained_loads_files_and_folders(tmp_path):
    model = build(dec_att='', mul_scl_ipt='')
    save_checkpoint(model, tmp_path / 'model.safetensors')
    assert torch.equal(output(BiRefNet.from_pretrained(tmp_path)), output(model))
    with pytest.raises(ValueError, match='did you mean general'):
        BiRefNet.from_pretrained('generel')


def test_names_in_the_table_of_python_exist():
    """Those that stand in place of a published one."""
    text = (ROOT / 'docs/published.md').read_text(encoding='utf-8')
    table = text.partition('## Python')[2].partition('This runs')[0]
    here = [row.split('|')[2] for row in table.splitlines() if row.startswith('| `')]
    names = set(re.findall(r'`([a-z_]+(?:\.\w+)+)\b', ' '.join(here))) - {'export.py'}
    names = {name for name in names if not name.startswith('model.')}  # of a network
    assert len(names) >= 8
    for name in names:
        module, _, attribute = name.rpartition('.')
        assert hasattr(importlib.import_module(module), attribute), name


def test_pretrained_weights_need_a_file():
    for call in (lambda: BiRefNet(bb_pretrained=True), lambda: BiRefNet(True)):
        with pytest.raises(ValueError, match='bb_weights=FILE'):
            call()


@pytest.mark.parametrize('order', ['row', 'column'])
def test_a_state_dict_of_either_tile_order_loads_by_hand(order):
    """Weights that show their order, behind the prefixes that wrappers leave."""
    model = with_trace_of_tiles()
    official = to_official(model.state_dict(), 'pvt_v2_b0')
    if order == 'column':
        official = convert_tile_order(official, 'column')
    saved = {f'module._orig_mod.{key}': value for key, value in official.items()}
    other = build(dec_att='', mul_scl_ipt='')
    other.load_state_dict(check_state_dict(saved))
    assert torch.equal(output(other), output(model))


def with_trace_of_tiles() -> BiRefNet:
    """A network whose filters of one tile's colours are alike, as training makes them."""
    model = build(dec_att='', mul_scl_ipt='')
    for level in model.decoder.levels:
        weight = level.reference.conv_in.weight.data
        one_colour = weight[:, :weight.shape[1] // 3]
        weight += one_colour.repeat(1, 3, 1, 1)
    return model


def test_refine_foreground_is_that_of_the_command():
    photo = skimage.data.astronaut()[:96, :128]
    mask = np.tile(np.linspace(0, 255, 128).astype(np.uint8), (96, 1))
    refined = image_proc.refine_foreground(Image.fromarray(photo), Image.fromarray(mask), device=0)
    assert np.array_equal(np.asarray(refined), estimate_foreground(photo, mask))
    with pytest.raises(ValueError, match='90'):
        image_proc.refine_foreground(Image.fromarray(photo), Image.fromarray(mask), r=30)


def test_a_state_dict_without_values_loads():
    """As code does that builds on the meta device first."""
    with torch.device('meta'):
        model = build_birefnet(Config(bb='pvt_v2_b0'))
        official = to_official(model.state_dict(), 'pvt_v2_b0')
        assert not model.load_state_dict(official, assign=True).missing_keys


# --- Names ----------------------------------------------------------------------------------------


def test_published_names_of_fields_in_python():
    cfg = Config(rand_seed=3, finetune_last_epochs=-10, lambdas_cls={'ce': 4.})
    assert (cfg.seed, cfg.tail_epochs, cfg.lambda_cls) == (3, 10, 4.)
    assert (cfg.rand_seed, cfg.finetune_last_epochs, cfg.lambdas_cls) == (3, -10, {'ce': 4.})
    assert (cfg.data_root_dir, cfg.val_last, cfg.step) == ('datasets', 50, 5)
    assert (cfg.SDPA_enabled, cfg.progressive_ref, cfg.model) == (True, False, 'BiRefNet')
    assert (cfg.batch_size_valid, cfg.refine, cfg.prompt4loc) == (1, '', False)
    assert pickle.loads(pickle.dumps(cfg)) == copy.deepcopy(cfg) == cfg
    with pytest.raises(AttributeError, match=r'^weights_root_dir: give the file itself'):
        cfg.weights_root_dir  # noqa: B018
    with pytest.raises(AttributeError, match="no field 'rand_sed'"):
        cfg.rand_sed  # noqa: B018
    with pytest.raises(ConfigError, match=r'^bach_size: no such field; did you mean batch_size'):
        Config(bach_size=3)
    with pytest.raises(AttributeError, match=r'^size: fields are set where .* Config\(size=...\)'):
        cfg.size = (64, 64)


@pytest.mark.parametrize('place', sorted({*published.SAME, *published.REPLACED}))
def test_published_names_of_modules(place):
    """What is said in place of a name exists."""
    module, _, name = place.rpartition('.')
    if place in published.SAME:
        assert callable(getattr(importlib.import_module(module), name))
        return
    with pytest.raises(ImportError, match=f'^{name} of the published code is not here: ') as caught:
        exec(f'from {module} import {name}')
    mentioned = re.findall(r'\b((?:[a-z_]+\.)+\w+)\b', str(caught.value).partition(': ')[2])
    for here in mentioned:
        assert published.find(here.removesuffix('.txt')) if here != 'log.txt' else True


def test_other_names_are_no_names():
    assert not hasattr(utils, 'loger')
    with pytest.raises(ImportError, match="cannot import name 'loger'"):
        exec('from utils import loger')


def test_path_to_image_and_save_tensor_img(tmp_path):
    photo = skimage.data.astronaut()[:96, :128]
    Image.fromarray(photo).save(tmp_path / 'a.png')
    image = utils.path_to_image(tmp_path / 'a.png', size=(64, 32), color_type='rgb')
    assert np.array_equal(np.asarray(image), cv2.resize(photo, (64, 32)))
    assert utils.path_to_image(tmp_path / 'a.png', None, 'gray').size == (128, 96)
    with pytest.raises(ValueError, match='rgb or gray'):
        utils.path_to_image(tmp_path / 'a.png', color_type='bgr')

    utils.save_tensor_img(torch.tensor([[[0., .5, 1.]]], dtype=torch.bfloat16), tmp_path / 'b.png')
    assert np.asarray(Image.open(tmp_path / 'b.png')).tolist() == [[0, 127, 255]]
    with pytest.raises(ValueError, match=r"no format '\.xyz'"):
        utils.save_tensor_img(torch.zeros(1, 2, 2), tmp_path / 'b.xyz')


def test_folders_as_the_mixin_writes_them(tmp_path):
    model = build(dec_att='', mul_scl_ipt='')
    model.save_pretrained(tmp_path / 'a')
    options = {'trust_remote_code': False, 'bb_pretrained': False, 'low_cpu_mem_usage': True}
    again = BiRefNet.from_pretrained(tmp_path / 'a', **options)
    assert torch.equal(output(again), output(model))
    with pytest.raises(ConfigError, match=r'map_location: load_model\(FILE, device\)'):
        BiRefNet.from_pretrained(tmp_path / 'a', map_location='cpu')
    with pytest.raises(ConfigError, match=r'torch_dtype: load_model.*\.to\(dtype\)'):
        BiRefNet.from_pretrained(tmp_path / 'a', torch_dtype=torch.float16)


def test_weights_that_do_not_fit_are_one_line():
    model = build(dec_att='', mul_scl_ipt='')
    state = to_official(model.state_dict(), 'pvt_v2_b0')
    other = build(bb='pvt_v2_b1', dec_att='', mul_scl_ipt='')
    with pytest.raises(RuntimeError, match=r'^weights on the backbone pvt_v2_b0 do not fit this '
                                           r'network on pvt_v2_b1; load_model\(FILE\) builds'):
        other.load_state_dict(state)
    del state['decoder.conv_out1.0.bias']
    with pytest.raises(RuntimeError, match=r'pvt_v2_b0: 1 missing: decoder\.conv_out1\.0\.bias;'):
        model.load_state_dict(state)
    assert model.load_state_dict(state, strict=False).missing_keys == ['decoder.head.bias']


def test_launchers_options_take_no_other_argument():
    cfg, _ = train.parse_arguments(['--use_accelerate', 'task=COD', '--dist', 'False', 'epochs=3'])
    assert (cfg.task, cfg.epochs) == ('COD', 3)

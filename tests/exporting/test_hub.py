"""Folders in Hugging Face's layout: ours, read by us and by transformers; the family's, by us."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageSegmentation

from exporting.hub import push_to_hub, save_pretrained
from inference import predict
from models import BiRefNet, load_model, save_checkpoint
from models.checkpoints.names import to_official
from tests.models.small import build, image, output

# Of the family's repositories, byte for byte.
FAMILY_CONFIG = '''{
  "_name_or_path": "ZhengPeng7/BiRefNet",
  "architectures": [
    "BiRefNet"
  ],
  "auto_map": {
    "AutoConfig": "BiRefNet_config.BiRefNetConfig",
    "AutoModelForImageSegmentation": "birefnet.BiRefNet"
  },
  "custom_pipelines": {
    "image-segmentation": {
      "pt": [
        "AutoModelForImageSegmentation"
      ],
      "tf": [],
      "type": "image"
    }
  },
  "bb_pretrained": false
}'''


@pytest.fixture(scope='module')
def model() -> BiRefNet:
    return build(bb='swin_v1_t', mul_scl_ipt='', size=(96, 64))


@pytest.fixture(scope='module')
def folder(model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp('hub') / 'small-net'
    save_pretrained(model, path, license='mit')
    return path


@pytest.fixture(autouse=True)
def modules_cache(tmp_path_factory, monkeypatch):
    """transformers copies modelling files; not into the user's cache."""
    modules = str(tmp_path_factory.mktemp('modules'))
    monkeypatch.setattr('transformers.dynamic_module_utils.HF_MODULES_CACHE', modules)


def aligned(network: torch.nn.Module) -> torch.nn.Module:
    """With weights in memory of their own.

    Transformers maps them from the file, where they lie as they happen to, and the order in which a
    matrix product adds depends on that.
    """
    for value in (*network.parameters(), *network.buffers()):
        value.data = value.data.clone()
    return network


def test_what_a_folder_holds(folder, model):
    assert {file.name for file in folder.iterdir()} == {
        'README.md', 'config.json', 'model.safetensors', 'modeling_birefnet.py',
        'preprocessor_config.json'}
    official = to_official(model.state_dict(), 'swin_v1_t')
    assert load_file(folder / 'model.safetensors').keys() == official.keys()
    config = json.loads((folder / 'config.json').read_text())
    assert json.loads(FAMILY_CONFIG).keys() - config.keys() == {'_name_or_path'}
    assert 'tile_order' not in config['birefnet']
    paths = {'data_root', 'weights', 'ckpt_root'}
    assert not paths & config['birefnet'].keys(), 'no paths of this machine'
    preprocessor = json.loads((folder / 'preprocessor_config.json').read_text())
    assert (preprocessor['size'], preprocessor['resample']) == ({'height': 64, 'width': 96}, 2)


def test_files_appear_together_or_not_at_all(tmp_path, model, monkeypatch):
    (tmp_path / 'config.json').write_text('before')

    def full(*_, **__):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr('exporting.hub.save_checkpoint', full)
    with pytest.raises(OSError, match='No space'):
        save_pretrained(model, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ['config.json']
    assert (tmp_path / 'config.json').read_text() == 'before'


def test_we_read_our_folder(folder, model):
    loaded = load_model(folder)
    assert loaded.config.size == (96, 64)
    assert torch.equal(output(loaded), output(model))


@pytest.fixture(scope='module')
def foreign(folder):
    """The same, as transformers loads it."""
    return AutoModelForImageSegmentation.from_pretrained(folder, trust_remote_code=True)


def test_transformers_reads_it(foreign, model):
    """It loads by way of the meta device, gives our numbers; its config stays transformers' own."""
    assert not foreign.training
    with torch.inference_mode():
        found = aligned(foreign)(image())[-1]
    assert torch.equal(found, output(model))
    assert foreign.config.get_text_config() is foreign.config
    assert type(foreign).__module__.startswith('transformers_modules')

    # `predict` finds the training size in its config.
    pixels = np.full((30, 40, 3), 99, np.uint8)
    assert np.array_equal(predict(aligned(foreign), pixels), predict(model, pixels))


@pytest.mark.slow
def test_transformers_in_half_precision(folder, foreign, model):
    half = AutoModelForImageSegmentation.from_pretrained(
        folder, trust_remote_code=True, dtype=torch.float16)
    assert half.dtype == torch.float16
    with torch.inference_mode():
        found = half(image().half())[-1].float()
    assert (found - output(model)).abs().max() / output(model).std() < .05
    keys = {key for key, value in half.state_dict().items() if value.dtype == torch.int64}
    assert all(key.endswith(('num_batches_tracked', 'relative_position_index')) for key in keys)


def test_transformers_saves_what_it_loaded(foreign, folder, tmp_path):
    """In the official layout still."""
    foreign.save_pretrained(tmp_path)
    before, after = (load_file(path / 'model.safetensors') for path in (folder, tmp_path))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.slow
def test_transformers_trains_it(folder):
    """In training mode it gives all outputs, and gradients reach all layers but the class head."""
    network = AutoModelForImageSegmentation.from_config(
        AutoConfig.from_pretrained(folder, trust_remote_code=True), trust_remote_code=True).train()
    result = network(image())
    outputs = list(result.logits)
    for pair in result.edge_pairs:
        outputs += pair
    sum(x.square().mean() for x in outputs).backward()
    assert all(p.grad is not None for p in network.parameters())


def test_the_image_processor(folder):
    processor = AutoImageProcessor.from_pretrained(folder)
    pixels = torch.zeros(3, 50, 70, dtype=torch.uint8)
    assert processor(pixels, return_tensors='pt')['pixel_values'].shape == (1, 3, 64, 96)


@pytest.mark.slow
@pytest.mark.parametrize('bb', ['pvt_v2_b0', 'timm/resnet18'])
def test_other_backbones_there_and_back(bb, tmp_path):
    model = build(bb=bb, size=(96, 64))
    save_pretrained(model, tmp_path / 'ours')
    foreign = AutoModelForImageSegmentation.from_pretrained(
        tmp_path / 'ours', trust_remote_code=True)
    with torch.inference_mode():
        assert torch.equal(aligned(foreign)(image())[-1], output(model))
    foreign.save_pretrained(tmp_path / 'theirs')
    assert torch.equal(output(load_model(tmp_path / 'theirs')), output(model))


def test_a_backbone_that_transformers_cannot_load(tmp_path):
    with pytest.raises(ValueError, match='dino_v3_s'):
        save_pretrained(build(bb='dino_v3_s'), tmp_path / 'x')
    assert not (tmp_path / 'x').exists()


@pytest.mark.parametrize(('switches', 'dtype'), [
    ({}, torch.float32),
    ({}, torch.float16),
    # The generation of 2024-03.
    ({'deform_kernels': (3,), 'out_ref_levels': (3, 2), 'dec_ipt_levels': (4, 3, 2, 1)},
     torch.float16),
])
def test_we_read_the_familys_folders(tmp_path, switches, dtype):
    """With their config, which says nothing of the network. Code beside it is not read."""
    model = build(**switches)
    state = to_official(model.state_dict(), 'pvt_v2_b0')
    for key, value in state.items():
        if value.is_floating_point():
            state[key] = value.to(dtype)
    save_file(state, tmp_path / 'model.safetensors', {'format': 'pt'})
    assert len(FAMILY_CONFIG) == 405
    (tmp_path / 'config.json').write_text(FAMILY_CONFIG)
    for name in ('birefnet.py', 'BiRefNet_config.py', 'handler.py'):
        (tmp_path / name).write_text('raise SystemExit("run!")')
    # Random weights do not show their tile order, and those of 2024-03 have the other by default.
    loaded = load_model(tmp_path, tile_order='row')
    assert next(loaded.parameters()).dtype == torch.float32
    difference = (output(loaded) - output(model)).abs().max() / output(model).std()
    assert difference == 0 if dtype == torch.float32 else difference < .02


def test_the_hubs_options_reach_it(tmp_path, model, monkeypatch):
    save_checkpoint(model, tmp_path / 'model.safetensors')
    asked = []

    def hub(repository, name, **options):
        asked.append((repository, name, options))
        return str(tmp_path / name)

    monkeypatch.setattr('models.zoo.hf_hub_download', hub)
    load_model('some-body/net', revision='v1', local_files_only=True, tile_order='column')
    assert asked[0][:2] == ('some-body/net', 'model.safetensors')
    assert asked[0][2]['revision'] == 'v1'
    assert asked[0][2]['local_files_only'] is True


def test_pushing(model, monkeypatch):
    """The folder as saved, to a repository that is made where there is none."""
    done = []

    class Api:
        def __init__(self, token):
            done.append(token)

        def create_repo(self, name, **options):
            done.append((name, options))
            return type('Url', (), {'repo_id': name})

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            done.append({file.name for file in Path(folder_path).iterdir()})
            done.append((Path(folder_path) / 'README.md').read_text())
            return f'https://hub/{repo_id}'

    monkeypatch.setattr('exporting.hub.HfApi', Api)
    address = push_to_hub(model, 'some-body/net', private=True, token='t', license='mit')
    assert address == 'https://hub/some-body/net'
    assert done[:2] == ['t', ('some-body/net', {'private': True, 'exist_ok': True})]
    assert {'model.safetensors', 'config.json', 'modeling_birefnet.py'} <= done[2]
    assert '# some-body/net' in done[3]


# --- The card -------------------------------------------------------------------------------------


def card_of(folder: Path) -> tuple[dict, str]:
    """Its header and its text."""
    _, header, text = (folder / 'README.md').read_text().split('---\n', 2)
    return yaml.safe_load(header), text


def test_a_card_without_a_run(folder):
    header, text = card_of(folder)
    assert (header['license'], header['pipeline_tag']) == ('mit', 'image-segmentation')
    assert 'model-index' not in header
    assert 'has not been scored' in text
    assert 'training set is not known' in text


@pytest.mark.parametrize('config', [{'training_set': 3}, [], {'bb': 1, 'training_set': 'DIS-TR'}])
def test_files_of_others_beside_the_weights_do_no_harm(model, config, tmp_path, caplog):
    run, results = tmp_path / 'run', tmp_path / 'results'
    save_checkpoint(model, run / 'epoch_3.pth')
    (run / 'config.json').write_text(json.dumps(config))
    (run / 'log.jsonl').write_text(
        'text\n[]\n{"validation": 3}\n{"epoch": 3, "validation": {"sm": 0.8}}\n{"epoch": 4, "val')
    results.mkdir()
    (results / 'x_eval.json').write_text('{"methods": 3}')
    save_pretrained(model, tmp_path / 'net', checkpoint=run / 'epoch_3.pth', results=results)
    assert not caplog.text
    _, text = card_of(tmp_path / 'net')
    assert 'training set is not known' in text
    assert '0.8' in text


def test_a_run_is_not_overwritten(model, tmp_path):
    (tmp_path / 'config.json').write_text(json.dumps(model.config.as_dict()))
    with pytest.raises(ValueError, match='holds a run'):
        save_pretrained(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['config.json']


def test_a_card_tells_of_the_run(model, tmp_path):
    run, results = tmp_path / 'ckpts' / 'first', tmp_path / 'results'
    save_checkpoint(model, run / 'epoch_3.pth')
    config = model.config.as_dict() | {'training_set': 'DIS-TR', 'epochs': 3}
    (run / 'config.json').write_text(json.dumps(config))
    (run / 'log.jsonl').write_text(
        '{"epoch": 2, "validation": {"sm": 0.9}}\n'
        '{"epoch": 3, "validation": {"sm": 0.8}}\n')
    results.mkdir()
    methods = [{'method': 'first--epoch_3', 'run': 'first', 'epoch': epoch, 'resolution': size,
                'scores': {'sm': sm, 'mae': None}}
               for epoch, size, sm in ((2, '96x64', .1), (3, '96x64', .7654321), (3, 'native', .1))]
    scores = {'dataset': 'DIS-VD', 'task': 'DIS5K', 'methods': methods}
    overall = {'task': 'DIS5K', 'datasets': [], 'methods': {}}
    (results / 'DIS-VD_eval.json').write_text(json.dumps(scores))
    (results / 'overall_eval.json').write_text(json.dumps(overall))
    save_pretrained(model, tmp_path / 'net', checkpoint=run / 'epoch_3.pth', results=results)
    header, text = card_of(tmp_path / 'net')
    metric, = header['model-index'][0]['results'][0]['metrics']
    assert metric == {'type': 'sm', 'value': .7654321}
    expected = (
        'DIS-TR; 3 epochs', '| DIS-VD', '0.7654', '| sm', '0.8', 'licence has not been stated')
    for words in expected:
        assert words in text
    assert '0.1' not in text

"""test.py: which masks it writes, where, and what it does not do twice."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import test as script
from config import Config
from dataset import normalize, to_tensor
from models import build_birefnet, load_model, save_checkpoint
from models.loading import Source
from readers import read_image
from runtime import fingerprints
from runtime.distributed import World
from tests.files import replace_keeping_time
from tests.training.runs import finish, make_data, start
from utils import write_json


@pytest.fixture(scope='module')
def setting(tmp_path_factory) -> tuple[Path, Path]:
    """Data, and a run's folder with two checkpoints of random weights."""
    root = tmp_path_factory.mktemp('test')
    data = make_data(root / 'data')
    run = root / 'ckpts' / 'tiny'
    cfg = Config(task='Tiny', bb='pvt_v2_b0', mul_scl_ipt='', dec_att='', size=(64, 32),
                 data_root=str(data))
    for epoch in (1, 12):
        torch.manual_seed(epoch)
        save_checkpoint(build_birefnet(cfg), run / f'epoch_{epoch}.pth')
    write_json(run / 'config.json', cfg.as_dict())
    return data, run


def run_test(folder: Path, *more: str, size: int = 1) -> str:
    """Runs test.py in `size` processes; returns their output."""
    log = folder / 'out'
    codes = finish(start('test', ['device=cpu', f'pred_root={folder}', *more], log, size))
    assert codes == [0] * size, log.read_text()
    return log.read_text()


def expected_mask(checkpoint: Path, image: Path, size: tuple[int, int]) -> np.ndarray:
    """SPEC's definition in a few lines."""
    pixels = read_image(image)
    resized = torch.from_numpy(cv2.resize(pixels, size)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        probability = load_model(checkpoint)(normalize(resized))[-1].sigmoid()
    mask = F.interpolate(probability, size=pixels.shape[:2], mode='bilinear', align_corners=True)
    return (mask[0, 0] * 255).numpy().astype(np.uint8)


def test_masks_of_all_checkpoints_at_several_sizes(setting, tmp_path):
    data, run = setting
    run_test(tmp_path, '--ckpt_folder', str(run), '--resolution', 'config', '96x64', 'native')
    sizes = {'-reso_64x32': (64, 32), '-reso_96x64': (96, 64), '-reso_native': (64, 64)}
    folders = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert folders == {f'tiny--epoch_{epoch}{suffix}' for epoch in (1, 12) for suffix in sizes}

    manifest = json.loads((tmp_path / 'tiny--epoch_12-reso_64x32' / 'manifest.json').read_text())
    expected = {'run': 'tiny', 'epoch': 12, 'resolution': '64x32', 'task': 'Tiny'}
    assert {name: manifest[name] for name in expected} == expected

    image = data / 'Tiny' / 'TE-Tiny' / 'im' / '1.png'
    for suffix, size in sizes.items():
        file = tmp_path / f'tiny--epoch_12{suffix}' / 'TE-Tiny' / '1.png'
        written = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        expected = expected_mask(run / 'epoch_12.pth', image, size)
        assert written.shape == expected.shape == (48, 56)
        # Truncation may fall on either side of a rounding error.
        assert abs(written.astype(int) - expected).max() <= 1


def test_masks_have_the_size_of_the_ground_truth(setting, tmp_path):
    """And of the image where there is none."""
    data, run = setting
    source = data / 'Tiny' / 'TE-Tiny'
    target = tmp_path / 'data' / 'Tiny' / 'TE-Tiny'
    shutil.copytree(source / 'im', target / 'im')
    (target / 'gt').mkdir()
    cv2.imwrite(str(target / 'gt' / '0.png'), np.full((43, 50), 255, np.uint8))
    run_test(tmp_path, '--ckpt', str(run / 'epoch_1.pth'), f'data_root={tmp_path / "data"}')

    folder = tmp_path / 'tiny--epoch_1-reso_64x32' / 'TE-Tiny'
    shapes = [cv2.imread(str(folder / f'{i}.png'), 0).shape for i in range(2)]
    assert shapes == [(43, 50), (48, 56)]


@pytest.mark.parametrize(('precision', 'channels_last'), [
    ('no', False), ('bf16', False), ('bf16', True)])
def test_validation_and_test_compute_alike(setting, precision, channels_last):
    data, run = setting
    image = cv2.resize(read_image(data / 'Tiny' / 'TE-Tiny' / 'im' / '1.png'), (64, 32))
    model = load_model(run / 'epoch_12.pth')
    if channels_last:
        model.to(memory_format=torch.channels_last)
    is_mixed = precision == 'bf16'
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16, enabled=is_mixed):
        logits = model(normalize(to_tensor(image)[None]))[-1]
    validated = logits.float().sigmoid()[0, 0].numpy()

    cfg = Config(mixed_precision=precision, channels_last=channels_last)
    model = load_model(run / 'epoch_12.pth')
    predictor = script.build_predictor(model, cfg, torch.device('cpu'))
    tested = predictor([image])[0]
    # In float32 the network is rearranged: equal to rounding. Mixed precision rounds coarsely,
    # so that only equal steps give equal masks.
    tolerance = 1e-5 if precision == 'no' else 0
    assert abs(tested - validated).max() <= tolerance


def test_nothing_twice_unless_the_checkpoint_changed(setting, tmp_path):
    _, run = setting
    file = run / 'epoch_1.pth'
    arguments = ('--ckpt', str(file))
    run_test(tmp_path, *arguments)
    masks = sorted((tmp_path / 'tiny--epoch_1-reso_64x32' / 'TE-Tiny').iterdir())
    masks[0].unlink()
    kept = masks[1].stat().st_mtime_ns
    assert '2 masks, 1 of them new' in run_test(tmp_path, *arguments)
    assert masks[0].exists()
    assert masks[1].stat().st_mtime_ns == kept
    save_checkpoint(load_model(file), file)
    assert '2 masks, 2 of them new' in run_test(tmp_path, *arguments)


def read_masks(folder: Path) -> dict[Path, bytes]:
    """The masks below a folder by their relative path."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.glob('*/*/*.png')}


def test_processes_share_the_images(setting, tmp_path):
    _, run = setting
    for size in (1, 2):
        (tmp_path / str(size)).mkdir()
        run_test(tmp_path / str(size), '--ckpt', str(run / 'epoch_1.pth'), size=size)
    alone = read_masks(tmp_path / '1')
    assert len(alone) == 2
    assert read_masks(tmp_path / '2') == alone


def test_bad_requests_are_refused_before_the_first_mask(setting, tmp_path):
    _, run = setting
    for more, words in ((['--resolution', '100x64'], 'multiples of 32; nearest: 96x64'),
                        (['--ckpt_folder', str(tmp_path)], 'epoch_<N>.pth'),
                        (['--testsets', 'TE-None'], 'TE-None')):
        arguments = ['--ckpt_folder', str(run), f'pred_root={tmp_path}', *more]
        assert finish(start('test', arguments, tmp_path / 'out')) == [1]
        assert words in (tmp_path / 'out').read_text()
    assert not list(tmp_path.glob('*/*'))


def test_a_folder_of_published_files(tmp_path):
    names = ['BiRefNet-DIS-epoch_590.pth', 'BiRefNet_COD_ep125.pth']
    for name in [*names, 'swin_large.pth']:
        (tmp_path / name).touch()
    assert found_in(tmp_path) == names[::-1]
    (tmp_path / 'epoch_3.pth').touch()
    assert found_in(tmp_path) == ['epoch_3.pth'], 'a run has its own'


def test_an_empty_folder_is_not_the_newest_run():
    options = script.parse_arguments(['--ckpt_folder', ''])
    with pytest.raises(ValueError, match='--ckpt_folder is empty'):
        script.find_checkpoints(options, 'ckpts')


def found_in(folder: Path) -> list[str]:
    options = script.parse_arguments(['--ckpt_folder', str(folder)])
    return [source.file.name for source in script.find_checkpoints(options, '')]


# --- Which weights, and at which size -------------------------------------------------------------


def test_names_and_configs_of_others_do_not_decide(setting, tmp_path):
    """The size is the saved one, whatever the folder is called; a foreign config is ignored."""
    _, run = setting
    misnamed = tmp_path / 'shop_hr'
    shutil.copytree(run, misnamed)
    foreign = tmp_path / 'foreign' / 'a.pth'
    foreign.parent.mkdir()
    shutil.copy(run / 'epoch_1.pth', foreign)
    write_json(foreign.with_name('config.json'), {'architectures': ['BiRefNet']})

    options = script.parse_arguments(['--ckpt', str(misnamed), '--ckpt', str(foreign)])
    found = [(source.file.name, script.run_config(source, []).size)
             for source in script.find_checkpoints(options, '')]
    assert found == [('epoch_12.pth', (64, 32)), ('a.pth', (1024, 1024))]


@pytest.mark.parametrize(('path', 'run'), [
    ('ckpts/mine/epoch_3.pth', 'mine'),
    ('ckpts/mine/last.pt', 'mine'),
    ('my-net/model.safetensors', 'my-net'),
    ('my-net/model.safetensors.index.json', 'my-net'),
    ('my-net/pytorch_model.bin.index.json', 'my-net'),
    ('hub/models--someone--BiRefNet-ft/snapshots/abc/model.safetensors', 'BiRefNet-ft'),
    ('BiRefNet-general-epoch_244.pth', 'BiRefNet-general'),
])
def test_names_of_runs(path, run):
    assert script.run_of(Path(path)) == run


def test_a_run_whose_name_is_as_long_as_names_are():
    cfg = Config(task='Tiny', pred_root='preds')
    names = set()
    for run in ('x' * 255, 'x' * 254 + 'y'):
        for epoch in (1, 2):
            target = script.Target.of(Path('ckpts', run, f'epoch_{epoch}.pth'), cfg, '64x32')
            names.add(target.folder.name)
    assert len(names) == 4
    assert all(len(name) <= 255 and name.endswith('-reso_64x32') for name in names)


# --- Masks that would come out differently --------------------------------------------------------


@pytest.fixture
def case(tmp_path) -> SimpleNamespace:
    """A target whose folder holds the masks of two images, and what they depend on."""
    images: dict[Path, tuple[int, int] | None] = {}
    folder = tmp_path / 'preds' / 'net'
    for name in ('a', 'b'):
        image = tmp_path / f'{name}.png'
        image.write_bytes(b'image')
        images[image] = None
        (folder / 'TE').mkdir(parents=True, exist_ok=True)
        (folder / 'TE' / f'{name}.png').write_bytes(b'mask')
    checkpoint = tmp_path / 'one' / 'net.pth'
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b'weights')
    target = script.Target(checkpoint, 'Tiny', '64x32', folder)
    manifest = target.manifest(Config(task='Tiny'), {})
    write_json(folder / script.MANIFEST, manifest)
    write_json(folder / script.ORIGINS, {'TE': script.find_origins(images, {}, 'TE')})
    return SimpleNamespace(target=target, folder=folder, images=images, manifest=manifest)


def left(case: SimpleNamespace, **changes: str) -> list[str]:
    """Names of the masks that are left before a test under another manifest."""
    script.prepare_folder(case.folder, {**case.manifest, **changes}, {'TE': case.images})
    return sorted(path.stem for path in (case.folder / 'TE').iterdir())


def test_masks_of_images_that_changed_are_made_again(case):
    assert left(case) == ['a', 'b']
    first, _ = case.images
    time = first.stat().st_mtime_ns
    first.write_bytes(b'other')
    os.utime(first, ns=(time, time + 1))
    assert left(case) == ['b']


def test_masks_of_images_that_changed_with_their_size_and_time_kept_are_made_again(case):
    first, second = case.images
    for path, content in ((first, b'other'), (second, b'image')):
        replace_keeping_time(path, content)
    assert left(case) == ['b']


def test_an_image_is_read_again_only_when_it_was_touched(case, monkeypatch):
    first, _ = case.images
    replace_keeping_time(first, b'image')
    read = []
    monkeypatch.setattr(fingerprints, '_remembered_digest', lambda path, _: read.append(path) or 0)
    assert left(case) == ['b']
    assert read == [first]


@pytest.mark.parametrize('content', [
    '{', '[]', '{"TE": []}', '{"TE": null}', '{"TE": {"a": [5, 6]}}',
    '{"TE": {"a": [[5, 6, 7], null]}}', '{"TE": {"a": [[5, 6, 7, 8], null, 9]}}'])
def test_masks_are_made_again_when_the_list_of_their_images_is_damaged(case, content):
    (case.folder / script.ORIGINS).write_text(content)
    assert left(case) == []


def test_masks_of_images_that_are_gone_go_too(case):
    first, _ = case.images
    del case.images[first]
    assert left(case) == ['b']


def test_an_empty_file_is_no_mask(case, monkeypatch):
    """A crash of the machine leaves such."""
    (case.folder / 'TE' / 'a.png').write_bytes(b'')
    made = []
    monkeypatch.setattr(script, 'run_pipeline', lambda items, *_: made.extend(items) or [])
    world = World(0, 1, torch.device('cpu'))
    script.predict_set(None, case.images, '32x32', case.folder / 'TE', 'TE', world)
    assert [path.stem for path in made] == ['a']


def test_masks_are_made_again_when_the_ground_truth_has_another_size(case):
    first, _ = case.images
    case.images[first] = (4, 3)
    assert left(case) == ['b']


@pytest.mark.parametrize('field', [
    'data_root', 'mixed_precision', 'checkpoint_mtime', 'checkpoint_digest', 'version'])
def test_masks_are_made_again_when_what_they_depend_on_changed(case, field):
    assert left(case, **{field: 'changed'}) == []


@pytest.mark.parametrize('content', ['{}', '{"checkpoint": null}', '{"checkpoint": 5}', '[]'])
def test_a_manifest_of_another_project_does_not_make_masks_ours(case, content):
    (case.folder / script.MANIFEST).write_text(content)
    with pytest.raises(ValueError, match=r'test\.py has not written'):
        script.check_folder(case.target)


def test_masks_of_another_checkpoint_are_neither_taken_nor_deleted(case, tmp_path):
    script.check_folder(case.target)
    other = tmp_path / 'two' / 'net.pth'
    other.parent.mkdir()
    other.write_bytes(b'heavier')
    shutil.copystat(case.target.checkpoint, other)
    with pytest.raises(ValueError, match=r'holds the masks of .*one.*not of .*two'):
        script.check_folder(replace(case.target, checkpoint=other))

    shutil.move(case.target.checkpoint, tmp_path / 'net.pth')
    script.check_folder(replace(case.target, checkpoint=tmp_path / 'net.pth'))  # moved
    (case.folder / script.MANIFEST).unlink()
    with pytest.raises(ValueError, match='not written'):
        script.check_folder(case.target)


def test_weights_in_several_files_are_known_by_all_of_them(case, tmp_path):
    """Indexes of two networks of one architecture are equal byte for byte."""
    targets = []
    for name in ('one', 'two'):
        folder = tmp_path / name
        write_json(folder / 'model.safetensors.index.json', {'weight_map': {'key': 'part.bin'}})
        (folder / 'part.bin').write_bytes(name.encode())
        checkpoint = folder / 'model.safetensors.index.json'
        targets.append(replace(case.target, checkpoint=checkpoint))
    one, two = targets
    before = one.manifest(Config(task='Tiny'), {})
    write_json(case.folder / script.MANIFEST, before)
    with pytest.raises(ValueError, match=r'holds the masks of .*one.*not of .*two'):
        script.check_folder(two)

    replace_keeping_time(tmp_path / 'one' / 'part.bin', b'eno')
    changed = one.manifest(Config(task='Tiny'), {})
    assert [name for name in before if before[name] != changed[name]] == ['checkpoint_digest']


def test_a_folder_of_an_earlier_version_is_reported(tmp_path, caplog):
    cfg = Config(task='Tiny', pred_root=str(tmp_path))
    target = script.Target.of(Path('ckpts/tiny/epoch_12.pth'), cfg, '64x32')
    script.report_earlier_folder(target)
    assert not caplog.records
    write_json(tmp_path / 'tiny--epoch_12' / 'manifest.json', {'run': 'tiny'})
    script.report_earlier_folder(target)
    assert 'tiny--epoch_12: holds masks of an earlier version' in caplog.text


def test_two_checkpoints_do_not_share_a_folder(tmp_path):
    options = script.parse_arguments([f'pred_root={tmp_path}'])
    sources = []
    for name in ('one', 'two'):
        file = tmp_path / name / 'net.pth'
        file.parent.mkdir()
        file.touch()
        sources.append(Source(file, {}))
    with pytest.raises(ValueError, match='would both write'):
        script.check_folders(sources, options)


@pytest.mark.parametrize('name', ['model', 'pytorch_model', 'best', 'last', 'checkpoint'])
def test_a_name_that_tells_no_run_gives_way_to_the_folder(name):
    assert script.run_of(Path('mine', f'{name}.pth')) == 'mine'

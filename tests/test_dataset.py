"""Pairs and what is wrong with them, samples and batches.

Samples depend on seed, epoch and index alone; batches are shared among ranks.
"""

import io
import itertools
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data
from torchvision.transforms import v2

from dataset import (
    EpochSampler,
    Pair,
    PairCache,
    SampleKey,
    TrainSet,
    build_loader,
    check_images,
    check_masks,
    check_readable,
    class_names,
    find_images_in_set,
    find_pairs,
    load_pair,
    normalize,
)
from readers.orientation import upright

ALL_METHODS = ('flip', 'crop', 'rotate', 'enhance', 'pepper')
SIZE = (64, 48)


def write(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def make_set(
    root: Path,
    name: str,
    stems: list[str],
    image_suffix: str = '.jpg',
    height: int = 96,
) -> None:
    """Writes one pair for each stem, every image another window of a photograph."""
    photograph, (rows, columns) = data.astronaut(), np.mgrid[:height, :128]
    for number, stem in enumerate(stems):
        window = np.ascontiguousarray(photograph[20 * number:20 * number + height, 100:228])
        disc = np.hypot(rows - height / 2, columns - 64) < 20 + 2 * number
        write(root / 'Task' / name / 'im' / f'{stem}{image_suffix}', window)
        write(root / 'Task' / name / 'gt' / f'{stem}.png', disc.astype(np.uint8) * 255)


@pytest.fixture
def pairs(tmp_path) -> list[Pair]:
    make_set(tmp_path, 'TR-one', [f'a{i}' for i in range(6)])
    make_set(tmp_path, 'TR-two', [f'b{i}' for i in range(3)])
    return find_pairs(tmp_path, 'Task', ['TR-one', 'TR-two'])


# --- Finding --------------------------------------------------------------------------------------


def test_pairs_match_by_stem_and_keep_the_order_of_the_sets(tmp_path):
    make_set(tmp_path, 'TR-z', ['with space.and.dots', 'ünïcödé 图'], image_suffix='.JPEG')
    make_set(tmp_path, 'TR-a', ['x'])
    (tmp_path / 'Task' / 'TR-a' / 'im' / 'notes.txt').write_text('no image')
    found = find_pairs(tmp_path, 'Task', ['TR-z', 'TR-a'])
    assert [(pair.set, pair.name) for pair in found] == [
        ('TR-z', 'with space.and.dots'), ('TR-z', 'ünïcödé 图'), ('TR-a', 'x')]
    assert found[0].image.name == 'with space.and.dots.JPEG'
    images = find_images_in_set(tmp_path, 'Task', 'TR-z')
    assert [path.stem for path in images] == [pair.name for pair in found[:2]]


def test_decomposed_names_match_composed_ones(tmp_path):
    make_set(tmp_path, 'TR-a', [unicodedata.normalize('NFC', 'é')])
    image = next((tmp_path / 'Task' / 'TR-a' / 'im').iterdir())
    image.rename(image.with_name(unicodedata.normalize('NFD', 'é') + '.jpg'))
    assert len(find_pairs(tmp_path, 'Task', ['TR-a'])) == 1


def test_one_error_lists_every_offender(tmp_path):
    make_set(tmp_path, 'TR-a', ['good', 'lonely', 'twice'])
    folder = tmp_path / 'Task' / 'TR-a'
    (folder / 'gt' / 'lonely.png').unlink()
    write(folder / 'gt' / 'widow.png', np.zeros((4, 4), np.uint8))
    write(folder / 'im' / 'twice.png', np.zeros((4, 4), np.uint8))
    (tmp_path / 'Task' / 'TR-empty' / 'im').mkdir(parents=True)
    with pytest.raises(ValueError, match=r'^9 problem') as error:
        find_pairs(tmp_path, 'Task', ['TR-a', 'TR-empty', 'TR-none', 'TR-a'])
    message = str(error.value)
    for offender in (
        'TR-a/im/lonely.jpg',
        'TR-a/gt/widow.png',
        'TR-a/im/twice.png',
        'TR-a/im/twice.jpg',
        'TR-empty/im',
        'TR-empty/gt',
        'TR-none/im',
        'TR-none/gt',
    ):
        assert f'{tmp_path / "Task" / offender}: ' in message
    assert 'TR-a: named more than once' in message
    assert 'good' not in message


def test_missing_test_set_is_named(tmp_path):
    with pytest.raises(ValueError, match='TE-x'):
        find_images_in_set(tmp_path, 'NoTask', 'TE-x')


# --- Checking -------------------------------------------------------------------------------------


@pytest.mark.parametrize('full', [False, True])
def test_unreadable_and_truncated_files_are_all_listed(tmp_path, full):
    make_set(tmp_path, 'TR-a', ['fine', 'cut', 'text', 'cutmask'])
    folder = tmp_path / 'Task' / 'TR-a'
    bad = [folder / 'im' / 'cut.jpg', folder / 'im' / 'text.jpg', folder / 'gt' / 'cutmask.png']
    for path in (bad[0], bad[2]):
        path.write_bytes(path.read_bytes()[:-40])
    bad[1].write_text('not an image')
    with pytest.raises(ValueError, match=r'^3 problem') as error:
        check_readable(find_pairs(tmp_path, 'Task', ['TR-a']), workers=2, full=full)
    assert all(str(path) in str(error.value) for path in bad)
    assert 'fine' not in str(error.value)


def test_check_returns_upright_sizes_of_all_formats(tmp_path):
    pixels = np.ascontiguousarray(data.coffee()[:40, :70])
    suffixes = ('jpg', 'png', 'bmp', 'tif', 'webp', 'gif')
    files = [write(tmp_path / f'x.{suffix}', pixels) for suffix in suffixes]
    turned = Image.Exif()
    turned[0x0112] = 6
    for suffix in ('jpg', 'png'):
        files.append(write(tmp_path / f'turned.{suffix}', pixels, exif=turned))
    assert check_images(files) == check_images(files, full=True) == [(70, 40)] * 6 + [(40, 70)] * 2


def test_a_jpeg_with_bytes_behind_its_end_is_readable(tmp_path):
    path = write(tmp_path / 'x.jpg', np.zeros((16, 24, 3), np.uint8))
    path.write_bytes(path.read_bytes() + b'trailer of some camera' * 9)
    assert check_images([path]) == [(24, 16)]


def test_a_mask_of_another_shape_is_warned_of(tmp_path):
    make_set(tmp_path, 'TR-a', ['a', 'b'])
    write(tmp_path / 'Task' / 'TR-a' / 'gt' / 'b.png', np.zeros((128, 96), np.uint8))
    expected = r'(?s)^1 images and masks differ.*b\.jpg: 128x96, its mask .*b\.png: 96x128'
    with pytest.warns(UserWarning, match=expected):
        check_readable(find_pairs(tmp_path, 'Task', ['TR-a']))


def make_turned_set(
    root: Path,
    size: tuple[int, int],
    orientation: int,
    turned_masks: bool,
) -> list[Pair]:
    """Photographs that lie in the file, with masks of an object in them, drawn upright or not."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    lying = np.full((*size, 3), 90, np.uint8)
    lying[5:20, 10:50] = 230
    mask = (lying[..., 0] > 128).astype(np.uint8) * 255
    if not turned_masks:
        mask = np.ascontiguousarray(upright(mask, orientation))
    for stem in ('a', 'b', 'c'):
        write(root / 'Task' / 'TR-a' / 'im' / f'{stem}.png', lying, exif=exif)
        write(root / 'Task' / 'TR-a' / 'gt' / f'{stem}.png', mask)
    return find_pairs(root, 'Task', ['TR-a'])


@pytest.mark.parametrize(('size', 'orientation'), [((64, 64), 6), ((48, 64), 3), ((64, 64), 2)])
def test_masks_drawn_before_the_image_was_turned_are_named(tmp_path, size, orientation):
    pairs = make_turned_set(tmp_path, size, orientation, turned_masks=True)
    with pytest.warns(UserWarning, match=r'TR-a: 3 images are turned .*of 3 masks 3 fit'):
        check_readable(pairs)


@pytest.mark.parametrize(('size', 'orientation'), [((64, 64), 6), ((48, 64), 3), ((48, 64), 6)])
def test_upright_masks_of_turned_images_are_fine(tmp_path, size, orientation, recwarn):
    check_readable(make_turned_set(tmp_path, size, orientation, turned_masks=False))
    assert not recwarn.list


def test_sets_are_warned_of_once_and_refused_without_foreground(tmp_path):
    make_set(tmp_path, 'TR-ones', ['a', 'b'])
    make_set(tmp_path, 'TR-empty', ['c', 'd'])
    found = find_pairs(tmp_path, 'Task', ['TR-ones', 'TR-empty'])
    for pair in found[:2]:
        write(pair.mask, np.array(Image.open(pair.mask)) // 255)
    expected = r'TR-ones: 2 of 2 masks hold no values but 0 and 1'
    with pytest.warns(UserWarning, match=expected) as warned:
        check_masks(found)
    assert len(warned) == 1
    for pair in found[2:]:
        write(pair.mask, np.zeros((96, 128), np.uint8))
    with pytest.raises(ValueError, match=r'TR-empty: not one of the 2 masks has foreground'):
        check_masks(found[2:])


# --- Reading --------------------------------------------------------------------------------------


def odd_images(folder: Path, photograph: np.ndarray) -> dict[str, Path]:
    """One photograph in every unusual kind that keeps its colours (or its grey)."""
    rgb = Image.fromarray(photograph)
    grey = rgb.convert('L')
    turned = Image.Exif()
    turned[0x0112] = 6  # the file holds the picture turned by 90 degrees counter-clockwise
    folder.mkdir(parents=True)
    kinds = {
        'grey.jpg': (grey, {}),
        'rgba.png': (rgb.convert('RGBA'), {}),
        'palette.png': (rgb.quantize(256), {}),
        'cmyk.jpg': (rgb.convert('CMYK'), {'quality': 95}),
        'UPPER.PNG': (rgb, {}),
        'deep.png': (Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), {}),
        'turned.jpg': (rgb.transpose(Image.Transpose.ROTATE_90), {'exif': turned, 'quality': 95}),
        'progressive.jpg': (rgb, {'progressive': True, 'quality': 95}),
        'full chroma.jpg': (rgb, {'subsampling': 0, 'quality': 95}),
    }
    for name, (image, options) in kinds.items():
        image.save(folder / name, **options)
    return {name: folder / name for name in kinds}


def test_odd_images_read_as_what_they_show(tmp_path):
    photograph = cv2.resize(data.coffee(), (120, 80), interpolation=cv2.INTER_AREA)
    grey = np.repeat(np.asarray(Image.fromarray(photograph).convert('L'))[..., None], 3, axis=2)
    mask = write(tmp_path / 'mask.png', np.zeros((80, 120), np.uint8))
    for name, path in odd_images(tmp_path / 'im', photograph).items():
        image, _ = load_pair(Pair('x', 's', path, mask), (120, 80))
        expected = grey if name in ('grey.jpg', 'deep.png') else photograph
        assert image.shape == (80, 120, 3), name
        assert image.dtype == np.uint8
        assert np.abs(image.astype(int) - expected).mean() < 6, name


@pytest.mark.parametrize('mode', ['L', 'RGB', 'RGBA', 'P', '1', 'I;16'])
def test_masks_of_all_kinds_read_as_grey(tmp_path, mode):
    rows, columns = np.mgrid[:60, :80]
    inside = np.hypot(rows - 30, columns - 40) < 20
    disc = inside.astype(np.uint8) * 255
    if mode == 'I;16':
        Image.fromarray(disc.astype(np.uint16) * 257).save(tmp_path / 'm.png')
    else:
        Image.fromarray(disc).convert(mode).save(tmp_path / 'm.png')
    image = write(tmp_path / 'i.png', np.zeros((60, 80, 3), np.uint8))
    _, mask = load_pair(Pair('x', 's', image, tmp_path / 'm.png'), (80, 60))
    assert mask.shape == (60, 80)
    assert np.abs(mask.astype(int) - disc).max() <= 1


@pytest.mark.parametrize('subsampling', [0, 1, 2])
@pytest.mark.parametrize('name', ['astronaut', 'coffee', 'rocket'])
def test_reading_a_jpeg_is_the_full_path(tmp_path, name, subsampling):
    path = write(tmp_path / 'x.jpg', getattr(data, name)(), quality=90, subsampling=subsampling)
    mask = write(tmp_path / 'm.png', np.zeros((9, 9), np.uint8))
    image, _ = load_pair(Pair('x', 's', path, mask), SIZE)
    assert (image == cv2.resize(np.asarray(Image.open(path)), SIZE)).all()


@pytest.mark.parametrize('ratio', [2, 4, 8])
def test_reduced_jpeg_scales_are_not_the_full_path(ratio):
    """Why `load_pair` does not use them: not one ratio keeps a photograph within 2 grey levels."""
    photograph = data.astronaut()
    file = io.BytesIO()
    Image.fromarray(photograph).save(file, 'JPEG', quality=95)
    size = (512 // ratio, 512 // ratio)
    full = cv2.resize(np.asarray(Image.open(file)), size)
    reduced = Image.open(file)
    reduced.draft('RGB', size)
    assert np.abs(full.astype(int) - cv2.resize(np.asarray(reduced), size)).max() > 20


# --- Samples --------------------------------------------------------------------------------------


def same(a, b) -> bool:
    return torch.equal(a.image, b.image) and torch.equal(a.mask, b.mask)


def test_samples_have_the_promised_shapes(pairs):
    sample = TrainSet(pairs, SIZE, ALL_METHODS, background_color_synthesis=True)[1]
    assert sample.image.shape == (3, 48, 64)
    assert sample.mask.shape == (1, 48, 64)
    assert sample.image.dtype == sample.mask.dtype == torch.uint8
    assert (sample.name, sample.class_id, sample.skipped) == ('a1', -1, [])


def test_without_augmentation_a_sample_is_the_resized_pair(pairs):
    sample = TrainSet(pairs, SIZE)[2]
    image, mask = load_pair(pairs[2], SIZE)
    assert (sample.image.numpy() == image.transpose(2, 0, 1)).all()
    assert (sample.mask[0].numpy() == mask).all()


def test_draws_depend_on_seed_epoch_and_index_alone(pairs):
    keys = [SampleKey(index, epoch) for epoch in range(2) for index in range(4)]
    one = TrainSet(pairs, SIZE, ALL_METHODS, seed=1)
    reverse = TrainSet(pairs, SIZE, ALL_METHODS, seed=1)
    other_seed = TrainSet(pairs, SIZE, ALL_METHODS, seed=2)
    forward = {key: one[key] for key in keys}
    np.random.seed(3)  # global states must not matter
    torch.manual_seed(3)
    assert all(same(forward[key], reverse[key]) for key in reversed(keys))
    assert not same(forward[SampleKey(0, 0)], forward[SampleKey(0, 1)])
    assert not same(forward[SampleKey(0, 0)], other_seed[SampleKey(0, 0)])


def test_a_key_may_ask_for_a_size(pairs):
    assert TrainSet(pairs, SIZE, ALL_METHODS)[SampleKey(0, 0, (96, 32))].image.shape == (3, 32, 96)


def test_a_bad_file_stops_the_run_with_its_path(pairs):
    pairs[1].image.write_bytes(pairs[1].image.read_bytes()[:-50])
    pairs[2].mask.unlink()
    for index, path in ((1, pairs[1].image), (2, pairs[2].mask)):
        with pytest.raises(ValueError, match=path.name):
            TrainSet(pairs, SIZE)[index]


def test_with_skip_bad_the_next_one_takes_its_place_and_is_counted(pairs, caplog):
    for pair in pairs[1:3]:
        pair.image.write_text('nonsense')
    sample = TrainSet(pairs, SIZE, skip_bad=True)[1]
    assert sample.name == 'a3'
    for pair, problem in zip(pairs[1:3], sample.skipped, strict=True):
        assert str(pair.image) in problem
    assert caplog.text.count('skipped') == 2


def test_with_skip_bad_a_set_without_any_readable_pair_is_an_error(pairs):
    for pair in pairs:
        pair.image.write_text('nonsense')
    with pytest.raises(ValueError, match='not one of the 9 pairs'):
        TrainSet(pairs, SIZE, skip_bad=True)[0]


def test_an_empty_training_set_is_an_error():
    with pytest.raises(ValueError, match='at least one pair'):
        TrainSet([], SIZE)


def test_cached_samples_are_the_same_as_those_read_anew(pairs, tmp_path):
    cache = PairCache(pairs, SIZE, tmp_path / 'cache')
    assert len(list((tmp_path / 'cache').glob('*.cache'))) == 2  # one per set
    cached = TrainSet(pairs, SIZE, ALL_METHODS, cache=cache)
    plain = TrainSet(pairs, SIZE, ALL_METHODS)
    assert all(same(cached[index], plain[index]) for index in range(len(pairs)))
    assert same(cached[SampleKey(0, 0, (32, 32))], plain[SampleKey(0, 0, (32, 32))])
    part = slice(3, 7)  # of both sets, such as a share held out for validation
    assert same(TrainSet(pairs[part], SIZE, cache=cache)[3], TrainSet(pairs[part], SIZE)[3])


def test_a_bad_pair_in_the_cache_is_listed_or_skipped(pairs, tmp_path):
    pairs[4].mask.write_text('nonsense')
    with pytest.raises(ValueError, match=pairs[4].mask.name):
        PairCache(pairs, SIZE, tmp_path / 'cache')
    cache = PairCache(pairs, SIZE, tmp_path / 'cache', skip_bad=True)
    sample = TrainSet(pairs, SIZE, cache=cache, skip_bad=True)[4]
    assert sample.name == 'a5'
    assert pairs[4].mask.name in sample.skipped[0]


# --- Classes --------------------------------------------------------------------------------------


def named(*names: str) -> list[Pair]:
    return [Pair(name, 'DIS-TR', Path(f'{name}.jpg'), Path(f'{name}.png')) for name in names]


def test_classes_are_the_fourth_field_sorted():
    pairs = named(
        '2#Aircraft#7#UAV#1',
        '1#Accessories#1#Bag#2',
        '1#Accessories#1#Bag#3',
        '3#x#2#Chair.Arm#a b',
    )
    assert class_names(pairs) == ['Bag', 'Chair.Arm', 'UAV']
    assert TrainSet(pairs, SIZE, classes=class_names(pairs)).class_ids == [2, 0, 0, 1]


def test_names_without_a_known_class_are_all_listed():
    with pytest.raises(ValueError, match=r'(?s)^2 problem.*plain\.jpg.*1#2#3\.jpg'):
        class_names(named('plain', '1#2#3#good#x', '1#2#3'))
    with pytest.raises(ValueError, match=r"(?s)^1 problem.*1#2#3#new#x\.jpg: class 'new'"):
        TrainSet(named('1#2#3#new#x', '1#2#3#old#x'), SIZE, classes=['old'])


# --- Batches --------------------------------------------------------------------------------------


def epoch_of(sampler: EpochSampler, epoch: int, start_batch: int = 0) -> list[list[SampleKey]]:
    sampler.set_epoch(epoch, start_batch)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    return batches


def indices_of(batches: list[list[SampleKey]]) -> list[int]:
    """Indices of all images, in their order."""
    indices = []
    for batch in batches:
        indices += [key.index for key in batch]
    return indices


@settings(deadline=None)
@given(
    n=st.integers(1, 60),
    batch_size=st.integers(1, 9),
    world_size=st.integers(1, 5),
    seed=st.integers(0, 99),
    epoch=st.integers(0, 9),
)
def test_ranks_share_an_epoch(n, batch_size, world_size, seed, epoch):
    if n < world_size:
        with pytest.raises(ValueError, match='too few'):
            EpochSampler(n, batch_size, seed, 0, world_size)
        return
    samplers = [EpochSampler(n, batch_size, seed, rank, world_size) for rank in range(world_size)]
    ranks = [epoch_of(sampler, epoch) for sampler in samplers]
    seen = []
    for batches in ranks:
        seen += indices_of(batches)
    assert len(seen) == len(set(seen))
    assert set(seen) <= set(range(n))

    # As many batches, as large, on every rank.
    sizes = {tuple(map(len, batches)) for batches in ranks}
    assert len(sizes) == 1
    global_batch = batch_size * world_size
    assert len(ranks[0]) == max(1, n // global_batch)

    # One process with the global batch sees the same images.
    if n >= global_batch:
        alone = epoch_of(EpochSampler(n, global_batch, seed), epoch)
        for batch, parts in zip(alone, zip(*ranks, strict=True), strict=True):
            assert batch == list(itertools.chain(*parts))


@settings(deadline=None)
@given(
    start_batch=st.integers(0, 6),
    seed=st.integers(0, 9),
    dynamic=st.sampled_from([None, ((32, 320), (64, 128))]),
)
def test_an_epoch_goes_on_where_it_stopped(start_batch, seed, dynamic):
    whole, rest = (EpochSampler(20, 3, seed, dynamic_size=dynamic) for _ in range(2))
    assert epoch_of(rest, 4, start_batch) == epoch_of(whole, 4)[start_batch:]


def test_epochs_and_seeds_shuffle_differently():
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        batches = epoch_of(EpochSampler(40, 4, seed), epoch)
        return tuple(indices_of(batches))

    orders = {order(seed, epoch) for seed, epoch in itertools.product(range(3), range(3))}
    assert len(orders) == 9


def test_dynamic_size_draws_one_size_per_batch_the_same_on_every_rank():
    dynamic = ((50, 200), (64, 96))
    samplers = [EpochSampler(400, 4, 7, rank, 2, dynamic_size=dynamic) for rank in (0, 1)]
    ranks = [epoch_of(sampler, 1) for sampler in samplers]
    drawn = set()
    for batch, other in zip(*ranks, strict=True):
        sizes = {key.size for key in (*batch, *other)}
        assert len(sizes) == 1
        drawn |= sizes
    assert {width for width, _ in drawn} == {64, 96, 128, 160, 192}
    assert {height for _, height in drawn} == {64, 96}


def test_a_dynamic_size_without_a_multiple_of_32_is_an_error():
    with pytest.raises(ValueError, match=r'no multiple of 32 lies in 33\.\.63'):
        EpochSampler(9, 2, 7, dynamic_size=((33, 63), (32, 64)))


def test_batches_do_not_depend_on_the_number_of_workers(pairs, tmp_path):
    cache = PairCache(pairs, SIZE, tmp_path / 'cache')
    sampler = EpochSampler(len(pairs), 2, seed=7, dynamic_size=((64, 96), (32, 64)))
    alone = build_loader(TrainSet(pairs, SIZE, ALL_METHODS), sampler, workers=0)
    helped = build_loader(TrainSet(pairs, SIZE, ALL_METHODS, cache=cache), sampler, workers=2)
    state = torch.get_rng_state()
    for epoch in range(2):
        sampler.set_epoch(epoch, start_batch=epoch)
        here, there = list(alone), list(helped)
        assert len(here) == len(there) == 4 - epoch
        assert all(same(a, b) and a.names == b.names for a, b in zip(here, there, strict=True))
    assert torch.equal(torch.get_rng_state(), state)  # an exact resume needs it


def test_a_bad_file_in_a_worker_stops_the_run_with_its_path(pairs):
    pairs[3].image.write_text('nonsense')
    loader = build_loader(TrainSet(pairs, SIZE), EpochSampler(len(pairs), 3, 7), workers=1)
    with pytest.raises(ValueError, match=pairs[3].image.name):
        list(loader)


def test_batches_join_samples(pairs):
    pairs[0].image.write_text('nonsense')
    loader = build_loader(TrainSet(pairs, SIZE, skip_bad=True), [[0, 5]], workers=0)
    batch = next(iter(loader))
    assert batch.image.shape == (2, 3, 48, 64)
    assert batch.mask.shape == (2, 1, 48, 64)
    assert batch.image.dtype == batch.mask.dtype == torch.uint8
    assert batch.names == ['a1', 'a5']
    assert batch.class_ids.tolist() == [-1, -1]
    assert len(batch.skipped) == 1


# --- Test images ----------------------------------------------------------------------------------


def test_normalize_is_torchvisions():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 8, 9), dtype=torch.uint8, generator=generator)
    mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    expected = v2.functional.normalize(images.float() / 255, mean, deviation)
    torch.testing.assert_close(normalize(images), expected)

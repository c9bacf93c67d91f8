"""Predictions as they lie around: any tree, foreign names, archives, masks of any meaning."""

import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import eval_existingOnes
import gen_best_ep
import paper
from evaluation import archives, inputs, mask_folders, prediction_folders, runner
from evaluation.naming import Naming, find_naming, pair_names
from evaluation.places import ScoredFiles
from readers import read_mask
from tests.evaluation.folders import SHAPE, blob, spoil
from tests.evaluation.test_runner import HANGS, REPOSITORY, alive, wait_until
from utils import read_json, write_png

SETS = ['COD10K', 'CAMO']
METHODS = ['SINet', 'PFNet']
IMAGES = 3


# Folders of masks, and of images or edges beside them.
BESIDE_MASKS = {
    'TestDataset/{set}/GT': 'TestDataset/{set}/Imgs',
    '{set}_TestingDataset/GT': '{set}_TestingDataset/Image',
    '{set}/{set}-Mask': '{set}/{set}-Image',
    '{set}/GT_Object': '{set}/GT_Edge',
    'gt/{set}': 'im/{set}',
}


def make_masks(root, layout='{set}/gt'):
    for number, dataset in enumerate(SETS):
        for index in range(IMAGES):
            mask = blob(10 * number + index)
            write_png(root / layout.format(set=dataset) / f'{dataset}-{index}.png', mask)


def make_predictions(root, layout='{method}/{set}', name='{}.png'):
    for number, dataset in enumerate(SETS):
        for index in range(IMAGES):
            for shift, method in enumerate(METHODS):
                prediction = spoil(blob(10 * number + index), 3 + 2 * shift, index)
                folder = root / layout.format(method=method, set=dataset)
                write_png(folder / name.format(f'{dataset}-{index}'), prediction)


def pack(folder, archive, suffix):
    """Packs a folder with itself as the top folder of the archive, and removes it."""
    target = archive.with_name(archive.name + suffix)
    members = sorted(path for path in folder.rglob('*') if path.is_file())
    if suffix == '.zip':
        with zipfile.ZipFile(target, 'w', zipfile.ZIP_DEFLATED) as packed:
            for path in members:
                packed.write(path, path.relative_to(folder.parent))
    else:
        mode = {'.tar': 'w', '.tgz': 'w:gz'}.get(suffix) or f'w:{suffix.rpartition(".")[2]}'
        with tarfile.open(target, mode) as packed:
            packed.add(folder, folder.name)
    shutil.rmtree(folder)
    return target


def find(root, datasets=SETS, gt='gt', pred='pred', **options):
    masks = mask_folders.find_masks(root / gt, datasets)
    predictions = prediction_folders.find_predictions(root / pred, masks)
    return inputs.plan(masks, predictions, **options)


def values(plans):
    """MAE, and mBA, which is not of the normalised prediction, by method, set and image."""
    found = {}
    for planned in plans:
        for image in planned.images:
            job = runner.ScoringJob(planned.dataset, image.name, image.mask, [
                runner.Request(method, file, ['mae', 'mba'], method in planned.zero_one)
                for method, file in image.predictions.items()])
            for row in runner.score_image(job, None):
                for metric, value in row['values'].items():
                    found[row['method'], planned.dataset, row['name'], metric] = value
    return found


@pytest.fixture
def expected(tmp_path):
    """The scores of the prepared layout."""
    root = tmp_path / 'prepared'
    make_masks(root / 'gt')
    make_predictions(root / 'pred')
    found = values(find(root))
    assert len(found) == len(SETS) * len(METHODS) * IMAGES * 2
    return found


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / 'wild'
    make_masks(folder / 'gt')
    return folder


class TestTrees:
    @pytest.mark.parametrize('tree', [
        '{method}/{set}', '{set}/{method}', 'results/{method}/{set}/pred', '{method}/test/{set}',
        '{method}_{set}', '{set}/{method}/maps', 'maps/COD/{set}/{method}'])
    def test_predictions(self, root, expected, tree):
        make_predictions(root / 'pred', tree)
        assert values(find(root)) == expected

    @pytest.mark.parametrize('tree', [
        '{set}/GT', '{set}/masks', 'mask/{set}', 'GT/{set}', '{set}', '{set}/ground_truth_mask',
        *BESIDE_MASKS])
    def test_masks(self, tmp_path, expected, tree):
        root = tmp_path / 'masks'
        make_masks(root / 'gt', tree)
        if tree in BESIDE_MASKS:
            make_masks(root / 'gt', BESIDE_MASKS[tree])
        make_predictions(root / 'pred')
        assert mask_folders.find_sets(root / 'gt') == sorted(SETS)
        assert values(find(root)) == expected

    def test_sets_are_named_in_any_case(self, root, expected):
        make_predictions(root / 'pred')
        (root / 'pred/SINet/COD10K').rename(root / 'pred/SINet/cod-10k')
        assert values(find(root)) == expected

    def test_masks_and_predictions_in_one_folder(self, tmp_path, expected):
        root = tmp_path / 'one'
        make_masks(root, '{set}/GT')
        make_masks(root, '{set}/Image')
        make_predictions(root, '{set}/{method}')
        assert values(find(root, gt='.', pred='.')) == expected

    @pytest.mark.parametrize('tree', ['{method}/{kind}/{set}', '{method}/{set}/{kind}'])
    def test_overlays_beside_masks(self, root, expected, tree):
        for kind in ('mask', 'overlay'):
            make_predictions(root / 'pred', tree.replace('{kind}', kind))
        assert values(find(root)) == expected

    def test_one_folder_for_all_sets(self, root, expected):
        make_predictions(root / 'pred', '{method}')
        plans = find(root)
        assert values(plans) == expected
        assert 'names no set' in plans[0].notes[0]

    def test_one_folder_for_more_sets_than_are_scored(self, root, expected):
        make_predictions(root / 'pred', '{method}')
        [planned] = find(root, ['CAMO'])
        assert values([planned]).items() <= expected.items()
        assert any('SINet: 3 of 6 images left out, as no mask' in note for note in planned.notes)

    @pytest.mark.parametrize('name', ['{set}_{name}', 'PFNet-{name}-{set}'])
    def test_one_folder_with_the_sets_in_its_names(self, root, expected, name):
        """Names that several sets have are told apart."""
        make_predictions(root / 'pred')
        for dataset in SETS:
            for path in [*(root / 'gt' / dataset / 'gt').iterdir(),
                         *(root / 'pred').glob(f'*/{dataset}/*')]:
                path.rename(path.with_name(path.name[-5:]))
            for method in METHODS:
                for path in (root / 'pred' / method / dataset).iterdir():
                    changed = name.format(set=dataset, name=path.stem)
                    path.rename(root / 'pred' / method / f'{changed}.png')
        found = values(find(root))
        assert {(*key[:2], f'{key[1]}-{key[2]}', key[3]): found[key] for key in found} == expected

    def test_a_name_in_several_sets_does_not_tell_whose_it_is(self, root):
        make_predictions(root / 'pred', '{method}')
        write_png(root / 'gt/CAMO/gt/COD10K-0.png', blob(0))
        with pytest.raises(ValueError, match='COD10K, CAMO all have a mask COD10K-0'):
            find(root)

    def test_folders_of_other_sets_are_left_out(self, root):
        make_predictions(root / 'pred')
        [planned] = find(root, ['CAMO'])
        assert planned.methods == ['PFNet', 'SINet']
        assert {image.name[:4] for image in planned.images} == {'CAMO'}

    def test_a_method_that_has_a_set_in_its_name(self, root):
        make_predictions(root / 'pred')
        (root / 'pred/SINet').rename(root / 'pred/SINet-COD10K')
        shutil.rmtree(root / 'pred/SINet-COD10K/COD10K')
        masks = mask_folders.find_masks(root / 'gt', ['COD10K'])
        found = prediction_folders.find_predictions(root / 'pred', masks, ['CAMO'])
        assert list(found.methods) == ['PFNet']

    def test_all_in_the_root(self, root):
        make_predictions(root / 'pred/MyNet', '')
        write_png(root / 'pred/MyNet/plots/loss.png', blob(0))
        plans = find(root, pred='pred/MyNet')
        assert [planned.methods for planned in plans] == [['MyNet'], ['MyNet']]

    def test_two_folders_for_one_method(self, root):
        make_predictions(root / 'pred')
        make_predictions(root / 'pred', '{method}/{set}_maps')
        with pytest.raises(ValueError, match='two folders may hold its predictions of COD10K'):
            find(root)

    def test_pictures_that_are_no_predictions(self, root, expected):
        make_predictions(root / 'pred')
        for place in ('plots/loss.png', 'overview.png', 'SINet/CAMO/edge/CAMO-0.png',
                      'SINet/example.png', 'images/CAMO-0.png'):
            write_png(root / 'pred' / place, blob(0))
        plans = find(root)
        assert values(plans) == expected
        assert any('plots: left out, as none of its 1 images' in note for note in plans[0].notes)

    def test_a_link_to_a_folder_above(self, root, expected):
        make_predictions(root / 'pred')
        (root / 'pred/SINet/loop').symlink_to(root / 'pred', target_is_directory=True)
        assert values(find(root)) == expected


class TestArchives:
    @pytest.mark.parametrize('suffix', ['.zip', '.tar', '.tar.gz', '.tgz', '.tar.xz', '.tar.bz2'])
    def test_each_set_of_each_method(self, root, expected, suffix):
        make_predictions(root / 'pred')
        for folder in sorted((root / 'pred').glob('*/*')):
            pack(folder, folder, suffix)
        before = sorted(root.rglob('*'))
        assert values(find(root)) == expected
        assert sorted(root.rglob('*')) == before, 'something was unpacked'

    @pytest.mark.parametrize('suffix', ['.zip', '.tar.gz'])
    def test_a_method_with_a_top_folder(self, root, expected, suffix):
        make_predictions(root / 'pred')
        for method in METHODS:
            (root / 'pred' / method).rename(root / 'pred/Prediction_Maps')
            pack(root / 'pred/Prediction_Maps', root / 'pred' / method, suffix)
        assert values(find(root)) == expected

    @pytest.mark.parametrize('name', ['{method}_{set}', '{set}-{method}', '{method}-results_{set}'])
    def test_a_method_over_several(self, root, expected, name):
        make_predictions(root / 'pred')
        for method in METHODS:
            for dataset in SETS:
                folder = root / 'pred' / method / dataset
                pack(folder, root / 'pred' / name.format(method=method, set=dataset), '.zip')
            (root / 'pred' / method).rmdir()
        found = values(find(root))
        assert {(key[0].split('-')[0], *key[1:]): value for key, value in found.items()} == expected

    @pytest.mark.parametrize(('inner', 'outer'), [
        ('.zip', '.zip'), ('.zip', '.tar'), ('.zip', '.tar.gz'), ('.tar.gz', '.zip'),
        ('.tar', '.tar')])
    def test_archives_in_an_archive(self, root, expected, inner, outer):
        """As of a page that packs the archive of each set again."""
        make_predictions(root / 'pred')
        for method in METHODS:
            folder = root / 'pred' / method
            for dataset in SETS:
                pack(folder / dataset, folder / dataset, inner)
            pack(folder, folder, outer)
        before = sorted(root.rglob('*'))
        assert values(find(root)) == expected
        assert sorted(root.rglob('*')) == before, 'something was unpacked'
        if inner == outer == '.zip':  # once more around all of them
            pack(root / 'pred', root / 'all', '.zip')
            assert values(find(root, pred='all.zip')) == expected

    def test_an_archive_in_an_archive_beside_its_folder(self, root, expected):
        make_predictions(root / 'pred')
        folder = root / 'pred/SINet/CAMO'
        shutil.copytree(folder, root / 'copy')
        pack(folder, folder, '.zip')
        shutil.move(root / 'copy', folder)
        pack(root / 'pred/SINet', root / 'pred/SINet', '.zip')
        plans = find(root)
        assert values(plans) == expected
        assert any('left out, as the folder CAMO is beside it' in note for note in plans[0].notes)

    def test_everything_in_one_and_masks_too(self, root, expected):
        make_predictions(root / 'pred')
        pack(root / 'pred', root / 'all', '.zip')
        pack(root / 'gt', root / 'truth', '.tar.gz')
        assert values(find(root, gt='truth.tar.gz', pred='all.zip')) == expected

    def test_the_root_is_the_archive_of_a_method(self, root, expected):
        make_predictions(root / 'pred', '{method}/results/best/{set}')
        pack(root / 'pred/SINet', root / 'SINet-V2', '.zip')
        found = values(find(root, pred='SINet-V2.zip'))
        assert found == {('SINet-V2', *key[1:]): value
                         for key, value in expected.items() if key[0] == 'SINet'}

    def test_the_folder_unpacked_from_it_is_taken(self, root, expected):
        make_predictions(root / 'pred')
        Path(root / 'pred/SINet/CAMO.zip').write_bytes(b'half of a download')
        plans = find(root)
        assert values(plans) == expected
        assert any('left out, as the folder CAMO is beside it' in note for note in plans[0].notes)

    def test_what_systems_add_is_left_out(self, root, expected):
        make_predictions(root / 'pred')
        folder = root / 'pred/SINet/CAMO'
        (folder / '._CAMO-0.png').write_bytes(b'macOS')
        (folder / 'Thumbs.db').write_bytes(b'Windows')
        archive = pack(folder, folder, '.zip')
        with zipfile.ZipFile(archive, 'a') as packed:
            packed.writestr('__MACOSX/CAMO/._CAMO-0.png', b'macOS')
        assert values(find(root)) == expected

    @pytest.mark.parametrize('order', [1, -1])
    def test_a_compressed_tar_is_read_once(self, root, monkeypatch, order):
        """Reading backwards would begin anew each time."""
        make_predictions(root / 'pred')
        files = sorted((root / 'pred/SINet/CAMO').iterdir())[::order]
        with tarfile.open(root / 'pred/SINet/CAMO.tar.gz', 'w:gz') as archive:
            for path in files:
                archive.add(path, path.name)
        shutil.rmtree(root / 'pred/SINet/CAMO')
        seen = []
        original = archives.read_member

        def spy(path, place, size, nest):
            seen.append(place)
            return original(path, place, size, nest)

        monkeypatch.setattr('evaluation.files.read_member', spy)
        plans = find(root, methods=['SINet'])
        check, values_seen = seen[:IMAGES], seen[IMAGES:2 * IMAGES]
        assert check == sorted(check)
        assert values_seen == sorted(values_seen)
        seen.clear()
        [camo] = [planned for planned in plans if planned.dataset == 'CAMO']
        runner.evaluate(camo, root / 'scores.jsonl', ['mae'])
        assert len(seen) == IMAGES
        assert seen == sorted(seen)

    def test_names_in_a_zip_that_does_not_say_their_encoding(self, tmp_path):
        path = tmp_path / 'names.zip'
        with zipfile.ZipFile(path, 'w') as archive:
            archive.writestr('é/ü.png', b'x')
        data = bytearray(path.read_bytes())
        for start in (data.index(b'PK\3\4') + 7, data.index(b'PK\1\2') + 9):
            data[start] &= ~8
        path.write_bytes(data)
        assert [member.name for member in archives.list_contents(path).images] == ['é/ü.png']


class TestBadArchives:
    @pytest.fixture
    def broken(self, root):
        """Says in one line what is wrong with an archive."""
        make_predictions(root / 'pred')

        def problem(name, data):
            path = root / 'pred' / name
            path.write_bytes(data)
            with pytest.raises(ValueError, match='1 problem in the input') as error:
                find(root)
            [_, line] = str(error.value).splitlines()
            assert line.startswith(str(path))
            return line

        return problem

    @pytest.fixture
    def packed(self, root, tmp_path):
        """The bytes of an archive of one image."""
        def make(suffix, name='x/a.png', content=b'\0' * 5000):
            path = tmp_path / f'made{suffix}'
            if suffix == '.zip':
                with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
                    archive.writestr(name, content)
            else:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                with tarfile.open(path, 'w:gz' if suffix == '.tar.gz' else 'w') as archive:
                    archive.addfile(member, io.BytesIO(content))
            return path.read_bytes()

        return make

    @pytest.mark.parametrize('suffix', ['.zip', '.tar.gz', '.tar'])
    def test_damage_anywhere_is_one_error(self, root, packed, suffix):
        rng = np.random.default_rng(0)
        whole = packed(suffix, content=rng.bytes(500))
        path = root / f'damaged{suffix}'
        problems = []
        for _ in range(150):
            data = bytearray(whole[:rng.integers(1, len(whole) + 1)])
            for place in rng.integers(len(data), size=3):
                data[place] = rng.integers(256)
            path.write_bytes(data)
            try:
                for member in archives.list_contents(path).images:
                    archives.read_member(path, member.place, member.size)
            except ValueError as error:
                problems.append(str(error))
        assert len(problems) > 50
        assert '\n' not in ''.join(problems)

    @pytest.mark.parametrize('suffix', ['.zip', '.tar.gz'])
    @pytest.mark.parametrize('name', ['../a.png', 'x/../../a.png', '/etc/a.png', 'C:/a.png'])
    def test_names_that_lead_out(self, broken, packed, suffix, name):
        data = packed(suffix, name)
        assert 'leads out of the archive' in broken(f'new{suffix}', data)

    @pytest.mark.parametrize(('name', 'content', 'words'), [
        ('a.zip', b'half of a download', 'damaged archive'),
        ('a.tar.gz', b'half of a download', 'damaged archive'),
        ('a.rar', b'Rar!', 'no zip or tar; unpack it'),
        ('../a.zip', b'', 'leads out of the archive'),
        ('a.zip', b'\0' * 20_000_000, 'as decompression bombs do'),
    ])
    def test_bad_archives_in_an_archive(self, broken, packed, name, content, words):
        assert words in broken('new.zip', packed('.zip', name, content))

    def test_names_that_lead_out_of_an_archive_in_an_archive(self, broken, packed):
        inner = packed('.tar.gz', '../a.png')
        line = broken('new.zip', packed('.zip', 'x/inner.tar.gz', inner))
        assert "/x/inner.tar.gz: its member '../a.png' leads out of the archive" in line

    def test_archives_without_end(self, broken, packed):
        data = packed('.zip')
        for _ in range(archives.DEEPEST + 1):
            data = packed('.zip', 'again.zip', data)
        assert 'more than 3 archives in archives' in broken('new.zip', data)

    def test_those_of_methods_that_are_not_chosen_are_no_problem(self, root, broken):
        line = broken('new.zip', b'half of a download')
        plans = find(root, methods=['SINet'])
        assert line in plans[0].notes

    @pytest.mark.parametrize('suffix', ['.zip', '.tar.gz'])
    def test_bombs(self, broken, packed, monkeypatch, suffix):
        monkeypatch.setattr(archives, 'MOST_BYTES', 4000)
        assert 'as decompression bombs do' in broken(f'new{suffix}', packed(suffix))

    def test_a_bomb_in_the_header_of_a_tar(self, broken, monkeypatch):
        monkeypatch.setattr(archives, 'MOST_HEADER', 4096)
        comment = tarfile.TarInfo.create_pax_global_header({'comment': 'x' * 10000})
        line = broken('new.tar.gz', gzip.compress(comment))
        assert 'as decompression bombs do' in line

    def test_a_stated_size_that_is_not_true(self, root, packed):
        path = root / 'lying.zip'
        data = bytearray(packed('.zip', content=b'\0' * 5_000_000))
        for start in (data.index(b'PK\3\4') + 22, data.index(b'PK\1\2') + 24):
            data[start:start + 4] = (10).to_bytes(4, 'little')
        path.write_bytes(data)
        [member] = archives.list_contents(path).images
        with pytest.raises(ValueError, match='damaged archive'):
            archives.read_member(path, member.place, member.size)

    @pytest.mark.parametrize('name', ['new.zip', 'new.tar.gz', 'new.rar', 'new.7z'])
    def test_no_archive(self, broken, name):
        assert len(broken(name, b'<!DOCTYPE html>sign in')) < 300

    @pytest.mark.parametrize('suffix', ['.zip', '.tar.gz'])
    def test_cut_off(self, broken, packed, suffix):
        content = np.random.default_rng(0).bytes(20000)
        data = packed(suffix, content=content)
        assert 'damaged archive' in broken(f'new{suffix}', data[:len(data) // 2])

    def test_encrypted(self, broken, packed):
        data = bytearray(packed('.zip'))
        for start in (data.index(b'PK\3\4') + 6, data.index(b'PK\1\2') + 8):
            data[start] |= 1
        assert 'encrypted archive; unpack it' in broken('new.zip', bytes(data))

    def test_a_link_in_a_tar_is_no_image(self, tmp_path):
        path = tmp_path / 'links.tar'
        with tarfile.open(path, 'w') as archive:
            link = tarfile.TarInfo('a.png')
            link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
            archive.addfile(link)
        assert archives.list_contents(path) == ([], [])

    def test_a_damaged_member_is_named(self, root):
        make_predictions(root / 'pred')
        archive = pack(root / 'pred/SINet/CAMO', root / 'pred/SINet/CAMO', '.zip')
        data = bytearray(archive.read_bytes())
        data[data.index(b'CAMO-1.png') + 300] ^= 255
        archive.write_bytes(data)
        with pytest.raises(ValueError, match=r'1 problem(?s:.*)CAMO\.zip/CAMO/CAMO-1\.png: '):
            find(root)


class TestNames:
    @pytest.mark.parametrize('name', [
        '{}_sal_fuse.png', '{}_pred.png', 'pred-{}.png', 'epoch_5_{}_mask.png', '{}.jpg.png'])
    def test_affixes(self, root, expected, name):
        make_predictions(root / 'pred', name=name)
        plans = find(root)
        assert values(plans) == expected
        before, after = name.removesuffix('.png').split('{}')
        for affix in filter(None, (before, after)):
            assert any(repr(affix) in note for note in plans[0].notes)

    def test_two_that_fit_one_mask(self, root):
        make_predictions(root / 'pred', name='{}_fine.png')
        folder = root / 'pred/SINet/CAMO'
        for path in list(folder.iterdir()):
            shutil.copy(path, folder / path.name.replace('fine', 'coarse'))
        with pytest.raises(ValueError, match='3 problems in the input') as error:
            find(root)
        lines = str(error.value).splitlines()[1:]
        assert all('two predictions fit the mask CAMO-' in line for line in lines)
        assert 'CAMO-0_fine.png' in lines[0]
        assert 'CAMO-0_coarse.png' in lines[0]

    def test_numbers_stay_whole(self):
        masks = [str(number) for number in range(1, 30)]
        assert find_naming(masks, [f'{name}_sal' for name in masks]) == Naming(suffix='_sal')
        assert find_naming(['1', '2', '3'], ['11', '12', '13']) == Naming()

    def test_suffixes_of_both_sides(self):
        masks = ['a1_mask', 'b2_mask']
        found = pair_names(masks, ['a1_pred', 'b2_pred'])
        assert found.pairs == {'a1_mask': 'a1_pred', 'b2_mask': 'b2_pred'}
        assert found.naming == Naming(suffix='_pred', mask_suffix='_mask')
        assert pair_names(masks, ['a1', 'b2']).naming == Naming(mask_suffix='_mask')

    def test_a_single_pair_needs_a_separator(self):
        assert find_naming(['a'], ['banana']) == Naming()
        assert find_naming(['a'], ['a_pred']) == Naming(suffix='_pred')

    def test_what_is_missing_is_said_with_the_suffix(self, root):
        make_predictions(root / 'pred', name='{}_sal.png')
        (root / 'pred/SINet/CAMO/CAMO-1_sal.png').unlink()
        with pytest.raises(ValueError, match=r'1 problem(?s:.*)CAMO-1_sal\.\*: missing'):
            find(root)


class TestValues:
    def test_other_sizes_are_resized_and_counted(self, root):
        make_predictions(root / 'pred')
        path = root / 'pred/SINet/CAMO/CAMO-0.png'
        small = read_mask(path)[::2, ::2]
        write_png(path, small)
        plans = find(root)
        [note] = [note for planned in plans for note in planned.notes]
        assert '1 of 3 of another size, resized' in note
        mask = read_mask(root / 'gt/CAMO/gt/CAMO-0.png')
        resized = cv2.resize(small, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
        write_png(path, resized)
        again = find(root, strict=True)
        assert values(plans) == values(again)
        write_png(path, small)
        with pytest.raises(ValueError, match=r'CAMO-0\.png: 26x20, but its mask is 52x40'):
            find(root, strict=True)

    @pytest.mark.parametrize('kind', ['0/1', 'boolean', 'palette', '0/1 palette', 'jpeg'])
    def test_binary_predictions_of_any_kind(self, root, kind):
        make_predictions(root / 'pred')
        folder = root / 'pred/SINet/CAMO'
        for path in sorted(folder.iterdir()):
            binary = np.uint8(read_mask(path) > 128)
            write_png(path, 255 * binary)
        expected = values(find(root))
        for path in sorted(folder.iterdir()):
            binary = np.uint8(read_mask(path) > 128)
            image = Image.fromarray(binary)
            if kind == 'boolean':
                image = Image.fromarray(binary > 0)
            elif kind == 'jpeg':
                path.unlink()
                path = path.with_suffix('.jpg')
                image = Image.fromarray(255 * binary)
            elif 'palette' in kind:
                image = image.convert('P')
                image.putpalette([0, 0, 0, 1, 1, 1] if '0/1' in kind else [0, 0, 0, 128, 0, 0])
            image.save(path)
        found = values(find(root))
        assert found == pytest.approx(expected, abs=.01 if kind == 'jpeg' else 0)

    def test_a_dark_prediction_among_others_stays_dark(self, root):
        make_predictions(root / 'pred')
        path = root / 'pred/SINet/CAMO/CAMO-0.png'
        write_png(path, np.uint8(read_mask(path) > 128))
        assert all(not planned.zero_one for planned in find(root))


def test_a_tree_that_no_one_prepared(root, tmp_path, monkeypatch, capsys):
    """From the command: nothing is said of sets; masks and predictions are found."""
    monkeypatch.chdir(tmp_path)
    make_predictions(root / 'pred', '{set}/{method}', '{}_sal.png')
    pack(root / 'pred/CAMO/SINet', root / 'pred/CAMO/SINet', '.tar.gz')
    arguments = ['--gt_root', str(root / 'gt'), '--pred_root', str(root / 'pred')]
    eval_existingOnes.main([*arguments, '--metrics', 'S+MAE', '--workers', '1'])
    for dataset in SETS:
        text = (tmp_path / f'e_results/{dataset}_eval.txt').read_text()
        assert all(method in text for method in METHODS)
    assert "the suffix '_sal'" in capsys.readouterr().err

    with pytest.raises(ValueError, match=r'no scores of DIS-VD.*; --data_lst CAMO\+COD10K has'):
        gen_best_ep.main([])
    gen_best_ep.main(['--data_lst', 'CAMO+COD10K', '--metrics', 'sm', '--no-report'])
    assert 'best on Smeasure: SINet' in capsys.readouterr().out


def test_files_are_found_again_for_drawing(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_predictions(root / 'pred', '{set}/{method}', '{}_sal.png')
    pack(root / 'pred/CAMO/SINet', root / 'pred/CAMO/SINet', '.tar.gz')
    make_masks(root / 'gt', '{set}/Imgs')
    arguments = ['--gt_root', str(root / 'gt'), '--pred_root', str(root / 'pred')]
    eval_existingOnes.main([*arguments, '--metrics', 'MAE', '--workers', '1'])
    files = ScoredFiles(read_json('e_results/CAMO_eval.json'), 'CAMO')
    mask, image = files.mask('CAMO-1'), files.image('CAMO-1')
    assert str(mask) == str(root / 'gt/CAMO/gt/CAMO-1.png')
    assert str(image) == str(root / 'gt/CAMO/Imgs/CAMO-1.png')
    for method in METHODS:
        prediction = files.prediction(method, 'CAMO-1')
        assert prediction.name == 'CAMO-1_sal.png'
        assert inputs.read_prediction(prediction, SHAPE).shape == SHAPE
    assert files.prediction('SINet', 'CAMO-9') is None
    assert not files.is_zero_one('SINet')


@pytest.mark.slow
def test_archives_from_the_command_to_the_report_and_panels(root, tmp_path, monkeypatch):
    """Names with a suffix, in archives in an archive and in one of several of a method."""
    monkeypatch.chdir(tmp_path)
    make_predictions(root / 'pred', name='pred-{}_sal_fuse.png')
    for dataset in SETS:
        folder = root / 'pred/SINet' / dataset
        pack(folder, folder, '.zip')
        folder = root / 'pred/PFNet' / dataset
        pack(folder, root / f'pred/PFNet_{dataset}', '.tar.gz')
    (root / 'pred/PFNet').rmdir()
    pack(root / 'pred/SINet', root / 'pred/SINet', '.zip')
    before = sorted(root.rglob('*'))
    arguments = ['--gt_root', str(root / 'gt'), '--pred_root', str(root / 'pred')]
    eval_existingOnes.main([*arguments, '--metrics', 'S', '--workers', '1'])
    gen_best_ep.main(['--data_lst', 'CAMO+COD10K', '--metrics', 'sm'])
    page = Path('e_results/report.html').read_text(encoding='utf-8')
    assert page.count('<article') == len(SETS) * IMAGES
    assert page.count('image/jpeg') == len(SETS) * (IMAGES + 3) * 5
    paper.main([
        '--data_lst', 'CAMO+COD10K', '--scores', 'sm', '--panels', 'CAMO-1', '--formats', 'csv'])
    assert Path('e_results/paper/figures/panels.png').stat().st_size > 1000
    assert sorted(root.rglob('*')) == before, 'something was unpacked'


def test_files_of_earlier_results_are_where_they_were(root):
    make_predictions(root / 'pred')
    found = {'gt_root': str(root / 'gt'), 'pred_root': str(root / 'pred')}
    files = ScoredFiles(found, 'CAMO')
    assert str(files.prediction('SINet', 'CAMO-1')) == str(root / 'pred/SINet/CAMO/CAMO-1.png')
    assert files.mask('CAMO-1') is not None
    assert files.prediction('other', 'CAMO-1') is None


def test_two_shards_and_a_merge(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_predictions(root / 'pred')
    arguments = ['--gt_root', str(root / 'gt'), '--pred_root', str(root / 'pred'),
                 '--metrics', 'S+MAE', '--workers', '1']
    eval_existingOnes.main([*arguments, '--save_dir', 'whole'])
    seen = []
    original = runner.score_image

    def spy(job, skeleton_cache):
        seen.append(job.name)
        return original(job, skeleton_cache)

    monkeypatch.setattr(runner, 'score_image', spy)
    for number in (1, 2):
        eval_existingOnes.main([*arguments, '--save_dir', 'shared', '--shard', f'{number}/2'])
    assert sorted(seen) == sorted(set(seen))
    assert len(seen) == len(SETS) * IMAGES
    assert not Path('shared/CAMO_eval.txt').exists()
    eval_existingOnes.main([*arguments, '--save_dir', 'shared'])
    assert len(seen) == len(SETS) * IMAGES, 'merging computed something again'
    for name in ('scores/CAMO.jsonl', 'scores/COD10K.jsonl', 'overall_eval.txt'):
        assert Path('shared', name).read_bytes() == Path('whole', name).read_bytes()
    assert not list(Path('shared/scores').glob('*of*.jsonl'))

    # The parts have the newer scores.
    seen.clear()
    changed = root / 'pred/SINet/CAMO/CAMO-0.png'
    write_png(changed, 255 - read_mask(changed))
    for part in (['--shard', '1/2'], ['--shard', '2/2'], []):
        eval_existingOnes.main([*arguments, '--save_dir', 'shared', *part])
    assert seen == ['CAMO-0']


@pytest.mark.slow
@pytest.mark.skipif(os.name != 'posix', reason='signals')
def test_killed_and_run_again(root, tmp_path):
    """Whenever the command dies, what is scored stays, and the rest gives the same bytes."""
    make_predictions(root / 'pred', '{set}/{method}', '{}_sal.png')
    pack(root / 'pred/CAMO/SINet', root / 'pred/CAMO/SINet', '.tar.gz')
    command = [
        sys.executable, str(REPOSITORY / 'eval_existingOnes.py'), '--gt_root', str(root / 'gt'),
        '--pred_root', str(root / 'pred'), '--metrics', 'S+MAE', '--workers', '2', '--save_dir']

    def start(folder):
        return subprocess.Popen(
            [*command, folder], cwd=tmp_path, start_new_session=True, stdout=subprocess.DEVNULL)

    def scored():
        files = (tmp_path / 'killed/scores').glob('*.jsonl')
        return sum(path.read_bytes().count(b'"method"') for path in files)

    assert start('whole').wait(HANGS) == 0
    for rows in (1, 5):
        process = start('killed')
        wait_until(lambda rows=rows, process=process: scored() >= rows or process.poll() == 0)
        process.kill()
        process.wait()
        assert wait_until(lambda group=process.pid: not alive(group))
    before = scored()
    assert before >= 5
    assert start('killed').wait(HANGS) == 0
    for name in ('scores/CAMO.jsonl', 'scores/COD10K.jsonl', 'CAMO_eval.txt', 'overall_eval.json'):
        assert (tmp_path / 'killed' / name).read_bytes() == (tmp_path / 'whole' / name).read_bytes()


@pytest.mark.parametrize('text', ['0/2', '3/2', '1', 'a/b', '1/0', '-1/2'])
def test_shards_that_are_none(text, capsys):
    with pytest.raises(SystemExit):
        eval_existingOnes.parse_arguments([f'--shard={text}'])
    assert 'write 1/2' in capsys.readouterr().err

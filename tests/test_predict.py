"""predict.py as users call it: inputs of every kind, all flags, damaged files, exit codes."""

import io
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import predict
from config import Config
from models import build_birefnet, save_checkpoint

pytestmark = pytest.mark.usefixtures('one_thread')
RGB = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp('model') / 'm.safetensors'
    torch.manual_seed(0)
    save_checkpoint(build_birefnet(Config(bb='pvt_v2_b0', dec_att='')), path)
    return str(path)


@pytest.fixture(scope='module')
def load_network():
    """predict.load_network, which makes the network of each dtype once."""
    real, networks = predict.load_network, {}

    def load(options):
        if options.dtype not in networks:
            networks[options.dtype] = real(options)
        return networks[options.dtype]
    return load


@pytest.fixture
def run(model, load_network, tmp_path, monkeypatch):
    """Runs predict.py in tmp_path and returns its exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predict, 'load_network', load_network)
    common = ['-m', model, '--resolution', '64x32', '--device', 'cpu']
    return lambda *arguments: predict.main([*arguments, *common])


def write(name, pixels=RGB):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(name)


def images_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*.png'))


@pytest.mark.parametrize(('flags', 'mode', 'size'), [
    ('', 'RGBA', (60, 40)),
    ('-om', 'L', (60, 40)),
    ('-bgc 1 2 3 255', 'RGB', (60, 40)),
    ('-bgc 1 2 3 0', 'RGBA', (60, 40)),
    ('--background in.png', 'RGB', (60, 40)),
    ('--blur-background', 'RGB', (60, 40)),
    ('--side-by-side', 'RGB', (120, 40)),
    ('-a --threshold 100 --fill-holes 9', 'RGBA', (60, 40)),
    ('--min-object 9 --mask-offset -1 --mask-blur 1', 'RGBA', (60, 40)),
    ('--box 5,5,30,30', 'RGBA', (60, 40)),
    ('--dtype bfloat16', 'RGBA', (60, 40)),
])
def test_one_image(run, flags, mode, size):
    write('in.png')
    assert run('in.png', 'out.png', *flags.split()) == 0
    image = Image.open('out.png')
    assert (image.mode, image.size) == (mode, size)


def test_default_name_and_webp(run, tmp_path):
    write('in.png')
    assert run('in.png', '--format', 'webp') == 0
    assert Image.open(tmp_path / 'in.out.webp').mode == 'RGBA'


def test_folder_keeps_its_tree_and_names_what_failed(run, tmp_path, capsys):
    write('in/a.png')
    write('in/a.jpg')
    write('in/sub/b.jpg', RGB[:20])
    write('in/.hidden.png')
    Path('in/text.jpg').write_text('hello')
    Path('in/broken.png').symlink_to('nowhere.png')
    write('in/huge.png', np.zeros((60, 60, 3), np.uint8))
    assert run('in', 'in/out', '--max-pixels', '3000', '--batch', '2') == 1
    assert images_below(tmp_path / 'in/out') == ['a.jpg.png', 'a.png.png', 'sub/b.png']
    text = capsys.readouterr().err
    for words in ('text.jpg', 'broken.png', 'huge.png', 'limit of 3000', '3 done', '3 failed'):
        assert words in text
    assert run('in/sub', 'in/out/sub', '--skip-existing') == 0
    assert '1 skipped' in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='needs pipes with a name')
def test_what_is_no_file_in_a_folder_is_named_and_the_rest_is_done(run, capsys):
    write('in/a.png')
    Path('in/circle.png').symlink_to('circle.png')
    Path('in/gone.png').symlink_to('nowhere')
    os.mkfifo('in/pipe.png')
    assert run('in', 'out') == 1
    assert images_below(Path('out')) == ['a.png']
    told = capsys.readouterr().err
    for name in ('circle', 'gone', 'pipe'):
        assert f'{name}.png: ' in told
    assert '1 done, 0 skipped, 3 failed' in told


def test_a_subfolder_that_may_not_be_listed_costs_itself_alone(run, monkeypatch, capsys):
    write('in/a.png')
    Path('in/lost+found').mkdir()
    real = os.scandir

    def scandir(folder):
        if str(folder).endswith('lost+found'):
            raise PermissionError(13, 'Permission denied', folder)
        return real(folder)

    monkeypatch.setattr(os, 'scandir', scandir)
    assert run('in', 'out') == 1
    assert images_below(Path('out')) == ['a.png']
    told = capsys.readouterr().err
    assert 'in/lost+found: ' in told
    assert '1 done, 0 skipped, 1 failed' in told


def test_list_and_pattern(run, tmp_path):
    write('in/a.png')
    write('in/x/b.png')
    Path('list.txt').write_text('in/a.png\nin/x/b.png\n./in/a.png\nin/x/../a.png\n')
    assert run('list.txt', 'one') == 0
    assert run('in/**/*.png', 'two') == 0
    for folder in ('one', 'two'):
        assert images_below(Path(folder)) == ['a.png', 'x/b.png']


def test_no_two_images_have_one_result(run):
    """Beside a.png the result of a.jpg is a.jpg.png, as another image may be called."""
    for name in ('a.jpg', 'a.png', 'a.jpg.png', 'b.png'):
        write(f'in/{name}')
    assert run('in', 'out') == 0
    assert images_below(Path('out')) == ['a.jpg.png', 'a.jpg.png.png', 'a.png.png', 'b.png']


def test_standard_input_and_output(run, monkeypatch):
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, 'JPEG')

    class Stream:
        def __init__(self, data=b''):
            self.buffer = io.BytesIO(data)

    out = Stream()
    monkeypatch.setattr(sys, 'stdin', Stream(buffer.getvalue()))
    monkeypatch.setattr(sys, 'stdout', out)
    assert run('-', '-', '-om') == 0
    assert Image.open(io.BytesIO(out.buffer.getvalue())).size == (60, 40)


@pytest.mark.parametrize(('arguments', 'message'), [
    ('missing.png', 'missing.png: No such file'),
    ('missing*.png', 'no image matches'),
    ('in.png --device cuda:99', 'cuda:99'),
    ('in.png --resolution 50x50', '64x64'),
    ('in.png --box 0,0,100,10', '60x40'),
    ('in.png --watch', 'give a folder'),
    ('in.png out.jpg', 'transparency'),
    ('in.png -m none.pth', 'none.pth'),
    ('. -', 'name one'),
    ('. in.png', 'name one'),
    ('. .', 'holds the images; name another folder'),
    ('in.png in.png', 'in.png: the result would replace an image'),
    ('in.png ./', 'in.png: the result would replace an image'),
    ('typo out', 'typo: No such file or directory'),
    ('in.png in.png/out.png', 'not a folder that can be written to'),
    ('in.png out.bmp', '.bmp: no format'),
    ('in.mp4 out.webm', 'in.mp4'),
    ('in.mp4 x.mp4', 'transparency'),
    ('in.png in.png/x.webm', 'not a folder that can be written to'),
    ('in.png --max-pixels 2399 --resolution 32x32', 'limit of 2399; --max-pixels raises it'),
])
def test_mistakes_are_named(model, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    write('in.png')
    assert predict.main(['-m', model, '--resolution', '64x32', *arguments.split()]) == 1
    assert message in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ['in.png']


@pytest.mark.parametrize(('arguments', 'message'), [
    ('--threshold 256', '256 is not within 0..255'),
    ('--batch 0', '0 is not 1 or more'),
    ('--mask-blur -1', '-1 is not 0 or more'),
    ('--mask-blur inf', 'inf is not 0 or more'),
    ('--mask-offset 99999', '99999 is not within -1000..1000'),
    ('--box 1,2,3', 'X1,Y1,X2,Y2'),
    ('-om --side-by-side', 'not allowed with'),
    ('--fill-holes x', "invalid whole number value: 'x'"),
])
def test_wrong_flags_are_named(capsys, arguments, message):
    with pytest.raises(SystemExit, match='2'):
        predict.parse_arguments(['in.png', '-m', 'x', *arguments.split()])
    assert message in capsys.readouterr().err


def test_an_empty_argument_is_no_folder(capsys):
    """A shell makes one of a variable that is not set."""
    assert predict.main(['', 'out', '-m', 'x']) == 1
    assert 'INPUT or OUTPUT is empty' in capsys.readouterr().err


def test_a_folder_with_brackets_in_its_name(run, tmp_path):
    write('photos[1]/a.png')
    assert run('photos[1]/*.png', 'out') == 0
    assert images_below(tmp_path / 'out') == ['a.png']


def test_flags_take_no_image_for_their_value():
    args = predict.parse_arguments(['-m', 'x', '-a', '--blur-background', 'in.png', 'out.png'])
    assert (args.input, args.output) == ('in.png', 'out.png')
    assert predict.style_of(args).matting == 'blur-fusion'


def test_nothing_to_do_needs_no_network(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write('in/a.png')
    write('in_out/a.png')
    assert predict.main(['in', '-m', 'none', '--skip-existing']) == 0
    assert '0 done, 1 skipped' in capsys.readouterr().err
    Path('empty').mkdir()
    assert predict.main(['empty', '-m', 'none']) == 1
    assert 'empty: holds no images' in capsys.readouterr().err


def test_watching_takes_each_image_once_it_is_whole(tmp_path, monkeypatch):
    """`b` is whole at once, `a` grows, `c` pauses while it is copied, `d` is a broken link."""
    sizes = {
        'a.png': [5, 9, 9, 9, 9],
        'b.png': [3, 3, 3, 3, 3],
        'c.png': [2, 2, 7, 7, 7],
    }
    rounds = iter(range(1, 6))
    ran = []
    jobs = [predict.Job(tmp_path / f'{name}.png', None) for name in 'abcd']
    (tmp_path / 'd.png').symlink_to('nowhere.png')

    def write_sizes(number):
        for name, grown in sizes.items():
            has_changed = number == 0 or grown[number] != grown[number - 1]
            if has_changed:
                (tmp_path / name).write_bytes(bytes(grown[number]))

    def next_round(_):
        number = next(rounds)
        if number == 5:
            raise KeyboardInterrupt
        write_sizes(number)

    def run(ready):
        ran.append([job.source.stem for job in ready])
        return ['b: broken'] if 'b' in ran[-1] else []

    write_sizes(0)
    monkeypatch.setattr(predict.time, 'sleep', next_round)
    searches = []

    def find():
        searches.append(len(ran))
        return jobs

    def look():
        return predict.scan(str(tmp_path), 'out')

    assert predict.watch(find, run, look) == (4, ['b: broken'])
    assert ran == [['b', 'c'], ['a'], ['c']]
    assert len(searches) == len(ran)  # a folder at rest is not searched


def test_animated_image_as_video(run):
    pytest.importorskip('av')
    frames = [Image.fromarray(np.roll(RGB, i, 0)) for i in range(3)]
    frames[0].save('in.gif', save_all=True, append_images=frames[1:], duration=[100, 300, 100])
    assert run('in.gif', 'out/f-%d.png') == 0
    assert len(list(Path('out').iterdir())) == 3
    assert run('in.gif', 'out.webm', '-bgc', '0', '0', '0', '255') == 0
    assert run('in.gif') == 0
    assert Image.open('in.out.png').size == (60, 40)


def test_frames_of_an_earlier_run_are_spoken_of(run, capsys):
    pytest.importorskip('av')
    write_animated('in.gif')
    write('out/f-4.png')
    write('out/f-6.png')
    assert run('in.gif', 'out/f-%d.png') == 0
    assert 'out/f-4.png: is not of this video, but of an earlier run' in capsys.readouterr().err
    assert run('in.gif', 'other/f-%d.png') == 0
    assert 'earlier' not in capsys.readouterr().err


def test_percent_signs_are_plain_in_names_of_images(run):
    names = ['sale_100%.png', '50%discount.png', '20%off.png', 'a%%b.png', '50%d.png']
    write('in.png')
    for name in names:
        assert run('in.png', f'out/{name}') == 0
    assert images_below(Path('out')) == sorted(names)


def test_a_slash_says_folder(run):
    write('in.png')
    assert run('in.png', 'new/') == 0
    assert run('in.png', 'new/deeper/') == 0
    assert images_below(Path('new')) == ['deeper/in.png', 'in.png']


def test_standard_input_and_a_folder(run, capsys):
    assert run('-', 'new/') == 1
    assert 'standard input has no name' in capsys.readouterr().err


def test_linked_folders_are_entered_once(run):
    write('in/a.png')
    write('elsewhere/b.png')
    Path('in/link').symlink_to('../elsewhere')
    Path('elsewhere/back').symlink_to('../in')
    assert run('in', 'out') == 0
    assert images_below(Path('out')) == ['a.png', 'link/b.png']


def write_animated(name, count=3):
    frames = [Image.fromarray(np.roll(RGB, i, 0)) for i in range(count)]
    frames[0].save(name, save_all=True, append_images=frames[1:], duration=[100, 300, 100])


@pytest.mark.parametrize('name', ['out.webp', 'out.gif', 'out.png', 'out.apng'])
def test_animated_images_stay_animated(run, name):
    pytest.importorskip('av')
    write_animated('in.gif')
    assert run('in.gif', name) == 0
    with Image.open(name) as image:
        assert image.n_frames == 3
        durations = []
        for number in range(3):
            image.seek(number)
            image.load()
            durations.append(image.info['duration'])
    assert durations == [100, 300, 100]


def test_the_first_of_several_frames_is_announced(run, capsys):
    Path('in').mkdir()
    write_animated('in/a.gif')
    assert run('in', 'out') == 0
    assert 'a.gif: of its frames the first is taken' in capsys.readouterr().err


def test_further_pages_and_videos_are_announced(run, capsys):
    pages = [Image.fromarray(RGB), Image.fromarray(RGB)]
    Path('in').mkdir()
    pages[0].save('in/a.tif', save_all=True, append_images=pages[1:])
    Path('in/clip.MP4').touch()
    assert run('in', 'out') == 0
    error = capsys.readouterr().err
    assert 'a.tif: of its pages the first is taken' in error
    assert 'in: 1 videos are left out; name each as INPUT' in error


def test_damage_of_a_video_is_a_failure(run, monkeypatch, capsys):
    def convert_video(*_, report_loss, **__):
        report_loss('in.mp4: 2 damaged packets were left out')
        return 7

    monkeypatch.setattr(predict, 'convert_video', convert_video)
    Path('in.mp4').touch()
    assert run('in.mp4', 'out.webm') == 1
    error = capsys.readouterr().err
    assert 'predict: in.mp4: 2 damaged packets were left out' in error
    assert '7 done, 0 skipped, 1 failed' in error


@pytest.mark.parametrize(('name', 'kept'), [
    ('out.webm', 'interrupted; nothing was written'),
    ('f-%d.png', 'interrupted: the frames up to here are written'),
])
def test_an_interrupted_video_says_what_is_kept(run, monkeypatch, name, kept):
    def convert_video(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, 'convert_video', convert_video)
    Path('in.mp4').touch()
    with pytest.raises(KeyboardInterrupt, match=kept):
        run('in.mp4', name)


def test_exif_data_that_a_jpeg_cannot_hold_is_left_out(run, capsys):
    exif = Image.Exif()
    exif[0x010f] = 'm' * 70_000
    Image.fromarray(RGB).save('in.png', exif=exif)
    flags = ['-bgc', '9', '9', '9', '255', '--keep-metadata']
    assert run('in.png', 'out.jpg', *flags) == 0
    assert 'EXIF data of' in capsys.readouterr().err
    assert not Image.open('out.jpg').getexif()
    assert run('in.png', 'out.webp', *flags) == 0
    assert len(Image.open('out.webp').getexif()[0x010f]) == 70_000


def test_an_interrupted_run_says_what_is_kept(run, monkeypatch):
    for number in range(3):
        write(f'in/{number}.png')

    def interrupted(jobs, load, network, save, **_):
        pixels, prepared = load(jobs[0])
        yield predict.Outcome(jobs[0], save(jobs[0], prepared, network([pixels])[0]))
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, 'run_pipeline', interrupted)
    kept = 'interrupted: 1 of 3 results are written; with --skip-existing'
    with pytest.raises(KeyboardInterrupt, match=kept):
        run('in', 'out')


# --- Several networks -----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_page_compares_networks(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write('photos/a.png')
    write('photos/b.png')
    other = tmp_path / 'other.safetensors'
    other.write_bytes(Path(model).read_bytes())
    common = ['--compare', f'{model},{other}', '--resolution', '64x32', '--device', 'cpu']
    assert predict.main(['photos', *common]) == 0
    page = (tmp_path / 'photos.compare.html').read_text(encoding='utf-8')
    assert page.count('<figure>') == 6
    assert 'other.safetensors' in page
    odd = 'v1.\udcff.png'  # a name that is not UTF-8
    Path('photos/a.png').rename(odd)
    assert predict.main([odd, 'pages/a.html', *common]) == 0
    assert predict.main(['photos/b.png', 'pages/', *common]) == 0
    assert 'v1.\\udcff.png' in (tmp_path / 'pages/a.html').read_text(encoding='utf-8')
    assert (tmp_path / 'pages/b.compare.html').is_file()
    assert '2 done, 0 skipped, 0 failed' in capsys.readouterr().err


@pytest.mark.parametrize(('arguments', 'reason'), [
    (['in.png', '--compare', 'a,a'], 'twice'),
    (['in.png', '--compare', 'a'], 'two or more'),
    (['in.png', '--compare', 'a,b', '-m', 'c'], 'not allowed with'),
    (['in.png'], 'required'),
])
def test_a_comparison_that_argparse_refuses(arguments, reason, capsys):
    with pytest.raises(SystemExit) as ended:
        predict.main(arguments)
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(('arguments', 'reason'), [
    (['in.png', '--compare', 'no1.pth,no2.pth'], r'(?s)no1\.pth.*no2\.pth'),
    (['in.png', 'out.png', '--compare', 'a,b'], r'ends in \.html'),
    (['clip.mp4', '--compare', 'a,b'], 'neither a video'),
    (['-', '--compare', 'a,b'], 'name the page'),
])
def test_a_comparison_that_cannot_be_made(arguments, reason, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write('in.png')
    assert predict.main(arguments) == 1
    assert re.search(reason, capsys.readouterr().err)
    assert list(tmp_path.glob('*.html')) == []

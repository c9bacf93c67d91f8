"""The page as visitors have it, in headless Chromium, and its HTTP API as programs call it."""

import io
import json
import time
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# Gradio itself runs in the server's process alone: importing it takes seconds.
for package in ('gradio_client', 'playwright'):
    pytest.importorskip(package)

import httpx  # noqa: E402
from gradio_client import Client, handle_file  # noqa: E402
from gradio_client.exceptions import AppError  # noqa: E402
from packaging.version import Version  # noqa: E402
from playwright.sync_api import Page, expect  # noqa: E402

import predict  # noqa: E402
from tests.browser import chromium  # noqa: E402
from tests.webapp.server import picture, serving  # noqa: E402

expect.set_options(timeout=60_000)  # the machine may be busy


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp('server')) as running:
        yield running


@pytest.fixture(scope='module')
def browser():
    with chromium() as running:
        yield running


@pytest.fixture
def visit(browser, server):
    """Opens the page in a new context. In the end no other machine may have been contacted."""
    contexts, asked = [], []

    def open_page(**options) -> Page:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on('request', lambda request: asked.append(request.url))
        page.goto(server.address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    own = (server.address, 'data:', 'blob:')
    assert asked
    assert [url for url in asked if not url.startswith(own)] == []


@pytest.fixture(scope='module')
def api(server):
    return Client(server.address, verbose=False)


@pytest.fixture(scope='module', autouse=True)
def loaded_once():
    """predict.py loads each network once for all tests."""
    load, loaded = predict.load_network, {}

    def load_once(options):
        key = options.model, options.resolution
        if key not in loaded:
            loaded[key] = load(options)
        return loaded[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, 'load_network', load_once)
        yield


def give(page: Page, *files: Path) -> None:
    page.set_input_files('#files input[type=file]', files)
    for file in files:
        expect(page.locator('#files')).to_contain_text(file.stem)


def cut_out(page: Page, *files: Path) -> None:
    give(page, *files)
    page.click('#cut')
    expect(page.locator('#status')).to_contain_text(' s.')


def download(page: Page, button: str = '#one') -> tuple[str, bytes]:
    with page.expect_download() as waiting:
        page.click(button)
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def predicted(server, file: Path, *flags: str, weights: str = 'one') -> bytes:
    """What predict.py makes of a picture, in the page's default resolution."""
    output = file.with_name('predicted.png')
    arguments = [str(file), str(output), *flags, '-m', server.weights[weights], '--device', 'cpu']
    assert predict.main(arguments) == 0
    return output.read_bytes()


def test_from_picture_to_download(visit, server, tmp_path):
    file = picture(tmp_path / 'my cup.jpg', 1)
    page = visit()
    cut_out(page, file)
    assert download(page) == ('my cup.png', predicted(server, file))
    after = page.locator('#compare img').nth(1)
    clipped = after.evaluate('image => image.style.clipPath')
    handle = page.locator('#compare [data-testid=slider] .inner').bounding_box()
    page.mouse.move(handle['x'], handle['y'] + 30)
    page.mouse.down()
    page.mouse.move(handle['x'] + 60, handle['y'] + 30, steps=3)
    page.mouse.up()
    assert after.evaluate('image => image.style.clipPath') != clipped
    page.get_by_role('tab', name='Mask').click()
    mask = page.locator('#mask img')
    expect(mask).to_be_visible()
    assert page.request.get(mask.get_attribute('src')).body() == predicted(server, file, '-om')
    page.get_by_label('Mask only').check(force=True)
    expect(page.locator('#one')).to_be_visible()
    page.wait_for_function(
        "src => document.querySelector('#mask img').src != src", arg=mask.get_attribute('src'))
    assert download(page)[1] == predicted(server, file, '-om')
    assert len(list(server.files.rglob('my cup.png'))) == 1, 'what has been replaced is deleted'


def test_weights_resolution_background_and_edges(visit, server, tmp_path):
    file = picture(tmp_path / 'cup.png', 2)
    page = visit()
    page.get_by_text('More: weights').click()
    page.get_by_label('Weights').click()
    page.get_by_role('option', name='two').click()
    page.get_by_label('Resolution').fill('96x64')
    page.keyboard.press('Enter')
    page.get_by_label('Clean, fast').check()
    page.get_by_label('Colour', exact=True).check(force=True)
    cut_out(page, file)
    expected = predicted(server, file, '--resolution', '96x64', '--matting', 'blur-fusion',
                         '-bgc', *'255 255 255 255'.split(), weights='two')
    assert download(page) == ('cup.png', expected)


def test_several_pictures_of_which_one_is_none(visit, server, tmp_path):
    (tmp_path / 'other').mkdir()
    files = [
        picture(tmp_path / 'a.jpg', 3),
        picture(tmp_path / 'other/a.png', 4, (60, 90)),
        tmp_path / 'text.png',
    ]
    files[2].write_text('hello')
    page = visit()
    cut_out(page, *files)
    refusal = 'text.png: this is not an image that can be read'
    expect(page.locator('#status')).to_contain_text(refusal)
    name, data = download(page, '#all')
    assert name == 'cutouts.zip'
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    assert contents == {
        'a.png': predicted(server, files[0]),
        'a (2).png': predicted(server, files[1]),
    }
    page.locator('#thumbs button img').nth(1).click()
    expect(page.locator('#one')).to_contain_text('a (2).png')
    assert download(page)[1] == predicted(server, files[1])


@pytest.mark.slow
def test_two_visitors_at_once(visit, server, tmp_path):
    files = [picture(tmp_path / f'{name}.jpg', seed) for seed, name in enumerate(('mine', 'yours'))]
    pages = [visit(), visit()]
    for page, file in zip(pages, files, strict=True):
        give(page, file)
    for page in pages:
        page.click('#cut')
    for page, file in reversed(list(zip(pages, files, strict=True))):
        expect(page.locator('#status')).to_contain_text(' s.')
        assert download(page) == (f'{file.stem}.png', predicted(server, file))


@pytest.mark.skipif(
    Version(version('gradio')) < Version('6.31'),
    reason='a paste does nothing with Gradio 6.18, and releases between were not tried')
def test_phone_paste_and_example(visit):
    page = visit(viewport={'width': 390, 'height': 844}, has_touch=True, color_scheme='dark')
    expect(page.locator('#cut')).to_be_visible()
    page.evaluate("""async () => {
        const canvas = Object.assign(document.createElement('canvas'), {width: 50, height: 40});
        const blob = await new Promise(done => canvas.toBlob(done));
        window.clipboard = new DataTransfer();
        window.clipboard.items.add(new File([blob], 'pasted.png', {type: 'image/png'}));
    }""")
    # The page listens a moment after it is drawn: pasted again until it takes the event for itself.
    page.wait_for_function("""() => !document.dispatchEvent(
        new ClipboardEvent('paste', {clipboardData: window.clipboard, cancelable: true}))""")
    expect(page.locator('#files')).to_contain_text('pasted')
    page.locator('#cut').tap()
    expect(page.locator('#compare img').first).to_be_visible()
    assert page.evaluate('document.documentElement.scrollWidth') == 390
    assert page.locator('#cut').bounding_box()['width'] > 300


@pytest.mark.parametrize(('name', 'words'), [
    ('text.png', 'this is not an image that can be read (a text'),
    ('huge.png', '300x200 pixels are more than the limit'),
    ('film.mp4', 'this is not a video that can be read'),
])
def test_refusals_are_in_words(visit, server, tmp_path, name, words):
    file = tmp_path / name
    if name == 'huge.png':
        picture(file, 0, (300, 200))
    else:
        file.write_text('#EXTM3U\n/etc/passwd\n')
    page = visit()
    give(page, file)
    page.click('#cut')
    expect(page.locator('.toast-body')).to_contain_text(f'{name}: {words}')
    assert str(server.files) not in page.locator('.toast-body').inner_text()


def test_nothing_is_left_behind(visit, server, tmp_path):
    page = visit()
    cut_out(page, picture(tmp_path / 'secret.jpg', 9))
    assert any('secret' in path.name for path in server.files.rglob('*'))
    page.context.close()
    wait_until(lambda: not any('secret' in path.name for path in server.files.rglob('*')))


def wait_until(holds, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(.1)


def test_video(api, tmp_path):
    av = pytest.importorskip('av')
    with av.open(str(tmp_path / 'clip.mp4'), 'w') as container:
        stream = container.add_stream('libx264', rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
        for value in (0, 100, 200):
            pixels = np.full((48, 64, 3), value, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, 'rgb24')))
        container.mux(stream.encode(None))
    clip = handle_file(tmp_path / 'clip.mp4')
    results, refused = api.predict([clip], output='blur', api_name='/cut_out')
    assert [Path(result).name for result in results] == ['clip.mp4']
    assert not refused
    with av.open(results[0]) as container:
        assert sum(1 for _ in container.decode(video=0)) == 3


def test_api(api, server, tmp_path):
    assert set(api.view_api(return_format='dict')['named_endpoints']) == {'/cut_out', '/weights'}
    assert api.predict(api_name='/weights') == {'one': '64x64', 'two': '64x64'}
    files = [picture(tmp_path / 'a.jpg', 5), picture(tmp_path / 'b.png', 6), tmp_path / 'c.gif']
    files[2].write_bytes(b'GIF89a')
    results, refused = api.predict(
        [handle_file(file) for file in files],
        weights='two',
        resolution='96',
        output='picture',
        backdrop=handle_file(files[1]),
        api_name='/cut_out',
    )
    assert [Path(result).name for result in results] == ['a.png', 'b.png']
    assert [line.split(':')[0] for line in refused] == ['c.gif']
    flags = ('--background', str(files[1]), '--resolution', '96')
    for result, file in zip(results, files[:2], strict=True):
        assert Path(result).read_bytes() == predicted(server, file, *flags, weights='two')


@pytest.mark.parametrize(('arguments', 'words'), [
    ({'resolution': '100x100'}, 'nearest: 96x96'),
    ({'resolution': '4096x4096'}, 'take 128x128 or less'),
    ({'output': 'picture'}, 'Choose the picture'),
    ({'output': 'color', 'color': 'red;'}, 'give #rrggbb'),
    ({'output': 'picture', 'backdrop': (300, 200)}, '300x200 pixels are more'),
    ({'files': 0}, 'a picture first'),
    ({'weights': '/etc/passwd'}, 'weights /etc/passwd: take one of one, two'),
    ({'output': 'zip'}, 'output zip: take one of cutout, mask'),
    ({'edges': 'x'}, 'edges x: take blur-fusion or multi-level'),
    ({'files': 5}, '5 pictures are too many at once'),
])
def test_mistakes_of_callers_are_named(api, tmp_path, arguments, words):
    file = handle_file(picture(tmp_path / 'a.png', 7))
    arguments = {**arguments, 'files': [file] * arguments.get('files', 1)}
    if 'backdrop' in arguments:
        backdrop = picture(tmp_path / 'b.png', 7, arguments['backdrop'])
        arguments['backdrop'] = handle_file(backdrop)
    with pytest.raises(AppError, match=words):
        api.predict(**arguments, api_name='/cut_out')


def test_what_callers_leave_empty_is_the_default(api, server, tmp_path):
    file = picture(tmp_path / 'a.png', 7)
    empty = dict.fromkeys(('weights', 'resolution', 'output', 'color', 'edges', 'backdrop'))
    results, refused = api.predict([handle_file(file)], **empty, api_name='/cut_out')
    assert refused == []
    assert Path(results[0]).read_bytes() == predicted(server, file)


@pytest.mark.parametrize('path', [
    '/etc/passwd', 'app.py', 'http://127.0.0.1/x.png', 'https://example.com/x.png',
])
def test_no_path_that_a_visitor_names_is_read(server, path):
    for file in ({'path': path, 'meta': {'_type': 'gradio.FileData'}}, {'path': path}):
        as_image = [[file], 'one', '', 'mask', '', '']
        as_backdrop = [[], 'one', '', 'picture', '', '', file]
        for data in (as_image, as_backdrop):
            answer = httpx.post(f'{server.address}/gradio_api/call/cut_out', json={'data': data})
            assert answer.status_code == 403, answer.text
    assert httpx.get(f'{server.address}/gradio_api/file={path}').status_code == 404


def test_a_deleted_file_is_not_found(server, tmp_path):
    upload = f'{server.address}/gradio_api/upload'
    data = picture(tmp_path / 'a.png', 8).read_bytes()
    path, = httpx.post(upload, files={'files': ('a.png', data)}).json()
    address = f'{server.address}/gradio_api/file={path}'
    assert httpx.get(address).status_code == 200
    Path(path).unlink()
    assert httpx.get(address).status_code == 404


@pytest.mark.parametrize('address', [
    '/monitoring/summary',
    '/gradio_api/proxy=https://example.com',
    '/gradio_api/run-history/buckets',
    '/docs',
    '/gradio_api/deep_link?session_hash=a',
    '/gradio_api/vibe-code',
])
def test_routes_that_the_page_does_not_need_are_not_there(server, address):
    assert httpx.get(server.address + address).status_code == 404


def test_the_page_names_no_other_host(server):
    answer = httpx.get(server.address)
    assert answer.status_code == 200
    assert "default-src 'self'" in answer.headers['content-security-policy']
    assert not any(host in answer.text for host in ('googleapis', 'gstatic', 'cdnjs'))


def test_too_much_data_is_refused(server):
    upload = f'{server.address}/gradio_api/upload'
    assert httpx.post(upload, files={'files': b'0' * 1_000_001}).status_code == 413
    assert httpx.post(upload, files={'files': b'0' * 6_000_000}).status_code == 413
    assert httpx.post(upload, content=iter([b'0'])).status_code == 411
    join = f'{server.address}/gradio_api/queue/join'
    assert httpx.post(join, content=json.dumps('0' * 2_000_000)).status_code == 413


def test_transparent_results_keep_their_colours(api, tmp_path):
    """The downloaded PNG holds the picture's own colours, whatever the preview stands on."""
    file = picture(tmp_path / 'a.png', 8)
    (result,), _ = api.predict([handle_file(file)], api_name='/cut_out')
    pixels = np.asarray(Image.open(result))
    assert pixels.shape == (80, 120, 4)
    assert (pixels[..., :3] == np.asarray(Image.open(file))).all()


def test_ctrl_c_ends_it_and_deletes_everything(server):
    assert server.stop() == 0
    assert list(server.files.iterdir()) == []

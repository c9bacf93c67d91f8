"""app.py before it serves anything: arguments, weights, examples."""

import io

import pytest
from PIL import Image

import app


def test_without_weights_it_says_what_to_do(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(app, 'DEMO', tmp_path / 'none')
    assert app.main([]) == 1
    assert 'make demo' in capsys.readouterr().err


def test_weights_that_are_none(capsys):
    assert app.main(['-m', 'none.pth', '--device', 'cpu']) == 1
    assert 'none.pth' in capsys.readouterr().err


@pytest.mark.parametrize(('sources', 'names'), [
    (['a/run', 'general'], ['run', 'general']), (['a/run', 'b/run', 'c'], ['a/run', 'b/run', 'c']),
    (['x/BiRefNet_HR'], ['BiRefNet_HR'])])
def test_weights_are_called_by_short_names(sources, names):
    assert app.names_of(sources) == names


def test_an_import_error_without_a_module_keeps_its_reason(monkeypatch, capsys):
    def load_models(*_):
        raise ImportError('socks needs another package')

    monkeypatch.setattr(app, 'load_models', load_models)
    assert app.main([]) == 1
    assert capsys.readouterr().err == 'app: socks needs another package\n'


def test_ctrl_c_while_loading(monkeypatch):
    def load_models(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(app, 'load_models', load_models)
    with pytest.raises(KeyboardInterrupt, match='before it served'):
        app.main([])


def test_limits_come_from_the_command_line():
    args = app.parse_arguments(['--max-pixels', '7', '--keep-minutes', '3'])
    assert (args.pixels, args.keep_minutes, args.files) == (7, 3, app.Limits().files)
    assert args.host == '127.0.0.1'
    with pytest.raises(SystemExit):
        app.parse_arguments(['--max-files', '0'])


@pytest.mark.parametrize('toy', [True, False])
def test_examples_are_images(toy):
    assert min(Image.open(io.BytesIO(app.example_image(toy))).size) > 300

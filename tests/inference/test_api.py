"""`predict`: types of inputs and results, sizes, threads, examples, memory."""

import copy
import doctest
import io
import resource
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.optim.swa_utils import AveragedModel

from config import Config
from inference import predict
from inference.network import Predictor, check_memory
from models import build_birefnet, optimize

pytestmark = pytest.mark.usefixtures('one_thread')
RGB = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return optimize(build_birefnet(Config(bb='pvt_v2_b0', size=(64, 32), dec_att='')).eval())


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'PNG')
    return buffer.getvalue()


def test_returns_the_type_of_its_input(model, tmp_path):
    Image.fromarray(RGB).save(tmp_path / 'a.png')
    expected = predict(model, RGB)
    assert expected.shape == (40, 60)
    assert expected.dtype == np.uint8
    tensor = torch.from_numpy(RGB).permute(2, 0, 1)
    assert np.array_equal(np.asarray(predict(model, Image.fromarray(RGB))), expected)
    assert np.array_equal(np.asarray(predict(model, tmp_path / 'a.png')), expected)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(predict(model, png(RGB))))), expected)
    assert np.array_equal(predict(model, tensor)[0], expected)
    floats = predict(model, tensor / 255)
    assert floats.dtype == torch.float32
    assert torch.equal((floats * 255).round().byte()[0], torch.from_numpy(expected))
    assert predict(model, png(RGB), 'cutout').startswith(b'\x89PNG')
    assert predict(model, Image.fromarray(RGB), 'cutout').mode == 'RGBA'


def test_lists_of_mixed_sizes_equal_single_images(model):
    images = [RGB, RGB[:20], RGB[:, :33], Image.fromarray(RGB[5:])]
    for batch in (1, 3):
        for image, result in zip(images, predict(model, images, batch=batch), strict=True):
            single = np.asarray(predict(model, image)).astype(int)
            assert np.abs(np.asarray(result) - single).max() <= 1
    assert predict(model, []) == []


def test_box_and_resolution(model):
    mask = predict(model, RGB, box=(10, 10, 30, 30), resolution='native')
    assert mask.shape == (40, 60)
    assert not mask[:, 32:].any()
    assert mask[10:30, 10:30].any()
    with pytest.raises(ValueError, match='60x40'):
        predict(model, RGB, box=(10, 10, 61, 30))


@pytest.mark.parametrize('image', [
    RGB.astype(float), np.zeros((0, 5, 3), np.uint8), torch.zeros(5, 5), b'no image',
])
def test_what_is_no_image_is_refused(model, image):
    with pytest.raises(ValueError, match='image'):
        predict(model, image)


def test_another_type_is_refused(model):
    with pytest.raises(TypeError, match='int'):
        predict(model, 3)


@pytest.mark.parametrize(('output', 'words'), [
    ('masks', 'output masks: take one of'), ('picture', 'give a backdrop'),
])
def test_wrong_outputs_are_named(model, output, words):
    with pytest.raises(ValueError, match=words):
        predict(model, RGB, output)


def test_documented_examples_run(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(RGB).save('photo.jpg')
    names = {
        'predict': predict,
        'model': model,
        'Image': Image,
        'array': RGB,
        'other_array': RGB[:9],
    }
    examples = doctest.DocTestParser().get_examples(predict.__doc__)
    assert len(examples) == 3
    for example in examples:
        exec(example.source.replace('2048x2048', '64x64'), names)
    assert names['mask'].mode == 'L'
    assert names['cutout'].mode == 'RGBA'
    assert [m.shape for m in names['masks']] == [(40, 60), (9, 60)]


# --- Networks as host programs have them ----------------------------------------------------------


@pytest.fixture(scope='module')
def plain():
    """A network that is not optimized. Not to be changed."""
    torch.manual_seed(0)
    return build_birefnet(Config(bb='pvt_v2_b0', size=(64, 32), dec_att='')).eval()


class Program(nn.Module):
    """A network as part of another program's, which has a config of its own."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.config = {'lr': 1}

    def forward(self, image):
        return self.network(image)


@pytest.mark.parametrize('wrap', [nn.DataParallel, AveragedModel, nn.Sequential, Program])
def test_a_wrapped_network_runs_at_its_own_size(plain, wrap):
    assert np.array_equal(predict(wrap(plain), RGB), predict(plain, RGB))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_a_converted_network_gets_its_own_dtype(plain, dtype):
    converted = copy.deepcopy(plain).to(dtype)
    for network in (converted, optimize(converted)):
        difference = predict(network, RGB).astype(int) - predict(plain, RGB)
        assert np.abs(difference).max() <= 3


def test_defaults_of_the_host_program_do_not_matter(plain):
    expected = predict(plain, RGB)
    fast = optimize(plain)
    torch.set_default_dtype(torch.float64)
    try:
        results = [predict(network, RGB) for network in (plain, fast)]
    finally:
        torch.set_default_dtype(torch.float32)
    for result in results:
        assert np.abs(result.astype(int) - expected).max() <= 1


def test_a_network_in_training_mode_is_refused_as_it_is(plain):
    network = copy.deepcopy(plain).train()
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match=r'model\.eval\(\)'):
        predict(nn.DataParallel(network), RGB)
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize('model', ['general', Path('best.pth'), None])
def test_what_is_no_network_is_refused(model):
    with pytest.raises(TypeError, match='load_model'):
        predict(model, RGB)


def test_threads_do_not_disturb_each_other(model):
    images = [np.roll(RGB, i, 0) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda image: predict(model, image), images))
    for result, image in zip(together, images, strict=True):
        assert np.array_equal(result, predict(model, image))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='ru_maxrss in other units')
def test_memory_does_not_grow(model):
    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for i in range(100):
        predict(model, RGB[:20 + i % 20], resolution='native')
    before = peak()
    for i in range(1000):
        predict(model, RGB[:20 + i % 20], resolution='native')
    assert peak() - before < 20  # MiB


def test_an_output_that_is_not_finite_is_an_error():
    def network(batch):
        return [batch[:, :1] * torch.nan]
    with pytest.raises(ValueError, match='float32'):
        Predictor(network)([RGB])


def test_too_little_memory_is_an_error_before_the_work():
    with pytest.raises(ValueError, match=r'GiB.*resolution of at most'):
        check_memory((10 ** 6, 10 ** 6), 1, torch.device('cpu'))

"""rembg itself takes our ONNX file for its own."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from exporting.onnx import OLDEST_TORCH, save_onnx
from exporting.program import ExportWrapper, photographs, to_input, trace
from readers import read_mask
from tests.models.small import build
from utils import write_png

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / '.venv-rembg' / 'bin' / 'python'


@pytest.mark.skipif(
    torch.__version__ < OLDEST_TORCH, reason='this PyTorch is too old for ONNX export')
@pytest.mark.slow
def test_its_mask_is_ours(tmp_path):
    """With the file where its home variable says, under the name of its session, the checksum off.

    rembg resizes by Lanczos where we are bilinear, and spreads each mask over the full range: for
    the comparison we do as it does.
    """
    assert PYTHON.is_file(), 'run `make .venv-rembg/requirements`: rembg has its own environment'
    model = build(bb='timm/resnet18', mul_scl_ipt='', deform_kernels=(3,))
    file = tmp_path / 'home' / 'models' / 'birefnet-general' / 'birefnet-general.onnx'
    save_onnx(trace(ExportWrapper(model), (1024, 1024)), file, lambda _: None)
    photo = photographs()['astronaut']
    write_png(tmp_path / 'photo.png', photo)
    script = Path(__file__).with_name('rembg_mask.py')
    variables = {
        'PATH': os.environ['PATH'],
        'HOME': str(tmp_path),
        'REMBG_HOME': str(tmp_path / 'home'),
        'MODEL_CHECKSUM_DISABLED': '1',
    }
    command = [PYTHON, script, tmp_path / 'photo.png', tmp_path / 'mask.png']
    subprocess.run(command, check=True, cwd=tmp_path, env=variables)
    seen = np.asarray(Image.fromarray(photo).resize((1024, 1024), Image.Resampling.LANCZOS))
    with torch.inference_mode():
        expected = model(to_input(seen, (1024, 1024)))[-1].sigmoid()[0, 0].numpy()
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    grey = Image.fromarray((255 * expected).astype(np.uint8))
    expected = grey.resize(photo.shape[1::-1], Image.Resampling.LANCZOS)
    difference = abs(read_mask(tmp_path / 'mask.png').astype(int) - np.asarray(expected))
    assert difference.max() <= 2, 'levels of 255'
    assert difference.mean() < .1
    assert np.asarray(expected).std() > 10, 'a mask, and not one grey'

"""Agreement with the publication: outputs in eval mode, figures of training, names of weights."""

import pytest
import torch

from loss import edge_loss, pixel_terms
from models import load_model, save_checkpoint
from models.checkpoints.files import read_state, write_state
from models.checkpoints.names import DERIVED, to_official
from tests.models import golden
from tests.models.small import without_randomness

# A step of the small backbone, with the decoders of both generations; others are slow.
QUICK = ('pvt_v2_b0', 'pvt_v2_b0-2024-05')
TRAINED = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in golden.NAMES]
WEIGHTS = {'bce': 30., 'iou': .5, 'ssim': 10.}


@pytest.fixture(scope='module', params=golden.NAMES)
def official(request, tmp_path_factory):
    """Name of a golden network, its official state dict, and a file of it."""
    state = golden.state(request.param)
    path = tmp_path_factory.mktemp('golden') / 'official.pth'
    write_state(state, path)
    yield request.param, state, path
    path.unlink()


def tile_order(name: str) -> str:
    """Of a golden network's file. Its weights are random and show none."""
    return 'column' if '2024' in name else 'row'


@pytest.fixture
def case(official):
    """Name of a golden network and the model loaded from its official file."""
    name, _, path = official
    overrides = {'tile_order': tile_order(name)}
    if golden.spec(name)['config'].get('mul_scl_ipt') == 'add':
        overrides['mul_scl_ipt'] = 'add'
    return name, load_model(path, **overrides)


def test_eval_output(case):
    name, model = case
    expected = torch.from_numpy(golden.arrays(name)['eval_output'])
    with torch.inference_mode():
        output = model(golden.image(name))
    assert len(output) == 1
    assert (output[-1] - expected).abs().max() < 1e-5 * expected.std()


def test_written_layout(case, official, tmp_path):
    name, state, _ = official
    _, model = case
    save_checkpoint(model, tmp_path / 'ours.pth', tile_order=tile_order(name))
    written = read_state(tmp_path / 'ours.pth')
    assert {k for k in written if not DERIVED.search(k)} == state.keys()
    assert all(torch.equal(written[key], value) for key, value in state.items())


def close(figures: list[list[float]]) -> list:
    """Means and deviations, to 1e-6 of the deviation."""
    return [pytest.approx(pair, rel=0, abs=1e-6 * pair[1]) for pair in figures]


@pytest.mark.parametrize('official', TRAINED, indirect=True)
def test_training_figures(case):
    name, model = case
    spec = golden.spec(name)
    model = model.double()
    model.requires_grad_(True)
    model.encoder.frozen = False  # the figures are of a network with nothing frozen
    without_randomness(model, batch_statistics=False)
    output = model(golden.image(name).double(), side_outputs=True)
    figures = [[value.mean().item(), value.std().item()] for value in output.logits]
    assert figures == close(spec['train_output_mean_std'])
    for which, key in ((0, 'gdt_pred_mean_std'), (1, 'gdt_label_mean_std')):
        maps = [pair[which] for pair in output.edge_pairs]
        figures = [[x.mean().item(), x.std().item()] for x in maps]
        assert figures == close(spec.get(key, []))

    ssim = 2 if '2024' in name else 1  # these generations took 1 - SSIM, not half of it
    weights = {**WEIGHTS, 'ssim': WEIGHTS['ssim'] * ssim}
    terms = pixel_terms(output.logits, golden.mask(name), weights)
    gradient = edge_loss(output.edge_pairs) if output.edge_pairs else torch.zeros(())
    assert sum(terms.values()).item() == pytest.approx(spec['loss_pix'], rel=1e-5)
    assert gradient.item() == pytest.approx(spec['loss_gdt'], rel=1e-6)
    (sum(terms.values()) + gradient).backward()
    trained = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    grads = to_official(trained, model.config.bb)
    norms = {key: grad.norm().item() for key, grad in grads.items() if not DERIVED.search(key)}
    total = sum(norm * norm for norm in norms.values()) ** .5
    assert total == pytest.approx(spec['grad_norm_total'], rel=1e-5)
    for key, norm in spec['grad_norms'].items():
        assert norms[key] == pytest.approx(norm, rel=1e-4, abs=1e-6), key
    if 'class_pred_mean_std' in spec:
        figures = [output.class_logits.mean().item(), output.class_logits.std().item()]
        assert figures == pytest.approx(spec['class_pred_mean_std'], rel=1e-6)

"""The network as a whole: what comes out, at which sizes and batches, and what training moves."""

import copy
import pickle

import pytest
import torch
from torch import nn

from config import Config
from loss import edge_loss, pixel_terms
from models import BiRefNet, build_birefnet
from models.decoder import Decoder
from models.modules.norm import BatchNorm2d, allow_any_batch, frozen_statistics
from models.modules.reference import image_to_tiles, laplacian
from tests.models.small import build, image, output, without_randomness


@pytest.fixture(scope='module')
def shared() -> BiRefNet:
    """Not to be changed."""
    return build()


@pytest.fixture
def model(shared) -> BiRefNet:
    """One's own copy."""
    return copy.deepcopy(shared)


def total(out) -> torch.Tensor:
    """A loss that everything in a training output has a part in."""
    loss = sum(logit.square().mean() for logit in out.logits)
    loss = loss + sum(p.mean() + label.square().mean() for p, label in out.edge_pairs)
    return loss if out.class_logits is None else loss + out.class_logits.square().mean()


# --- What comes out -------------------------------------------------------------------------------


@pytest.mark.parametrize(('height', 'width'), [(32, 32), (32, 64), (64, 32), (96, 160), (160, 64)])
def test_every_size_in_eval(shared, height, width):
    with torch.inference_mode():
        out = shared(image(height, width, 1))
    assert isinstance(out, list)
    assert [tuple(logits.shape) for logits in out] == [(1, 1, height, width)]
    assert out[-1].isfinite().all()


@pytest.mark.parametrize(('switches', 'sides', 'pairs', 'classes'), [
    ({}, 3, 3, None), ({'out_ref': False}, 3, 0, None), ({'ms_supervision': False}, 0, 0, None),
    ({'out_ref_levels': (3, 2)}, 3, 2, None),
    ({'auxiliary_classification': True, 'num_classes': 7}, 3, 3, 7),
    ({'ms_supervision': False, 'out_ref': False, 'dec_ipt': False, 'squeeze_block': '',
      'cxt_num': 0, 'dec_att': '', 'mul_scl_ipt': ''}, 0, 0, None),
    ({'dec_ipt_split': False, 'dec_blk': 'ResBlk', 'dec_att': 'ASPP',
      'dec_channels_inter': 'adap'}, 3, 3, None),
])
def test_training_output(switches, sides, pairs, classes):
    out = build(**switches).train()(image(), side_outputs=True)
    steps = (32, 16, 8)[:sides]
    side_shapes = [(2, 1, 64 // s, 96 // s) for s in steps]
    assert [tuple(m.shape) for m in out.logits] == [*side_shapes, (2, 1, 64, 96)]
    levels = steps[-pairs:] if pairs else ()
    assert [tuple(p.shape) for p, _ in out.edge_pairs] == [(2, 1, 64 // s, 96 // s) for s in levels]
    assert all(label.shape == (2, 1, 64, 96) for _, label in out.edge_pairs)
    if classes is None:
        assert out.class_logits is None
    else:
        assert out.class_logits.shape == (2, classes)


def test_every_parameter_has_a_gradient(model):
    total(model.train()(image(), side_outputs=True)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_the_labels_of_gradients_are_the_images_edges(shared):
    x = image()
    out = shared(x, side_outputs=True)
    m4, pair = out.logits[0], out.edge_pairs[0]
    resized = nn.functional.interpolate(m4, size=(64, 96), mode='bilinear', align_corners=True)
    assert torch.allclose(pair[1], laplacian(x) * resized, atol=1e-6)
    assert pair[1].requires_grad


def test_side_outputs_do_not_depend_on_the_mode(shared):
    """In eval mode they end in its map. In training without them there is that map alone."""
    with torch.inference_mode():
        out = shared(image(), side_outputs=True)
    assert (len(out.logits), len(out.edge_pairs)) == (4, 3)
    assert torch.equal(out.logits[-1], output(shared))
    final, = copy.deepcopy(shared).train()(image())
    assert final.shape == (2, 1, 64, 96)


def test_without_side_outputs_their_layers_are_not_used():
    with_head = build(auxiliary_classification=True)
    x = image()
    before = output(with_head, x)
    for level in with_head.decoder.levels:
        for part in (level.side, level.outward.prediction if level.outward else None):
            if part is not None:
                nn.init.constant_(part.weight, float('nan'))
    nn.init.constant_(with_head.class_head.weight, float('nan'))
    assert torch.equal(output(with_head, x), before)


# --- Sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(('height', 'width', 'advice'), [
    (64, 100, '64x128'), (33, 64, '64x64'), (1, 1, '32x32'), (720, 1280, '736x1280')])
def test_other_sizes_are_refused_with_advice(shared, height, width, advice):
    with pytest.raises(ValueError, match=f'{height}x{width}.*{advice}'):
        shared(torch.zeros(1, 3, height, width))


@pytest.mark.parametrize('bb', [
    'swin_v1_t',
    'resnet50',
    'vgg16bn',
    'dino_v3_s',
    'timm/resnet18',
    'timm/convnext_atto',
])
def test_smallest_size_in_every_backbone(bb):
    model = build_birefnet(Config(bb=bb, size=(64, 32), dec_att=''))
    out = model.train()(image(32, 32, 1), side_outputs=True)
    total(out).backward()
    assert output(model.eval(), image(32, 64, 1)).shape == (1, 1, 32, 64)


# --- Batches: nothing depends on their size (pain 2) ----------------------------------------------


@pytest.mark.parametrize('switches', [
    {},
    pytest.param({'bb': 'swin_v1_t'}, marks=pytest.mark.slow),
    {'dec_att': 'ASPP', 'squeeze_block': 'ASPP_x1'},
])
def test_an_image_is_the_same_alone_and_in_a_batch(switches):
    model, x = build(**switches), image(64, 96, 3)
    together = output(model, x)
    for i in range(3):
        alone = output(model, x[i:i + 1])
        assert torch.allclose(alone, together[i:i + 1], atol=1e-4 * together.std())


def test_the_architecture_ignores_the_batch_size():
    with torch.device('meta'):
        one = build_birefnet(Config(bb='pvt_v2_b0', batch_size=1)).state_dict()
        many = build_birefnet(Config(bb='pvt_v2_b0', batch_size=8)).state_dict()
    assert {k: v.shape for k, v in one.items()} == {k: v.shape for k, v in many.items()}
    assert any(key.endswith('running_mean') for key in one)


@pytest.mark.parametrize('size', [(32, 32), (64, 96)])
def test_training_on_one_image(model, size):
    """At 32x32 the deepest map is 1x1, so that every norm there sees one value per channel."""
    before = {key: value.clone() for key, value in model.state_dict().items()
              if 'running' in key or 'batches' in key}
    total(model.train()(image(*size, 1), side_outputs=True)).backward()
    after = model.state_dict()
    moved = {key for key, value in before.items() if not torch.equal(value, after[key])}
    pooled = {key for key in before if '.pooled.' in key}
    single = set()
    if size == (32, 32):
        single = {key for key in before if key.startswith(('squeeze', 'decoder.levels.0'))}
    assert pooled
    assert moved == before.keys() - pooled - single
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_two_images_move_the_pooled_statistics(model):
    before = model.decoder.levels[0].block.attention.pooled.bn.running_mean.clone()
    model.train()(image(batch=2))
    assert not torch.equal(model.decoder.levels[0].block.attention.pooled.bn.running_mean, before)


@pytest.mark.parametrize('foreign', [False, True])
def test_single_values_use_running_statistics(foreign):
    norm = allow_any_batch(nn.Sequential(nn.BatchNorm2d(3)))[0] if foreign else BatchNorm2d(3)
    for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
        nn.init.uniform_(value, .5, 2)
    x = torch.randn(1, 3, 1, 1)
    expected = norm.eval()(x)
    before = copy.deepcopy(norm.state_dict())
    assert torch.equal(norm.train()(x), expected)
    assert norm.training
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())
    pair = torch.randn(2, 3, 1, 1)
    expected = nn.functional.batch_norm(pair, None, None, norm.weight, norm.bias, True)
    assert torch.equal(norm(pair), expected)


# --- Training -------------------------------------------------------------------------------------


def test_a_frozen_backbone_stays_as_it_is():
    model = build(bb='timm/resnet18', freeze_bb=True).train()
    backbone = model.encoder.backbone
    before = copy.deepcopy(backbone.state_dict())
    total(model(image(), side_outputs=True)).backward()
    assert not any(p.requires_grad or p.grad is not None for p in backbone.parameters())
    assert not any(module.training for module in model.encoder.backbone.modules())
    assert model.decoder.training
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert all(p.grad is not None for p in model.decoder.parameters())
    assert not any(module.training for module in model.eval().modules())


def test_checkpointing_changes_nothing_but_memory(model):
    plain, again = model, copy.deepcopy(model)
    again.decoder.set_grad_checkpointing()
    for net in (plain, again):
        without_randomness(net)
        total(net(image(), side_outputs=True)).backward()
    gradients = zip(plain.named_parameters(), again.parameters(), strict=True)
    for (name, p), q in gradients:
        assert torch.allclose(p.grad, q.grad, atol=1e-7), name
    buffers = zip(plain.named_buffers(), again.buffers(), strict=True)
    assert [name for (name, p), q in buffers if not torch.equal(p, q)] == []


def test_frozen_statistics_come_back():
    net = nn.Sequential(BatchNorm2d(2), nn.BatchNorm2d(2, momentum=.3))
    before = copy.deepcopy(net.state_dict())
    with frozen_statistics(net):
        net(torch.randn(4, 2, 3, 3))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert [norm.momentum for norm in net] == [.1, .3]
    net(torch.randn(4, 2, 3, 3))
    assert net[1].num_batches_tracked == 1


def test_a_step_lowers_the_loss(model):
    x, mask = image(), (image()[:, :1] > 0).float()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    without_randomness(model)
    losses = []
    for _ in range(4):
        out = model(x, side_outputs=True)
        terms = pixel_terms(out.logits, mask, {'bce': 1., 'iou': 1.})
        loss = sum(terms.values()) + edge_loss(out.edge_pairs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    'dtype', [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)])
def test_half_precision(shared, dtype):
    with torch.autocast('cpu', dtype), torch.inference_mode():
        half = shared(image())[-1].float()
    assert (half - output(shared)).abs().mean() < .1 * output(shared).std()


# --- Objects --------------------------------------------------------------------------------------


def test_copies_are_whole_and_apart(shared):
    for other in (copy.deepcopy(shared), pickle.loads(pickle.dumps(shared))):
        assert other.config == shared.config
        assert torch.equal(output(other), output(shared))
        other.load_state_dict(shared.state_dict())  # the hook that renames came along
        before = output(shared)
        with torch.no_grad():
            for p in other.parameters():
                p.zero_()
        assert torch.equal(output(shared), before)


def test_the_default_network_without_memory():
    with torch.device('meta'):
        model = build_birefnet()
    assert model.config == Config()
    assert all(p.is_meta for p in model.parameters())
    assert sum(p.numel() for p in model.parameters()) == 220_176_498


@pytest.mark.slow
def test_exports_as_one_graph(shared):
    x = image(64, 64, 1)
    exported = torch.export.export(shared, (x,), strict=False).module()
    other = torch.randn_like(x)
    expected = output(shared, other)
    assert torch.allclose(exported(other)[-1], expected, atol=1e-3 * expected.std())
    assert type(output(shared)) is torch.Tensor


# --- Bilateral reference --------------------------------------------------------------------------


def test_tiles():
    x = image(64, 96, 1)
    tiles = image_to_tiles(x, 16, 48)
    assert tiles.shape == (1, 3 * 4 * 2, 16, 48)
    for c in range(3):
        for i in range(4):
            for j in range(2):
                tile = x[0, c, 16 * i:16 * i + 16, 48 * j:48 * j + 48]
                assert torch.equal(tiles[0, (c * 4 + i) * 2 + j], tile)


@pytest.mark.parametrize('split', [True, False])
def test_reference_widths(split):
    with torch.device('meta'):
        decoder: Decoder = build_birefnet(Config(bb='pvt_v2_b0', dec_ipt_split=split)).decoder
    references = [*(level.reference for level in decoder.levels), decoder.reference]
    ins = [3072, 768, 192, 48, 3] if split else [3] * 5
    assert [reference.conv_in.in_channels for reference in references] == ins
    c1, c2, c3, c4 = (2 * c for c in (32, 64, 160, 256))
    outs = [c4 // 8, c4 // 8, c3 // 8, c2 // 8, c1 // 8]
    assert [reference.conv_out.out_channels for reference in references] == outs

"""Swin against a loop over windows that follows the paper, and the tensors that it keeps."""

import copy
import threading

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from models.backbones.swin import (
    SWINS,
    PatchMerging,
    SwinBlock,
    SwinTransformer,
    WindowAttention,
    build_swin,
    relative_position_index,
    resize_bias_tables,
    shift_mask,
)


def tiny(window: int = 4) -> SwinTransformer:
    torch.manual_seed(0)
    net = SwinTransformer(dim=16, depths=(2, 2, 2, 2), heads=(1, 2, 2, 4), window=window)
    for name, value in net.named_parameters():
        if name.endswith(('relative_position_bias_table', 'bias')):
            nn.init.normal_(value, std=.5)
    return net.eval()


def random_map(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


# --- One block, by hand ---------------------------------------------------------------------------


def attend_to(
    attention: WindowAttention,
    tokens: Tensor,
    positions: list[tuple[int, int]],
    groups: list,
) -> Tensor:
    """Attention among the tokens (N, C) of one window, each at its (y, x).

    Only tokens of one group see each other.
    """
    count, channels = tokens.shape
    head_width = channels // attention.heads
    q, k, v = attention.qkv(tokens).reshape(count, 3, attention.heads, head_width).unbind(1)
    out, w = torch.zeros_like(q), attention.window
    for i, (yi, xi) in enumerate(positions):
        for head in range(attention.heads):
            logits = []
            for j, (yj, xj) in enumerate(positions):
                similarity = q[i, head] @ k[j, head] * q.shape[-1] ** -.5
                relative = (yi - yj + w - 1) * (2 * w - 1) + xi - xj + w - 1
                bias = attention.relative_position_bias_table[relative, head]
                mask = 0 if groups[i] == groups[j] else -100
                logits.append(similarity + bias + mask)
            out[i, head] = (torch.stack(logits).softmax(0)[:, None] * v[:, head]).sum(0)
    return attention.proj(out.reshape(count, channels))


def naive_block(block: SwinBlock, x: Tensor) -> Tensor:
    """x (H, W, C): padded with zeros after the norm, then shifted cyclically, window by window."""
    height, width, channels = x.shape
    w, shift = block.window, block.shift
    rows, columns = -(-height // w) * w, -(-width // w) * w
    padded = torch.zeros(rows, columns, channels, dtype=x.dtype)
    padded[:height, :width] = block.norm1(x)
    out = torch.zeros_like(padded)

    def region(position: int, side: int) -> int:
        """Stripes of the shifted map: what was there before, and what came around the border."""
        return 0 if position < side - w else 1 if position < side - shift else 2

    for top in range(0, rows, w):
        for left in range(0, columns, w):
            places = [(top + i, left + j) for i in range(w) for j in range(w)]
            sources = [((y + shift) % rows, (x_ + shift) % columns) for y, x_ in places]
            groups = [(region(y, rows), region(x_, columns)) if shift else 0 for y, x_ in places]
            values = attend_to(block.attn, torch.stack([padded[s] for s in sources]),
                               [(y - top, x_ - left) for y, x_ in places], groups)
            for source, value in zip(sources, values, strict=True):
                out[source] = value
    x = x + out[:height, :width]
    return x + block.mlp(block.norm2(x))


@pytest.fixture(params=[False, True], ids=['eager', 'as exported'])
def either_way(request, monkeypatch):
    """By padding and rolling, and by the indices that take their place in exports for all sizes."""
    monkeypatch.setattr('models.backbones.swin.has_symbolic_size', lambda _: request.param)


@pytest.mark.parametrize('shifted', [False, True])
@pytest.mark.parametrize(('height', 'width'), [(5, 7), (3, 6), (2, 1), (1, 4)])
@torch.inference_mode()
def test_block_equals_the_loop_over_windows(either_way, shifted, height, width):
    torch.manual_seed(0)
    block = SwinBlock(8, heads=2, window=3, shifted=shifted, drop_path=.5).double().eval()
    nn.init.normal_(block.attn.relative_position_bias_table)
    x = random_map(2, height, width, 8, dtype=torch.float64)
    expected = torch.stack([naive_block(block, one) for one in x])
    assert (block(x) - expected).abs().max() < 1e-12


@torch.inference_mode()
def test_merging_takes_four_neighbours_and_pads_odd_sides(either_way):
    merge = PatchMerging(3).double()
    x = random_map(1, 5, 4, 3, dtype=torch.float64)
    merged = merge(x)
    assert merged.shape == (1, 3, 2, 6)
    padded = torch.cat((x, torch.zeros(1, 1, 4, 3)), 1)[0]
    for i, j in ((0, 0), (1, 1), (2, 1)):
        steps = ((0, 0), (1, 0), (0, 1), (1, 1))
        four = torch.cat([padded[2 * i + a, 2 * j + b] for a, b in steps])
        assert torch.allclose(merged[0, i, j], merge.reduction(merge.norm(four)))


# --- The network ----------------------------------------------------------------------------------


@pytest.mark.parametrize(('height', 'width'), [(32, 32), (32, 64), (96, 160), (16, 16), (50, 70)])
@torch.inference_mode()
def test_any_size(height, width):
    maps = tiny()(random_map(1, 3, height, width))
    sides = [(-(-height // s), -(-width // s)) for s in (4, 8, 16, 32)]
    channels = (16, 32, 64, 128)
    shapes = [(1, c, *side) for c, side in zip(channels, sides, strict=True)]
    assert [tuple(m.shape) for m in maps] == shapes


@torch.inference_mode()
def test_an_image_is_the_same_alone_and_in_a_batch():
    net, x = tiny(), random_map(3, 3, 64, 96)
    for alone, batch in zip(net(x[1:2]), net(x), strict=True):
        assert torch.allclose(alone, batch[1:2], atol=1e-5)


@torch.inference_mode()
def test_double_and_half_precision():
    net, x = tiny(), random_map(1, 3, 64, 96)
    single, double = net(x), copy.deepcopy(net).double()(x.double())
    assert double[-1].dtype == torch.float64
    assert (single[-1] - double[-1]).abs().max() < 1e-4
    half = copy.deepcopy(net).bfloat16()(x.bfloat16())
    assert half[-1].dtype == torch.bfloat16
    assert (half[-1] - double[-1]).abs().mean() < .1


def gradients(net: SwinTransformer, x: Tensor) -> dict[str, Tensor]:
    net.zero_grad()
    sum(m.square().mean() for m in net(x)).backward()
    return {name: p.grad.clone() for name, p in net.named_parameters()}


def test_checkpointing_leaves_gradients_as_they_are():
    net, x = tiny().train(), random_map(2, 3, 64, 64)
    torch.manual_seed(3)
    plain = gradients(net, x)
    net.grad_checkpointing = True
    torch.manual_seed(3)  # the same paths are dropped, also when blocks run again
    again = gradients(net, x)
    assert all(torch.allclose(again[name], plain[name], atol=1e-6) for name in plain)


def test_drop_path_rises_linearly():
    blocks = [block for stage in build_swin('swin_v1_t').net.layers for block in stage.blocks]
    rates = [getattr(block.drop_path, 'drop_prob', 0.) for block in blocks]
    assert rates == pytest.approx([.2 * i / 11 for i in range(12)])


@pytest.mark.parametrize(('name', 'channels', 'blocks'), [
    ('swin_v1_t', (96, 192, 384, 768), 12), ('swin_v1_s', (96, 192, 384, 768), 24),
    ('swin_v1_b', (128, 256, 512, 1024), 24), ('swin_v1_l', (192, 384, 768, 1536), 24)])
def test_published_sizes(name, channels, blocks):
    with torch.device('meta'):
        backbone = build_swin(name)
    assert backbone.channels == channels
    assert sum(len(stage.blocks) for stage in backbone.net.layers) == blocks
    norms = {m.eps for m in backbone.net.modules() if isinstance(m, nn.LayerNorm)}
    assert norms == {1e-5}
    assert SWINS[name]['window'] == (7 if name[-1] in 'ts' else 12)


# --- Position tables ------------------------------------------------------------------------------


def test_tables_of_another_window_are_interpolated():
    small, large = tiny(3), tiny(4)
    fitted = resize_bias_tables(small.state_dict(), large)
    missing = large.load_state_dict(fitted)
    assert not missing.missing_keys
    key = 'layers.0.blocks.1.attn.relative_position_bias_table'
    table = small.state_dict()[key]  # (5 * 5, heads) -> (7 * 7, heads)
    grid = nn.functional.interpolate(table.T.reshape(1, -1, 5, 5), (7, 7), mode='bicubic')[0]
    assert torch.allclose(fitted[key], grid.reshape(-1, 49).T)
    middle = fitted[key].reshape(7, 7, -1)[3, 3]
    assert torch.allclose(middle, table.reshape(5, 5, -1)[2, 2], atol=1e-6)
    same = resize_bias_tables(large.state_dict(), large)
    assert all(torch.equal(same[name], value) for name, value in large.state_dict().items())


# --- What is kept between calls -------------------------------------------------------------------


def test_kept_tensors_serve_training_after_inference():
    net, x = tiny(window=5), random_map(1, 3, 64, 64)  # a window of its own: nothing is kept yet
    with torch.inference_mode():
        net(x)
    assert not shift_mask(20, 20, 5, torch.device('cpu')).is_inference()
    assert not relative_position_index(5).is_inference()
    gradients(net.train(), x)


def test_kept_tensors_survive_the_meta_device_and_exporting():
    net, x = tiny(window=6), random_map(1, 3, 64, 64)
    with torch.device('meta'):
        assert net.to('meta')(torch.zeros(1, 3, 64, 64))[0].is_meta
    net = tiny(window=6)
    exported = torch.export.export(net, (x,), strict=False)
    after = net(x)
    assert not any(isinstance(m, FakeTensor) for m in after)
    assert torch.allclose(exported.module()(x)[-1], after[-1], atol=1e-5)
    assert type(shift_mask(18, 18, 6, torch.device('cpu'))) is Tensor


def test_threads_share_what_is_kept():
    net, x, outputs = tiny(window=9), random_map(1, 3, 64, 64), []

    def run() -> None:
        with torch.inference_mode():
            outputs.append(net(x)[-1])

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outputs) == 8
    assert all(torch.equal(output, outputs[0]) for output in outputs)


@pytest.mark.slow
def test_compiles_in_one_graph():
    net, x = tiny(), random_map(1, 3, 32, 64)
    compiled = torch.compile(net, backend='eager', fullgraph=True)
    assert torch.allclose(compiled(x)[-1], net(x)[-1], atol=1e-5)

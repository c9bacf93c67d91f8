"""The losses: pixel losses, edge (outward reference), class, adversarial; and the criterion that weighs them.

All are computed in float32 (float64 stays float64) whatever autocast says: half precision in is brought to float32.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TrainingOutput(Protocol):
    """What the network returns in training."""

    logits: list[Tensor]  # the supervised outputs (B, 1, h, w), coarsest first; the last is the final map
    edge_pairs: list[tuple[Tensor, Tensor]]  # outward references: (prediction, label), before the sigmoid
    class_logits: Tensor | None  # (B, classes)


def _full_precision(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear with align_corners=True, as all resizing in the network."""
    if x.shape[-2:] == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode='bilinear', align_corners=True)


# ---- pixel losses: (logit, p, g) -> scalar, p = sigmoid(logit), g the mask in 0..1, all (B, 1, H, W) of one dtype ----


def bce(logit: Tensor, p: Tensor, g: Tensor) -> Tensor:
    """Binary cross-entropy, mean over pixels."""
    return F.binary_cross_entropy_with_logits(logit, g)


def _jaccard_distance(p: Tensor, g: Tensor, p_and_g: Tensor) -> Tensor:
    """Sum of 1 - intersection/union over regions, from the regions' sums of p, g and p g."""
    union = (p + g - p_and_g).clamp_min(1e-6)  # p = g = 0 would give 0/0; its limit for p -> 0 is a distance of 1
    return (1 - p_and_g / union).sum()


def iou(logit: Tensor, p: Tensor, g: Tensor) -> Tensor:
    """Soft intersection over union of each image, 1 - IoU summed (not averaged) over the batch."""
    return _jaccard_distance(*(x.sum((1, 2, 3)) for x in (p, g, p * g)))


def iou_patch(logit: Tensor, p: Tensor, g: Tensor, window: int = 64) -> Tensor:
    """`iou` summed over all non-overlapping windows of all images; the last ones are cut off at the border."""
    def window_sums(x: Tensor) -> Tensor:
        x = F.pad(x, (0, -x.shape[-1] % window, 0, -x.shape[-2] % window))
        return x.unflatten(-1, (-1, window)).unflatten(-3, (-1, window)).sum((-3, -1))  # (B, 1, rows, columns)

    return _jaccard_distance(*(window_sums(x) for x in (p, g, p * g)))


def mae(logit: Tensor, p: Tensor, g: Tensor) -> Tensor:
    """Mean absolute error."""
    return F.l1_loss(p, g)


def mse(logit: Tensor, p: Tensor, g: Tensor) -> Tensor:
    """Mean squared error."""
    return F.mse_loss(p, g)


def reg(logit: Tensor, p: Tensor, g: Tensor) -> Tensor:
    """Pushes p towards 0 or 1: mean of 1 - (p^2 + (p - 1)^2). The mask plays no part."""
    return (2 * p * (1 - p)).mean()


def _gaussian(size: int = 11, sigma: float = 1.5) -> list[float]:
    """Taps of a Gaussian that sum to 1, in float32 as published, so that float64 training figures agree too."""
    taps = torch.exp(-(torch.arange(size) - size // 2).float() ** 2 / (2 * sigma ** 2))
    return (taps / taps.sum()).tolist()


class _Blur(torch.autograd.Function):
    """Separable symmetric filter over the last two dimensions, zero padding.

    Sums of shifted copies rather than a convolution: PyTorch's with a single channel is ten and more times slower on a
    CPU, autocast would lower its precision, and it keeps its input for the backward pass. A symmetric filter with zero
    padding is its own adjoint, so the backward pass needs nothing but the filter.
    """

    taps = _gaussian()

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        centre = len(_Blur.taps) // 2
        for dim in (-1, -2):
            n = x.shape[dim]
            blurred = x * _Blur.taps[centre]
            for shift in range(1, min(centre + 1, n)):
                tap = _Blur.taps[centre + shift]
                blurred.narrow(dim, shift, n - shift).add_(x.narrow(dim, 0, n - shift), alpha=tap)
                blurred.narrow(dim, 0, n - shift).add_(x.narrow(dim, shift, n - shift), alpha=tap)
            x = blurred
        return x

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return _Blur.apply(grad)


def ssim(logit: Tensor, p: Tensor, g: Tensor) -> Tensor:
    """Structural dissimilarity (1 - SSIM) / 2, 11x11 Gaussian of sigma 1.5 (Wang et al., TIP 2004, eq. 13)."""
    c1, c2 = 0.01 ** 2, 0.03 ** 2
    mean_p, mean_g, mean_squares, mean_product = (_Blur.apply(x) for x in (p, g, p * p + g * g, p * g))
    product_of_means = mean_p * mean_g
    squares_of_means = mean_p * mean_p + mean_g * mean_g
    covariance = mean_product - product_of_means
    variances = mean_squares - squares_of_means  # of p and of g: only their sum enters
    similarity = (2 * product_of_means + c1) * (2 * covariance + c2) / ((squares_of_means + c1) * (variances + c2))
    return (1 - similarity.mean()) / 2


def cnt(logit: Tensor, p: Tensor, g: Tensor) -> Tensor:
    """Active contour: length of the contour plus the misfit inside and outside (Chen et al., CVPR 2019)."""
    down, right = p.diff(dim=-2)[..., 1:, :-2], p.diff(dim=-1)[..., :-2, 1:]  # (B, 1, H-2, W-2)
    length = (down ** 2 + right ** 2 + 1e-8).sqrt().mean()
    return 10 * length + (p * (g - 1) ** 2).mean() + ((1 - p) * g ** 2).mean()


def structure(logit: Tensor, p: Tensor, g: Tensor) -> Tensor:
    """Cross-entropy and IoU weighted up to sixfold near the mask's edges (F3Net, Wei et al., AAAI 2020)."""
    mean = F.avg_pool2d(F.avg_pool2d(g, (31, 1), 1, (15, 0)), (1, 31), 1, (0, 15))
    weight = 1 + 5 * (mean - g).abs()
    per_pixel = F.binary_cross_entropy_with_logits(logit, g, reduction='none')
    entropy = (weight * per_pixel).sum((1, 2, 3)) / weight.sum((1, 2, 3))
    intersection, total = (weight * p * g).sum((1, 2, 3)), (weight * (p + g)).sum((1, 2, 3))
    return (entropy + 1 - (intersection + 1) / (total - intersection + 1)).mean()


SUMMED_OVER_BATCH = frozenset({'iou', 'iou_patch'})
PIXEL_LOSSES = {f.__name__: f for f in (bce, iou, iou_patch, mae, mse, reg, ssim, cnt, structure)}


# ---- the terms of the total ----


def pixel_loss(logits: Sequence[Tensor], mask: Tensor, weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Weighted pixel losses, each summed over the outputs.

    `logits`: any number of (B, 1, h, w), resized to the mask's size; `mask`: (B, 1, H, W) in 0..1; `weights`: by the
    names of `PIXEL_LOSSES`. Terms of zero weight are left out and not computed.
    """
    mask = _full_precision(mask)
    resized = [_resize(_full_precision(logit), mask.shape[-2:]) for logit in logits]
    triples = [(logit, logit.sigmoid(), mask.to(logit.dtype)) for logit in resized]
    return {name: weight * sum(PIXEL_LOSSES[name](*triple) for triple in triples)
            for name, weight in weights.items() if weight}


def edge_loss(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Outward reference: cross-entropy of the edge maps, summed over the levels (BiRefNet, arXiv 2401.03407).

    `pairs`: (prediction (B, 1, h, w), label (B, 1, H, W)), both before the sigmoid; the prediction is resized to the
    label. The gradient flows through the label too.
    """
    def level(prediction: Tensor, label: Tensor) -> Tensor:
        prediction, label = _full_precision(prediction), _full_precision(label)
        return F.binary_cross_entropy_with_logits(_resize(prediction, label.shape[-2:]), label.sigmoid())

    return sum(level(*pair) for pair in pairs)


def class_loss(class_logits: Tensor, class_ids: Tensor) -> Tensor:
    """Cross-entropy of (B, classes) logits against (B,) int64 class numbers."""
    return F.cross_entropy(_full_precision(class_logits), class_ids)


def tail_weights(
    weights: Mapping[str, float], factors: Mapping[str, float], epoch: int, epochs: int, tail_epochs: int,
) -> dict[str, float]:
    """Pixel weights in `epoch` (1-based) of `epochs`.

    Each of the last `tail_epochs` epochs (0: none) multiplies the weights by `factors` once more: with 500 epochs and
    40 tail epochs, once in epoch 461 and 40 times in epoch 500. With `tail_epochs` >= `epochs` all epochs are tail.
    """
    assert 1 <= epoch <= epochs, f'epoch {epoch} of {epochs}'
    times = max(0, epoch - max(0, epochs - tail_epochs))
    return {name: weight * factors.get(name, 1.0) ** times for name, weight in weights.items()}


@dataclass(frozen=True)
class Criterion:
    """The weights of one run, applied: `sum(criterion(...).values())` is the loss.

    Raises ValueError for an unknown pixel loss, or if no pixel loss has a weight in some epoch.
    """

    pixel_weights: Mapping[str, float]
    epochs: int
    tail_epochs: int = 0
    tail_factors: Mapping[str, float] = field(default_factory=dict)
    edge_weight: float = 1.0
    class_weight: float = 5.0

    def __post_init__(self) -> None:
        unknown = sorted(set(self.pixel_weights) - set(PIXEL_LOSSES))
        if unknown:
            raise ValueError(f'lambdas_pix_last: unknown {", ".join(unknown)}; known are {", ".join(PIXEL_LOSSES)}')
        for epoch in (1, self.epochs):
            if not any(self.weights(epoch).values()):
                raise ValueError(f'lambdas_pix_last: no pixel loss has a weight in epoch {epoch} of {self.epochs} '
                                 '(the tail sets bce to 0): give another one a weight, or train without the tail')

    def weights(self, epoch: int) -> dict[str, float]:
        """The pixel weights in `epoch` (1-based)."""
        return tail_weights(self.pixel_weights, self.tail_factors, epoch, self.epochs, self.tail_epochs)

    def __call__(self, output: TrainingOutput, mask: Tensor, class_ids: Tensor | None = None, *, epoch: int,
                 parts: int = 1) -> dict[str, Tensor]:
        """Weighted terms by name: the pixel losses, 'edge' with outward reference, 'class' with class scores.

        `mask`: (B, 1, H, W) in 0..1; `class_ids`: (B,) int64, needed if the network gives class scores. `parts`: into
        how many equal batches, over processes and accumulated steps, the batch is divided whose gradients are averaged;
        what is a sum over the batch is multiplied by it, so that the average is that of the joined batch.
        """
        terms = pixel_loss(output.logits, mask, self.weights(epoch))
        terms = {name: term * parts if name in SUMMED_OVER_BATCH else term for name, term in terms.items()}
        if output.edge_pairs:
            terms['edge'] = self.edge_weight * edge_loss(output.edge_pairs)
        if output.class_logits is not None:
            assert class_ids is not None, 'the network gives class scores: class_ids are needed'
            terms['class'] = self.class_weight * class_loss(output.class_logits, class_ids)
        return terms


# ---- adversarial training (MCCL, arXiv 2302.14485) ----


def _verdict_loss(logit: Tensor, real: bool) -> Tensor:
    logit = _full_precision(logit)
    return F.binary_cross_entropy_with_logits(logit, torch.full_like(logit, float(real)))


def generator_loss(discriminator: nn.Module, p: Tensor, image: Tensor) -> Tensor:
    """How well the discriminator sees through `p`, (B, 1, H, W), the final map after the sigmoid; unweighted.

    `image`: (B, 3, H, W), normalised. The gradient reaches `p` alone: the discriminator's parameters are held fixed
    here, and keep the `grad` they have. Give the bare module, not one wrapped for distributed training.
    """
    fixed = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    return _verdict_loss(torch.func.functional_call(discriminator, fixed, (p * image,)), real=True)


def discriminator_loss(discriminator: nn.Module, p: Tensor, gt: Tensor, image: Tensor) -> Tensor:
    """Mean of the cross-entropies on the image cut out by `gt` (real) and by `p` (not), masks (B, 1, H, W) in 0..1,
    unweighted. Nothing flows back into `p`."""
    real = _verdict_loss(discriminator(gt * image), real=True)
    fake = _verdict_loss(discriminator(p.detach() * image), real=False)
    return (real + fake) / 2

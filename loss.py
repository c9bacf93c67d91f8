"""Pixel losses, edge loss (outward reference), class loss, adversarial losses; their weighted sum.

Half-precision inputs are converted to float32, also under autocast. float64 stays float64.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import published

if not TYPE_CHECKING:  # which would take every name for one of this module
    __getattr__ = functools.partial(published.look_up, __name__)


class TrainingOutput(Protocol):
    """What the network returns in training."""

    # The supervised outputs (B, 1, h, w), coarsest first; the last is the final map.
    logits: list[Tensor]
    # (prediction, label) of each outward reference, before the sigmoid.
    edge_pairs: list[tuple[Tensor, Tensor]]
    class_logits: Tensor | None  # (B, classes)


def _full_precision(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resizes bilinearly with align_corners=True, as everywhere in the network."""
    if x.shape[-2:] == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode='bilinear', align_corners=True)


# --- Pixel losses ---------------------------------------------------------------------------------

IMAGE_DIMS = (1, 2, 3)  # of a (B, 1, H, W) map: all but the batch

PixelLossFunction = Callable[[Tensor, Tensor, Tensor], Tensor]


class PixelLoss(NamedTuple):
    """A registered pixel loss: its function, and whether it is a sum over the batch or a mean."""

    function: PixelLossFunction
    summed_over_batch: bool


PIXEL_LOSSES: dict[str, PixelLoss] = {}


def pixel_loss(
    *, summed_over_batch: bool = False,
) -> Callable[[PixelLossFunction], PixelLossFunction]:
    """Registers a pixel loss under the name of the function.

    The function takes (logit, p, g) and returns a scalar. p is sigmoid(logit) and g the mask in
    0..1; all three are (B, 1, H, W) of one dtype. The name must also stand in `PixelLoss` of
    config.py, so that `lambdas_pix_last.<name>` can give the loss a weight.

    Args:
        summed_over_batch: whether the loss is a sum over the images of the batch. A mean over them
            is averaged correctly over ranks and accumulated steps; a sum has to be scaled, see
            `Criterion`.

    Raises:
        ValueError: if a loss of that name is registered already.
    """
    def register(function: PixelLossFunction) -> PixelLossFunction:
        name = function.__name__
        if name in PIXEL_LOSSES:
            raise ValueError(
                f'a pixel loss {name} is registered already; give the function another name')
        PIXEL_LOSSES[name] = PixelLoss(function, summed_over_batch)
        return function

    return register


@pixel_loss()
def bce(logit: Tensor, p: Tensor, g: Tensor) -> Tensor:
    """Binary cross-entropy, mean over pixels."""
    return F.binary_cross_entropy_with_logits(logit, g)


def _jaccard_distance(p: Tensor, g: Tensor, p_and_g: Tensor) -> Tensor:
    """Sum of 1 - intersection/union over regions, from the regions' sums of p, g and p g."""
    # p = g = 0 would give 0/0; its limit for p -> 0 is a distance of 1.
    union = (p + g - p_and_g).clamp_min(1e-6)
    return (1 - p_and_g / union).sum()


@pixel_loss(summed_over_batch=True)
def iou(logit: Tensor, p: Tensor, g: Tensor) -> Tensor:
    """Soft intersection over union of each image, 1 - IoU summed (not averaged) over the batch."""
    p_sum = p.sum(IMAGE_DIMS)
    g_sum = g.sum(IMAGE_DIMS)
    intersection = (p * g).sum(IMAGE_DIMS)
    return _jaccard_distance(p_sum, g_sum, intersection)


def _window_sums(x: Tensor, window: int) -> Tensor:
    """Sums of (B, 1, H, W) over non-overlapping windows, (B, 1, rows, columns).

    The border is padded with zeros.
    """
    height, width = x.shape[-2:]
    pad_right = -width % window
    pad_bottom = -height % window
    padded = F.pad(x, (0, pad_right, 0, pad_bottom))
    columns_split = padded.unflatten(-1, (-1, window))
    windows = columns_split.unflatten(-3, (-1, window))  # (B, 1, rows, window, columns, window)
    return windows.sum((-3, -1))


@pixel_loss(summed_over_batch=True)
def iou_patch(logit: Tensor, p: Tensor, g: Tensor, window: int = 64) -> Tensor:
    """`iou` summed over all non-overlapping windows of all images.

    The last windows are cut off at the border.
    """
    p_sums = _window_sums(p, window)
    g_sums = _window_sums(g, window)
    intersections = _window_sums(p * g, window)
    return _jaccard_distance(p_sums, g_sums, intersections)


@pixel_loss()
def mae(logit: Tensor, p: Tensor, g: Tensor) -> Tensor:
    """Mean absolute error."""
    return F.l1_loss(p, g)


@pixel_loss()
def mse(logit: Tensor, p: Tensor, g: Tensor) -> Tensor:
    """Mean squared error."""
    return F.mse_loss(p, g)


@pixel_loss()
def reg(logit: Tensor, p: Tensor, g: Tensor) -> Tensor:
    """Pushes p towards 0 or 1: mean of 1 - (p^2 + (p - 1)^2). The mask plays no part."""
    return (2 * p * (1 - p)).mean()


def _gaussian(size: int = 11, sigma: float = 1.5) -> list[float]:
    """Taps of a Gaussian that sum to 1.

    They are float32 as published, so that training figures in float64 agree too.
    """
    distances = torch.arange(size) - size // 2
    squares = distances.float() ** 2
    taps = torch.exp(-squares / (2 * sigma ** 2))
    return (taps / taps.sum()).tolist()


class _Blur(torch.autograd.Function):
    """Separable symmetric filter over the last two dimensions, zero padding.

    It adds shifted copies instead of calling a convolution. PyTorch's convolution with a single
    channel is ten and more times slower on a CPU, loses precision under autocast, and keeps its
    input for the backward pass. A symmetric filter with zero padding is its own adjoint, so the
    backward pass needs nothing but the filter.
    """

    taps = _gaussian()

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        """x (..., H, W) -> the same shape."""
        centre = len(_Blur.taps) // 2
        for dim in (-1, -2):
            # Each pair of taps adds the values `shift` before and `shift` after.
            length = x.shape[dim]
            blurred = x * _Blur.taps[centre]
            for shift in range(1, min(centre + 1, length)):
                tap = _Blur.taps[centre + shift]
                kept = length - shift
                blurred.narrow(dim, shift, kept).add_(x.narrow(dim, 0, kept), alpha=tap)
                blurred.narrow(dim, 0, kept).add_(x.narrow(dim, shift, kept), alpha=tap)
            x = blurred
        return x

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        """The filter once more, because it is its own adjoint."""
        return _Blur.apply(grad)


@pixel_loss()
def ssim(logit: Tensor, p: Tensor, g: Tensor) -> Tensor:
    """Structural dissimilarity (1 - SSIM) / 2, with an 11x11 Gaussian of sigma 1.5.

    Wang et al., TIP 2004, eq. 13.
    """
    c1 = 0.01 ** 2
    c2 = 0.03 ** 2
    # Only the sum of the variances of p and g enters, so one blur of the summed squares does for
    # both.
    mean_p = _Blur.apply(p)
    mean_g = _Blur.apply(g)
    mean_squares = _Blur.apply(p * p + g * g)
    mean_product = _Blur.apply(p * g)

    # Moments about the means.
    product_of_means = mean_p * mean_g
    squares_of_means = mean_p * mean_p + mean_g * mean_g
    covariance = mean_product - product_of_means
    variances = mean_squares - squares_of_means

    # Luminance times contrast and structure, as one fraction.
    numerator = (2 * product_of_means + c1) * (2 * covariance + c2)
    denominator = (squares_of_means + c1) * (variances + c2)
    similarity = numerator / denominator
    return (1 - similarity.mean()) / 2


@pixel_loss()
def cnt(logit: Tensor, p: Tensor, g: Tensor) -> Tensor:
    """Active contour: length of the contour plus the misfit inside and outside.

    Chen et al., CVPR 2019.
    """
    down = p.diff(dim=-2)[..., 1:, :-2]  # (B, 1, H-2, W-2)
    right = p.diff(dim=-1)[..., :-2, 1:]
    squared_gradient = down ** 2 + right ** 2
    length = (squared_gradient + 1e-8).sqrt().mean()  # the root of 0 has no finite gradient

    misfit_inside = p * (g - 1) ** 2
    misfit_outside = (1 - p) * g ** 2
    inside = misfit_inside.mean()
    outside = misfit_outside.mean()
    return 10 * length + inside + outside


@pixel_loss()
def structure(logit: Tensor, p: Tensor, g: Tensor) -> Tensor:
    """Cross-entropy and IoU weighted up to sixfold near the mask's edges.

    F3Net, Wei et al., AAAI 2020.
    """
    # The 31x31 mean in two passes, by columns and by rows.
    mean = F.avg_pool2d(g, (31, 1), 1, (15, 0))
    mean = F.avg_pool2d(mean, (1, 31), 1, (0, 15))
    weight = 1 + 5 * (mean - g).abs()

    # Both terms count each pixel by its weight.
    per_pixel = F.binary_cross_entropy_with_logits(logit, g, reduction='none')
    weighted_sum = (weight * per_pixel).sum(IMAGE_DIMS)
    entropy = weighted_sum / weight.sum(IMAGE_DIMS)

    intersection = (weight * p * g).sum(IMAGE_DIMS)
    total = (weight * (p + g)).sum(IMAGE_DIMS)
    weighted_iou = (intersection + 1) / (total - intersection + 1)
    return (entropy + 1 - weighted_iou).mean()


# --- The terms of the total -----------------------------------------------------------------------


def add_losses(losses: Iterable[Tensor]) -> Tensor:
    """Adds scalars, one at least, in their order."""
    first, *others = losses
    return sum(others, start=first)


def pixel_terms(
    logits: Sequence[Tensor], mask: Tensor, weights: Mapping[str, float],
) -> dict[str, Tensor]:
    """Computes the weighted pixel losses, each summed over the outputs.

    Args:
        logits: one or more of (B, 1, h, w), which are resized to the mask's size.
        mask: (B, 1, H, W) in 0..1.
        weights: by the names of `PIXEL_LOSSES`. A loss of zero weight is neither computed nor
            returned.

    Returns:
        A scalar for each name, float32 (float64 where the logits are).
    """
    # Resizing, sigmoid and mask are the same for all losses.
    mask = _full_precision(mask)
    outputs = []
    for logit in logits:
        resized = _resize(_full_precision(logit), mask.shape[-2:])
        p = resized.sigmoid()
        outputs.append((resized, p, mask.to(resized.dtype)))

    terms: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if not weight:
            continue
        function = PIXEL_LOSSES[name].function
        losses = [function(*output) for output in outputs]
        terms[name] = weight * add_losses(losses)
    return terms


def edge_loss(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Computes the loss of the outward reference: cross-entropy of the edge maps.

    Its source is BiRefNet, arXiv 2401.03407. The gradient flows through the label too.

    Args:
        pairs: (prediction (B, 1, h, w), label (B, 1, H, W)) of each level, one at least, both
            before the sigmoid. The prediction is resized to the label.

    Returns:
        A scalar, the sum over the levels.
    """
    losses = []
    for prediction, label in pairs:
        prediction = _full_precision(prediction)
        label = _full_precision(label)
        resized = _resize(prediction, label.shape[-2:])
        losses.append(F.binary_cross_entropy_with_logits(resized, label.sigmoid()))
    return add_losses(losses)


def class_loss(class_logits: Tensor, class_ids: Tensor) -> Tensor:
    """Cross-entropy of (B, classes) logits against (B,) int64 class numbers."""
    return F.cross_entropy(_full_precision(class_logits), class_ids)


def tail_weights(
    weights: Mapping[str, float],
    factors: Mapping[str, float],
    epoch: int,
    epochs: int,
    tail_epochs: int,
) -> dict[str, float]:
    """Computes the pixel weights in `epoch` (1-based) of `epochs`.

    Each of the last `tail_epochs` epochs (0: none) multiplies the weights by `factors` once more:
    with 500 epochs and 40 tail epochs, once in epoch 461 and 40 times in epoch 500. With
    `tail_epochs` >= `epochs` all epochs are tail.
    """
    assert 1 <= epoch <= epochs, f'epoch {epoch} of {epochs}'
    last_full_epoch = max(0, epochs - tail_epochs)
    times = max(0, epoch - last_full_epoch)
    faded = {}
    for name, weight in weights.items():
        faded[name] = weight * factors.get(name, 1.0) ** times
    return faded


@dataclass(frozen=True)
class Criterion:
    """The weighted terms of a run's loss: `sum(criterion(...).values())` is the loss.

    Args:
        pixel_weights: weights of pixel losses by name.
        epochs: how many epochs the run has.
        tail_epochs: how many of the last epochs are the tail, in which weights fade.
        tail_factors: what each tail epoch multiplies a loss's weight by, see `tail_weights`.
        edge_weight: weight of the edge loss.
        class_weight: weight of the class loss.

    Raises:
        ValueError: for an unknown pixel loss, or if no pixel loss has a weight in some epoch.
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
            known = ', '.join(PIXEL_LOSSES)
            raise ValueError(f'lambdas_pix_last: unknown {", ".join(unknown)}; known are {known}')
        # Weights only fade, so it is enough to look at the first and the last epoch.
        for epoch in (1, self.epochs):
            if not any(self.weights(epoch).values()):
                raise ValueError(
                    f'lambdas_pix_last: no pixel loss has a weight in epoch {epoch} of '
                    f'{self.epochs} (the tail sets bce to 0): give another one a weight, or train '
                    'without the tail')

    def weights(self, epoch: int) -> dict[str, float]:
        """The pixel weights in `epoch` (1-based)."""
        return tail_weights(
            self.pixel_weights, self.tail_factors, epoch, self.epochs, self.tail_epochs)

    def __call__(
        self,
        output: TrainingOutput,
        mask: Tensor,
        class_ids: Tensor | None = None,
        *,
        epoch: int,
        num_averaged_batches: int = 1,
    ) -> dict[str, Tensor]:
        """Computes the weighted terms.

        Args:
            output: what the network returns in training.
            mask: (B, 1, H, W) in 0..1.
            class_ids: (B,) int64, needed if the network returns class scores.
            epoch: 1-based.
            num_averaged_batches: how many batches of equal size (ranks times accumulated steps)
                have their gradients averaged. A loss that is a sum over the batch is multiplied by
                it, so that the average equals the gradient of the global batch.

        Returns:
            Scalars by name: the pixel losses, 'edge' with outward reference, 'class' with class
            scores.
        """
        terms = pixel_terms(output.logits, mask, self.weights(epoch))
        for name in terms:
            if PIXEL_LOSSES[name].summed_over_batch:
                terms[name] = terms[name] * num_averaged_batches

        # The other terms are those whose outputs the network has.
        if output.edge_pairs:
            terms['edge'] = self.edge_weight * edge_loss(output.edge_pairs)
        if output.class_logits is not None:
            assert class_ids is not None, 'the network returns class scores: class_ids are needed'
            terms['class'] = self.class_weight * class_loss(output.class_logits, class_ids)
        return terms


# --- Adversarial training (MCCL, arXiv 2302.14485) ------------------------------------------------


def _verdict_loss(logit: Tensor, real: bool) -> Tensor:
    """Cross-entropy of the discriminator's logit against all real, or none real."""
    logit = _full_precision(logit)
    target = torch.full_like(logit, float(real))
    return F.binary_cross_entropy_with_logits(logit, target)


def generator_loss(discriminator: nn.Module, p: Tensor, image: Tensor) -> Tensor:
    """Computes how well the discriminator recognises `p` as predicted, unweighted.

    The gradient reaches `p` alone: the discriminator's parameters are held fixed here and keep the
    `grad` they have.

    Args:
        discriminator: the bare module, not one wrapped for distributed training.
        p: (B, 1, H, W), the final map after the sigmoid.
        image: (B, 3, H, W), normalised.
    """
    fixed = {}
    for name, parameter in discriminator.named_parameters():
        fixed[name] = parameter.detach()
    cut_out = p * image
    logit = torch.func.functional_call(discriminator, fixed, (cut_out,))
    return _verdict_loss(logit, real=True)


def discriminator_loss(discriminator: nn.Module, p: Tensor, gt: Tensor, image: Tensor) -> Tensor:
    """Mean of the cross-entropies on the image cut out by `gt` (real) and by `p` (not), unweighted.

    No gradient flows into `p`.

    Args:
        discriminator: the network, which may be wrapped for distributed training.
        p: (B, 1, H, W) in 0..1, the predicted mask.
        gt: (B, 1, H, W) in 0..1, the true mask.
        image: (B, 3, H, W), normalised.
    """
    real_logit = discriminator(gt * image)
    fake_logit = discriminator(p.detach() * image)
    real = _verdict_loss(real_logit, real=True)
    fake = _verdict_loss(fake_logit, real=False)
    return (real + fake) / 2

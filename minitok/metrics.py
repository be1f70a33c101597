"""What the course measures: image quality, distances between sets of features, code statistics, cost.

Quality of one image comes back as one number an image, so that spreads and pairs can be compared; what only a
whole set has (accuracy, perplexity, Frechet distance) comes back as a float.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from minitok.checks import check_finite, check_logits
from minitok.counting import bytes_held, flops, parameters

__all__ = ["accuracy", "bits_per_code", "bytes_held", "codebook_use", "difference", "entropy_bits", "flops"]
__all__ += ["frechet_distance", "parameters", "perplexity", "psnr", "ssim"]


def psnr(x: Float[Tensor, "b ..."], y: Float[Tensor, "b ..."]) -> Float[Tensor, "b"]:
    """Peak signal-to-noise ratio of each image in decibels: -10 log10 of its mean squared error.

    >>> psnr(torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.1))
    tensor([20.])

    Report the mean over images of the PSNR of each, `psnr(x, y).mean()`, as papers do; the PSNR of the mean
    error is lower. Values are in [0, 1]. Nothing is clamped: identical images give `inf`, and so does the
    mean of a set that holds such a pair.
    """
    _check_images(x, y)
    return -10 * (x.float() - y.float()).square().flatten(1).mean(1).log10()


def ssim(x: Float[Tensor, "b c H W"], y: Float[Tensor, "b c _ _"]) -> Float[Tensor, "b"]:
    """Structural similarity of pairs of images, values in [0, 1]: 1 if identical, about 0 if unrelated.

    The settings of Wang et al. (2004): Gaussian window 11x11 with sigma 1.5, K1 = 0.01, K2 = 0.03; the mean
    is over the channels and over the windows that lie wholly inside the image. Raises `ValueError` for images
    smaller than a window or with values that are not finite.
    """
    _check_images(x, y)
    b, c, h, w = x.shape
    if min(h, w) < 11:
        raise ValueError(f"x is {h}x{w}: SSIM needs images of at least 11x11")
    offset = torch.arange(-5, 6, device=x.device)
    window = torch.softmax(-(offset**2) / (2 * 1.5**2), 0)

    def blur(image: Float[Tensor, "bc 1 H W"]) -> Float[Tensor, "bc 1 _ _"]:
        return F.conv2d(F.conv2d(image, window.view(1, 1, 11, 1)), window.view(1, 1, 1, 11))

    x, y = x.float().reshape(b * c, 1, h, w), y.float().reshape(b * c, 1, h, w)
    mean_x, mean_y = blur(x), blur(y)
    # E x^2 - (E x)^2 loses the digits of a bright, even image: spreads are taken around each image's own mean.
    u, v = x - x.mean((2, 3), keepdim=True), y - y.mean((2, 3), keepdim=True)
    mean_u, mean_v = blur(u), blur(v)
    variances = blur(u * u) - mean_u**2 + blur(v * v) - mean_v**2
    covariance = blur(u * v) - mean_u * mean_v
    luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    return (luminance * (2 * covariance + 0.03**2) / (variances + 0.03**2)).view(b, -1).mean(1)


def frechet_distance(a: Float[Tensor, "n c"], b: Float[Tensor, "m c"]) -> float:
    """Frechet distance of two Gaussian sets of features: |mean a - mean b|^2 + tr(A + B - 2 (A B)^(1/2)).

    >>> frechet_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [5.0]]))
    9.0

    A and B are the unbiased covariances, in float64, and never written out: their roots come from the centred
    features, so that near sets far from zero keep their digits. This is no FID: FID is this distance on the features of
    one Inception network, so name the features (and their layer) beside every value. Small sets give too high
    a value: compare only values from equal numbers of samples.
    """
    sets = {"a": a.detach().cpu().double(), "b": b.detach().cpu().double()}
    for name, features in sets.items():
        if len(features) < 2:
            raise ValueError(f"{name} holds {len(features)} samples: a covariance needs at least 2")
        if not features.isfinite().all():
            raise ValueError(f"{name} holds values that are not finite")
    (mean_a, root_a), (mean_b, root_b) = [(f.mean(0), _root(f - f.mean(0))) for f in sets.values()]
    # The roots of the eigenvalues of A B = R'R S'S are the singular values of R S'.
    overlap = torch.linalg.svdvals(root_a @ root_b.T).sum()
    spread = root_a.square().sum() + root_b.square().sum() - 2 * overlap
    return float((mean_a - mean_b).square().sum() + spread.clamp(min=0))  # a distance: rounding alone is below 0


def accuracy(logits: Float[Tensor, "*b v"], labels: Int[Tensor, "*b"]) -> float:
    """The share of labels that have the highest logit, in [0, 1]; of equal logits the lower index counts.

    >>> accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    0.5
    """
    _in_range("labels", labels, logits.shape[-1])
    check_logits("logits", logits)
    return (logits.argmax(-1) == labels).double().mean().item()


def codebook_use(codes: Int[Tensor, "..."], K: int) -> float:
    """The share of the K codes that occur at least once, in [0, 1].

    >>> codebook_use(torch.tensor([0, 0, 3]), K=4)
    0.5
    """
    return (_histogram(codes, K) > 0).double().mean().item()


def entropy_bits(codes: Int[Tensor, "..."], K: int) -> float:
    """The entropy of the codes' histogram in bits, from 0 to log2 K: what a coder without context pays.

    >>> entropy_bits(torch.tensor([0, 1, 2, 3]), K=8)
    2.0
    """
    shares = _histogram(codes, K)
    return -torch.xlogy(shares, shares).sum().item() / math.log(2)


def perplexity(codes: Int[Tensor, "..."], K: int) -> float:
    """The codebook perplexity: exp of the entropy of the codes' histogram, between 1 and K.

    >>> perplexity(torch.tensor([0, 1, 2, 3]), K=8)
    4.0

    So many equally frequent codes would have the same entropy. It is not the perplexity of a language model.
    """
    return 2 ** entropy_bits(codes, K)


def bits_per_code(logits: Float[Tensor, "*b v"], codes: Int[Tensor, "*b"]) -> float:
    """The mean cost in bits of coding `codes` with the model's predictions: cross-entropy to base 2.

    >>> bits_per_code(torch.zeros(1, 5, 16), torch.zeros(1, 5, dtype=torch.long))
    4.0
    """
    _in_range("codes", codes, logits.shape[-1])
    check_logits("logits", logits)
    surprise = -logits.double().log_softmax(-1).gather(-1, codes.long()[..., None])
    return surprise.mean().item() / math.log(2)


def _root(centred: Float[Tensor, "n c"]) -> Float[Tensor, "r c"]:
    """R with R'R the covariance of centred features."""
    return torch.linalg.qr(centred, mode="r").R / (len(centred) - 1) ** 0.5


def _histogram(codes: Int[Tensor, "..."], K: int) -> Float[Tensor, "K"]:
    _in_range("codes", codes, K)
    return torch.bincount(codes.flatten().long(), minlength=K).double() / codes.numel()


def _in_range(name: str, codes: Int[Tensor, "..."], K: int) -> None:
    if codes.numel() == 0:
        raise ValueError(f"{name} is empty")
    low, high = int(codes.min()), int(codes.max())
    if low < 0 or high >= K:
        raise ValueError(f"{name} run from {low} to {high}, expected 0 to {K - 1}")


def difference(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference of two tensors of one shape, entry by entry: `assert difference(a, b) < 1e-5`.

    >>> difference(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]))
    0.5

    An entry that is NaN on either side counts as infinitely far; equal infinities do not differ. Raises `ValueError`
    for two shapes.
    """
    _same_shape(a, b)
    wide = torch.float64 if not (a.is_complex() or b.is_complex()) else torch.complex128
    apart = (a.detach().to(wide) - b.detach().to(wide)).abs().masked_fill(a == b, 0).nan_to_num(math.inf, math.inf)
    return float(apart.max()) if apart.numel() else 0.0


def _check_images(x: Tensor, y: Tensor) -> None:
    _same_shape(x, y)
    check_finite("x", x)
    check_finite("y", y)


def _same_shape(x: Tensor, y: Tensor) -> None:
    if x.shape != y.shape:
        raise ValueError(f"y has shape {tuple(y.shape)}, expected that of x: {tuple(x.shape)}")

"""Training losses (QUSR, arXiv 2603.09125, equations 8 and 9). Images are (B, 3, H, W) in [-1, 1]."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..images.gaussian import gaussian_window


def uncertainty_loss(x_hq: Tensor, x_gt: Tensor, u_n: Tensor, alpha: float) -> Tensor:
    """Equation 8: L1(x_hq e^-U_n, x_gt e^-U_n) + alpha mean(U_n).

    The minimum over U_n lies at ln(|x_hq - x_gt| / alpha), so alpha is the error below which the
    module should report no uncertainty. The reference normalises by U_n = sigmoid(U), alpha = 2;
    nano by U_n = |U|, which is also what the noise scale (eq. 6) reads.

    Args:
        x_hq: restored image.
        x_gt: target.
        u_n: normalised uncertainty, the same shape, at least 0.
        alpha: weight of the regulariser.
    """
    weight = torch.exp(-u_n)
    return ((x_hq - x_gt) * weight).abs().mean() + alpha * u_n.mean()


def laplace_loss(x_hq: Tensor, x_gt: Tensor, u: Tensor, window: int = 9) -> Tensor:
    """How badly a map U explains the error: e / U + ln U, a Laplace distribution's likelihood.

    e is the absolute error, mean of the colours, averaged over `window` x `window`: the error of a single
    pixel is chance, its neighbourhood's is what can be known. The minimum lies at U = e.

    Args:
        x_hq: restored image; no gradient reaches it.
        x_gt: target.
        u: (B, C, H, W), expected error, above 0, equal channels; see `error_map.ErrorUEM`.
        window: odd; positions without a whole window are left out.
    """
    error = (x_hq.detach().float() - x_gt.float()).abs().mean(1, keepdim=True)
    error = F.avg_pool2d(error, window, stride=1)
    edge = window // 2
    expected = u[:, :1, edge : u.shape[-2] - edge, edge : u.shape[-1] - edge].float()
    return (error / expected + expected.log()).mean()


def normalized_uncertainty(u: Tensor, norm: str) -> Tensor:
    """U_n of equation 8 from the raw map: `abs` is |U|, `sigmoid` is the reference's sigmoid(U)."""
    return torch.sigmoid(u) if norm == "sigmoid" else u.abs()


def l2_loss(x_hq: Tensor, x_gt: Tensor) -> Tensor:
    """Mean squared error, in [-1, 1] units."""
    return F.mse_loss(x_hq.float(), x_gt.float())


def csd_loss(
    z_hq: Tensor,
    noise: Tensor,
    alpha_bar: Tensor,
    predict: Callable[[Tensor], tuple[Tensor, Tensor]],
    guidance: float,
) -> Tensor:
    """Classifier score distillation with a frozen diffusion model, as PiSA-SR and QUSR's reference define it.

    z_t = sqrt(a) z + sqrt(1 - a) n is denoised twice, to x0 with guidance (real) and to x0 with the
    negative prompt (fake). The loss is the mean square of g = (fake - real) / mean |z - real|, and its
    gradient with respect to z is 2 g / N: only the direction between the two prompts remains.

    Args:
        z_hq: (B, C, h, w), restored latent.
        noise: like z_hq, standard normal.
        alpha_bar: (B,), cumulative alpha of each image's timestep.
        predict: z_t -> (eps for the prompt, eps for the negative prompt); called without gradients.
        guidance: classifier-free guidance scale.
    """
    a = alpha_bar.view(-1, 1, 1, 1).float()
    with torch.no_grad():
        z = z_hq.detach().float()
        z_t = a.sqrt() * z + (1 - a).sqrt() * noise
        positive, negative = (eps.float() for eps in predict(z_t))
        guided = negative + guidance * (positive - negative)
        real = (z_t - (1 - a).sqrt() * guided) / a.sqrt()
        fake = (z_t - (1 - a).sqrt() * negative) / a.sqrt()
        weight = (z - real).abs().mean(dim=(1, 2, 3), keepdim=True)
        target = z - (fake - real) / weight
    return F.mse_loss(z_hq.float(), target)


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of (B, C, H, W), each sample times its weight (B,)."""
    return values.mean() if weights is None else (weights * values.mean((1, 2, 3))).mean()


def gradient_loss(x_hq: Tensor, x_gt: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean absolute difference of the horizontal and vertical differences: keeps edges as steep as the target's.

    Args:
        weights: (B,), of each sample; None is 1.
    """
    difference = x_hq - x_gt
    return _mean(difference.diff(dim=-1).abs(), weights) + _mean(difference.diff(dim=-2).abs(), weights)


def charbonnier_loss(x_hq: Tensor, x_gt: Tensor, eps: float = 1e-3, weights: Tensor | None = None) -> Tensor:
    """Smooth L1: mean sqrt(d^2 + eps^2). `weights` (B,) are the samples'; None is 1."""
    return _mean(torch.sqrt((x_hq - x_gt) ** 2 + eps * eps), weights)


def psnr_loss(x_hq: Tensor, x_gt: Tensor) -> Tensor:
    """Mean natural logarithm of each image's mean square error: PSNR itself, but for a factor (Chen et al. 2021).

    Its minimum is the mean of what may be there, where `charbonnier_loss` has about the median.

    Args:
        x_hq, x_gt: (B, C, H, W) in [-1, 1].
    """
    return torch.log((x_hq - x_gt).square().mean((1, 2, 3)) + 1e-4).mean()


def patch_weights(x_lq: Tensor, x_gt: Tensor) -> Tensor:
    """Weights (B,) that let easy patches count as much as hard ones: about one over the error of the input.

    PSNR is the logarithm of an error, so that its mean over pictures rewards every picture's gain by its share;
    a mean error rewards the hardest patches only. 1 at a usual patch's error, at most 3.
    """
    with torch.no_grad():
        error = torch.sqrt((x_lq - x_gt) ** 2 + 1e-6).mean((1, 2, 3))
        return (0.07 / (error + 0.015)).clamp(max=3.0)


def ssim_loss(x_hq: Tensor, x_gt: Tensor) -> Tensor:
    """1 - SSIM on luma: keeps faint texture that a pixel loss would average away.

    Gaussian window 11 x 11, sigma 1.5, valid positions, images in [-1, 1] (Wang et al. 2004). Our own: kornia's
    gives the same, but its step forth and back takes four times as long on a CPU, where nano is trained.
    """
    weights = torch.tensor([0.299, 0.587, 0.114], device=x_hq.device).view(1, 3, 1, 1)
    x = ((x_hq.float() * weights).sum(1, keepdim=True) + 1) / 2
    y = ((x_gt.float() * weights).sum(1, keepdim=True) + 1) / 2
    window = gaussian_window(11, 1.5, device=x.device)
    moments = torch.cat([x, y, x * x, y * y, x * y], dim=1)  # (B, 5, H, W)
    moments = F.conv2d(moments, window.view(1, 1, 1, 11).expand(5, 1, 1, 11), groups=5)
    moments = F.conv2d(moments, window.view(1, 1, 11, 1).expand(5, 1, 11, 1), groups=5)
    mx, my, xx, yy, xy = moments.unbind(1)
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mx * my + c1) / (mx * mx + my * my + c1)
    structure = (2 * (xy - mx * my) + c2) / (xx - mx * mx + yy - my * my + c2)
    return 1 - (luminance * structure).mean()

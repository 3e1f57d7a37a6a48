"""A mixture of Gaussians, whose noisy versions are mixtures again: density, score and denoiser are known at every level.

It is what samplers, guidance and the bound are judged on without training anything.

B batch   K components   D dimensions
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from intermodal.core.errors import ConfigError
from intermodal.diffusion.denoiser import Prediction
from intermodal.diffusion.process import spread
from intermodal.diffusion.schedules import CLEAN, Level, mix


class Mixture:
    """A mixture of Gaussians; called as a denoiser, it is the exact one, ``E[x0 | x_t]``.

    As a denoiser its condition is the class of each sample, whole numbers ``(B,)``, -1 for any.

    Args:
        mean_KD: of the components, float64.
        covariance_KDD: of each, positive definite.
        weight_K: probabilities, which add up to 1; equal by default.
        class_K: the class of each component, whole numbers from 0; each its own by default.

    Raises:
        ConfigError: if shapes do not fit, weights are no probabilities, or a covariance is not positive definite.
    """

    def __init__(
        self,
        mean_KD: Tensor,
        covariance_KDD: Tensor,
        weight_K: Tensor | None = None,
        class_K: Tensor | None = None,
    ) -> None:
        count, dim = mean_KD.shape
        self.mean = mean_KD.double()
        self.weight = torch.full((count,), 1 / count, dtype=torch.float64) if weight_K is None else weight_K.double()
        self.classes = torch.arange(count) if class_K is None else class_K
        if covariance_KDD.shape != (count, dim, dim) or self.weight.shape != (count,) or len(self.classes) != count:
            raise ConfigError(
                f"A mixture of {count} Gaussians needs as many {dim} x {dim} covariances, weights, classes."
            )
        if not bool((self.weight > 0).all()) or abs(float(self.weight.sum()) - 1) > 1e-6:
            raise ConfigError("The weights of a mixture must be above 0 and add up to 1.")
        self.scale, self.basis = torch.linalg.eigh(
            covariance_KDD.double()
        )  # variances (K, D) along directions (K, D, D)
        if not bool((self.scale > 0).all()):
            raise ConfigError("The covariances of a mixture must be positive definite.")

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return ``(count, D)`` exact samples, float64, and their components ``(count,)``."""
        which = torch.multinomial(self.weight, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.mean.shape[1], generator=generator, dtype=torch.float64)
        return self.mean[which] + torch.einsum("bij,bj->bi", self.basis[which], self.scale[which].sqrt() * noise), which

    def log_prob(self, x_BD: Tensor, level: Level = CLEAN, cond: Tensor | None = None) -> Tensor:
        """Return the log density of noisy samples in nats, ``(B,)``, of those of a class where one is given."""
        return self._log_joint(x_BD, level, cond)[0].logsumexp(1)

    def log_class(self, x_BD: Tensor, level: Level, class_B: Tensor) -> Tensor:
        """Return ``log p(class | x_t)`` in nats, ``(B,)``, differentiable: the exact classifier of noisy samples."""
        with_class, _ = self._log_joint(x_BD, level, class_B)
        joint = with_class + self._log_share(class_B)[:, None]
        return joint.logsumexp(1) - self.log_prob(x_BD, level)

    def score(self, x_BD: Tensor, level: Level, cond: Tensor | None = None) -> Tensor:
        """Return the gradient of :meth:`log_prob` by x, ``(B, D)``."""
        joint_BK, pull_BKD = self._log_joint(x_BD, level, cond)
        return -(joint_BK.softmax(1)[:, :, None] * pull_BKD).sum(1)

    def __call__(self, x_BD: Tensor, level: Level, cond: Tensor | None = None, /) -> Prediction:
        """Return the posterior mean of the signal and of the noise, at alpha and sigma above 0 or at the ends."""
        joint_BK, pull_BKD = self._log_joint(x_BD, level, cond)
        share_BK1 = joint_BK.softmax(1)[:, :, None]
        pull_BD = (share_BK1 * pull_BKD).sum(1)
        covariance_KDD = torch.einsum("kij,kj,klj->kil", self.basis, self.scale, self.basis).to(x_BD)
        gain_BD = (share_BK1 * torch.einsum("kij,bkj->bki", covariance_KDD, pull_BKD)).sum(1)
        mean_BD = (share_BK1 * self.mean.to(x_BD)).sum(1)
        return Prediction(
            mix((torch.ones_like(level.alpha), mean_BD), (level.alpha, gain_BD)), mix((level.sigma, pull_BD))
        )

    def _log_joint(self, x_BD: Tensor, level: Level, cond: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return ``log p(x, k)``, ``(B, K)``, and the pull to each component ``C_k^-1 (x - alpha m_k)``, ``(B, K, D)``."""
        alpha, sigma = spread(level.alpha, x_BD), spread(level.sigma, x_BD)
        alpha, sigma = alpha.view(-1, 1, 1), sigma.view(-1, 1, 1)
        basis, scale = self.basis.to(x_BD), self.scale.to(x_BD)
        variance_BKD = alpha**2 * scale + sigma**2
        away_BKD = torch.einsum("kij,bki->bkj", basis, x_BD[:, None] - alpha * self.mean.to(x_BD))
        log_BK = -0.5 * (away_BKD**2 / variance_BKD + variance_BKD.log() + math.log(2 * math.pi)).sum(2)
        log_weight = self.weight.log().to(x_BD).expand(len(x_BD), -1)
        if cond is not None:
            inside = (self.classes[None] == cond.cpu()[:, None]) | (cond.cpu()[:, None] < 0)
            log_weight = log_weight.masked_fill(~inside.to(x_BD.device), -math.inf)
            log_weight = log_weight - self._log_share(cond)[:, None].to(x_BD)
        return log_BK + log_weight, torch.einsum("kij,bkj->bki", basis, away_BKD / variance_BKD)

    def _log_share(self, class_B: Tensor) -> Tensor:
        """Return the log probability of each class; 0 for any."""
        inside_BK = (self.classes[None] == class_B.cpu()[:, None]) | (class_B.cpu()[:, None] < 0)
        return (inside_BK * self.weight).sum(1).log()

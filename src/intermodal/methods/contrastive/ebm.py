"""Energy-based models: a network whose energy is low where the data are (LeCun et al. 2006; Du & Mordatch 2019).

The model is ``p(x) = exp(-E(x)) / Z``. The gradient of its log-likelihood is ``-grad E(data) + grad E(samples of the
model)`` (Hinton 2002, equation 3; LeCun 2006, equation 24): push the energy down at data, up at what the model itself
believes. The samples come from Langevin chains that go on where they ended the last time, out of a replay buffer (persistent
contrastive divergence, Tieleman 2008; Du & Mordatch 2019, section 3.2), a few of them begun anew from noise.

Shapes: B batch, C channels, H height, W width, D dimensions of a point, N entries of the buffer; ``...`` one sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.fields import SEED, Field
from intermodal.core.registry import MethodCard
from intermodal.data.processors import ImageProcessor, Processor
from intermodal.data.transforms import ImageAugment
from intermodal.methods.base import Batch, Losses, Method, check_generation, generator_of, refuse_prompt
from intermodal.nn.energy import ConvEnergyConfig, MLPEnergyConfig, build_energy
from intermodal.nn.langevin import LangevinConfig, independent_jumps, langevin

CARD = MethodCard(
    id="ebm",
    title="Energy-based model: Langevin negatives from a replay buffer, contrastive divergence",
    paper="LeCun et al. 2006; Du & Mordatch 2019",
    cls="EBM",
    capabilities=("generate",),
    recipes=("ebm", "ebm-samples", "ebm-2d"),
    reference="exact: 2-D densities with a known normaliser",
)

IMAGE = Field((), "image", "a picture")
GAP, SIZE = 5.0, 1000.0
"""Beyond these a training is called diverging: nats between samples and data, and the energy of either."""


@dataclass(frozen=True, kw_only=True)
class EBMConfig(Config):
    """What an energy-based model is made of.

    Attributes:
        network: the energy; a convolutional one makes it a model of pictures, an MLP one of points.
        sampler: the chains of training.
        buffer: N, how many chains are kept.
        restart: probability that a chain is begun anew from noise when it is taken up (Du & Mordatch 2019: 5 %).
        from_data: probability that in place of a chain of the buffer, which then waits, a chain is used that begins at a
            sample of the batch mixed with noise: ``(1 - t) x + t noise`` with t uniform in 0..1, or for half of the
            pictures with that share of the pixels replaced. Contrastive divergence in its first form (Hinton 2002)
            begins at the data; what lies around them the chains of the buffer seldom visit.
        transition: pictures alone: a random change that a chain undergoes when it is taken up, with the probability
            ``transition_share``; it moves chains to where Langevin steps do not get (Du et al. 2021, section 3.3: flips,
            scalings, colours and blur). None for none.
        transition_share: how many of the chains.
        data_noise: standard deviation of the noise that is added to the data, so that the energy has no cliff at them.
        jumps: points alone: how often each chain is offered a fresh place, by Metropolis and Hastings' rule, before its K
            steps; it crosses the walls between modes that Langevin steps do not.
        start: standard deviation of the normal noise that chains of points begin from; pictures begin from noise that is
            uniform in the sampler's bounds.
        magnitude: weight of the mean of ``E(data)^2 + E(samples)^2``, which holds the energy's free constant and its size
            (Du & Mordatch 2019, equation 4).
        generate_steps: length of the chains, from noise, of :meth:`EBM.generate`.

    Raises:
        ConfigError: if a number is out of range.
    """

    network: ConvEnergyConfig | MLPEnergyConfig
    sampler: LangevinConfig
    buffer: int = 1024
    restart: float = 0.05
    from_data: float = 0.0
    transition: ImageAugment | None = None
    transition_share: float = 0.1
    data_noise: float = 0.0
    jumps: int = 0
    start: float = 1.0
    magnitude: float = 0.0
    generate_steps: int = 400

    def __post_init__(self) -> None:
        shares = (self.restart, self.from_data, self.transition_share)
        if self.buffer < 1 or not all(0 <= share <= 1 for share in shares):
            raise ConfigError(
                "EBM: buffer must be at least 1; restart, from_data and transition_share are probabilities."
            )
        if self.transition is not None and (
            isinstance(self.network, MLPEnergyConfig) or self.transition.views != 1 or self.sampler.bounds is None
        ):
            raise ConfigError("EBM: a transition changes pictures, one view of each, within the sampler's bounds.")
        if min(self.data_noise, self.magnitude) < 0 or self.start <= 0 or self.generate_steps < 1:
            raise ConfigError("EBM: data_noise and magnitude must not be negative, start and generate_steps above 0.")
        if self.jumps < 0 or (self.jumps and isinstance(self.network, ConvEnergyConfig)):
            raise ConfigError("EBM: jumps are for chains of points, and their number must not be negative.")
        if isinstance(self.network, ConvEnergyConfig) and self.sampler.bounds is None:
            raise ConfigError("EBM: chains of pictures need bounds, the smallest and largest value of a pixel.")


class EBM(Method):
    """An energy network, the chains of its own samples, and the descent between the two; see the module's text.

    The buffer is part of the state: a run that is resumed goes on with the same chains.

    Args:
        config: the architecture and the sampler.
        processors: ``image`` or ``point``.
    """

    id = "ebm"
    needs: Mapping[str, Field] = {"image": IMAGE, "seed": SEED}
    generates: str = "image"

    config: EBMConfig
    buffer: Tensor

    def __init__(self, config: EBMConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        self.field = "image" if isinstance(config.network, ConvEnergyConfig) else "point"
        if self.field == "point":
            about = Field(config.network.shape, "float32", "a point")
            self.needs = {"point": about, "seed": SEED}
            self.generates = "point"
        self.network = build_energy(config.network)
        noise = self.noise(config.buffer, None)
        self.register_buffer("buffer", noise.half() if self.field == "image" else noise)
        self._seen: dict[str, Tensor] = {}  # what health() speaks of; read there, so that a step waits for no device

    def noise(self, count: int, generator: torch.Generator | None) -> Tensor:
        """Return where chains begin, float32 ``(count, ...)`` on the CPU; without a generator from torch's own."""
        shape = (count, *self.config.network.shape)
        if self.field == "point":
            return torch.randn(shape, generator=generator) * self.config.start
        low, high = self.config.sampler.bounds or (-1.0, 1.0)
        return torch.rand(shape, generator=generator) * (high - low) + low

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return the contrastive divergence of prepared ``image`` ``(B, C, H, W)`` or ``point`` ``(B, D)``.

        ``softplus`` of the difference ``mean E(data) - mean E(samples)`` has the direction of the likelihood's gradient,
        times a factor between 0 and 1 that shrinks it while samples are easily told from data: the two energies are not
        driven apart without end. In training the chains of the batch go back into the buffer.

        Raises:
            ConfigError: if the batch is larger than the buffer.
        """
        generator = generator_of(batch)
        data = self._noisy(batch[self.field], generator)
        samples = self._negatives(data, generator)
        energy_data, energy_samples = self.network(torch.cat([data, samples])).chunk(2)
        gap = energy_data.mean() - energy_samples.mean()
        size = energy_data.square().mean() + energy_samples.square().mean()
        total = F.softplus(gap) + self.config.magnitude * size
        parts = {
            "energy_data": energy_data.mean().detach(),
            "energy_samples": energy_samples.mean().detach(),
            "gap": gap.detach(),
        }
        self._seen = parts
        return Losses(total, parts)

    def _negatives(self, data: Tensor, generator: torch.Generator) -> Tensor:
        """Return as many samples of the model as there are data: chains of the buffer, gone on for K steps."""
        count, buffer = len(data), self.buffer
        if count > len(buffer):
            raise ConfigError(f"A batch of {count} needs as many chains, the buffer holds {len(buffer)}: enlarge it.")
        places = torch.randperm(len(buffer), generator=generator)[:count].to(buffer.device)
        kept = buffer[places].float()
        fresh = self.noise(count, generator).to(kept)
        start = torch.where(self._some(self.config.restart, kept, generator), fresh, self._moved(kept, generator))
        near = self._some(self.config.from_data, kept, generator)
        start = torch.where(near, self._near_data(data.to(kept), generator), start)
        samples = self.sample(start, generator)
        if self.training:
            buffer[places] = torch.where(near, kept, samples).to(buffer.dtype)
        return samples

    # --8<-- [end:loss]

    def _near_data(self, data: Tensor, generator: torch.Generator) -> Tensor:
        """Return where chains near data begin: data mixed with noise, and moved by the transition."""
        if not self.config.from_data:
            return data
        noise, ones = self.noise(len(data), generator).to(data), [1] * (data.ndim - 1)
        share = torch.rand(len(data), generator=generator).view(-1, *ones).to(data)
        if data.ndim == 4:  # of half of the pictures a share of the pixels is replaced instead
            replaced = torch.rand(len(data), 1, *data.shape[2:], generator=generator).to(data) < share
            share = torch.where(self._some(0.5, data, generator), replaced.to(data), share)
        return self._moved((1 - share) * data + share * noise, generator)

    def _moved(self, chain: Tensor, generator: torch.Generator) -> Tensor:
        """Return chains of which some have undergone the transition."""
        change = self.config.transition
        if change is None:
            return chain
        low, high = self.config.sampler.bounds or (-1.0, 1.0)
        moved = change.apply((chain - low) / (high - low), change.draw(len(chain), generator)) * (high - low) + low
        return torch.where(self._some(self.config.transition_share, chain, generator), moved, chain)

    @staticmethod
    def _some(share: float, like: Tensor, generator: torch.Generator) -> Tensor:
        """Return which of B are chosen with a probability, shaped to be broadcast to ``like`` ``(B, ...)``."""
        chosen_B = torch.rand(len(like), generator=generator) < share
        return chosen_B.view(-1, *[1] * (like.ndim - 1)).to(like.device)

    def _noisy(self, data: Tensor, generator: torch.Generator) -> Tensor:
        if not self.config.data_noise:
            return data
        drawn = torch.randn(data.shape, generator=generator).to(data)
        noisy = data + self.config.data_noise * drawn
        return noisy if self.config.sampler.bounds is None else noisy.clamp(*self.config.sampler.bounds)

    def sample(
        self,
        start: Tensor,
        generator: torch.Generator,
        steps: int | None = None,
        watch: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """Return where chains from ``start`` ``(B, ...)`` are after ``steps`` (K by default), with jumps before every K."""
        config = self.config
        length = config.sampler.steps if steps is None else steps
        if start.ndim == 4:
            start = start.contiguous(memory_format=torch.channels_last)
        if not config.jumps:
            return langevin(self.network, start, config.sampler, generator, steps=length, watch=watch)
        for first in range(0, length, config.sampler.steps):
            start = independent_jumps(self.network, start, config.start, generator, config.jumps)
            part = min(config.sampler.steps, length - first)
            start = langevin(self.network, start, config.sampler, generator, steps=part)
        return start

    def energy(self, inputs: Sequence[Any] | Tensor) -> np.ndarray:
        """Return the energies ``(len(inputs),)``, float32, of PIL images or points, or of a prepared tensor ``(B, ...)``.

        Raises:
            DataError: if a value is not finite.
        """
        if len(inputs) == 0:
            return np.zeros(0, np.float32)
        values = inputs if isinstance(inputs, Tensor) else self.processors[self.field](inputs)
        if not values.isfinite().all():
            raise DataError(
                f"There is a value that is not finite in the {self.field}s: their energy would mean nothing."
            )
        with torch.no_grad():
            parts = [self.network(part.to(self.device)) for part in values.split(256)]
        return torch.cat(parts).float().cpu().numpy()

    def generate(self, count: int, *, prompt: str | None = None, seed: int = 0, steps: int | None = None) -> list[Any]:
        """Return samples of the model: PIL images, or for a model of points tuples of numbers.

        Args:
            count: how many, at least 1.
            prompt: must be None: the model is unconditional.
            seed: same seed, same samples.
            steps: length of the chains, from noise; ``config.generate_steps`` by default.

        Raises:
            DataError: if ``count`` or ``steps`` is below 1, or a prompt is given.
        """
        check_generation(count, steps)
        refuse_prompt(prompt)
        with self.evaluating():
            generator = torch.Generator().manual_seed(seed)
            length = self.config.generate_steps if steps is None else steps
            found: list[Any] = []
            for first in range(0, count, 64):
                start = self.noise(min(64, count - first), generator).to(self.device)
                found += self.decode(self.sample(start, generator, length))
        return found

    def decode(self, samples: Tensor) -> list[Any]:
        """Return samples ``(B, ...)`` as PIL images or as tuples of numbers."""
        if self.field == "point":
            return [tuple(row) for row in samples.tolist()]
        processor = self.processors["image"]
        assert isinstance(processor, ImageProcessor)
        return list(processor.decode(samples))

    def health(self) -> list[str]:
        """Warn of energies that drift apart or explode: the chains no longer follow the network."""
        warnings = []
        seen = {name: float(value) for name, value in self._seen.items()}
        gap = seen.get("gap", 0.0)
        if gap > GAP:
            warnings.append(
                f"The samples have an energy {gap:.0f} below the data's: chains find holes that training does not close. "
                "Lower optim.lr, or raise model.sampler.steps."
            )
        if gap < -GAP:
            warnings.append(
                f"The samples have an energy {-gap:.0f} above the data's: chains no longer reach where the energy is low. "
                "Raise model.sampler.steps or step_size, lower optim.lr, or set model.network.spectral_norm."
            )
        size = max((abs(seen.get(name, 0.0)) for name in ("energy_data", "energy_samples")), default=0.0)
        if size > SIZE:
            warnings.append(f"The energies have grown to {size:.0f}: raise model.magnitude, or lower optim.lr.")
        return warnings

    def train_flops(self, batch_size: int) -> float:
        """Return the operations of one step: K forward and input-gradient passes, then data and samples once."""
        forward = batch_size * self.config.network.flops()
        return 2.0 * self.config.sampler.steps * forward + 6.0 * forward

"""Noise-contrastive estimation: an unnormalised model learnt by telling data from noise (Gutmann & Hyvarinen 2010).

A sample is of the data or one of k times as many of a known noise; which, is a classification whose logit is
``log p_model(u) - log p_noise(u) - log k``. The best classifier is the true density, normaliser included: the normaliser
is a parameter like any other (Gutmann & Hyvarinen 2010, theorem 1), or, for a word given its context, simply held at one
(Mnih & Teh 2012, section 3). Nothing is ever summed over the space or the vocabulary.

Shapes: B batch, L words of a text, D dimensions of a point or of a word's vector, K noise samples, N places with a word,
V words of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.fields import SEED, Field
from intermodal.core.registry import MethodCard
from intermodal.data.processors import Processor, TextProcessor
from intermodal.data.tokenizers import UNKNOWN
from intermodal.decode.generate import generate as decode
from intermodal.decode.sampling import NEVER, Sampling
from intermodal.decode.stepper import RereadingStepper
from intermodal.losses.nce import nce_loss
from intermodal.methods.base import Batch, Losses, Method, check_generation, generator_of, refuse_prompt
from intermodal.nn.energy import MLPEnergy, MLPEnergyConfig, QuadraticEnergy, QuadraticEnergyConfig, build_energy
from intermodal.nn.language import WordModel, WordModelConfig

CARD = MethodCard(
    id="nce",
    title="Noise-contrastive estimation: of densities and of a language model, with the normaliser learnt",
    paper="Gutmann & Hyvarinen 2010; Mnih & Teh 2012",
    cls="NCE",
    capabilities=("generate",),
    recipes=("nce", "nce-density"),
    reference="exact: densities with a known normaliser; the softmax language model in the limit",
)

NOT_NORMALISED = 2.0
"""Nats that a word's log normaliser may be from 0 before health() speaks of it."""
PROPOSALS = 256
"""Noise samples among which one sample of a learnt density is chosen."""


@dataclass(frozen=True, kw_only=True)
class NCEConfig(Config):
    """What is learnt, and against which noise.

    Attributes:
        network: a word model makes it a language model; the others are energies of points.
        noise_samples: k. Points: for each point its own. Words: drawn for each text and shared by its places, which
            leaves the loss's expectation as it is and turns k dot products a place into one matrix product.
        objective: ``nce``; for words also ``softmax``, the likelihood itself, which NCE tends to as k grows.
        noise_mean, noise_std: of the normal noise of points, one number a dimension.

    Raises:
        ConfigError: if a number is out of range or does not fit the network.
    """

    network: WordModelConfig | MLPEnergyConfig | QuadraticEnergyConfig
    noise_samples: int = 25
    objective: Literal["nce", "softmax"] = "nce"
    noise_mean: tuple[float, ...] = ()
    noise_std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.noise_samples < 1:
            raise ConfigError(f"NCE: noise_samples must be at least 1, found {self.noise_samples}.")
        if isinstance(self.network, WordModelConfig):
            return
        if self.objective != "nce":
            raise ConfigError("NCE: the softmax objective is for words; points have no finite sum to normalise by.")
        dim = self.network.dim
        if len(self.noise_mean) != dim or len(self.noise_std) != dim or not all(s > 0 for s in self.noise_std):
            raise ConfigError(f"NCE: noise_mean and noise_std (above 0) need {dim} numbers each.")


class NCE(Method):
    """A density of points or a language model; see the module's text.

    Args:
        config: the network and the noise.
        processors: ``point`` or ``text``.
    """

    id = "nce"
    needs: Mapping[str, Field] = {"text": Field((), "str", "a text in its natural order"), "seed": SEED}
    generates: str = "text"

    config: NCEConfig
    log_noise: Tensor

    def __init__(self, config: NCEConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        self.network: WordModel | MLPEnergy | QuadraticEnergy
        if isinstance(config.network, WordModelConfig):
            self.network = WordModel(config.network)
            vocab = config.network.vocab_size
            self.register_buffer("log_noise", torch.full((vocab,), -math.log(vocab)))
        else:
            energy = build_energy(config.network)
            assert isinstance(energy, (MLPEnergy, QuadraticEnergy))
            self.network = energy
            self.needs = {"point": Field((config.network.dim,), "float32", "a point"), "seed": SEED}
            self.generates = "point"
            self.log_normaliser = nn.Parameter(torch.zeros(()))
        self._seen: dict[str, Tensor] = {}  # what health() speaks of; read there, so that a step waits for no device

    def set_noise(self, count_V: Tensor) -> None:
        """Make the words' frequencies the noise and the model's first guess.

        The biases become the noise's log probabilities, so that the untrained model is the unigram model and normalised:
        the reason why its normaliser may be held at one. A word never counted is given half a count.

        Raises:
            DataError: if there is no count above zero.
            ConfigError: if the model is not one of words.
        """
        if not isinstance(self.network, WordModel):
            raise ConfigError("Only a model of words takes the words' frequencies as its noise.")
        if not (count_V > 0).any():
            raise DataError("There is no word to count: the noise of a language model is how often each word occurs.")
        smooth = count_V.double().clamp(min=0.5)
        smooth[self.network.config.pad_id] = 1e-12  # never a word to predict
        self.log_noise.copy_((smooth / smooth.sum()).log())
        with torch.no_grad():
            self.network.bias.copy_(self.log_noise)

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return the NCE loss of prepared ``text`` ``(B, L)`` or ``point`` ``(B, D)`` (Mnih & Teh 2012, equation 8).

        The model's log density is ``-E(x) - log_normaliser`` for points, with the normaliser learnt, and for words the
        score itself, with the normaliser held at one.

        Raises:
            DataError: if no text of the batch holds a word.
        """
        generator = generator_of(batch)
        if "point" in batch:
            return self._loss_of_points(batch["point"], generator)
        return self._loss_of_words(batch["text"], generator)

    def _loss_of_points(self, point_BD: Tensor, generator: torch.Generator) -> Losses:
        noise_ND = self.draw_noise(len(point_BD) * self.config.noise_samples, generator).to(point_BD)
        log_density = self.log_density(torch.cat([point_BD, noise_ND]))
        data_B, noise_N = log_density.split([len(point_BD), len(noise_ND)])
        total = nce_loss(data_B, noise_N, self.noise_density(point_BD), self.noise_density(noise_ND))
        return self._told(total, {"log_normaliser": self.log_normaliser.detach()})

    def _loss_of_words(self, tokens_BL: Tensor, generator: torch.Generator) -> Losses:
        assert isinstance(self.network, WordModel)
        state_BLD, target_BL = self.network(tokens_BL[:, :-1]), tokens_BL[:, 1:]
        real_BL = target_BL != self.network.config.pad_id
        state_ND, target_N = state_BLD[real_BL], target_BL[real_BL]
        if not len(target_N):
            raise DataError("No text of the batch holds a word: there is nothing to predict.")
        if self.config.objective == "softmax":
            return self._told(F.cross_entropy(self.network.logits(state_ND).float(), target_N), {})
        word_BK = self.draw_words(len(tokens_BL), generator).to(tokens_BL.device)
        noise_NK = self.network.scores_among(state_BLD, word_BK)[real_BL]
        noise_density_NK = self.log_noise[word_BK].unsqueeze(1).expand(-1, real_BL.shape[1], -1)[real_BL]
        data_N = self.network.scores_of(state_ND, target_N)
        total = nce_loss(data_N, noise_NK, self.log_noise[target_N], noise_density_NK)
        # The mean of exp(score) / p_noise over the noise estimates the normaliser that is held at one.
        guess = (noise_NK.detach().float() - noise_density_NK).logsumexp(1).mean() - math.log(noise_NK.shape[1])
        return self._told(total, {"log_normaliser": guess})

    # --8<-- [end:loss]

    def _told(self, total: Tensor, parts: dict[str, Tensor]) -> Losses:
        self._seen = parts
        return Losses(total, parts)

    def log_density(self, point_BD: Tensor) -> Tensor:
        """Return the model's log density ``(B,)`` of points, with the learnt normaliser."""
        return -self.network(point_BD) - self.log_normaliser

    def noise_density(self, point_BD: Tensor) -> Tensor:
        """Return the noise's log density ``(B,)`` of points."""
        mean, std = (torch.tensor(v).to(point_BD) for v in (self.config.noise_mean, self.config.noise_std))
        return torch.distributions.Normal(mean, std, validate_args=False).log_prob(point_BD).sum(-1)

    def draw_noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Return points of the noise, float32 ``(count, D)`` on the CPU."""
        mean, std = torch.tensor(self.config.noise_mean), torch.tensor(self.config.noise_std)
        return mean + std * torch.randn(count, len(mean), generator=generator)

    def draw_words(self, texts: int, generator: torch.Generator) -> Tensor:
        """Return words of the noise, int64 ``(texts, k)`` on the CPU, by inverting the cumulative distribution."""
        cumulative_V = self.log_noise.detach().cpu().double().exp().cumsum(0)
        uniform = torch.rand(texts, self.config.noise_samples, generator=generator, dtype=torch.float64)
        found = torch.searchsorted(cumulative_V, uniform * cumulative_V[-1], right=True)
        return found.clamp_(max=len(cumulative_V) - 1)

    def log_probabilities(self, tokens_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what a language model gives the words of prepared texts ``(B, L)``, normalised over the vocabulary.

        Returns:
            log probabilities of the N words (their first is predicted from nothing but the start), log normalisers of
            the N places, and whether the N words are the most probable ones.
        """
        if not isinstance(self.network, WordModel):
            raise ConfigError("Only a model of words gives words probabilities.")
        target_BL = tokens_BL[:, 1:]
        real_BL = target_BL != self.network.config.pad_id
        logits_NV = self.network.logits(self.network(tokens_BL[:, :-1])[real_BL]).float()
        target_N, log_normaliser_N = target_BL[real_BL], logits_NV.logsumexp(1)
        chosen = logits_NV.gather(1, target_N.unsqueeze(1)).squeeze(1) - log_normaliser_N
        return chosen, log_normaliser_N, logits_NV.argmax(1) == target_N

    @torch.no_grad()
    def generate(self, count: int, *, prompt: str | None = None, seed: int = 0, steps: int | None = None) -> list[Any]:
        """Return texts that go on from a prompt, or samples of a density as tuples of numbers.

        Args:
            count: how many, at least 1.
            prompt: the words to go on from, which are part of the text returned; None for none. Points take none.
            seed: same seed, same samples.
            steps: at most this many further words (30 by default); points need none.

        Raises:
            DataError: if ``count`` or ``steps`` is below 1, or a prompt is given to a model of points.
        """
        check_generation(count, steps)
        generator = torch.Generator().manual_seed(seed)
        if not isinstance(self.network, WordModel):
            refuse_prompt(prompt, "it generates points")
            return list(self._resample(count, generator))
        return self._write(self.network, count, prompt or "", generator, 30 if steps is None else steps)

    def _resample(self, count: int, generator: torch.Generator) -> list[tuple[float, ...]]:
        """Return noise points, each chosen among many by ``p_model / p_noise`` (sampling, importance, resampling)."""
        found: list[tuple[float, ...]] = []
        for first in range(0, count, 256):
            size = min(256, count - first)
            point_ND = self.draw_noise(size * PROPOSALS, generator).to(self.device)
            weight_N = (self.log_density(point_ND) - self.noise_density(point_ND)).cpu()
            chosen_B = torch.multinomial(weight_N.view(size, PROPOSALS).softmax(1), 1, generator=generator)
            rows = point_ND.view(size, PROPOSALS, -1)[torch.arange(size), chosen_B.squeeze(1)]
            found += [tuple(row) for row in rows.tolist()]
        return found

    def _write(self, network: WordModel, count: int, prompt: str, generator: torch.Generator, most: int) -> list[str]:
        processor = self.processors["text"]
        assert isinstance(processor, TextProcessor)
        first = processor.tokenizer.encode(prompt.lower() if processor.lower else prompt).ids[:-1]  # without the end
        prompt_BP = torch.tensor([first], device=self.device).repeat(count, 1)
        unknown = processor.tokenizer.token_to_id(UNKNOWN)
        never = [network.config.pad_id, *([] if unknown is None else [unknown])]

        def next_logits(tokens_BL: Tensor) -> Tensor:
            logits_BV = network.logits(network(tokens_BL[:, -network.config.context :])[:, -1]).float()
            logits_BV[:, never] = NEVER
            return logits_BV

        stepper, sampling = RereadingStepper(next_logits), Sampling()
        made_BN = decode(stepper, prompt_BP, most, sampling=sampling, generator=generator, end=processor.eos_id)
        return processor.decode(torch.cat([prompt_BP, made_BN], 1))

    def health(self) -> list[str]:
        """Warn of a language model that is far from normalised."""
        guess = float(self._seen.get("log_normaliser", torch.zeros(())))
        if isinstance(self.network, WordModel) and abs(guess) > NOT_NORMALISED:
            return [
                f"The words' scores sum to e^{guess:.1f} instead of one: raise model.noise_samples or lower optim.lr. "
                "Probabilities are normalised when the model is used, so this costs accuracy, not correctness."
            ]
        return []

    def train_flops(self, batch_size: int) -> float:
        """Return 0: the work of a step depends on how many words its texts hold."""
        del batch_size
        return 0.0

"""GAN-CLS: a generator draws pictures of texts, a discriminator judges whether they are real and of their text (Reed 2016).

The discriminator is shown three kinds of pairs: real pictures with their texts, drawn pictures with the texts that they were
drawn for, and real pictures with wrong texts. Without the third kind it could tell the first two apart by the picture alone,
and the generator would learn to draw well and not what was asked (Reed et al. 2016, section 4.2). The rest is what has been
found since to keep such a game going: a penalty on the discriminator's slope at real pictures (R1), augmentation that a
gradient passes through, and a moving average of the weights.

A step has two descents: of the discriminator, with the text encoder if it learns along, then of the generator.

B pictures   C, H, W channels, height and width of a picture   L tokens of a text, E width of its vector   Z numbers of noise
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from intermodal.core.config import Config
from intermodal.core.drawing import Drawing
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.fields import SEED, Field
from intermodal.core.registry import MethodCard
from intermodal.data.processors import Processor
from intermodal.losses import adversarial
from intermodal.methods.base import Batch, Losses, Phase, check_generation, generator_of
from intermodal.methods.image_generation.generator import PictureGenerator
from intermodal.methods.image_generation.text import TEXT, TextEncoder, TextEncoderConfig, check_seeds, checked_prompts
from intermodal.methods.image_tokenizers.tokenizer import IMAGE, evaluating
from intermodal.nn.diffaugment import DiffAugment
from intermodal.nn.text_gan import TextDiscriminator, TextDiscriminatorConfig, TextGenerator, TextGeneratorConfig

CARD = MethodCard(
    id="t2i-gan",
    title="GAN-CLS: text to image by a generator and a discriminator that judges realism and match",
    paper="Reed et al. 2016; Miyato & Koyama 2018; Mescheder et al. 2018; Zhao et al. 2020",
    cls="TextGAN",
    capabilities=("generate", "interpolate"),
    recipes=("t2i-gan",),
    reference="exact",
)
EARLY = 0.1
"""Before this share of the training nothing is said about health: every game begins one-sided."""
SURE, FEW, ALIKE, DEAF, KEPT = 0.97, 0.3, 0.05, 0.53, 0.95
"""What :meth:`TextGAN.health` warns at, and how much of a figure's average stays from step to step."""


@dataclass(frozen=True, kw_only=True)
class TextGANConfig(Config):
    """What a text-conditional GAN is made of.

    Attributes:
        text: the encoder of texts; one that is not frozen learns with the discriminator, which is shown true pairs.
        generator: its sizes.
        discriminator: its sizes, for pictures of the same size.
        objective: ``logistic``, whose generator's loss does not saturate (Goodfellow et al. 2014), or ``hinge``.
        mismatch: weight of real pictures with wrong texts among what is not to be believed, the rest being drawn pictures;
            0.5 is the paper's (algorithm 1, line 9), 0 for none.
        wrong: K, how many wrong texts a real picture is judged with; each costs one product of two vectors.
        r1: gamma of the penalty ``gamma / 2 |grad_x D|^2`` at real pictures (Mescheder et al. 2018, equation 9); 0 for none.
        r1_every: steps between penalties, each of which then counts so many times (Karras et al. 2020, appendix B).
        augment: how pictures are changed before the discriminator sees them; None for not at all.
        drop: the share of the training texts that are not told, so that the empty text means any picture.

    Raises:
        ConfigError: if a number is out of range or the parts do not fit each other.
    """

    text: TextEncoderConfig
    generator: TextGeneratorConfig = TextGeneratorConfig()
    discriminator: TextDiscriminatorConfig = TextDiscriminatorConfig()
    objective: Literal["logistic", "hinge"] = "logistic"
    mismatch: float = 0.5
    wrong: int = 1
    r1: float = 0.1
    r1_every: int = 8
    augment: DiffAugment | None = DiffAugment()
    drop: float = 0.1

    def __post_init__(self) -> None:
        if self.objective not in ("logistic", "hinge"):
            raise ConfigError(f"t2i-gan: objective must be logistic or hinge, found {self.objective!r}.")
        if not 0 <= self.mismatch < 1 or not 0 <= self.drop < 1 or self.r1 < 0 or min(self.r1_every, self.wrong) < 1:
            raise ConfigError(
                "t2i-gan: mismatch and drop are shares from 0 to below 1, r1 is at least 0, r1_every and wrong at least 1."
            )
        if self.generator.image_size != self.discriminator.image_size:
            raise ConfigError(
                f"t2i-gan: the generator draws {self.generator.image_size} pixels a side and the discriminator judges "
                f"{self.discriminator.image_size}."
            )


class TextGAN(PictureGenerator):
    """A generator, the discriminator that it is trained against, and a text encoder; see the module's text.

    Args:
        config: networks and losses.
        processors: ``image``, with values in -1..1, and ``text``.

    Raises:
        ConfigError: if the processor gives pictures of another size than the networks'.
    """

    id = "t2i-gan"
    needs: Mapping[str, Field] = {"image": IMAGE, "text": TEXT, "seed": SEED}
    takes_prompt = True
    config: TextGANConfig

    def __init__(self, config: TextGANConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        self.text: TextEncoder = TextEncoder(config.text)
        self.generator = TextGenerator(config.generator, self.text.width)
        self.discriminator = TextDiscriminator(config.discriminator, self.text.width)
        if self.picture.size != (config.generator.image_size,) * 2:
            raise ConfigError(
                f"t2i-gan: the networks are for {config.generator.image_size} pixels a side, the pictures have "
                f"{self.picture.size[0]} x {self.picture.size[1]}."
            )
        self.step, self.progress = 0, 1.0
        self._seen: dict[str, Tensor] = {}  # what health() speaks of; read there, so that a step waits for no device

    def phases(self) -> tuple[Phase, ...]:
        """Return the two descents of a step: the discriminator's with the text encoder's, then the generator's."""
        return Phase(trains=("discriminator.", "text.")), Phase("generator_loss", trains=("generator.",))

    def begin_step(self, step: int, steps: int) -> None:
        """Take note of the step: the penalty is due every few of them."""
        self.step, self.progress = step, step / max(steps, 1)

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return the discriminator's loss on real pictures, on drawn ones, and on real ones with wrong texts.

        ``f(right) + (1 - m) f(drawn) + m f(wrong)`` and, every few steps, the penalty R1 (where gradients are computed).
        Where another's text is not wrong after all, the drawn picture counts once more instead.
        """
        config, generator = self.config, generator_of(batch)
        tokens_BL = self.dropped(batch["text"], self.config.drop, generator)
        other_BK = derangements(len(tokens_BL), config.wrong, generator).to(tokens_BL.device)
        text_BE = self.text(tokens_BL).pooled
        with torch.no_grad():
            drawn_BCHW = self.generator(self.noise(len(tokens_BL), generator), text_BE)

        penalised = config.r1 > 0 and self.step % config.r1_every == 0 and torch.is_grad_enabled()
        image_BCHW = batch["image"].detach().requires_grad_(penalised)
        phi_BF = self.discriminator.phi(self.changed(image_BCHW, generator))
        right_B = self.discriminator.score(phi_BF, text_BE)
        drawn_B = self.discriminator(self.changed(drawn_BCHW, generator), text_BE)
        wrong_BK = self.discriminator.score(phi_BF[:, None], text_BE[other_BK])
        is_wrong_BK = self.differ(tokens_BL[:, None], tokens_BL[other_BK])

        f = adversarial.logistic_discriminator if config.objective == "logistic" else adversarial.hinge_discriminator
        total = (1 - config.mismatch) * f(right_B, drawn_B)
        if config.mismatch:
            total = total + config.mismatch * f(right_B, torch.where(is_wrong_BK, wrong_BK, drawn_B[:, None]))
        parts = self._figures(right_B, drawn_B, wrong_BK, is_wrong_BK) | {"discriminator": total.detach()}
        if penalised:
            penalty = adversarial.r1_penalty(right_B, image_BCHW)
            total = total + config.r1 / 2 * config.r1_every * penalty
        smooth = {name: value.lerp(self._seen.get(name, value), KEPT) for name, value in parts.items()}
        self._seen |= smooth | {"real": image_BCHW.detach(), "tokens": tokens_BL}
        return Losses(total, parts)

    def generator_loss(self, batch: Batch) -> Losses:
        """Return the generator's loss: drawn pictures are to be taken for real ones of their texts."""
        generator = generator_of(batch)
        generator.manual_seed(generator.initial_seed() ^ 1)  # other noise than the discriminator has just been shown
        with torch.no_grad():
            text_BE = self.text(self.dropped(batch["text"], self.config.drop, generator)).pooled
        drawn_BCHW = self.generator(self.noise(len(text_BE), generator), text_BE)
        drawn_B = self.discriminator(self.changed(drawn_BCHW, generator), text_BE)
        f = adversarial.logistic_generator if self.config.objective == "logistic" else adversarial.hinge_generator
        total = f(drawn_B)
        self._seen["drawn"] = drawn_BCHW.detach()
        return Losses(total, {"generator": total.detach()})

    # --8<-- [end:loss]

    def differ(self, tokens_BL: Tensor, other_BL: Tensor) -> Tensor:
        """Return where the second text is wrong for a picture of the first, bool: one that is equal or empty is not."""
        return (other_BL != tokens_BL).any(-1) & (other_BL != self.nothing()).any(-1)

    def changed(self, image_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        """Return pictures as the discriminator sees them."""
        augment = self.config.augment
        return image_BCHW if augment is None else augment.apply(image_BCHW, augment.draw(len(image_BCHW), generator))

    def noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Return noise ``(count, Z)`` on the model's device."""
        return torch.randn(count, self.config.generator.noise, generator=generator).to(self.device)

    def generate(
        self, count: int, *, prompt: str | None = None, seed: int = 0, steps: int | None = None
    ) -> list[Image.Image]:
        """Return pictures of one prompt, as PIL images.

        Args:
            count: how many, at least 1.
            prompt: what they are to show; None for nothing in particular.
            seed: of the first; the next has the next.
            steps: has no meaning here: each picture is one pass of the generator.

        Raises:
            DataError: if ``count`` or ``steps`` is below 1, a prompt is too long, or a seed is negative.
        """
        check_generation(count, steps)
        return self.drawn([prompt] * count, [seed + i for i in range(count)])

    @torch.no_grad()
    def drawn(self, prompts: Sequence[str | None], seeds: Sequence[int]) -> list[Image.Image]:
        """Return one picture for each prompt and seed, as PIL images; none depends on those beside it, but for rounding.

        Raises:
            DataError: if a prompt is too long, or a seed is negative.
        """
        texts, found = checked_prompts(prompts, takes=True), list[Image.Image]()
        check_seeds(seeds, texts)
        noise_NZ = self._noise_of(seeds)
        with evaluating(self):
            for first in range(0, len(texts), self.chunk):
                part = slice(first, first + self.chunk)
                text_BE = self.text(self.tokens_of(texts[part])).pooled
                found += self.picture.decode(self.generator(noise_NZ[part], text_BE))
        return found

    # --8<-- [start:interpolate]
    @torch.no_grad()
    def interpolate(
        self, first: Any, second: Any, count: int, *, seed: int = 0, drawing: Drawing | None = None
    ) -> list[Image.Image]:
        """Return pictures between two texts, as PIL images: the same noise, and the texts' vectors mixed along a line.

        Args:
            first: a text.
            second: another.
            count: how many, at least 2, the pictures of the two included.
            seed: of the noise.
            drawing: has no meaning here: each picture is one pass of the generator.

        Raises:
            DataError: if the ends are no texts, or ``count`` is below 2.
        """
        del drawing
        if count < 2:
            raise DataError(f"From one to another there are at least 2 pictures, found {count}.")
        if not isinstance(first, str) or not isinstance(second, str):
            raise DataError("A GAN goes from a text to a text: it has no way back from a picture to noise.")
        check_seeds([seed], [""])
        noise_1Z, found = self._noise_of([seed]), list[Image.Image]()
        with evaluating(self):
            text_2E = self.text(self.tokens_of(checked_prompts([first, second], takes=True))).pooled
            text_NE = torch.stack([text_2E[0].lerp(text_2E[1], i / (count - 1)) for i in range(count)])
            for text_BE in text_NE.split(self.chunk):
                found += self.picture.decode(self.generator(noise_1Z.expand(len(text_BE), -1), text_BE))
        return found

    # --8<-- [end:interpolate]

    def _noise_of(self, seeds: Sequence[int]) -> Tensor:
        return torch.cat([self.noise(1, torch.Generator().manual_seed(seed)) for seed in seeds])

    @torch.no_grad()
    def _figures(self, right_B: Tensor, drawn_B: Tensor, wrong_BK: Tensor, is_wrong_BK: Tensor) -> dict[str, Tensor]:
        """Return how often the discriminator is right: about real pictures, drawn ones, and whose text is whose."""
        heard_BK = ((right_B[:, None] > wrong_BK).float() - 0.5) * is_wrong_BK
        return {
            "real_right": (right_B > 0).float().mean(),
            "drawn_right": (drawn_B < 0).float().mean(),
            "text_right": 0.5 + heard_BK.sum() / is_wrong_BK.sum().clamp(min=1),
        }

    def health(self) -> list[str]:
        """Warn of a discriminator that is never wrong, a generator that draws one picture, and a text that is not heard.

        From averages over some twenty steps: the share of right answers about real and drawn pictures, and how often a
        picture's own text has the higher score. From the last batch: the mean distance of two drawn pictures, and of two of
        one text, beside that of two real ones.
        """
        seen = self._seen
        if self.progress < EARLY or not {"tokens", "drawn"} <= set(seen):
            return []
        warnings: list[str] = []
        right = min(float(seen["real_right"]), float(seen["drawn_right"]))
        if right >= SURE or float(seen["discriminator"]) < 1 - SURE:
            warnings.append(
                f"The discriminator is hardly ever wrong (right about {right:.0%} of the pictures, loss "
                f"{float(seen['discriminator']):.3f}): the generator learns little from it. Raise model.r1, augment "
                "inside the game (model.augment), or lower model.discriminator.channels."
            )
        real, drawn = _apart(seen["real"]), _apart(seen["drawn"])
        if drawn < FEW * real:
            warnings.append(
                f"The generator has collapsed: two of its pictures are {drawn / real:.2f} times as far apart as two real "
                "ones. Go back to an earlier checkpoint, and raise model.r1 or lower optim.lr."
            )
        elif (same := self._spread_of_one_text(seen["tokens"][:8])) < ALIKE * real:
            warnings.append(
                f"The noise is not heard: pictures of one text are {same / real:.3f} times as far apart as two real ones. "
                "Tell fewer texts (model.drop), or train on data with several pictures of a text."
            )
        if self.config.mismatch and float(seen["text_right"]) < DEAF and self.progress > 3 * EARLY:
            warnings.append(
                f"The text is not heard: a picture's own text has the higher score in {float(seen['text_right']):.0%} of "
                "the cases (half is chance). Raise model.mismatch, or look whether the texts describe their pictures."
            )
        return warnings

    @torch.no_grad()
    def _spread_of_one_text(self, tokens_BL: Tensor, seeds: int = 4) -> float:
        """Return the mean distance between pictures of one text with several noises."""
        with evaluating(self):
            text_BE = self.text(tokens_BL).pooled.repeat_interleave(seeds, 0)
            drawn = self.generator(self._noise_of(range(len(text_BE))), text_BE)
        return sum(_apart(pictures) for pictures in drawn.split(seeds)) / max(len(tokens_BL), 1)

    def train_flops(self, batch_size: int) -> float:
        """Return the operations of one step, but for the text encoder and the penalty.

        Of each sample the generator has four passes (to be judged, and forward and backward to learn), the discriminator
        nine (forward and backward on a real picture, on a drawn one, and for the generator).
        """
        config, width, total = self.config, self.text.width, 0.0
        with torch.device("meta"):
            image_1CHW = torch.empty(1, 3, *self.picture.size)
            generator = (4.0, TextGenerator(config.generator, width), torch.empty(1, config.generator.noise))
            discriminator = (9.0, TextDiscriminator(config.discriminator, width), image_1CHW)
            for passes, network, given in (generator, discriminator):
                with FlopCounterMode(display=False) as counter:
                    network(given, torch.empty(1, width))
                total += passes * counter.get_total_flops()
        return batch_size * total


def derangements(count: int, most: int, generator: torch.Generator) -> Tensor:
    """Return others for each of ``count`` samples, int64 ``(count, K)`` with K the smaller of ``most`` and ``count - 1``.

    All samples stand in one random ring, and each gets the K next to it. So each column is a permutation without a fixed
    point, and no text is wrong more often than another. Of one sample there is no other: it gets itself, K being 1.
    """
    ring = torch.randperm(count, generator=generator)
    away = range(1, max(1, min(most, count - 1)) + 1)
    others = torch.stack([ring.roll(-k) for k in away], 1)
    return torch.empty_like(others).index_copy_(0, ring, others)


def _apart(image_BCHW: Tensor) -> float:
    """Return the mean distance of two pictures; NaN, which nothing is below, of fewer than two."""
    return float(torch.pdist(image_BCHW.float().flatten(1)).mean())

"""Classifier guidance: a diffusion model that knows no classes, and a classifier of noisy pictures that leads it to one.

Dhariwal & Nichol 2021. By Bayes' rule ``grad log p(x_t | y) = grad log p(x_t) + grad log p(y | x_t)``. The first term is
what a denoiser says of the noise, the second is the gradient of a classifier by its input. So the two are trained apart: the
denoiser (DDIM's, predicting v) never sees a label, and the classifier never a clean picture, since it is asked about noisy
ones only. They meet in drawing, in any sampler.

The guidance of a drawing is the factor before the second term: 0 draws from the denoiser alone, 1 is Bayes' rule, more
exaggerates the class. Where both networks are exact, it is the very scale of classifier-free guidance.

B pictures   C, H, W channels, height and width of a picture   K classes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from intermodal.core.config import suggestion
from intermodal.core.drawing import Drawing
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.fields import SEED
from intermodal.core.registry import MethodCard
from intermodal.data.processors import LabelProcessor, Processor
from intermodal.diffusion.denoiser import Cond, Denoiser
from intermodal.diffusion.guidance import ClassifierGuided
from intermodal.diffusion.process import diffuse
from intermodal.diffusion.schedules import Level, weigh
from intermodal.methods.base import Batch, Losses, Phase, generator_of
from intermodal.methods.image_generation.ddim import DDIM, DDIMConfig
from intermodal.methods.image_tokenizers.prior import LABEL
from intermodal.methods.image_tokenizers.tokenizer import IMAGE
from intermodal.nn.noisy_classifier import NoisyClassifier, NoisyClassifierConfig

CARD = MethodCard(
    id="classifier-guidance",
    title="Classifier guidance: a classifier of noisy pictures leads an unconditional diffusion model to a class",
    paper="Dhariwal & Nichol 2021",
    cls="ClassifierGuidance",
    capabilities=("generate", "draw", "interpolate"),
    recipes=("classifier-guidance",),
    reference="exact on Gaussian mixtures",
)
PARTS = 4
"""Ranges of noise levels over which the classifier is watched."""
MEMORY, ENOUGH = 0.99, 400
"""How much of what was watched remains after a step, and how many pictures make it worth a word."""
LOOK = 50
"""Steps between two looks at the classifier's gradient."""
WEAK, STRONG = 1e-4, 1.0
"""Sizes of the gradient beside the noise's that are worth a word."""


@dataclass(frozen=True, kw_only=True)
class ClassifierGuidanceConfig(DDIMConfig):
    """A diffusion model and a classifier; see :class:`~intermodal.methods.image_generation.ddpm.DDPMConfig`.

    Attributes:
        classifier: the network that is shown noisy pictures and their times.

    Raises:
        ConfigError: if there is a text encoder, or the classifier takes no pictures.
    """

    classifier: NoisyClassifierConfig
    drawing: Drawing = Drawing(steps=50, sampler="ddim", guidance=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text is not None:
            raise ConfigError("Classifier guidance is told the name of a class, no text: it has no text encoder.")
        if self.classifier.encoder.in_channels != 3:
            raise ConfigError(
                f"Classifier guidance: the classifier must take 3 channels, found {self.classifier.encoder.in_channels}."
            )

    @property
    def guides(self) -> bool:
        """Whether there is something to guide by."""
        return True


class ClassifierGuidance(DDIM):
    """A denoiser and a classifier of noisy pictures; see the module's text.

    Args:
        config: both networks and the process.
        processors: ``image`` with values in -1..1, and ``label`` with at least two classes.

    Raises:
        ConfigError: if there are fewer classes.
    """

    id = "classifier-guidance"
    config: ClassifierGuidanceConfig
    guidable = True

    def __init__(self, config: ClassifierGuidanceConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        label = self.processors.get("label")
        if not isinstance(label, LabelProcessor) or len(label.names) < 2:
            raise ConfigError("Classifier guidance needs the names of at least two classes, as the processor `label`.")
        self.names = label.names
        self.classifier = NoisyClassifier(config.classifier, len(self.names))
        self.takes_prompt = True
        self.needs = {"image": IMAGE, "label": LABEL, "seed": SEED}
        self._look = False
        self._watched = {"right": torch.zeros(PARTS), "seen": torch.zeros(PARTS), "class": torch.zeros(len(self.names))}
        self._pull: float | None = None

    # Training: two phases of one step, neither of which sees what the other one does.

    def phases(self) -> tuple[Phase, ...]:
        """Return the denoiser's descent and the classifier's."""
        return (Phase("loss", ("network.",)), Phase("classifier_loss", ("classifier.",)))

    def begin_step(self, step: int, steps: int) -> None:
        """Take note whether it is time to look at the classifier's gradient."""
        del steps
        self._look = step % LOOK == 0

    # --8<-- [start:loss]
    def classifier_loss(self, batch: Batch) -> Losses:
        """Return the mean ``-log p(y | x_t)`` in nats, each picture at a step of its own with noise of its own."""
        generator, x0_BCHW, label_B = generator_of(batch), batch["image"], batch["label"]
        t_B = self.schedule.draw(len(x0_BCHW), generator)
        level = self.schedule.level(t_B)
        x_BCHW = diffuse(x0_BCHW, torch.randn(x0_BCHW.shape, generator=generator).to(x0_BCHW), level)
        told_B = (t_B * self.time_scale).to(x_BCHW.device, torch.float32)
        logits_BK = self.classifier(x_BCHW, told_B)
        total = F.cross_entropy(logits_BK.float(), label_B)
        # --8<-- [end:loss]
        right_B = (logits_BK.detach().argmax(1) == label_B).float()
        if self.training:
            self._watch(t_B, label_B, right_B)
            if self._look:
                pull_B = self.pull(x_BCHW.detach(), level, self._one_hot(label_B))
                self._pull = float(pull_B.median())
        return Losses(total, {"accuracy": right_B.mean()})

    # Drawing.

    # --8<-- [start:guided]
    def log_prob(self, x_BCHW: Tensor, t_B: Tensor, told_BK: Tensor) -> Tensor:
        """Return ``log p(y | x_t)`` in nats, ``(B,)``, differentiable by the noisy pictures.

        Args:
            x_BCHW: noisy pictures.
            t_B: their times, as the networks are told them.
            told_BK: 1 at the class; a row of zeros asks for no class, shares of several for a mixture of their logs.
        """
        if not bool(told_BK.any()):
            return 0 * x_BCHW.flatten(1).sum(1)
        logits_BK = self.classifier(x_BCHW, t_B)
        return (told_BK * logits_BK.to(torch.promote_types(logits_BK.dtype, torch.float32)).log_softmax(1)).sum(1)

    def guided(self, drawing: Drawing) -> Denoiser:
        """Return the network as a denoiser, with the classifier's gradient."""
        return ClassifierGuided(self.plain_denoiser(), self.log_prob, drawing.guidance, time_scale=self.time_scale)

    # --8<-- [end:guided]

    def predict(self, x_BCHW: Tensor, t_B: Tensor, cond: Cond = None) -> Tensor:
        """Return the denoiser's output for noisy pictures and their times; it is told no class."""
        del cond
        return self.network(x_BCHW, t_B)

    def condition(self, texts: Sequence[str]) -> Tensor:
        """Return what :meth:`log_prob` is told of names of classes, ``(B, K)``; of an empty one zeros.

        Raises:
            DataError: if a name is no class of the model.
        """
        for text in texts:
            if text and text not in self.names:
                raise DataError(f"This model knows no class {text!r}{suggestion(text, self.names)}")
        number_B = [self.names.index(text) if text else -1 for text in texts]
        return self._one_hot(torch.tensor(number_B, dtype=torch.int64, device=self.device))

    def checked(self, drawing: Drawing | None) -> Drawing:
        """Return settings, the model's own for None, having checked that the model can follow them.

        Raises:
            ConfigError: for a negative prompt, rescaling or an interval.
        """
        chosen = drawing or self.drawing
        if chosen.negative:
            raise ConfigError(
                "Classifier guidance takes no negative prompt: to lead away from a class, name it as the prompt with a "
                "guidance below 0."
            )
        if chosen.rescale or chosen.interval is not None:
            raise ConfigError(
                "Rescaling and an interval are of classifier-free guidance (`cfg`): leave them out of a drawing guided by a "
                "classifier."
            )
        return super().checked(chosen)

    def restore(self, noise_BCHW: Tensor, *, texts: Sequence[str] = (), drawing: Drawing | None = None) -> Tensor:
        """Return the pictures ``(B, C, H, W)`` of :meth:`invert`'s noise, without a class, as it was found."""
        del texts
        return super().restore(noise_BCHW, drawing=drawing)

    def mixed(self, told: Cond, shares: Sequence[float]) -> Cond:
        """Return mixtures of what is told of two classes, one for each share of the second."""
        first_K, second_K = told
        return torch.stack([torch.lerp(first_K, second_K, share) for share in shares])

    # What can be said of the classifier.

    @torch.enable_grad()
    def pull(self, x_BCHW: Tensor, level: Level, told_BK: Tensor) -> Tensor:
        """Return how strongly guidance at scale 1 pulls beside the noise: the root mean square of ``sigma grad``, ``(B,)``.

        Args:
            x_BCHW: noisy pictures.
            level: theirs, one for each or one for all.
            told_BK: as in :meth:`log_prob`.
        """
        x_BCHW = x_BCHW.detach().requires_grad_(True)
        t_B = (level.t * self.time_scale).to(x_BCHW.device, torch.float32).expand(len(x_BCHW))
        (gradient,) = torch.autograd.grad(self.log_prob(x_BCHW, t_B, told_BK).sum(), x_BCHW)
        return weigh(gradient, level.sigma).flatten(1).square().mean(1).sqrt()

    def health(self) -> list[str]:
        """Warn of a classifier that knows no class at any noise level, or whose gradient leads nowhere or everywhere."""
        found, watched = super().health(), self._watched
        if float(watched["seen"].sum()) >= ENOUGH:
            best = float((watched["right"] / watched["seen"].clamp(min=1)).max())
            guess = float(watched["class"].max() / watched["class"].sum())
            if best <= 1.2 * guess:
                found.append(
                    f"The classifier is right on {best:.0%} of the noisy pictures where it is best, and always naming the "
                    f"most frequent class would be on {guess:.0%}: it knows no class at any noise level, so its guidance "
                    "leads nowhere. Train longer, or look at the labels."
                )
        if self._pull is not None and not self._pull >= WEAK:
            found.append(
                f"The classifier's gradient has vanished: guidance of 1 moves the noise by {self._pull:.1e} of its size. "
                "Train longer or with a larger learning rate."
            )
        elif self._pull is not None and self._pull > STRONG:
            found.append(
                f"The classifier's gradient explodes: guidance of 1 moves the noise by {self._pull:.1f} times its size. Use "
                "a smaller learning rate or more dropout in the classifier."
            )
        return found

    def _one_hot(self, number_B: Tensor) -> Tensor:
        """Return ``(B, K)`` with 1 at each class; a row of zeros for -1."""
        return (number_B[:, None] == torch.arange(len(self.names), device=number_B.device)).to(self._like().dtype)

    def _watch(self, t_B: Tensor, label_B: Tensor, right_B: Tensor) -> None:
        """Take note of how often the classifier was right, by noise level, and of which classes there were."""
        part_B = (PARTS * t_B / self.schedule.t_max).long().clamp(max=PARTS - 1)
        label_B, right_B = label_B.cpu(), right_B.cpu()
        new = {
            "right": torch.bincount(part_B, right_B, minlength=PARTS),
            "seen": torch.bincount(part_B, minlength=PARTS),
            "class": torch.bincount(label_B, minlength=len(self.names)),
        }
        self._watched = {name: MEMORY * self._watched[name] + new[name] for name in new}

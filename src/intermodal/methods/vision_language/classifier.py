"""What the methods that tell the class of a picture share: labels smoothed or mixed, a teacher, classes by name.

A subclass has a tower and heads; its loss, and what becomes of the classes, are the same. A teacher, if there is one, is
another trained model that knows the same classes. It is asked in training alone, on the very pictures that the student sees,
and is no part of what is saved (Touvron et al. 2021, section 4).

Shapes: B pictures, C, H, W channels, height and width, F features, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.fields import SEED, Field
from intermodal.data.mixing import Mixing
from intermodal.data.processors import ImageProcessor, LabelProcessor, Processor
from intermodal.losses.distances import precise, unit
from intermodal.methods.base import Batch, Losses, Method, generator_of, seeded
from intermodal.nn.swin import SwinConfig
from intermodal.nn.transformer import Block
from intermodal.nn.vit import ViTConfig

IMAGE = Field((), "image", "a picture")
LABEL = Field((), "str", "its class")
NOTHING_MIXED = Mixing()
LAST = ("image.norm.", "image.post_norm.")
"""The norms behind the last block."""
CHUNK = 64
"""Pictures that are classified at a time."""


@runtime_checkable
class Teacher(Protocol):
    """A trained model that can be asked for the class of prepared pictures."""

    processors: dict[str, Processor]

    def class_logits(self, image_BCHW: Tensor) -> Tensor:
        """Return the logits ``(B, K)`` of pictures that its own processor prepared."""
        ...


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(Config):
    """Base of the configurations of methods that tell the class of a picture.

    Attributes:
        image: the tower, which a subclass says more of.
        label_smoothing: share of the target that is spread over all classes, 0 to below 1.
        mixing: how the pictures of a batch are mixed in training.

    Raises:
        ConfigError: if a number is out of range.
    """

    image: ViTConfig | SwinConfig
    label_smoothing: float = 0.0
    mixing: Mixing = NOTHING_MIXED

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"model.label_smoothing must be at least 0 and below 1, found {self.label_smoothing}.")

    @property
    def drops(self) -> bool:
        """Whether the tower leaves branches out at random in training."""
        return bool(self.image.drop_path)


class PictureClassifier(Method):
    """Base of the methods that tell the class of a picture; a subclass has the networks.

    Args:
        config: the architecture and the loss.
        processors: ``label``, which knows the classes, and ``image`` for work on pictures.
    """

    needs: Mapping[str, Field] = {"image": IMAGE, "label": LABEL}
    modalities: tuple[str, ...] = ("image",)
    config: ClassifierConfig
    image: Any
    """The tower, with its configuration."""

    def __init__(self, config: ClassifierConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        names = processors.get("label")
        if not isinstance(names, LabelProcessor):
            raise ConfigError(f"The method {self.id} needs a processor 'label' that knows the classes.")
        self.classes = names.names
        if config.mixing or config.drops:
            self.needs = {**self.needs, "seed": SEED}
        self._teacher: tuple[Teacher, ...] = ()  # in a tuple: no part of this module, nor of its checkpoints
        self._seen: dict[str, Tensor] = {}  # what health() speaks of; read there, so that a step waits for no device

    # What a subclass has.

    def heads(self, image_BCHW: Tensor) -> tuple[Tensor, ...]:
        """Return the logits ``(B, K)`` of each head of prepared pictures; a last one of several learns from the teacher."""
        raise NotImplementedError

    def features(self, image_BCHW: Tensor) -> Tensor:
        """Return the pooled output ``(B, F)`` of prepared pictures of any size."""
        raise NotImplementedError

    # Training.

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return the cross entropy of prepared ``image`` ``(B, C, H, W)`` and ``label`` ``(B,)``; half of it with a teacher.

        The other half is the cross entropy of the last head with the class that the teacher finds (hard distillation,
        Touvron et al. 2021, equation 3), which is not smoothed.
        """
        image, label = batch["image"], batch["label"]
        smoothing, mixing = self.config.label_smoothing, self.config.mixing
        other_B, share_B = None, None
        generator = generator_of(batch) if self.training and (mixing or self.config.drops) else None
        if mixing and generator is not None:
            image, other_B, share_B = mixing.mix(image, generator)
        with seeded(generator) if generator is not None and self.config.drops else nullcontext():
            logits = [precise(head) for head in self.heads(image)]
        each = F.cross_entropy(logits[0], label, label_smoothing=smoothing, reduction="none")
        if other_B is not None and share_B is not None:
            others = F.cross_entropy(logits[0], label[other_B], label_smoothing=smoothing, reduction="none")
            each = share_B * each + (1 - share_B) * others
        total, parts = each.mean(), {}
        if self._teacher and self.training:
            taught_B = self._ask(image)
            distilled = F.cross_entropy(logits[-1], taught_B)
            parts = {"distillation": distilled.detach(), "agreement": _share(logits[-1], taught_B)}
            total = 0.5 * total + 0.5 * distilled
        elif len(logits) > 1:  # nobody to learn from: the last head learns the labels
            total = 0.5 * total + 0.5 * F.cross_entropy(logits[-1], label, label_smoothing=smoothing)
        mean_BK = torch.stack(logits).mean(0).detach()
        parts["accuracy"] = _share(mean_BK, label)
        self._seen = {**parts, "predicted": mean_BK.argmax(1), "label": label}
        return Losses(total, parts)

    # --8<-- [end:loss]

    def learn_from(self, teacher: Method) -> None:
        """Let a trained model teach, in training from now on.

        Raises:
            ConfigError: if it cannot be asked for classes, or knows other ones.
        """
        names = teacher.processors.get("label")
        if not isinstance(teacher, Teacher) or not isinstance(names, LabelProcessor):
            raise ConfigError(f"The method {teacher.id!r} tells no classes, so that it cannot teach.")
        if names.names != self.classes:
            strange = sorted(set(names.names) ^ set(self.classes))
            raise ConfigError(
                f"The teacher knows {len(names.names)} classes, the student {len(self.classes)}, and they must be the same: "
                f"they differ in {', '.join(strange[:8])}."
            )
        self._teacher = (teacher.eval().requires_grad_(False),)

    @torch.no_grad()
    def _ask(self, image_BCHW: Tensor) -> Tensor:
        """Return the teacher's classes ``(B,)`` of pictures that our processor prepared."""
        (teacher,) = self._teacher
        assert isinstance(teacher, Method)
        ours, theirs = self.processors["image"], teacher.processors["image"]
        assert isinstance(ours, ImageProcessor) and isinstance(theirs, ImageProcessor)
        if teacher.device != image_BCHW.device:
            teacher.to(image_BCHW.device)
        image = image_BCHW
        if (ours.mean, ours.std) != (theirs.mean, theirs.std):
            mean, std = (torch.tensor(v, device=image.device).view(1, 3, 1, 1) for v in (ours.mean, ours.std))
            image = theirs.prepare((image.float() * std + mean).clamp(0, 1))
        if tuple(image.shape[2:]) != theirs.size:
            image = F.interpolate(image, theirs.size, mode="bilinear", antialias=True)
        return teacher.class_logits(image).argmax(1)

    def health(self) -> list[str]:
        """Warn of a model that gives one answer whatever the picture, and of a teacher that is not followed."""
        if not self._seen:
            return []
        warnings = []
        predicted, label = self._seen["predicted"], self._seen["label"]
        if len(predicted) >= 16 and predicted.unique().numel() == 1 and label.unique().numel() > 1:
            warnings.append(
                f"Every picture of the last batch is taken for {self.classes[int(predicted[0])]!r}: lower the learning "
                "rate, or train longer."
            )
        return warnings

    # Use.

    def class_logits(self, image_BCHW: Tensor) -> Tensor:
        """Return the logits ``(B, K)`` of prepared pictures of any size: the mean of the heads'."""
        return torch.stack(self.heads(image_BCHW)).mean(0)

    @torch.no_grad()
    def logits_of(self, images: Sequence[Image.Image]) -> Tensor:
        """Return the logits ``(len(images), K)`` of PIL images, float32 on the CPU."""
        return torch.cat([torch.zeros(0, len(self.classes)), *self._each(self.class_logits, images)])

    def classify(
        self, images: Sequence[Image.Image], labels: Sequence[str], templates: Sequence[str] = ("{}",)
    ) -> np.ndarray:
        """Return probabilities ``(len(images), len(labels))`` among some of the classes that the model knows.

        Args:
            images: PIL images.
            labels: names of :attr:`classes`, at least one.
            templates: have no meaning here: the classes are those of training.

        Raises:
            DataError: if there is no label, or one is unknown.
        """
        names = self.processors["label"]
        assert isinstance(names, LabelProcessor)
        places = names.places(labels)
        return self.logits_of(images)[:, places].softmax(1).numpy()

    @torch.no_grad()
    def embed(self, modality: str, inputs: Sequence[Any]) -> np.ndarray:
        """Return float32 unit vectors ``(len(inputs), F)`` of PIL images (``"image"``): the tower's pooled output.

        Raises:
            DataError: for another modality.
        """
        if modality != "image":
            raise DataError(f"{type(self).__name__} embeds pictures (image), not {modality!r}.")
        found = list(self._each(lambda image: unit(precise(self.features(image))), inputs))
        return torch.cat(found).numpy() if found else np.zeros((0, self.embed_dim), np.float32)

    @property
    def embed_dim(self) -> int:
        """How many numbers an embedding has."""
        raise NotImplementedError

    def layers_above(self, parameter: str) -> int:
        """Return 0 for heads and the last norm, 1 for the last block, and one more than all blocks for what reads pixels."""
        blocks = [name for name, module in self.named_modules() if isinstance(module, Block)]
        if not parameter.startswith("image.") or parameter.startswith(LAST):
            return 0
        for number, name in enumerate(blocks):
            if parameter.startswith(f"{name}."):
                return len(blocks) - number
        if parameter.startswith("image.mergings."):  # what it hands to the next stage's blocks is one layer before them
            stage = int(parameter.split(".")[2]) + 1
            return (
                len(blocks) + 1 - next(i for i, name in enumerate(blocks) if name.startswith(f"image.stages.{stage}."))
            )
        return len(blocks) + 1

    def train_flops(self, batch_size: int) -> float:
        """Return the operations of one step: forward and twice as many backward."""
        return float(3.0 * batch_size * self.image.config.flops())

    def _each(self, function: Any, images: Sequence[Image.Image]) -> list[Tensor]:
        """Return a function's results of PIL images, a few prepared at a time, in evaluation mode."""
        with self.evaluating():
            kind = next(self.parameters()).dtype
            return [
                function(self.processors["image"](images[i : i + CHUNK]).to(self.device, kind)).float().cpu()
                for i in range(0, len(images), CHUNK)
            ]


def classifier(width: int, classes: int) -> nn.Linear:
    """Return a linear head that begins almost without an opinion."""
    head = nn.Linear(width, classes)
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head


def _share(logits_BK: Tensor, label_B: Tensor) -> Tensor:
    return (logits_BK.detach().argmax(1) == label_B).float().mean()

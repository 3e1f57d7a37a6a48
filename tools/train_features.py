"""Train the feature network that the library ships, *features-v1*, on the emoji set's training split alone.

    python tools/train_features.py --run RUN --out src/intermodal/nn/assets

Two tasks share one network, and both are answered from its last stage's mean by linear maps:

- *what is drawn*: the emoji's sub-group (98 classes), by cross entropy;
- *what was done to it*: each picture is blurred, made noisy, peppered, coarsely coded in blocks of its cosine transform, or
  left as it is, and the network tells which and how strongly. No label is needed, and it keeps texture and sharpness in the
  features, which a classifier of drawings could do without.

While it trains each convolution has batch normalisation after it; in the end that is folded into the convolution, so that
what is shipped has none. The same seed on the same machine gives the same weights, bit for bit; they are stored in float16.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from intermodal.core.checkpoint import write_tensors
from intermodal.core.config import Config, trust_package
from intermodal.core.fields import SEED, Field
from intermodal.core.files import atomic_file
from intermodal.core.progress import Progress
from intermodal.data.emoji import EmojiSource
from intermodal.data.processors import ImageProcessor, LabelProcessor, Processor
from intermodal.data.transforms import ImageAugment, gaussian_blur
from intermodal.evaluate.result import Evaluation
from intermodal.methods.base import Batch, Losses, Method, generator_of
from intermodal.nn.features import NAME, FeatureNetwork, weights_sha256
from intermodal.recipes.base import OptimConfig, Recipe, TrainConfig
from intermodal.train.folder import Run
from intermodal.train.loop import Trainer

KINDS = ("none", "blur", "noise", "impulses", "blocks")
RANGES = {"blur": (0.5, 2.5), "noise": (0.08, 0.4), "impulses": (0.02, 0.2), "blocks": (0.2, 1.0)}
"""Weakest and strongest: standard deviations (of the blur in pixels), a share of pixels, a step of the cosine transform."""
HARDLY_SEEN = 0.03
"""Every picture has normal noise of up to this standard deviation, which the network cannot name and learns to pass over."""
TINTED, INVERTED = 0.2, 0.05
"""Shares of the pictures whose white becomes another colour: emoji are on white, other pictures are not."""


@dataclass(frozen=True, kw_only=True)
class TrainFeaturesConfig(Config):
    """The weights of the second task: which change it was, and how strong."""

    kind: float = 0.3
    strength: float = 1.0


class TrainFeatures(Method):
    """The network with batch normalisation in training, and the heads that are thrown away afterwards."""

    id: ClassVar[str] = NAME
    needs: Mapping[str, Field] = {
        "image": Field((), "image", "a picture"),
        "label": Field((), "str", "its class"),
        "seed": SEED,
    }
    config: TrainFeaturesConfig

    def __init__(self, config: TrainFeaturesConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        labels = processors["label"]
        assert isinstance(labels, LabelProcessor)
        self.network = with_norms(FeatureNetwork())
        width = self.network.config.features
        self.norm = nn.BatchNorm1d(width, affine=False)  # the means of ReLUs are all small and positive
        self.what = nn.Linear(width, len(labels.names))
        self.kind = nn.Linear(width, len(KINDS))
        self.strength = nn.Linear(width, len(KINDS))

    def loss(self, batch: Batch) -> Losses:
        """Return the sum of both tasks' losses."""
        image_BCHW, kind_B, strength_B = spoil(batch["image"], generator_of(batch))
        pooled_BD = self.norm(self.network.pooled(image_BCHW))
        what_BK = self.what(pooled_BD)
        kind_BK = self.kind(pooled_BD)
        guess_B = self.strength(pooled_BD).gather(1, kind_B[:, None])[:, 0]
        terms = {
            "what": F.cross_entropy(what_BK, batch["label"]),
            "kind": F.cross_entropy(kind_BK, kind_B),
            "strength": F.mse_loss(guess_B.float(), strength_B),
        }
        total = terms["what"] + self.config.kind * terms["kind"] + self.config.strength * terms["strength"]
        right = {
            "what_accuracy": (what_BK.argmax(1) == batch["label"]).float().mean(),
            "kind_accuracy": (kind_BK.argmax(1) == kind_B).float().mean(),
        }
        return Losses(total, {name: value.detach() for name, value in {**terms, **right}.items()})


@dataclass(frozen=True, kw_only=True)
class FeatureRecipe(Recipe):
    """Data, budget and optimiser: everything that the weights depend on."""

    model: TrainFeaturesConfig = TrainFeaturesConfig()

    def build(self) -> Method:
        """Return the network before training."""
        labels = LabelProcessor.of(self.source.open("train").labels())
        whole = ImageProcessor(size=(64, 64), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        torch.manual_seed(self.train.seed)
        return TrainFeatures(self.model, {"image": whole, "label": labels})

    def evaluate(self, method: Method, split: str, progress: Progress) -> Evaluation:
        """Nothing is judged on the way: tests and the handbook judge what is shipped."""
        del method, progress
        return Evaluation(split, {}, [], 0.0)


RECIPE = FeatureRecipe(
    name=NAME,
    method=NAME,
    source=EmojiSource(unit="picture"),
    augment=ImageAugment(
        flip=0.5,
        rotate=10.0,
        scale=(0.7, 1.4),
        translate=0.06,
        brightness=0.25,
        contrast=0.25,
        saturation=0.3,
        hue=0.03,
        grey=0.1,
    ),
    optim=OptimConfig(lr=2.5e-3, weight_decay=0.05, warmup=60),
    train=TrainConfig(steps=900, batch_size=128, precision="bf16", log_every=20, checkpoint_every=200),
)


def spoil(image_BCHW: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Change the background's colour of some pictures, then spoil most of them, each in one way.

    Returns:
        The pictures in 0..1, what was done to each (its place in :data:`KINDS`), and how strongly in 0..1.
    """
    batch = len(image_BCHW)
    tint_BC = torch.rand(batch, 3, generator=generator)
    chance_B2 = torch.rand(batch, 2, generator=generator)
    kind_B = torch.randint(len(KINDS), (batch,), generator=generator)
    strength_B = torch.rand(batch, generator=generator)
    faint_B = HARDLY_SEEN * torch.rand(batch, generator=generator)
    grain_BCHW = torch.randn(image_BCHW.shape, generator=generator)
    noise_BCHW = torch.randn(image_BCHW.shape, generator=generator)
    drawn_B1HW = torch.rand(batch, 1, *image_BCHW.shape[2:], generator=generator)
    to = image_BCHW.device
    strength_B = torch.where(kind_B == 0, 0.0, strength_B)

    tint_BC = torch.where(chance_B2[:, :1] < TINTED, tint_BC, 1.0)
    image = image_BCHW * tint_BC.to(to)[..., None, None]
    image = torch.where((chance_B2[:, 1] < INVERTED).to(to).view(-1, 1, 1, 1), 1 - image, image)
    for number, kind in enumerate(KINDS[1:], start=1):
        at = (kind_B == number).nonzero()[:, 0]
        if not len(at):
            continue
        low, high = RANGES[kind]
        amount = low * (high / low) ** strength_B[at]  # equal steps of the ratio
        part, amount_1 = image[at.to(to)], amount.to(to).view(-1, 1, 1, 1)
        if kind == "blur":
            part = gaussian_blur(part, amount, radius=math.ceil(3 * high))
        elif kind == "noise":
            part = part + amount_1 * noise_BCHW[at].to(to)
        elif kind == "impulses":
            drawn = drawn_B1HW[at].to(to)
            part = torch.where(drawn < amount_1 / 2, 1.0, torch.where(drawn > 1 - amount_1 / 2, 0.0, part))
        else:
            part = coarse(part, amount_1)
        image = image.index_copy(0, at.to(to), part.clamp(0, 1))
    image = (image + (faint_B.view(-1, 1, 1, 1) * grain_BCHW).to(to)).clamp(0, 1)
    return image, kind_B.to(to), strength_B.to(to)


def coarse(image_BCHW: Tensor, step_B111: Tensor, side: int = 8) -> Tensor:
    """Round the cosine transform of each block of 8 x 8 to multiples of a step, which is what JPEG loses."""
    place = torch.arange(side, dtype=torch.float64)
    basis = torch.cos(math.pi / side * (place[None] + 0.5) * place[:, None]) * math.sqrt(2 / side)
    basis[0] /= math.sqrt(2)
    basis_ss = basis.to(image_BCHW)
    blocks = image_BCHW.unflatten(3, (-1, side)).unflatten(2, (-1, side)).transpose(3, 4)  # B C h w s s
    waves = basis_ss @ blocks @ basis_ss.T
    step = step_B111[..., None, None]
    return (basis_ss.T @ (torch.round(waves / step) * step) @ basis_ss).transpose(3, 4).flatten(4, 5).flatten(2, 3)


def with_norms(network: FeatureNetwork) -> FeatureNetwork:
    """Put a batch normalisation after each convolution."""
    for layers in network.stages:
        for i, conv in enumerate(layers):
            layers[i] = nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels))
    return network


def folded(network: FeatureNetwork) -> FeatureNetwork:
    """Return the same function without normalisations, which are linear once their statistics stand."""
    plain = FeatureNetwork(network.config)
    for layers, theirs in zip(plain.stages, network.stages, strict=True):
        for i, pair in enumerate(theirs):
            layers[i] = fuse_conv_bn_eval(pair[0].eval(), pair[1].eval())
    return plain.eval()


def main() -> None:
    """Train, fold, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="the run's folder; goes on where it was stopped")
    parser.add_argument("--out", type=Path, required=True, help="the folder that the weights are written into")
    parser.add_argument("--steps", type=int, default=RECIPE.train.steps)
    args = parser.parse_args()
    trust_package(__name__)  # a run that was stopped reads its recipe again, whose classes are in this file
    torch.set_num_threads(1)  # another number adds up in another order, and gives other weights
    recipe = RECIPE.replace(train__steps=args.steps)
    trainer = Trainer(recipe, Run(args.run))
    if not trainer.fit():
        raise SystemExit("Stopped: the same command goes on from here.")
    method = trainer.judged()
    assert isinstance(method, TrainFeatures)
    network = folded(method.network)
    with torch.no_grad():
        picture = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        method.eval()
        torch.testing.assert_close(network.pooled(picture), method.network.pooled(picture), atol=1e-4, rtol=1e-3)
    tensors = {name: tensor.half() for name, tensor in network.state_dict().items()}
    summary = trainer.run.summary()
    metadata = {
        "name": NAME,
        "sha256": (digest := weights_sha256(tensors)),
        "data": f"{summary['data']}, {summary['samples']} pictures",
        "tasks": f"sub-group ({len(method.processors['label'].names)} classes); kind and strength of {', '.join(KINDS[1:])}",
        "command": "python tools/train_features.py",
        "steps": f"{summary['steps']} of {summary['batch_size']} pictures, {summary['precision']}, seed {recipe.train.seed}",
        "cpu_minutes": f"{summary['cpu_seconds'] / 60:.1f}",
        "torch": summary["torch"],
        "intermodal": summary["intermodal"],
        "licence": "Apache-2.0; trained on openly licensed drawings, see data/assets/emoji_licences",
    }
    with atomic_file(args.out / f"{NAME}.safetensors") as temporary:
        write_tensors(temporary, tensors, metadata)
    print(f"Wrote {args.out / NAME}.safetensors: put SHA256 = {digest!r} into nn/features.py.")


if __name__ == "__main__":
    main()

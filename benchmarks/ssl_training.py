"""SimCLR: the views of a batch beside torchvision's, and a training step beside lightly's parts.

Views: two versions of each of 256 pictures (crop, flip, colour, grey, blur), ours in one batched call, torchvision's
transforms (v2, on uint8 tensors) picture by picture, as a data set applies them. The step: views from encoded pictures,
tower, projector, loss, backward, clipping, AdamW, in bf16 autocast; tower, projector, optimiser and the number of
pictures are the same, views and loss are each contender's own. A second case leaves the views out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import harness
from intermodal.data.processors import ImageProcessor
from intermodal.data.transforms import ImageAugment
from intermodal.methods.contrastive.simclr import SimCLR, SimCLRConfig
from intermodal.nn.projector import ProjectorConfig
from intermodal.nn.resnet import ResNetConfig

INSTALL = "pip install torchvision lightly (the vision group: make test-vision)"
SIZE, TEMPERATURE = 32, 0.2
VIEWS = ImageAugment(
    flip=0.5,
    crop=(0.3, 1.0),
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    jitter=0.8,
    grey=0.2,
    blur=0.5,
    sigma=(0.1, 1.0),
    views=2,
)

Views = Callable[[Tensor], Tensor]


def pictures(batch: int, size: int) -> Tensor:
    return torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def our_views() -> Views:
    generator = torch.Generator().manual_seed(0)
    return lambda image: VIEWS.apply(image.float() / 255, VIEWS.draw(len(image), generator))


def torchvision_views(size: int) -> Views:
    """The same changes as torchvision's transforms, drawn for each picture."""
    v2: Any = harness.import_beside_torchvision("torchvision.transforms.v2")
    jitter = v2.ColorJitter(VIEWS.brightness, VIEWS.contrast, VIEWS.saturation, VIEWS.hue)
    radius = 3  # ceil(3 sigma), as ours
    change = v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=VIEWS.crop, ratio=VIEWS.ratio, antialias=True),
            v2.RandomHorizontalFlip(VIEWS.flip),
            v2.RandomApply([jitter], VIEWS.jitter),
            v2.RandomGrayscale(VIEWS.grey),
            v2.RandomApply([v2.GaussianBlur(2 * radius + 1, VIEWS.sigma)], VIEWS.blur),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    return lambda image: torch.stack([torch.stack([change(picture), change(picture)]) for picture in image])


def make_views(load: Callable[[], Views], batch: int, size: int) -> Callable[[], harness.Step]:
    """Return what makes the step: two views of each picture of a batch."""

    def make() -> harness.Step:
        torch.manual_seed(0)
        views, image = load(), pictures(batch, size)

        def step() -> float:
            return float(views(image).mean())

        return step

    return make


def network() -> SimCLR:
    tower = ResNetConfig(image_size=SIZE, layers=(1, 1, 1, 1), width=32, heads=16, output_dim=512)
    config = SimCLRConfig(
        image=tower, projector=ProjectorConfig(hidden_dim=512, output_dim=128), temperature=TEMPERATURE
    )
    return SimCLR(config, {}).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def ours(batch: int, with_views: bool) -> harness.Step:
    """Our SimCLR."""
    model, views = network(), our_views()
    return training(model, lambda image: model.loss({"image": image}).total, views, batch, with_views)


def with_lightly(batch: int, with_views: bool) -> harness.Step:
    """The same tower and projector with lightly's loss and torchvision's views."""
    losses: Any = harness.import_beside_torchvision("lightly.loss")
    model, criterion = network(), losses.NTXentLoss(temperature=TEMPERATURE)

    def loss(image: Tensor) -> Tensor:
        first, second = model.project(image.transpose(0, 1).flatten(0, 1)).chunk(2)
        return criterion(first, second)

    return training(model, loss, torchvision_views(SIZE), batch, with_views)


def training(
    model: nn.Module, loss: Callable[[Tensor], Tensor], views: Views, batch: int, with_views: bool
) -> harness.Step:
    """Return the step: views, forward in bf16 autocast, backward, clipping, AdamW."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=True)
    image, processor = pictures(batch, SIZE), ImageProcessor(size=(SIZE, SIZE))
    ready = processor.prepare(our_views()(image))

    def step() -> float:
        prepared = processor.prepare(views(image)) if with_views else ready
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(prepared)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return value.item()

    return step


def seeded(make: Callable[[], harness.Step]) -> Callable[[], harness.Step]:
    def build() -> harness.Step:
        torch.manual_seed(0)
        return make()

    return build


def cases(quick: bool) -> list[harness.Case]:
    """Views at 32 and 64 pixels; the step with views and without."""
    batch = 32 if quick else 256
    found = [
        harness.Case(
            f"two views of {batch} pictures, {size} px",
            [
                harness.Contender("intermodal ImageAugment", make_views(our_views, batch, size)),
                harness.Contender(
                    "torchvision v2, per picture",
                    make_views(lambda size=size: torchvision_views(size), batch, size),
                    INSTALL,
                ),
            ],
        )
        for size in (32, 64)
    ]
    for with_views in (True, False):
        name = "with views" if with_views else "views given"
        found.append(
            harness.Case(
                f"SimCLR training step, ResNet {SIZE} px, batch 2 x {batch}, bf16, {name}",
                [
                    harness.Contender("intermodal", seeded(lambda w=with_views: ours(batch, w))),
                    harness.Contender(
                        "lightly NTXentLoss, torchvision views" if with_views else "lightly NTXentLoss",
                        seeded(lambda w=with_views: with_lightly(batch, w)),
                        INSTALL,
                    ),
                ],
            )
        )
    return found

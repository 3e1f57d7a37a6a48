"""The losses of a labelled batch and of two views, forward and backward, beside the libraries that have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import harness
from intermodal.losses.contrastive import info_nce
from intermodal.losses.nt_xent import nt_xent
from intermodal.losses.pair import batch_pair_loss
from intermodal.losses.supcon import supcon
from intermodal.losses.triplet import batch_triplet_loss
from intermodal.losses.vicreg import vicreg

PML = "pip install pytorch-metric-learning==2.9.0"
LIGHTLY = "pip install lightly (needs torchvision)"
OPEN_CLIP = "pip install open_clip_torch (the vision group: make test-vision)"
DIM, EACH, TEMPERATURE, MARGIN = 512, 4, 0.1, 0.2
Loss = Callable[..., Tensor]


def step(load: Callable[[], Loss], rows: int, views: int, labels: Tensor | None = None) -> Callable[[], harness.Step]:
    """Return what makes the step: a loss of ``views`` tensors of ``rows`` related unit vectors, and its gradients."""

    def make() -> harness.Step:
        loss = load()
        generator = torch.Generator().manual_seed(0)
        kinds = torch.arange(rows) if labels is None else labels
        centre = torch.randn(int(kinds.max()) + 1, DIM, generator=generator)[kinds]
        given = [F.normalize(centre + 2 * torch.randn(rows, DIM, generator=generator), dim=1) for _ in range(views)]
        for tensor in given:
            tensor.requires_grad_()

        def forward_backward() -> float:
            for tensor in given:
                tensor.grad = None
            value = loss(*given) if labels is None else loss(*given, labels)
            value.backward()
            return value.item()

        return forward_backward

    return make


def pml(name: str, *args: Any, miner: str = "", mining: dict[str, Any] | None = None, plain: bool = False) -> Loss:
    """Return a loss of pytorch-metric-learning; ``plain``: of the Euclidean distance as it is."""
    from pytorch_metric_learning import distances, losses, miners

    options = {"distance": distances.LpDistance(normalize_embeddings=False)} if plain else {}
    loss: Any = getattr(losses, name)(*args, **options)
    if not miner:
        return loss
    mine: Any = getattr(miners, miner)(**(mining or {}), **options)
    return lambda x, y: loss(x, y, mine(x, y))


def pml_nt_xent() -> Loss:
    from pytorch_metric_learning import losses

    return losses.SelfSupervisedLoss(losses.NTXentLoss(TEMPERATURE))


def lightly(name: str, **options: Any) -> Loss:
    found: Any = harness.import_beside_torchvision("lightly.loss")
    return getattr(found, name)(**options)


def open_clip_clip() -> Loss:
    found: Any = harness.import_beside_torchvision("open_clip.loss")
    loss = found.ClipLoss()
    return lambda image, text: loss(image, text, torch.tensor(1 / TEMPERATURE))


def weighed_vicreg(x: Tensor, y: Tensor) -> Tensor:
    terms = vicreg(x, y)
    # lightly halves the variance term, as the published code does.
    return 25 * terms.invariance + 25 * terms.variance / 2 + terms.covariance


def cases(quick: bool) -> list[harness.Case]:
    """Each loss at a batch of 4,096 x 512, and at sizes that the peer can do where it fails there."""
    rows = 512 if quick else 4096
    labels = torch.arange(rows) // EACH
    few = torch.arange(rows) % 10
    ours, contender = "intermodal ", harness.Contender

    def supcon_case(kinds: Tensor) -> harness.Case:
        return harness.Case(
            f"SupCon {rows} x {DIM}, {int(kinds.max()) + 1} classes",
            [
                contender(ours + "supcon", step(lambda: lambda x, y: supcon(x, y, TEMPERATURE), rows, 1, kinds)),
                contender("pml SupConLoss", step(lambda: pml("SupConLoss", TEMPERATURE), rows, 1, kinds), PML),
            ],
        )

    def nt_xent_case(pairs: int, peers: str) -> harness.Case:
        found = [contender(ours + "nt_xent", step(lambda: lambda x, y: nt_xent(x, y, TEMPERATURE), pairs, 2))]
        make = step(lambda: lightly("NTXentLoss", temperature=TEMPERATURE), pairs, 2)
        found.append(contender("lightly NTXentLoss", make, LIGHTLY))
        if "pml" in peers:
            found.append(contender("pml NTXentLoss", step(pml_nt_xent, pairs, 2), PML))
        return harness.Case(f"NT-Xent 2 x {pairs} x {DIM}", found)

    def pair_case(kinds: Tensor) -> harness.Case:
        def mine(x: Tensor, y: Tensor) -> Tensor:
            return batch_pair_loss(x, y, neg_margin=1.5)

        return harness.Case(
            f"pair loss over all pairs of {rows} x {DIM}, {int(kinds.max()) + 1} classes",
            [
                contender(ours + "batch_pair_loss", step(lambda: mine, rows, 1, kinds)),
                contender(
                    "pml ContrastiveLoss", step(lambda: pml("ContrastiveLoss", 0, 1.5, plain=True), rows, 1, kinds), PML
                ),
            ],
        )

    def triplet_case(mining: str, size: int) -> harness.Case:
        kinds = torch.arange(size) // EACH
        miner, options = {
            "all": ("", {}),
            "semihard": ("TripletMarginMiner", {"margin": MARGIN, "type_of_triplets": "semihard"}),
            "hard": ("BatchHardMiner", {}),
        }[mining]

        def mine(x: Tensor, y: Tensor) -> Tensor:
            return batch_triplet_loss(x, y, mining=mining, margin=MARGIN)  # type: ignore[arg-type]

        theirs = step(lambda: pml("TripletMarginLoss", MARGIN, miner=miner, mining=options, plain=True), size, 1, kinds)
        return harness.Case(
            f"triplet loss, {mining}, {size} x {DIM}, {size // EACH} classes",
            [
                contender(ours + "batch_triplet_loss", step(lambda: mine, size, 1, kinds)),
                contender("pml TripletMarginLoss", theirs, PML),
            ],
        )

    scale = torch.tensor(1 / TEMPERATURE)
    return [
        supcon_case(labels),
        supcon_case(few),
        nt_xent_case(128 if quick else 512, "pml"),
        nt_xent_case(256 if quick else 2048, "pml"),
        nt_xent_case(rows, ""),
        pair_case(labels),
        pair_case(few),
        triplet_case("hard", rows),
        triplet_case("semihard", rows),
        triplet_case("all", rows),
        harness.Case(
            f"VICReg {rows} x {DIM}",
            [
                contender(ours + "vicreg", step(lambda: weighed_vicreg, rows, 2)),
                contender("lightly VICRegLoss", step(lambda: lightly("VICRegLoss"), rows, 2), LIGHTLY),
            ],
        ),
        harness.Case(
            f"InfoNCE {rows} x {DIM}",
            [
                contender(ours + "info_nce", step(lambda: lambda x, y: info_nce(x, y, scale), rows, 2)),
                contender("open_clip ClipLoss", step(open_clip_clip, rows, 2), OPEN_CLIP),
            ],
        ),
    ]

"""ViT-Base, Swin-Tiny and Swin v2-Tiny beside transformers, forward at 224 (256): same weights, one run.

Random weights, saved by transformers and loaded by our hub. The number beside each is the mean magnitude of the logits: all
compute the same. transformers runs with the attention that it takes by default (sdpa where it has it). Float32, and bfloat16
weights as rows of their own; and a training step of the small towers of our recipes, in float32 and in bfloat16 autocast.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch.nn import functional as F

import harness
from intermodal.hub.load import load

TRANSFORMERS = "pip install transformers"
Kind = Literal["ViT-Base", "Swin-Tiny", "Swin v2-Tiny", "small ViT", "small Swin"]
BLOCKS = {"hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 512}
CONFIGS: dict[Kind, tuple[str, dict[str, Any]]] = {
    "ViT-Base": ("ViT", {"num_labels": 1000}),
    "Swin-Tiny": ("Swin", {"num_labels": 1000}),
    "Swin v2-Tiny": ("Swinv2", {"num_labels": 1000, "image_size": 256, "window_size": 8}),
    "small ViT": ("ViT", {"num_labels": 98, "image_size": 32, "patch_size": 4, "layer_norm_eps": 1e-6, **BLOCKS}),
    "small Swin": (
        "Swin",
        {
            "num_labels": 98,
            "image_size": 32,
            "patch_size": 2,
            "embed_dim": 48,
            "depths": [2, 2, 2],
            "num_heads": [2, 4, 8],
            "window_size": 4,
            "drop_path_rate": 0.0,
        },
    ),
}
TINY: dict[str, dict[str, Any]] = {
    "ViT": {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 96},
    "Swin": {"embed_dim": 12, "depths": [2, 1], "num_heads": [1, 2]},
    "Swinv2": {"embed_dim": 12, "depths": [2, 1], "num_heads": [1, 2]},
}


@dataclass(frozen=True)
class Work:
    """A network on a batch of pictures, in one type of number."""

    kind: Kind
    batch: int
    dtype: torch.dtype
    quick: bool


@cache
def networks(kind: Kind, quick: bool) -> tuple[Any, Any]:
    """Return transformers' classifier with random weights, and ours with the same."""
    transformers: Any = harness.import_beside_torchvision("transformers")
    transformers.utils.logging.disable_progress_bar()
    name, values = CONFIGS[kind]
    config = getattr(transformers, f"{name}Config")(**values | (TINY[name] if quick else {}))
    torch.manual_seed(0)
    theirs = getattr(transformers, f"{name}ForImageClassification")(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        return theirs, load(folder, processors={})


def module(ours: bool, work: Work) -> tuple[torch.nn.Module, Callable[[torch.Tensor], torch.Tensor], torch.Tensor]:
    """Return a network of its own, the function from pictures to logits, and pictures."""
    network = deepcopy(networks(work.kind, work.quick)[ours])
    side = networks(work.kind, work.quick)[0].config.image_size
    image = torch.randn(work.batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    call = network.class_logits if ours else lambda x: network(x).logits
    return network, call, image


def forward(ours: bool, work: Work) -> Callable[[], harness.Step]:
    """Return what makes a step: a network without gradients, once run."""

    def make() -> harness.Step:
        network, call, image = module(ours, work)
        network.to(work.dtype)
        image = image.to(work.dtype)

        def step() -> float:
            with torch.inference_mode():
                return float(call(image).double().abs().mean())

        step()
        return step

    return make


def training(ours: bool, work: Work) -> Callable[[], harness.Step]:
    """Return what makes a step: forward, cross entropy, backward and AdamW; bfloat16 is autocast."""

    def make() -> harness.Step:
        network, call, image = module(ours, work)
        network.train()
        label = torch.arange(work.batch) % 98
        if ours:  # its classes are sorted by name
            label = torch.tensor(
                [networks(work.kind, work.quick)[1].classes.index(f"LABEL_{i}") for i in label.tolist()]
            )
        optimizer = torch.optim.AdamW(network.parameters(), 1e-4)

        def step() -> float:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=work.dtype == torch.bfloat16):
                logits = call(image)
            loss = F.cross_entropy(logits.float(), label)
            loss.backward()
            optimizer.step()
            return float(loss.detach())

        step()
        return step

    return make


def contenders(make: Callable[[bool, Work], Callable[[], harness.Step]], work: Work) -> list[harness.Contender]:
    """Return ours and transformers', in float32 and in bfloat16."""
    found = []
    for dtype, said in ((torch.float32, ""), (torch.bfloat16, ", bfloat16")):
        one = Work(work.kind, work.batch, dtype, work.quick)
        found.append(harness.Contender(f"intermodal{said}", make(True, one)))
        found.append(harness.Contender(f"transformers{said}", make(False, one), TRANSFORMERS))
    return found


def cases(quick: bool) -> list[harness.Case]:
    """Return the forward pass of the published sizes at two batches, and a training step of the small ones."""
    found = []
    size = ", tiny" if quick else ""
    for kind, side in (("ViT-Base", 224), ("Swin-Tiny", 224), ("Swin v2-Tiny", 256)):
        for batch in (1,) if quick else (1, 8):
            work = Work(kind, batch, torch.float32, quick)
            title = f"{kind}{size}, {batch} x {side} x {side}: forward"
            found.append(harness.Case(title, contenders(forward, work), 1 if quick else 4))
    for kind in ("small ViT", "small Swin"):
        work = Work(kind, 8 if quick else 128, torch.float32, quick)
        title = f"{kind}{size}, {work.batch} x 32 x 32: training step"
        found.append(harness.Case(title, contenders(training, work), 1 if quick else 3))
    return found

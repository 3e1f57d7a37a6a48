"""ViT and Swin trained beside transformers' own, with the same budget; and what both cost as pictures grow.

``python benchmarks/vision_training.py [--steps 300] [--seeds 2] [--what peers cost] [--out benchmarks/results/curves]``

*peers*: of each recipe (emoji sub-groups, spoken digits of an unheard speaker) our model and transformers' class of the same
architecture are trained from the same first weights, on the same batches in the same order, by the same optimiser, in bf16
autocast, and judged on the same held-out pictures: top-1, top-5 and the CPU seconds of the steps. What differs is rounding;
how much that and the seed matter is said by the spread over seeds (largest less smallest) of each. The recipes' flat pooling
and stochastic depth are left out: transformers' classes have a class token or a mean and, but for Swin, no depth to drop.

*cost*: CPU seconds and operations of a forward pass of ViT-Small (patches of 16) and Swin-Tiny (patches of 4, windows of 7)
as the side of a square picture grows, on one thread, no gradients.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import harness  # noqa: E402
from intermodal.core.files import read_json, write_json  # noqa: E402
from intermodal.data.loader import train_loader  # noqa: E402
from intermodal.data.mixing import Mixing  # noqa: E402
from intermodal.data.processors import LabelProcessor  # noqa: E402
from intermodal.hub.save import export  # noqa: E402
from intermodal.methods.vision_language.classifier import PictureClassifier  # noqa: E402
from intermodal.methods.vision_language.swin import Swin, SwinClassifierConfig  # noqa: E402
from intermodal.methods.vision_language.vit import ViT, ViTClassifierConfig  # noqa: E402
from intermodal.metrics.classification import top_k_accuracy  # noqa: E402
from intermodal.nn.swin import SwinConfig  # noqa: E402
from intermodal.nn.vit import ViTConfig  # noqa: E402
from intermodal.recipes import get_recipe  # noqa: E402
from intermodal.recipes.vision import ClassifierRecipe  # noqa: E402
from intermodal.train.optim import build_optimizer, learning_rate  # noqa: E402

RECIPES = ("vit", "swin", "swin-v2", "vit-digits", "swin-digits")
SIZES = (112, 224, 336, 448, 672, 896)


def train(recipe: ClassifierRecipe, network: Any, logits_of: Any, batches: list[dict[str, torch.Tensor]]) -> float:
    """Train one network on the batches, as the training loop does; return the CPU seconds."""
    network.train()
    optimizer, rate = build_optimizer(network, recipe.optim), learning_rate(recipe.optim, len(batches))
    start = time.process_time()
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        with torch.autocast("cpu", torch.bfloat16):
            logits = logits_of(batch["image"])
        loss = F.cross_entropy(logits.float(), batch["label"], label_smoothing=recipe.model.label_smoothing)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.optim.clip_norm or float("inf"))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return time.process_time() - start


@torch.no_grad()
def judge(network: Any, logits_of: Any, image_NCHW: torch.Tensor, label_N: torch.Tensor) -> dict[str, float]:
    """Return top-1 and top-5 on held-out pictures; one of a class that is not trained on counts as wrong."""
    network.eval()
    logits = torch.cat([logits_of(part) for part in image_NCHW.split(128)]).float()
    known = label_N >= 0
    found = top_k_accuracy(logits[known], label_N[known])
    return {name: value * float(known.double().mean()) for name, value in found.items()}


def peers(name: str, steps: int, seeds: int) -> dict[str, Any]:
    """Train and judge both on one recipe's data, once for each seed."""
    recipe = get_recipe(name)
    assert isinstance(recipe, ClassifierRecipe)
    runs: dict[str, list[dict[str, float]]] = {"intermodal": [], "transformers": []}
    for seed in range(seeds):
        data, judged, found = pair(published(recipe).replace(train__seed=seed), steps)
        for who, figures in found.items():
            runs[who].append(figures)
            print(f"{name}, seed {seed}, {who}: {figures}", flush=True)
    rows: dict[str, Any] = {}
    for who, each in runs.items():
        rows[who] = {figure: sum(run[figure] for run in each) / seeds for figure in each[0]}
        rows[who]["top1_spread"] = max(run["top1"] for run in each) - min(run["top1"] for run in each)
    batch = recipe.train.batch_size
    return {"recipe": name, "steps": steps, "seeds": seeds, "batch": batch, "data": data, "judged": judged, **rows}


def published(recipe: ClassifierRecipe) -> ClassifierRecipe:
    """Return a recipe with the architecture that transformers has: a class token, or a mean of places; nothing at random."""
    pool = "cls" if isinstance(recipe.model, ViTClassifierConfig) else "mean"
    return recipe.replace(model__image__pool=pool, model__image__drop_path=0.0, model__mixing=Mixing())


def pair(recipe: ClassifierRecipe, steps: int) -> tuple[str, int, dict[str, dict[str, float]]]:
    """Train ours and transformers' on the same batches; return the judged data's name and size, and the figures of both."""
    transformers: Any = harness.import_beside_torchvision("transformers")
    ours = recipe.build()
    assert isinstance(ours, PictureClassifier)
    source = recipe.source.open("train")
    loader, sampler = train_loader(
        source, ours.inputs, batch_size=recipe.train.batch_size, seed=recipe.train.seed, augment=recipe.augment
    )
    batches: list[dict[str, torch.Tensor]] = []
    epoch = 0
    while len(batches) < steps:
        sampler.set_epoch(epoch)
        for batch in loader:
            batches.append(ours.prepare(batch.tensors))
            if len(batches) == steps:
                break
        epoch += 1
    held = recipe.source.open("test")
    samples = [held.sample(i) for i in range(len(held))]
    image = ours.processors["image"]([sample["image"] for sample in samples])
    label = torch.tensor([ours.classes.index(s["label"]) if s["label"] in ours.classes else -1 for s in samples])
    with tempfile.TemporaryDirectory() as folder:
        export(ours, folder + "/model")  # the same first weights
        theirs = transformers.AutoModelForImageClassification.from_pretrained(folder + "/model")
    found = {}
    for who, network, logits_of in (
        ("intermodal", ours, ours.class_logits),
        ("transformers", theirs, lambda x: theirs(x).logits),
    ):
        seconds = train(recipe, network, logits_of, batches)
        found[who] = {**judge(network, logits_of, image, label), "train_cpu_seconds": round(seconds, 1)}
    return held.name, len(held), found


def cost(sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """Time one forward pass of a square picture of each size."""
    names = LabelProcessor(names=("a", "b"))
    tower = ViTConfig(
        image_size=224, patch_size=16, width=384, depth=12, heads=6, activation="gelu", pre_norm=False, patch_bias=True
    )
    networks: dict[str, ViT | Swin] = {
        "ViT-Small/16": ViT(ViTClassifierConfig(image=tower), {"label": names}).eval(),
        "Swin-Tiny/4": Swin(SwinClassifierConfig(image=SwinConfig()), {"label": names}).eval(),
    }
    rows = []
    for size in sizes:
        image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        row: dict[str, Any] = {"size": size}
        for name, network in networks.items():
            times = []
            with torch.inference_mode():
                network.class_logits(image)
                for _ in range(3):
                    start = time.process_time()
                    network.class_logits(image)
                    times.append(time.process_time() - start)
            row[name] = {"cpu_seconds": min(times), "flops": network.config.image.flops(size, size)}
        print(row, flush=True)
        rows.append(row)
    return rows


def main() -> int:
    """Run what is asked for and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--what", nargs="+", choices=("peers", "cost"), default=["peers", "cost"])
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "curves")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    head = {"date": datetime.date.today().isoformat(), "hardware": f"{harness.hardware()}, one thread"}
    if "cost" in options.what:
        write_json(options.out / "vision_cost.json", {**head, "rows": cost(SIZES)})
    if "peers" in options.what:
        file = options.out / "vision_peers.json"
        rows = {row["recipe"]: row for row in read_json(file)["rows"]} if file.is_file() else {}
        for name in options.recipes:  # those of other recipes stay
            rows[name] = peers(name, options.steps, options.seeds)
            write_json(file, {**head, "rows": [rows[each] for each in RECIPES if each in rows]})
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Judge the shipped feature network: ``python tools/judge_features.py``; its figures go into ``benchmarks/results/curves``.

Everything is on the emoji set's test split, pictures of concepts that were never trained on, and beside the same network of
random weights, raw pixels and SSIM:

- *read-out*: how well a linear probe and nearest neighbours tell the sub-group from a picture's features;
- *order*: of how many pictures the distance grows from one strength of a change to the next, and the mean distance;
- *sets*: the Fréchet distance of the pictures to the same pictures changed, and of two halves of them;
- *concept over style*: whether one concept in two artists' styles is nearer than two concepts in one style;
- *blur over shift*: whether a blur is farther than a shift by a pixel that has the same squared error.
"""

from __future__ import annotations

import argparse
import datetime
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from intermodal.core.files import write_json
from intermodal.data.emoji import EmojiPictures, EmojiSource
from intermodal.data.transforms import gaussian_blur
from intermodal.evaluate.baselines import raw_pixels
from intermodal.losses.perceptual import perceptual_distance
from intermodal.metrics.frechet import frechet_distance
from intermodal.metrics.knn import knn_scores
from intermodal.metrics.pictures import ssim
from intermodal.metrics.probe import fit_probe
from intermodal.nn.features import NAME, SHA256, FeatureNetwork, features_v1

OUT = Path(__file__).parent.parent / "benchmarks" / "results" / "curves" / "features_v1.json"
CHUNK = 128
EVERY = 6
"""Of the test pictures every so many are changed and compared pair by pair."""
TWINS = (("fluent-emoji", "fluent-emoji-flat"), ("twemoji", "openmoji"), ("emojione", "twemoji"))
"""Styles that draw the same concepts."""
ERROR = "squared error"
Measure = Callable[[Tensor, Tensor], Tensor]


def jpeg(image_BCHW: Tensor, quality: float) -> Tensor:
    """Return pictures after JPEG at a quality."""
    out = []
    for picture in image_BCHW:
        file = io.BytesIO()
        array = (picture.permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(array).save(file, "JPEG", quality=int(quality))
        out.append(torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1).float() / 255)
    return torch.stack(out)


def blur(image_BCHW: Tensor, sigma: float) -> Tensor:
    """Return pictures blurred by a Gaussian."""
    return gaussian_blur(image_BCHW, torch.full((len(image_BCHW),), sigma), 9)


def noise(image_BCHW: Tensor, deviation: float) -> Tensor:
    """Return pictures with normal noise, the same at every strength but for its size."""
    drawn = torch.randn(image_BCHW.shape, generator=torch.Generator().manual_seed(0))
    return (image_BCHW + deviation * drawn).clamp(0, 1)


def shift(image_BCHW: Tensor, pixels: float) -> Tensor:
    """Return pictures moved to the right, the border continued."""
    return F.pad(image_BCHW, (int(pixels), 0, 0, 0), mode="replicate")[..., : image_BCHW.shape[3]]


CHANGES: dict[str, tuple[Callable[[Tensor, float], Tensor], tuple[float, ...]]] = {
    "blur": (blur, (0.4, 0.7, 1.0, 1.5, 2.0, 3.0)),
    "noise": (noise, (0.02, 0.05, 0.1, 0.2, 0.4)),
    "jpeg": (jpeg, (90, 70, 50, 30, 15, 5)),
    "shift": (shift, (1, 2, 3, 5, 8)),
}


def read(source: EmojiPictures) -> Tensor:
    """Return a split's pictures, ``(N, 3, 64, 64)`` in 0..1."""
    arrays = np.stack([np.asarray(source.image(i)) for i in range(len(source.rows))])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 255


def column(source: EmojiPictures, name: str, names: dict[str, int]) -> Tensor:
    """Return a field of the rows as numbers; ``names`` gains those that are new."""
    return torch.tensor([names.setdefault(row[name], len(names)) for row in source.rows])


def stage_means(network: FeatureNetwork, image_BCHW: Tensor) -> Tensor:
    """Return the means of all stages over places, one after the other; the last 128 are :meth:`FeatureNetwork.pooled`."""
    with torch.inference_mode():
        parts = [torch.cat([m.mean((2, 3)) for m in network(part)], dim=1) for part in image_BCHW.split(CHUNK)]
    return torch.cat(parts)


def read_out(networks: dict[str, FeatureNetwork]) -> dict[str, dict[str, float]]:
    """Return accuracies of probe and neighbours on held-out concepts and, as ``style_``, in held-out styles."""
    sources = {split: EmojiSource().open(split) for split in ("train", "test", "style")}
    labels: dict[str, int] = {}
    concepts: dict[str, int] = {}
    truth = {split: column(source, "subgroup", labels) for split, source in sources.items()}
    groups = column(sources["train"], "concept", concepts)
    pictures = {split: read(source) for split, source in sources.items()}
    rows: dict[str, dict[str, Tensor]] = {}
    for name, network in networks.items():
        whole = {split: stage_means(network, image) for split, image in pictures.items()}
        last = network.config.features
        rows[f"{name}, last stage"] = {split: features[:, -last:] for split, features in whole.items()}
        rows[f"{name}, all stages"] = whole
    rows["raw pixels, 16 x 16"] = {
        split: torch.from_numpy(raw_pixels([source.image(i) for i in range(len(source.rows))], 16))
        for split, source in sources.items()
    }
    found: dict[str, dict[str, float]] = {}
    for name, features in rows.items():
        mean = features["train"].mean(0)
        probe = fit_probe(features["train"], truth["train"], classes=len(labels), groups_N=groups)
        unit = {split: F.normalize(x - mean, dim=1) for split, x in features.items()}
        for split, prefix in (("test", ""), ("style", "style_")):
            votes = knn_scores(unit["train"], truth["train"], unit[split], classes=len(labels), k=20, temperature=0.07)
            for kind, scores in (("knn", votes), ("probe", probe(features[split]))):
                right = (scores.argmax(1) == truth[split]).double().mean()
                found.setdefault(name, {})[prefix + kind] = round(float(right), 4)
        print(name, found[name], flush=True)
    return found


def distances(measure: Measure, one: Tensor, two: Tensor) -> Tensor:
    """Return the distance of each pair, without a graph."""
    with torch.inference_mode():
        return torch.cat([measure(a, b).double() for a, b in zip(one.split(CHUNK), two.split(CHUNK), strict=True)])


def order(measures: dict[str, Measure], image: Tensor) -> dict[str, dict[str, dict[str, object]]]:
    """Return, of each measure and change, the mean distance at each strength and the share of steps that are in order."""
    found: dict[str, dict[str, dict[str, object]]] = {name: {} for name in measures}
    for kind, (change, strengths) in CHANGES.items():
        changed = [change(image, strength) for strength in strengths]
        for name, measure in measures.items():
            d = torch.stack([distances(measure, c, image) for c in changed])
            found[name][kind] = {
                "strengths": list(strengths),
                "mean": [round(v, 5) for v in d.mean(1).tolist()],
                "in_order": round(float((d.diff(dim=0) > 0).double().mean()), 4),
            }
            print(kind, name, found[name][kind], flush=True)
    return found


def sets(networks: dict[str, FeatureNetwork], image: Tensor) -> dict[str, dict[str, object]]:
    """Return Fréchet distances of one half of the pictures to the same changed, and to the other half."""
    found: dict[str, dict[str, object]] = {}
    for name, network in networks.items():
        last = network.config.features
        features = stage_means(network, image)[:, -last:]
        found[name] = {"halves": round(frechet_distance(features[::2], features[1::2]), 5)}
        for kind, (change, strengths) in CHANGES.items():
            changed = [stage_means(network, change(image[::2], s))[:, -last:] for s in strengths]
            found[name][kind] = [round(frechet_distance(c, features[::2]), 5) for c in changed]
        print(name, found[name], flush=True)
    return found


def concept_over_style(measures: dict[str, Measure], source: EmojiPictures, image: Tensor) -> dict[str, float]:
    """Return how often one concept in two styles is nearer than two concepts in one style."""
    place = {(row["concept"], row["style"]): i for i, row in enumerate(source.rows)}
    concepts = sorted(source.concepts)
    rng = np.random.default_rng(0)
    triplets = []
    for concept in concepts:
        for style, twin in TWINS:
            other = concepts[int(rng.integers(len(concepts)))]
            keys = (concept, style), (concept, twin), (other, style)
            if other != concept and all(key in place for key in keys):
                triplets.append([place[key] for key in keys])
    anchor, same, other_concept = (image[list(rows)] for rows in zip(*triplets, strict=True))
    found = {"triplets": float(len(triplets))}
    for name, measure in measures.items():
        nearer = distances(measure, anchor, same) < distances(measure, anchor, other_concept)
        found[name] = round(float(nearer.double().mean()), 4)
    return found


def blur_over_shift(measures: dict[str, Measure], image: Tensor) -> dict[str, float]:
    """Return how often a blur is farther than a shift by one pixel of the same squared error."""
    moved = shift(image, 1)
    error = (moved - image).square().mean((1, 2, 3))
    low, high = torch.full((len(image),), 0.2), torch.full((len(image),), 6.0)
    for _ in range(14):
        middle = (low + high) / 2
        worse = (gaussian_blur(image, middle, 18) - image).square().mean((1, 2, 3)) > error
        low, high = torch.where(worse, low, middle), torch.where(worse, middle, high)
    possible = high < 5.9
    soft, moved, sharp = gaussian_blur(image, high, 18)[possible], moved[possible], image[possible]
    found = {"pictures": float(len(sharp))}
    for name, measure in measures.items():
        farther = distances(measure, soft, sharp) > distances(measure, moved, sharp)
        found[name] = round(float(farther.double().mean()), 4)
    return found


def main() -> None:
    """Judge and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.manual_seed(0)
    random = FeatureNetwork().requires_grad_(False).eval().to(memory_format=torch.channels_last)
    networks = {NAME: features_v1(), "random weights": random}
    measures: dict[str, Measure] = {
        NAME: perceptual_distance,
        "random weights": lambda a, b: perceptual_distance(a, b, random),
        ERROR: lambda a, b: (a - b).double().square().mean((1, 2, 3)),
        "1 - SSIM": lambda a, b: 1 - ssim(a, b),
    }
    source = EmojiSource().open("test")
    image = read(source)
    some = image[::EVERY]
    result = {
        "network": NAME,
        "sha256": SHA256,
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "pictures": len(image),
        "compared": len(some),
        "read_out": read_out(networks),
        "order": order(measures, some),
        "sets": sets(networks, image),
        "concept_over_style": concept_over_style(measures, source, image),
        "blur_over_shift": blur_over_shift({k: m for k, m in measures.items() if k != ERROR}, some),
    }
    print({k: result[k] for k in ("concept_over_style", "blur_over_shift")})
    write_json(args.out, result)
    print(f"Wrote {args.out}.")


if __name__ == "__main__":
    main()

"""The image encoders against their papers' equations, written out sample by sample in float64, and at the edges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from intermodal.core.errors import ConfigError, DataError
from intermodal.data.processors import ImageProcessor, LabelProcessor
from intermodal.methods.contrastive.equivariant import Equivariant, EquivariantConfig
from intermodal.methods.contrastive.image_encoder import ImageEncoder
from intermodal.methods.contrastive.siamese import SiameseConfig, SiameseNetwork
from intermodal.methods.contrastive.simclr import SimCLR, SimCLRConfig
from intermodal.methods.contrastive.supcon import SupCon, SupConConfig
from intermodal.methods.contrastive.triplet import TripletConfig, TripletNetwork
from intermodal.nn.projector import ProjectorConfig
from intermodal.nn.resnet import ResNetConfig
from intermodal.nn.vit import ViTConfig

VIT = ViTConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2)
HEAD = ProjectorConfig(hidden_dim=12, output_dim=6, norm="none")
PROCESSORS = {
    "image": ImageProcessor(size=(16, 16)),
    "label": LabelProcessor(names=("a", "b", "c", "d")),
}
CLASSES: Mapping[type[ImageEncoder], type] = {
    SimCLR: SimCLRConfig,
    SupCon: SupConConfig,
    TripletNetwork: TripletConfig,
    SiameseNetwork: SiameseConfig,
    Equivariant: EquivariantConfig,
}


def build(cls: type[ImageEncoder], seed: int = 0, **fields: Any) -> Any:
    if cls in (SimCLR, SupCon, Equivariant):
        fields = {"projector": HEAD, **fields}
    torch.manual_seed(seed)
    return cls(CLASSES[cls](**{"image": VIT, **fields}), PROCESSORS).double()


def batch_of(count: int, views: int = 2, labels: str = "abca", seed: int = 0, side: int = 16) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(count, views, 3, side, side, generator=generator, dtype=torch.float64)
    label = torch.tensor(["abcd".index(labels[i % len(labels)]) for i in range(count)])
    return {"image": image, "label": label, "seed": torch.arange(count) + 7 + seed}


def dot(x: list[float], y: list[float]) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True))


def unit_rows(x: Tensor) -> list[list[float]]:
    return [[v / math.sqrt(dot(row, row)) for v in row] for row in x.tolist()]


def projections(method: Any, image: Tensor) -> list[list[float]]:
    """Return unit projections of each view, in the order (picture, view), each encoded alone."""
    with torch.no_grad():
        return unit_rows(torch.cat([method.projector(method.features(view[None])) for view in image.flatten(0, 1)]))


def brute_nt_xent(z: list[list[float]], temperature: float) -> float:
    total = 0.0
    for i in range(len(z)):
        partner = i + 1 if i % 2 == 0 else i - 1  # the order is picture by picture, two views each
        others = [math.exp(dot(z[i], z[a]) / temperature) for a in range(len(z)) if a != i]
        total -= math.log(math.exp(dot(z[i], z[partner]) / temperature) / sum(others))
    return total / len(z)


def test_simclr_is_equation_1_of_chen():
    method, batch = build(SimCLR, temperature=0.3), batch_of(4)
    expected = brute_nt_xent(projections(method, batch["image"]), 0.3)
    assert method.loss(batch).total.item() == pytest.approx(expected, rel=1e-9)


def test_simclr_with_sigmoid_is_algorithm_1_of_zhai():
    method, batch = build(SimCLR, loss="sigmoid", init_logit_scale=8.0, init_logit_bias=-3.0), batch_of(4)
    z = projections(method, batch["image"])
    first, second = z[0::2], z[1::2]
    expected = sum(
        math.log1p(math.exp(-(1 if i == j else -1) * (8.0 * dot(a, b) - 3.0)))
        for i, a in enumerate(first)
        for j, b in enumerate(second)
    )
    assert method.loss(batch).total.item() == pytest.approx(expected / 4, rel=1e-6)


def test_simclr_in_chunks_is_the_same_gradient():
    whole, parts, batch = build(SimCLR), build(SimCLR, chunk_size=3), batch_of(4)
    for method in (whole, parts):
        method.train().loss(batch).total.backward()
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-12, rtol=1e-9)


def test_chunks_refuse_batch_norm_when_configured():
    with pytest.raises(ConfigError, match="treats each row by itself"):
        SimCLRConfig(image=VIT, chunk_size=4)
    tower = ResNetConfig(image_size=32, layers=(1, 1, 1, 1), width=2, heads=1, output_dim=4)
    with pytest.raises(ConfigError, match="treats each row by itself"):
        SimCLRConfig(image=tower, projector=HEAD, chunk_size=4)


@pytest.mark.parametrize("objective", ["out", "in"])
def test_supcon_is_equations_2_and_3_of_khosla(objective):
    method, batch = build(SupCon, objective=objective, temperature=0.4), batch_of(4)
    with torch.no_grad():
        z = unit_rows(method.head(method.features(batch["image"].flatten(0, 1))))
    labels = batch["label"].repeat_interleave(2).tolist()
    total = 0.0
    for i in range(len(z)):
        below = sum(math.exp(dot(z[i], z[a]) / 0.4) for a in range(len(z)) if a != i)
        shares = [math.exp(dot(z[i], z[p]) / 0.4) / below for p in range(len(z)) if p != i and labels[p] == labels[i]]
        if objective == "out":
            total -= sum(math.log(s) for s in shares) / len(shares)
        else:
            total -= math.log(sum(shares) / len(shares))
    assert method.loss(batch).total.item() == pytest.approx(total / len(z), rel=1e-9)


def test_plain_supervision_is_the_cross_entropy_of_every_view():
    method, batch = build(SupCon, objective="cross-entropy"), batch_of(3, labels="abd")
    with torch.no_grad():
        logits = method.head(method.features(batch["image"].flatten(0, 1))).tolist()
    labels = batch["label"].repeat_interleave(2).tolist()
    expected = -sum(row[y] - math.log(sum(map(math.exp, row))) for row, y in zip(logits, labels, strict=True)) / 6
    result = method.loss(batch)
    assert result.total.item() == pytest.approx(expected, rel=1e-9)
    right = sum(max(row) == row[y] for row, y in zip(logits, labels, strict=True)) / 6
    assert result.parts["accuracy"].item() == pytest.approx(right)


def test_vicreg_is_equations_1_to_6_of_bardes():
    """The invariance is the mean over features too, as in the paper's algorithm 1, to which its weights belong."""
    method, batch = build(Equivariant, weights=(25.0, 24.0, 2.0)), batch_of(5)
    with torch.no_grad():
        z = method.projector(method.features(batch["image"].flatten(0, 1))).tolist()
    views, size, dim = (z[0::2], z[1::2]), 5, 6
    invariance = sum((a - b) ** 2 for x, y in zip(*views, strict=True) for a, b in zip(x, y, strict=True))
    variance = covariance = 0.0
    for view in views:
        mean = [sum(row[d] for row in view) / size for d in range(dim)]
        cov = [
            [sum((row[a] - mean[a]) * (row[b] - mean[b]) for row in view) / (size - 1) for b in range(dim)]
            for a in range(dim)
        ]
        variance += sum(max(0.0, 1 - math.sqrt(cov[d][d] + 1e-4)) for d in range(dim)) / dim
        covariance += sum(cov[a][b] ** 2 for a in range(dim) for b in range(dim) if a != b) / dim
    result = method.loss(batch)
    expected = 25 * invariance / (size * dim) + 24 * variance + 2 * covariance
    assert result.total.item() == pytest.approx(expected, rel=1e-9)
    assert result.parts["variance"].item() == pytest.approx(variance, rel=1e-9)


@pytest.mark.parametrize("rotations", ["all", "one"])
@pytest.mark.parametrize("views", [2, 3])
def test_e_ssl_is_equation_1_of_dangovski(rotations, views):
    method = build(
        Equivariant, objective="e-ssl", views=views, rotations=rotations, rotation_weight=0.7, temperature=0.3,
        rotation_head=HEAD,
    )  # fmt: skip
    batch = batch_of(4, views=views)
    result = method.loss(batch)
    _, turns = method.rotated(batch["image"][:, -1], batch)
    source = batch["image"][:, 2 if views == 3 else 0]
    chosen = [(i, k) for k in range(4) for i in range(4)] if rotations == "all" else list(enumerate(turns.tolist()))
    rotation = 0.0
    with torch.no_grad():
        for i, k in chosen:
            turned = np.rot90(source[i].numpy(), k, (1, 2)).copy()
            logits = method.rotation_head(method.features(torch.from_numpy(turned)[None]))[0].tolist()
            rotation -= (logits[k] - math.log(sum(map(math.exp, logits)))) / len(chosen)
    expected = brute_nt_xent(projections(method, batch["image"][:, :2]), 0.3) + 0.7 * rotation
    assert result.total.item() == pytest.approx(expected, rel=1e-9)
    assert result.parts["rotation"].item() == pytest.approx(rotation, rel=1e-9)


def test_rotations_come_from_the_batch_seeds_alone():
    method = build(Equivariant, objective="e-ssl", views=3, rotation_head=HEAD)
    one, two = batch_of(32, views=3), batch_of(32, views=3)
    two["seed"] = two["seed"] + 1
    turns = [method.rotated(b["image"][:, -1], b)[1] for b in (one, one, two)]
    assert torch.equal(turns[0], turns[1])
    assert not torch.equal(turns[0], turns[2])
    assert set(turns[0].tolist()) == {0, 1, 2, 3}
    torch.manual_seed(99)
    assert torch.equal(method.loss(one).total, method.loss(one).total)


def pair_cost(x: list[float], y: list[float], same: bool, distance: str, margin: float) -> float:
    apart = 1 - dot(x, y) if distance == "cosine" else math.dist(x, y)
    return (apart if same else max(0.0, margin - apart)) ** 2 / 2


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_siamese_on_listed_pairs_is_equation_4_of_hadsell(distance):
    method = build(SiameseNetwork, pairs="listed", embed_dim=6, distance=distance, neg_margin=0.5)
    batch = {**batch_of(5), "label": torch.tensor([1, 0, 0, 1, 0])}
    with torch.no_grad():
        z = unit_rows(method.embedding(method.features(batch["image"].flatten(0, 1))))
    expected = sum(
        pair_cost(z[2 * i], z[2 * i + 1], bool(same), distance, 0.5) for i, same in enumerate(batch["label"])
    )
    assert method.loss(batch).total.item() == pytest.approx(expected / 5, rel=1e-8)


@pytest.mark.parametrize("pairs", ["labels", "views"])
def test_siamese_on_a_batch_takes_all_pairs_of_it(pairs):
    """The mean over positive pairs and that over negative ones, each over those that cost anything."""
    method, batch = build(SiameseNetwork, pairs=pairs, embed_dim=6, neg_margin=0.9), batch_of(4)
    with torch.no_grad():
        z = unit_rows(method.embedding(method.features(batch["image"].flatten(0, 1))))
    labels = (batch["label"] if pairs == "labels" else torch.arange(4)).repeat_interleave(2).tolist()
    costs: dict[bool, list[float]] = {True: [], False: []}
    for i in range(8):
        for j in range(8):
            if i != j:
                same = labels[i] == labels[j]
                costs[same].append(pair_cost(z[i], z[j], same, "euclidean", 0.9))
    expected = sum(sum(c) / max(sum(x > 0 for x in c), 1) for c in costs.values())
    assert method.loss(batch).total.item() == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("mining", ["all", "semihard", "hard"])
@pytest.mark.parametrize("positives", ["labels", "views"])
def test_triplets_are_those_of_schroff_and_hermans(mining, positives):
    method = build(TripletNetwork, mining=mining, positives=positives, embed_dim=6, margin=0.4)
    batch = batch_of(5, labels="abcaa")
    with torch.no_grad():
        z = unit_rows(method.embedding(method.features(batch["image"].flatten(0, 1))))
    labels = (batch["label"] if positives == "labels" else torch.arange(5)).repeat_interleave(2).tolist()
    apart = [[math.dist(x, y) ** 2 for y in z] for x in z]
    costs = []
    for a in range(10):
        near = [apart[a][n] for n in range(10) if labels[n] != labels[a]]
        far = [apart[a][p] for p in range(10) if p != a and labels[p] == labels[a]]
        if mining == "hard":
            costs.append(max(far) - min(near) + 0.4)
        else:
            costs += [p - n + 0.4 for p in far for n in near if mining == "all" or p < n < p + 0.4]
    positive = [c for c in costs if c > 0]
    expected = sum(positive) / max(len(positive), 1)
    assert method.loss(batch).total.item() == pytest.approx(expected, rel=1e-7, abs=1e-12)


EVERY = [
    (SimCLR, {}),
    (SimCLR, {"loss": "sigmoid"}),
    (SupCon, {}),
    (SupCon, {"objective": "in"}),
    (SupCon, {"objective": "cross-entropy"}),
    (TripletNetwork, {"mining": "all"}),
    (TripletNetwork, {"mining": "hard"}),
    (TripletNetwork, {"mining": "semihard"}),
    (SiameseNetwork, {"pairs": "labels"}),
    (SiameseNetwork, {"pairs": "views", "embeds": "features"}),
    (Equivariant, {}),
    (Equivariant, {"objective": "e-ssl", "rotation_head": HEAD}),
    (Equivariant, {"objective": "e-ssl", "invariance": "vicreg", "rotations": "all", "rotation_head": HEAD}),
]


@pytest.mark.parametrize(("cls", "fields"), EVERY)
@pytest.mark.parametrize("case", ["one class", "batch of one", "equal pictures"])
def test_degenerate_batches_have_a_finite_loss_and_gradient(cls, fields, case):
    method = build(cls, **fields).train()
    batch = batch_of(1 if case == "batch of one" else 4, labels="a")
    if case == "equal pictures":
        batch["image"] = batch["image"][:1, :1].expand(4, 2, -1, -1, -1)
    total = method.loss(batch).total
    assert total.isfinite()
    total.backward()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


@pytest.mark.parametrize(("cls", "fields"), EVERY)
def test_a_picture_of_nan_makes_the_loss_nan_and_is_never_passed_over(cls, fields):
    """The training loop stops at a loss that is not a number; a miner that dropped NaN would hide it."""
    method, batch = build(cls, **fields), batch_of(4)
    batch["image"][2, 0, 0, 3, 3] = math.nan
    assert method.loss(batch).total.isnan()


@pytest.mark.parametrize(("cls", "fields"), EVERY)
def test_embeddings_are_unit_vectors_of_the_stated_size_whatever_the_batch(cls, fields):
    method = build(cls, **fields).float().train()
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)) for _ in range(3)]
    vectors = method.embed("image", pictures)
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, method.embed_dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(method.embed("image", pictures[1:2]), vectors[1:2], atol=1e-6)
    assert method.training  # embedding leaves the mode as it was
    assert method.embed("image", []).shape == (0, method.embed_dim)
    with pytest.raises(DataError, match="embeds pictures"):
        method.embed("text", ["a"])


def test_features_are_the_towers_and_the_projector_is_not_used():
    method = build(SimCLR).float()
    picture = Image.new("RGB", (16, 16), (200, 10, 10))
    before = method.embed("image", [picture])
    torch.nn.init.zeros_(method.projector[-1].weight)
    np.testing.assert_array_equal(method.embed("image", [picture]), before)


@pytest.mark.parametrize(
    ("cls", "fields", "says"),
    [
        (SimCLR, {"views": 3}, "compares two views"),
        (SimCLR, {"temperature": 0.0}, "above 0"),
        (TripletNetwork, {"margin": -0.1}, "must not be negative"),
        (TripletNetwork, {"positives": "views", "views": 1}, "at least two"),
        (SiameseNetwork, {"neg_margin": 0.1, "pos_margin": 0.2}, "must be above pos_margin"),
        (SiameseNetwork, {"pairs": "listed", "views": 4}, "is two pictures"),
        (Equivariant, {"views": 3}, "must be 2"),
        (Equivariant, {"objective": "e-ssl", "views": 4}, "2 or 3"),
        (Equivariant, {"weights": (1.0, -1.0, 1.0)}, "must not be negative"),
        (SupCon, {"views": 0}, "at least 1"),
    ],
)
def test_configurations_that_mean_nothing_are_refused(cls, fields, says):
    with pytest.raises(ConfigError, match=says):
        CLASSES[cls](image=VIT, **fields)


@pytest.mark.parametrize("cls", list(CLASSES))
def test_another_number_of_views_than_configured_is_refused(cls):
    method = build(cls)
    with pytest.raises(DataError, match=r"configured for 2 views.*holds 3"):
        method.loss(batch_of(4, views=3))
    with pytest.raises(DataError, match=r"holds 1"):
        method.loss({**batch_of(4), "image": batch_of(4)["image"][:, 0]})


def test_a_quarter_turn_needs_a_square():
    tower = ViTConfig(image_size=(16, 24), patch_size=8, width=16, depth=1, heads=2)
    method = build(Equivariant, image=tower, objective="e-ssl", rotation_head=HEAD)
    batch = batch_of(2)
    batch["image"] = torch.zeros(2, 2, 3, 16, 24, dtype=torch.float64)
    with pytest.raises(DataError, match="square"):
        method.loss(batch)


def test_health_speaks_of_collapse_to_a_point_and_to_a_few_dimensions():
    method = build(SimCLR)
    assert method.health() == []
    spread = torch.randn(64, 2, 32, generator=torch.Generator().manual_seed(0))
    parts = method.note(spread)
    assert method.health() == []
    assert parts["alike"].item() == pytest.approx(0, abs=0.05)
    method.note(spread * 0.01 + 1)
    assert "collapsed" in method.health()[0]
    line = torch.randn(64, 1, 1, generator=torch.Generator().manual_seed(1)) * torch.ones(1, 2, 32)
    method.note(line)
    assert "dimensions" in method.health()[0]


def test_the_figures_of_a_step_are_mean_cosines():
    z = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parts = build(SimCLR).note(z, extra=torch.tensor(2.0))
    rows = unit_rows(z.flatten(0, 1))
    within = [dot(rows[2 * i], rows[2 * i + 1]) for i in range(3)]
    across = [dot(rows[i], rows[j]) for i in range(6) for j in range(6) if i // 2 != j // 2]
    assert parts["views_alike"].item() == pytest.approx(sum(within) / 3)
    assert parts["alike"].item() == pytest.approx(sum(across) / len(across))
    assert parts["extra"].item() == 2


def test_a_resnets_features_are_centred_over_the_batch_and_by_running_statistics_afterwards():
    tower = ResNetConfig(image_size=16, layers=(1, 1), width=2, pool="flat")
    method = build(SimCLR, image=tower).train()
    image = batch_of(64)["image"].flatten(0, 1)
    features = method.features(image)
    assert features.shape == (128, method.embed_dim) == (128, 4 * 16)
    torch.testing.assert_close(features.mean(0), torch.zeros(64).double(), atol=1e-10, rtol=0)
    for _ in range(150):
        method.features(image)
    torch.testing.assert_close(method.eval().features(image).mean(0), torch.zeros(64).double(), atol=0.05, rtol=0)


@pytest.mark.parametrize("cls", [SiameseNetwork, TripletNetwork])
def test_a_metric_encoder_gives_its_embedding_or_the_features_before_it(cls):
    image = batch_of(3)["image"].flatten(0, 1)
    for embeds, dim in (("embedding", 6), ("features", 16)):
        method = build(cls, embed_dim=6, embeds=embeds)
        features = method.features(image)
        expected = unit_rows(method.embedding(features) if embeds == "embedding" else features)
        assert method.embed_dim == dim
        torch.testing.assert_close(method.encode_image(image), torch.tensor(expected, dtype=torch.float64))

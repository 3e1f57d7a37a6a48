"""ViT and Swin as methods: the loss written out, the teacher, classes by name, maps, a person's own folders."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from intermodal.core.errors import ConfigError, DataError
from intermodal.data.folder import FolderSource
from intermodal.data.mixing import Mixing
from intermodal.data.processors import ImageProcessor, LabelProcessor
from intermodal.hub.load import load
from intermodal.methods.base import generator_of
from intermodal.methods.contrastive.supcon import SupCon, SupConConfig
from intermodal.methods.vision_language.swin import Swin, SwinClassifierConfig
from intermodal.methods.vision_language.vit import ViT, ViTClassifierConfig
from intermodal.nn.resnet import ResNetConfig
from intermodal.nn.swin import SwinConfig
from intermodal.nn.vit import ViTConfig
from intermodal.recipes import get_recipe
from intermodal.train.run import fit

TOWER = ViTConfig(image_size=16, patch_size=4, width=12, depth=2, heads=3, activation="gelu", pre_norm=False)
SMALL = SwinConfig(image_size=16, patch_size=2, width=8, depths=(2, 1), heads=(1, 2), window=4)
NAMES = ("ape", "bee", "cat")


def processors(**image: Any) -> dict[str, Any]:
    return {"image": ImageProcessor(size=(16, 16), **image), "label": LabelProcessor(names=NAMES)}


def build(kind: str, seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    if kind == "swin":
        return Swin(SwinClassifierConfig(image=SMALL, **changes), processors())
    tower = TOWER.replace(distillation=kind == "deit")
    return ViT(ViTClassifierConfig(image=tower, **changes), processors())


def batch_of(count: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(count, 3, 16, 16, generator=generator)
    return {"image": image, "label": torch.arange(count) % 3, "seed": torch.arange(count)}


def pictures(count: int = 3) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (20 + i, 31, 3), dtype=np.uint8)) for i in range(count)]


def smoothed(logits: torch.Tensor, label: int, smoothing: float) -> float:
    """Cross entropy with a target of (1 - s) of the class and s spread over all, term by term."""
    log_p = logits.double().log_softmax(0).tolist()
    return -sum(((1 - smoothing) * (k == label) + smoothing / len(log_p)) * p for k, p in enumerate(log_p))


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_loss_is_the_smoothed_cross_entropy(kind: str) -> None:
    method, batch = build(kind, label_smoothing=0.2).eval(), batch_of()
    logits = method.class_logits(batch["image"])
    wanted = [smoothed(row, int(label), 0.2) for row, label in zip(logits, batch["label"], strict=True)]
    assert method.loss(batch).total.item() == pytest.approx(math.fsum(wanted) / len(wanted), abs=1e-5)


def test_a_mixed_picture_is_asked_for_both_classes() -> None:
    mixing = Mixing(cutmix=1.0)
    method, batch = build("vit", mixing=mixing).train(), batch_of()
    mixed, other, share = mixing.mix(batch["image"], generator_of(batch))
    logits = method.class_logits(mixed)
    wanted = []
    for i, row in enumerate(logits):
        own, its = (smoothed(row, int(batch["label"][j]), 0.0) for j in (i, int(other[i])))
        wanted.append(float(share[i]) * own + (1 - float(share[i])) * its)
    assert method.loss(batch).total.item() == pytest.approx(sum(wanted) / len(wanted), abs=1e-5)
    plain = method.eval().loss(batch).total.item()  # what is judged is not mixed
    alone = [
        smoothed(row, int(k), 0.0) for row, k in zip(method.class_logits(batch["image"]), batch["label"], strict=True)
    ]
    assert plain == pytest.approx(sum(alone) / len(alone), abs=1e-5)


@pytest.mark.parametrize("other", [{}, {"mean": (0.2, 0.5, 0.7), "std": (0.5, 0.4, 0.3)}], ids=["same", "other pixels"])
def test_hard_distillation_asks_the_teacher(other: dict[str, Any]) -> None:
    """Half the labels by the class token, half the teacher's class by the distillation token (DeiT, equation 3)."""
    student, batch = build("deit", label_smoothing=0.1), batch_of()
    torch.manual_seed(7)
    config = SupConConfig(
        image=ResNetConfig(image_size=16, layers=(1, 1), width=8, pool="flat"), objective="cross-entropy"
    )
    teacher = SupCon(config, processors(**other))
    student.learn_from(teacher)
    assert not teacher.training and not any("teacher" in key for key in student.state_dict())
    ours, theirs = student.processors["image"], teacher.processors["image"]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (ours.mean, ours.std))
    seen = theirs.prepare((batch["image"] * std + mean).clamp(0, 1))
    taught = teacher.class_logits(seen if other else batch["image"]).argmax(1)
    first, second = student.heads(batch["image"])
    labels = [smoothed(row, int(k), 0.1) for row, k in zip(first, batch["label"], strict=True)]
    said = [smoothed(row, int(k), 0.0) for row, k in zip(second, taught, strict=True)]
    found = student.train().loss(batch)
    assert found.total.item() == pytest.approx(0.5 * sum(labels) / 6 + 0.5 * sum(said) / 6, abs=1e-5)
    assert {"distillation", "agreement", "accuracy"} <= set(found.parts)
    assert torch.allclose(student.class_logits(batch["image"]), (first + second) / 2)


def test_a_second_head_may_read_the_patches() -> None:
    """Without class tokens both heads read the same features, and the answer is their mean."""
    config = ViTClassifierConfig(image=TOWER.replace(pool="flat"), second_head=True)
    method, image = ViT(config, processors()).eval(), batch_of()["image"]
    features = method.features(image)
    first, second = method.heads(image)
    assert torch.allclose(first, method.head(features)) and torch.allclose(second, method.distillation_head(features))
    assert features.shape == (6, 16 * 12) and torch.allclose(method.class_logits(image), (first + second) / 2)
    with pytest.raises(ConfigError, match="pooled patches"):
        ViTClassifierConfig(image=TOWER, second_head=True)


def test_who_cannot_teach_is_refused() -> None:
    student = build("deit")
    contrastive = SupCon(SupConConfig(image=TOWER.replace(pool="mean")), processors())
    student.learn_from(contrastive)
    with pytest.raises(ConfigError, match="learnt by contrast"):
        student.train().loss(batch_of())
    other = build("vit")
    other.processors["label"] = LabelProcessor(names=("ape", "dog"))
    with pytest.raises(ConfigError, match="bee, cat, dog"):
        student.learn_from(other)


@pytest.mark.parametrize("kind", ["vit", "deit", "swin"])
def test_classes_embeddings_and_maps(kind: str) -> None:
    method = build(kind).train()
    images = pictures(70)
    shares = method.classify(images, NAMES)
    assert method.training and shares.shape == (70, 3)
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-5)
    prepared = method.processors["image"](images)
    wanted = method.eval().class_logits(prepared).softmax(1).detach().numpy()
    np.testing.assert_allclose(shares, wanted, atol=1e-5)
    two = method.classify(images, ["cat", "ape"])
    np.testing.assert_allclose(two, wanted[:, [2, 0]] / wanted[:, [2, 0]].sum(1, keepdims=True), atol=1e-5)
    vectors = method.embed("image", images[:2])
    assert vectors.shape == (2, method.embed_dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    maps = method.looks(images[:2])
    assert maps.shape == (2, 4, 4) and np.isfinite(maps).all()
    assert method.embed("image", []).shape == (0, method.embed_dim) and len(method.looks([])) == 0
    with pytest.raises(DataError, match="did you mean 'cat'"):
        method.classify(images, ["cats"])
    with pytest.raises(DataError, match="at least one label"):
        method.classify(images, [])
    with pytest.raises(DataError, match="not 'text'"):
        method.embed("text", ["a"])


@pytest.mark.parametrize("pool", ["mean", "flat"])
def test_swins_map_adds_up_to_the_answer(pool: Any) -> None:
    method = Swin(SwinClassifierConfig(image=SMALL.replace(pool=pool)), processors()).eval()
    torch.nn.init.normal_(method.head.bias)
    images = pictures(4)
    best = method.logits_of(images).max(1).values.numpy()
    np.testing.assert_allclose(method.looks(images).mean((1, 2)), best, atol=1e-5)


@pytest.mark.parametrize("kind", ["vit", "deit", "swin"])
@pytest.mark.parametrize("size", [(16, 16), (24, 40), (18, 21)])
def test_other_sizes_give_classes(kind: str, size: tuple[int, int]) -> None:
    assert build(kind).class_logits(torch.randn(2, 3, *size)).shape == (2, 3)
    if kind != "deit":
        config = build(kind).config.replace(image__pool="flat")
        flat = ViT(config, processors()) if kind == "vit" else Swin(config, processors())
        assert flat.class_logits(torch.randn(2, 3, *size)).shape == (2, 3)


@pytest.mark.parametrize("kind", ["vit", "deit", "swin"])
def test_saving_keeps_everything(kind: str, tmp_path: Path) -> None:
    method = build(kind, mixing=Mixing(mixup=0.2)).eval()
    method.save(tmp_path / "model")
    again = load(tmp_path / "model")
    np.testing.assert_array_equal(again.classify(pictures(), NAMES), method.classify(pictures(), NAMES))


def test_one_answer_for_every_picture_is_said() -> None:
    method = build("vit")
    batch = {k: v.repeat_interleave(4, 0) for k, v in batch_of().items()}
    with torch.no_grad():
        method.head.bias.copy_(torch.tensor([0.0, 50.0, 0.0]))
    method.loss(batch)
    assert "'bee'" in method.health()[0]
    fresh = build("vit")
    assert fresh.health() == []


@pytest.mark.parametrize("kind", ["vit", "deit", "swin"])
def test_the_batchs_seeds_decide_what_is_left_out(kind: str) -> None:
    method, batch = build(kind), batch_of()
    plain = method.eval().loss(batch).total.item()
    dropped = type(method)(method.config.replace(image=method.config.image.replace(drop_path=0.5)), processors())
    dropped.load_state_dict(method.state_dict())
    assert "seed" not in method.needs and dropped.needs_seed
    assert dropped.eval().loss(batch).total.item() == plain
    before = torch.get_rng_state()
    losses = [dropped.train().loss({**batch, "seed": batch["seed"] + shift}).total.item() for shift in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert losses[0] == losses[1] != losses[2]


def test_labels_are_needed() -> None:
    with pytest.raises(ConfigError, match="knows the classes"):
        ViT(ViTClassifierConfig(image=TOWER), {"image": ImageProcessor(size=(16, 16))})
    with pytest.raises(ConfigError, match="label_smoothing"):
        ViTClassifierConfig(image=TOWER, label_smoothing=1.0)


def folder_of(root: Path, classes: tuple[str, ...], count: int = 12) -> Path:
    rng = np.random.default_rng(1)
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 90, (40, 30 + i, 3), dtype=np.uint8)
            pixels[..., number % 3] += 150
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_a_persons_folders_are_learnt_and_judged(name: str, tmp_path: Path) -> None:
    """Red, green and blue pictures, a folder each: trained, judged with every panel, classified."""
    root = folder_of(tmp_path / "pictures", ("blue", "green", "red"))
    recipe = get_recipe(name).smoke().on(FolderSource(path=root, validation_share=0.3))
    assert recipe.model.image.size == (64, 64)
    recipe = recipe.replace(train__steps=30, train__batch_size=12, optim__warmup=2, model__mixing=Mixing())
    run = fit(recipe, tmp_path / "run", quiet=True)
    metrics = run.evaluation("test").metrics
    assert metrics["top1"] > 0.8 and metrics["classes"] == 3 and metrics["top5"] == 1
    titles = {panel.title for panel in run.evaluation("test").panels}
    assert {"Which class?", "Is it as sure as it is right?", "What is taken for what", "Where it looks"} <= titles
    for title in ("Windows, shifts, masks and merges", "Attention inside windows"):
        assert (title in titles) == (name == "swin")
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "Is it as sure as it is right?" in page
    assert run.model().classes == ("blue", "green", "red")


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_one_class_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    root = folder_of(tmp_path / "pictures", ("cats",))
    recipe = get_recipe(name).smoke()
    with pytest.raises(DataError, match="lie in one folder, 'cats'"):
        fit(recipe.on(FolderSource(path=root)), tmp_path / "run", quiet=True)
    lines = [f'{{"file_name": "cats/{i}.png", "text": "one", "label": "cats"}}' for i in range(12)]
    (root / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=r"of the class 'cats': telling classes takes at least two"):
        fit(recipe.on(FolderSource(path=root)), tmp_path / "run", quiet=True)


def test_pictures_without_classes_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "flat"
    root.mkdir()
    for i in range(3):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(root / f"{i}.png")
        (root / f"{i}.txt").write_text("a caption")
    with pytest.raises(DataError, match="no classes"):
        get_recipe("vit").smoke().on(FolderSource(path=root)).build()


def test_a_run_teaches_deit(tmp_path: Path) -> None:
    """From the command's option to the loss, and a checkpoint that needs no teacher."""
    root = folder_of(tmp_path / "pictures", ("blue", "red"), 6)
    source = FolderSource(path=root)
    teacher = fit(get_recipe("supervised").smoke().on(source), tmp_path / "teacher", evaluate=False, quiet=True)
    recipe = get_recipe("deit").smoke().on(source).replace(teacher=teacher.path, train__batch_size=6)
    run = fit(recipe, tmp_path / "run", evaluate=False, quiet=True)
    assert all("distillation" in line for line in run.metrics("train"))
    assert run.model().classify(pictures(), ["red"]).shape == (3, 1)


def test_deits_teacher_is_trained_first_where_none_is_named(tmp_path: Path) -> None:
    source = FolderSource(path=folder_of(tmp_path / "pictures", ("blue", "red"), 6))
    recipe = get_recipe("deit").on(source)
    assert recipe.teaches is not None and recipe.teaches.source == source
    small = recipe.smoke().replace(teaches=recipe.teaches.smoke(), train__batch_size=6)
    first, again = small.build(), small.build()
    batch = {"image": torch.randn(6, 3, 32, 32), "label": torch.arange(6) % 2, "seed": torch.arange(6)}
    losses = [method.train().loss(batch) for method in (first, again)]
    assert "distillation" in losses[0].parts and losses[0].total == losses[1].total


@pytest.mark.parametrize("kind", ["vit", "deit", "swin"])
def test_a_trained_tower_is_taken_up_with_a_new_head(kind: str, tmp_path: Path) -> None:
    """Tower, pixels and architecture are the checkpoint's; classes are the new data's."""
    trained = build(kind)
    trained.save(tmp_path / "ours")
    source = FolderSource(path=folder_of(tmp_path / "pictures", ("blue", "red"), 6))
    recipe = get_recipe("swin" if kind == "swin" else "vit").replace(start=str(tmp_path / "ours")).on(source)
    method = recipe.replace(model__label_smoothing=0.3, model__image__drop_path=0.2).build()
    first = load(tmp_path / "ours")
    assert method.classes == ("blue", "red") and method.head.out_features == 2
    assert method.config.label_smoothing == 0.3 and method.config.image.drop_path == 0.2
    assert method.config.image.replace(drop_path=0.0) == first.config.image
    assert method.processors["image"] == first.processors["image"]
    towers = (method.image.state_dict(), first.image.state_dict())
    assert all(torch.equal(towers[0][key], towers[1][key]) for key in towers[1])
    smaller = recipe.replace(optim__layer_decay=0.7, train__steps=2, train__batch_size=4, train__workers=0)
    run = fit(smaller, tmp_path / "run", evaluate=False, quiet=True)
    assert run.model().classify(pictures(), ["red"]).shape == (3, 1)


def test_what_is_no_such_tower_is_refused(tmp_path: Path) -> None:
    config = SupConConfig(
        image=ResNetConfig(image_size=16, layers=(1, 1), width=8, pool="flat"), objective="cross-entropy"
    )
    SupCon(config, processors()).save(tmp_path / "resnet")
    source = FolderSource(path=folder_of(tmp_path / "pictures", ("blue", "red"), 6))
    with pytest.raises(ConfigError, match="no ViT or Swin"):
        get_recipe("vit").replace(start=str(tmp_path / "resnet")).on(source).build()
    with pytest.raises(ConfigError, match="--start"):
        get_recipe("vit").replace(start="runs/nowhere").on(source).build()

"""Fixtures that many tests share: a tiny CLIP, a folder of captioned pictures, toy tokenizers."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from PIL import Image

from intermodal.core import registry
from intermodal.core.config import trust_package
from intermodal.core.drawing import Drawing
from intermodal.core.registry import MethodCard
from intermodal.data.processors import ImageProcessor, TextProcessor
from intermodal.data.tokenizers import BOS, EOS, train_bpe
from intermodal.methods.contrastive.clip import CLIP, CLIPConfig
from intermodal.nn.text import TextConfig
from intermodal.nn.vit import ViTConfig

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("untimed")

sys.path.append(str(Path(__file__).parent))  # where the toys (toy_*.py) are that several folders of tests share

WORDS = ("red", "green", "blue", "yellow", "black", "white")
COLOURS = ((220, 30, 30), (30, 180, 60), (40, 60, 220), (230, 220, 40), (10, 10, 10), (245, 245, 245))


def tiny_clip(seed: int = 0, size: int = 16) -> CLIP:
    """Return a CLIP with random weights, small enough for any test, and a tokenizer of its own."""
    tokenizer = train_bpe([f"a {w} square" for w in WORDS], 300, min_frequency=1)
    eos, pad = tokenizer.token_to_id(EOS), tokenizer.token_to_id(BOS)
    text = TextProcessor(tokenizer, context_length=12, eos_id=eos, pad_id=pad)
    torch.manual_seed(seed)
    config = CLIPConfig(
        image=ViTConfig(image_size=size, patch_size=8, width=16, depth=1, heads=2),
        text=TextConfig(
            vocab_size=text.vocab_size, context_length=12, width=16, depth=1, heads=2, eos_id=eos, pad_id=pad
        ),
        embed_dim=8,
    )
    return CLIP(config, {"image": ImageProcessor(size=(size, size)), "text": text}).eval()


@pytest.fixture
def small_clip() -> CLIP:
    return tiny_clip()


def tiny_drawer(texts: bool = True, size: int = 8) -> Any:
    """Return a diffusion model with random weights: one that can be guided, or one that takes no prompt."""
    from intermodal.data.tokenizers import train_words
    from intermodal.methods.image_generation.cfg import CFG, CFGConfig
    from intermodal.methods.image_generation.ddpm import DDPM, DDPMConfig
    from intermodal.methods.image_generation.text import TextEncoderConfig
    from intermodal.nn.unet import UNetConfig

    network = UNetConfig(channels=(8, 8), blocks=1, attention=(), groups=4, head_width=8)
    drawing = Drawing(steps=4, sampler="ddim")
    image = ImageProcessor(size=(size, size), mean=(0.5,) * 3, std=(0.5,) * 3)
    torch.manual_seed(0)
    if not texts:
        return DDPM(DDPMConfig(network=network, drawing=drawing), {"image": image}).eval()
    tokenizer = train_words([f"a {w} square" for w in WORDS], 64)
    eos, pad = tokenizer.token_to_id(EOS), tokenizer.token_to_id(BOS)
    text = TextProcessor(tokenizer, context_length=8, eos_id=eos, pad_id=pad)
    tower = TextConfig(vocab_size=text.vocab_size, context_length=8, width=8, depth=1, heads=1, eos_id=eos, pad_id=pad)
    config = CFGConfig(
        network=network.replace(context_dim=None, class_kind="vector"),
        text=TextEncoderConfig(tower=tower),
        drawing=drawing.replace(guidance=2.0),
    )
    model = CFG(config, {"image": image, "text": text}).eval()
    for weights in (p for p in model.parameters() if not p.any()):  # those that begin at zero would hide the text
        torch.nn.init.normal_(weights, std=0.1)
    return model


@pytest.fixture
def small_cfg() -> Any:
    return tiny_drawer()


@pytest.fixture
def small_ddpm() -> Any:
    return tiny_drawer(texts=False)


def write_pictures(folder: Path, count: int = 12, size: int = 24) -> Path:
    """Write pictures of plain colours, each with a caption file beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        colour = np.array(COLOURS[i % len(COLOURS)]) + rng.integers(-10, 10, (size, size, 3))
        Image.fromarray(colour.clip(0, 255).astype(np.uint8)).save(folder / f"{i:03d}.png")
        (folder / f"{i:03d}.txt").write_text(f"a {WORDS[i % len(WORDS)]} square\n", encoding="utf-8")
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "pictures")


def _plugin(name: str, monkeypatch: pytest.MonkeyPatch, *classes: str, capabilities: tuple[str, ...]) -> ModuleType:
    """Return ``tests/NAME.py``, whose methods can be saved and loaded as the library's own while a test lasts."""
    if (module := sys.modules.get(name)) is None:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    trust_package(name)  # also where a test has imported it before
    about = {"title": "A toy", "paper": "", "capabilities": capabilities, "recipes": (), "reference": ""}
    own = {
        cls.id: MethodCard(id=cls.id, cls=cls.__name__, module=name, **about)
        for cls in (getattr(module, each) for each in classes)
    }
    known = {**registry.cards(), **own}
    monkeypatch.setattr(registry, "cards", lambda: known)
    return module


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``toy_tokenizer.py``, whose tokenizers can be saved and loaded as the library's own."""
    return _plugin("toy_tokenizer", monkeypatch, "Toy", "ToyVAE", capabilities=("reconstruct",))


@pytest.fixture
def tones(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``toy_recogniser.py``, whose recogniser of tones can be saved and loaded as the library's own."""
    return _plugin(
        "toy_recogniser", monkeypatch, "ToyRecogniser", capabilities=("transcribe", "align", "emit", "stream")
    )

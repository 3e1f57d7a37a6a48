"""A CLIP and a language decoder of a few thousand parameters over four coloured pictures."""

from __future__ import annotations

import torch

from intermodal.data.processors import ImageProcessor, TextProcessor
from intermodal.data.sentences import SentenceProcessor
from intermodal.data.tokenizers import special_ids, train_bpe, train_words
from intermodal.methods.captioning.language import LanguageConfig, LanguageDecoder
from intermodal.methods.contrastive.clip import CLIP, CLIPConfig
from intermodal.nn.causal import CausalConfig
from intermodal.nn.text import TextConfig
from intermodal.nn.vit import ViTConfig
from toy_captioner import TEXTS, pictures

LENGTH = 8


def clip(dim: int = 12) -> CLIP:
    """A CLIP whose tokenizer is a BPE, so that it reads texts otherwise than the decoder does."""
    tokenizer = train_bpe(TEXTS * 3, 280)
    pad, eos = special_ids(tokenizer)
    text = TextProcessor(tokenizer, context_length=16, eos_id=eos, pad_id=pad)
    tower = TextConfig(
        vocab_size=text.vocab_size,
        context_length=16,
        width=16,
        depth=1,
        heads=2,
        eos_id=eos,
        pad_id=pad,
        activation="gelu",
    )
    torch.manual_seed(0)
    image = ViTConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2)
    model = CLIP(
        CLIPConfig(image=image, text=tower, embed_dim=dim), {"image": ImageProcessor(size=(16, 16)), "text": text}
    )
    return model.eval()


def language(places: int = 16, texts: list[str] | None = None) -> LanguageDecoder:
    """A language decoder of whole words."""
    tokenizer = train_words(texts or TEXTS, 100)
    bos, eos = special_ids(tokenizer)
    text = SentenceProcessor(tokenizer, context_length=places, eos_id=eos, pad_id=bos, bos_id=bos, lower=True)
    torch.manual_seed(1)
    network = CausalConfig(vocab_size=text.vocab_size, context_length=places, width=16, depth=1, heads=2)
    return LanguageDecoder(LanguageConfig(network=network), {"text": text}).eval()


def batch_of(method) -> dict[str, torch.Tensor]:
    """The four pictures and their texts, as a method takes them."""
    raw = {"image": pictures(), "text": TEXTS, "read": TEXTS}
    tensors = {
        name: torch.stack([processor.encode(value) for value in raw[name]]) for name, processor in method.inputs.items()
    }
    return method.prepare({**tensors, "seed": torch.arange(4)})


def learn(method, steps: int = 150):
    """Let a method learn the four by heart."""
    method.train()
    batch = batch_of(method)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        total = method.loss(batch).total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return method.eval()

"""A LLaVA of a few thousand parameters over the toy CLIP's four colours."""

from __future__ import annotations

import torch

from intermodal.core.chat import Turn
from intermodal.data.chat import FORMAT
from intermodal.data.processors import ImageProcessor, TextProcessor
from intermodal.data.sentences import SentenceProcessor
from intermodal.data.tokenizers import special_ids, train_words
from intermodal.methods.captioning.language import LanguageConfig, LanguageDecoder
from intermodal.methods.contrastive.clip import CLIP, CLIPConfig
from intermodal.methods.vision_language.llava import LLaVA
from intermodal.nn.causal import llama
from intermodal.nn.resnet import ResNetConfig
from intermodal.nn.text import TextConfig
from intermodal.nn.vit import ViTConfig
from toy_captioner import COLOURS, pictures

ASKED, FRUIT = "which colour is it?", "may one eat it?"
ANSWERS = [f"it is {name}" for name in COLOURS]


def chats(image=True):
    """Return a chat of two turns for each colour; the second answer says the same of all."""
    shown = [(picture,) if image else () for picture in pictures()]
    return [
        [Turn(ASKED, answer, picture), Turn(FRUIT, "that cannot be seen")]
        for answer, picture in zip(ANSWERS, shown, strict=True)
    ]


def language() -> LanguageDecoder:
    tokenizer = train_words([FORMAT.text(chat).lower() for chat in chats()], 100)
    bos, eos = special_ids(tokenizer)
    text = SentenceProcessor(tokenizer, context_length=96, eos_id=eos, pad_id=bos, bos_id=bos, lower=True)
    network = llama(vocab_size=text.vocab_size, context_length=96, width=24, depth=2, heads=4, kv_heads=2, mlp_width=48)
    torch.manual_seed(1)
    return LanguageDecoder(LanguageConfig(network=network), {"text": text})


def clip(resnet: bool = False) -> CLIP:
    tokenizer = train_words(ANSWERS, 100)
    bos, eos = special_ids(tokenizer)
    text = TextProcessor(tokenizer, context_length=7, eos_id=eos, pad_id=bos)
    tower = TextConfig(vocab_size=text.vocab_size, context_length=7, width=16, depth=1, heads=2, eos_id=eos, pad_id=bos)
    image = (
        ResNetConfig(image_size=32, layers=(1, 1, 1), width=8, pool="mean")
        if resnet
        else ViTConfig(image_size=16, patch_size=8, width=24, depth=2, heads=2)
    )
    torch.manual_seed(0)
    config = CLIPConfig(image=image, text=tower, embed_dim=16)
    return CLIP(config, {"image": ImageProcessor(size=image.size), "text": text})


def tiny(resnet: bool = False, **settings) -> LLaVA:
    return LLaVA.over(clip(resnet), language(), length=96, describe=ASKED, **settings)


def batch_of(model: LLaVA, image: bool = True) -> dict[str, torch.Tensor]:
    chat = torch.stack([model.chats.encode(one) for one in chats(image)])
    return {"image": model.pictures(pictures()), "chat": chat}


def learn(model: LLaVA, steps: int = 150, lr: float = 1e-2) -> LLaVA:
    batch, trained = batch_of(model), [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(batch).total.backward()
        optimizer.step()
    return model.eval()

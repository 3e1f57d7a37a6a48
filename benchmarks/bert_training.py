"""One pre-training step of BERT: ours beside transformers' BertForPreTraining.

The network, the batch (15 % of the tokens to predict, padding, segments), the optimiser (AdamW, foreach) and the precision
are the same for both, and both start from the same published folder of random weights, so that their losses agree; dropout
is off. transformers runs with each of its attentions. Ours computes the masked language model's logits only where there is
something to predict: the loss and the gradients are the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

import harness
from intermodal.hub.load import load
from intermodal.methods.contrastive.bert import BERT, IGNORED

TRANSFORMERS = "pip install transformers"
SMALL = {
    "vocab_size": 8192,
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "max_position_embeddings": 128,
}
BASE = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
Loss = Callable[[dict[str, Tensor]], Tensor]


def batch_of(size: int, length: int, vocabulary: int) -> dict[str, Tensor]:
    """Return pairs of random tokens: the last tenth is padding, the second half is segment 1, 15 % are to be predicted."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, vocabulary, (size, length), generator=generator)
    tokens[:, length - length // 10 :] = 0
    segments = (torch.arange(length) >= length // 2).long().expand(size, length)
    chosen = (torch.rand(size, length, generator=generator) < 0.15) & (tokens != 0)
    targets = torch.where(chosen, tokens, IGNORED)
    relation = torch.randint(2, (size,), generator=generator)
    return {"tokens": torch.where(chosen, 4, tokens), "segments": segments, "targets": targets, "relation": relation}


def step(
    build: Callable[[], tuple[nn.Module, Loss]], batch: dict[str, Tensor], half: bool
) -> Callable[[], harness.Step]:
    """Return what makes the step: forward, backward, clipping, AdamW; a first one is done before it is timed."""

    def make() -> harness.Step:
        module, loss = build()
        module.train()
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5, foreach=True)

        def train() -> float:
            with torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
                value = loss(batch)
            value.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return value.item()

        train()
        return train

    return make


def reference(shape: dict[str, int], attention: str) -> Any:
    """Build transformers' model of random weights."""
    transformers: Any = harness.import_beside_torchvision("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(**shape, **NO_DROPOUT, attn_implementation=attention)
    return transformers.BertForPreTraining(config)


def ours(shape: dict[str, int]) -> tuple[nn.Module, Loss]:
    """Our BERT with the same weights, through a published folder."""
    with tempfile.TemporaryDirectory() as folder:
        reference(shape, "sdpa").save_pretrained(folder)
        module = load(folder, processors={})
    assert isinstance(module, BERT)
    return module, lambda b: module.pretraining_loss(b["tokens"], b["segments"], b["targets"], b["relation"]).total


def with_transformers(shape: dict[str, int], attention: str) -> tuple[nn.Module, Loss]:
    """Transformers' model."""
    module = reference(shape, attention)
    return (
        module,
        lambda b: (
            module(
                input_ids=b["tokens"],
                token_type_ids=b["segments"],
                attention_mask=(b["tokens"] != 0).long(),
                labels=b["targets"],
                next_sentence_label=b["relation"],
            ).loss
        ),
    )


def cases(quick: bool) -> list[harness.Case]:
    """The recipe's size and BERT-base, in float32 and in bf16 autocast."""
    sizes = [("the recipe's size", SMALL, 8 if quick else 32, 128)]
    sizes += [] if quick else [("BERT-base", BASE, 2, 128)]
    found = []
    for name, shape, size, length in sizes:
        batch = batch_of(size, length, shape["vocab_size"])
        for half in (False, True):
            contenders = [harness.Contender("intermodal", step(lambda s=shape: ours(s), batch, half))]
            contenders += [
                harness.Contender(
                    f"transformers, {attention}",
                    step(lambda s=shape, a=attention: with_transformers(s, a), batch, half),
                    TRANSFORMERS,
                )
                for attention in ("sdpa", "eager")
            ]
            precision = "bf16" if half else "float32"
            title = f"BERT pre-training step, {name}, {size} x {length} tokens, {precision}"
            found.append(harness.Case(title, contenders, repeats=5 if shape is SMALL else 3))
    return found

"""A language model's output layer and its gradients: NCE with k noise words beside the full softmax, over the vocabulary.

2,048 places of 64 texts with vectors of 128 numbers, forward and backward through the words' vectors and biases, bf16
autocast, no optimiser. NCE's noise words are shared by the places of a text, as the method draws them. Both leave the
gradient of the whole table of words, which is what is left of the vocabulary's size in NCE's time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import harness
from intermodal.losses.nce import nce_loss
from intermodal.nn.language import WordModel, WordModelConfig

TEXTS, LENGTH, WIDTH = 64, 32, 128


def step(vocab: int, noise: int | None) -> Callable[[], harness.Step]:
    """Return what makes the step; without noise it is the softmax."""

    def make() -> harness.Step:
        generator = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        model = WordModel(WordModelConfig(vocab_size=vocab, width=WIDTH, hidden=0))
        state = torch.randn(TEXTS, LENGTH, WIDTH, generator=generator).requires_grad_()
        target = torch.randint(1, vocab, (TEXTS, LENGTH), generator=generator)
        log_noise = torch.full((vocab,), 1 / vocab).log()

        def loss() -> Tensor:
            if noise is None:
                return F.cross_entropy(model.logits(state.flatten(0, 1)).float(), target.flatten())
            words = torch.randint(1, vocab, (TEXTS, noise), generator=generator)
            data = model.scores_of(state.flatten(0, 1), target.flatten())
            among = model.scores_among(state, words)
            known = log_noise[words].unsqueeze(1).expand_as(among)
            return nce_loss(data, among, log_noise[target.flatten()], known)

        def forward_backward() -> float:
            model.zero_grad(set_to_none=True)
            state.grad = None
            with torch.autocast("cpu", torch.bfloat16):
                value = loss()
            value.backward()
            return value.item()

        return forward_backward

    return make


def cases(quick: bool) -> list[harness.Case]:
    """Vocabularies of 10,000 to 100,000 words."""
    return [
        harness.Case(
            f"output layer, {TEXTS * LENGTH} places, vocabulary {vocab:,}",
            [
                harness.Contender("NCE, k = 25", step(vocab, 25)),
                harness.Contender("NCE, k = 100", step(vocab, 100)),
                harness.Contender("NCE, k = 400", step(vocab, 400)),
                harness.Contender("full softmax", step(vocab, None)),
            ],
        )
        for vocab in ((2000,) if quick else (10_000, 30_000, 100_000))
    ]

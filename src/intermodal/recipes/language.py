"""Recipes of the language decoder: small, of GPT-2's or Llama's parts, on real sentences, for captioners to go on from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch

from intermodal.core.progress import Progress
from intermodal.data.sentences import SentenceProcessor
from intermodal.data.text import TextSource
from intermodal.data.tokenizers import special_ids, train_bpe, train_words
from intermodal.evaluate.language_decoder import evaluate_language_decoder
from intermodal.evaluate.result import Evaluation
from intermodal.methods.base import Method
from intermodal.methods.captioning.language import LanguageConfig, LanguageDecoder
from intermodal.nn.causal import CausalConfig, llama
from intermodal.recipes.base import OptimConfig, Recipe, TrainConfig
from intermodal.recipes.nce import VocabularyConfig
from intermodal.recipes.word2vec import shipped_text

TOKENIZER_TEXTS = 50_000
"""So many training sentences, spread evenly, are read to train the tokenizer."""


TOKENS = VocabularyConfig(size=8192, context_length=64)


@dataclass(frozen=True, kw_only=True)
class LanguageRecipe(Recipe):
    """Next-token prediction on sentences.

    Attributes:
        model: the network; ``vocab_size`` and ``context_length`` are set from the data.
        vocabulary: the most tokens, and the most of a sentence.
        whole_words: a tokenizer of whole words, which leaves unknown ones out, for few texts; else a byte-level BPE.
    """

    method: str = "language"
    model: LanguageConfig
    vocabulary: VocabularyConfig = TOKENS
    whole_words: bool = False

    def build(self) -> Method:
        """Train the tokenizer on the training sentences and build the network."""
        texts = self.source.training_texts()
        some = texts[:: max(len(texts) // TOKENIZER_TEXTS, 1)]
        tokenizer = (train_words if self.whole_words else train_bpe)(
            (text.lower() for text in some), self.vocabulary.size
        )
        bos, eos = special_ids(tokenizer)
        length = self.vocabulary.context_length
        text = SentenceProcessor(tokenizer, context_length=length, eos_id=eos, pad_id=bos, bos_id=bos, lower=True)
        network = self.model.network.replace(vocab_size=text.vocab_size, context_length=length)
        torch.manual_seed(self.train.seed)
        return LanguageDecoder(self.model.replace(network=network), {"text": text})

    def evaluate(self, method: Method, split: str, progress: Progress) -> Evaluation:
        """Judge by perplexity, beside a 3-gram of the same tokens."""
        assert isinstance(method, LanguageDecoder)
        return evaluate_language_decoder(method, self.source, split, progress, full=split == self.final_split)

    def smoke(self) -> Self:
        """Return the same path with a tiny network on the text in the package."""
        network = self.model.network.replace(width=32, depth=1, heads=2, mlp_width=64, dropout=0.0)
        budget = self.train.replace(steps=6, batch_size=8, eval_every=0, log_every=1, checkpoint_every=3, workers=0)
        return self.replace(
            model__network=network,
            vocabulary=VocabularyConfig(size=400, context_length=24),
            source=TextSource(path=shipped_text(), unit="sentence"),
            train=budget.replace(precision="fp32"),
            expect=(),
        )


def language() -> LanguageRecipe:
    """A GPT-2 of 5.3 million parameters that writes sentences of books and speeches: perplexity 155, 8.5 CPU minutes.

    A 3-gram of the same tokens, which has counted every sentence, reaches 122: half an epoch is too little to pass it.

    ``intermodal train language`` (needs ``INTERMODAL_DATA``); ``--data FILE.txt`` takes your own text.
    """
    return LanguageRecipe(
        name="language",
        source=TextSource(parts=("gutenberg", "sotu"), unit="sentence", min_words=3),
        model=LanguageConfig(network=CausalConfig(width=256, depth=4, heads=4)),
        optim=OptimConfig(lr=2e-3, betas=(0.9, 0.95), weight_decay=0.1, warmup=100),
        train=TrainConfig(steps=700, batch_size=96, precision="bf16", workers=1, log_every=50, checkpoint_every=350),
    )


def language_llama() -> LanguageRecipe:
    """The same with Llama's parts: root-mean-square norms, rotary positions, gated MLPs, shared heads.

    ``intermodal train language-llama`` (needs ``INTERMODAL_DATA``); ``--data FILE.txt`` takes your own text.
    """
    network = llama(width=256, depth=4, heads=4, kv_heads=2, mlp_width=704)
    return language().replace(name="language-llama", model=LanguageConfig(network=network))

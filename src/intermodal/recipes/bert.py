"""Recipes of BERT: pre-training on text in order, and SimCSE with and without pairs on the encoder that came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import torch
from tokenizers import Tokenizer
from torch import Tensor

from intermodal.core.errors import ConfigError, DataError
from intermodal.core.progress import Progress
from intermodal.data.cooccurrence import cooccurrence_vectors
from intermodal.data.glosses import GlossSource
from intermodal.data.sentence_pairs import NextSentenceSource, PairListSource
from intermodal.data.source import SourceConfig
from intermodal.data.text import TextSource
from intermodal.data.tokenizers import WORDPIECE_SPECIAL, train_wordpiece
from intermodal.evaluate.next_sentence import evaluate_pretraining
from intermodal.evaluate.result import Evaluation
from intermodal.evaluate.sentences import evaluate_retrieval
from intermodal.hub.bert import make_processors
from intermodal.hub.load import load
from intermodal.methods.base import Method
from intermodal.methods.contrastive.bert import BERT, BERTConfig
from intermodal.nn.bert import EncoderConfig, start_from_statistics
from intermodal.recipes.base import Expect, OptimConfig, Recipe, TrainConfig

PAIR_FILES = (".csv", ".tsv", ".jsonl")
AT_A_TIME = 10_000
"""Texts that are cut into tokens at a time."""
SMALL = EncoderConfig(context_length=128, width=256, depth=2, heads=4, dropout=0.0, attention_dropout=0.0)


@dataclass(frozen=True, kw_only=True)
class BERTRecipe(Recipe):
    """BERT's pre-training: masked tokens and next sentences.

    Attributes:
        model: the network; vocabulary and special ids are set from the tokenizer.
        vocab_size: of the WordPiece that is trained on the source's training text.
        start: ``statistics`` starts token embeddings, the decoder's bias and attention from what can be counted in the
            training text (:func:`~intermodal.nn.bert.start_from_statistics`), so that a small budget
            suffices; ``random`` is the paper's.
        also_count: other sources whose training texts are counted in, for the tokenizer and those statistics, so that the
            words of a later use are known.
        train_embeddings: whether token embeddings are trained on; from few documents they learn by heart which names go
            together.
    """

    method: str = "bert"
    model: BERTConfig
    vocab_size: int = 8192
    start: Literal["statistics", "random"] = "statistics"
    also_count: tuple[SourceConfig, ...] = ()
    train_embeddings: bool = True

    def build(self) -> Method:
        """Train the tokenizer on the training text and build the network."""
        if self.start == "random" and not self.train_embeddings:
            raise ConfigError("Token embeddings that start at random must be trained: set train_embeddings=True.")
        texts = [text for source in (self.source, *self.also_count) for text in source.training_texts()]
        method = new_bert(self.model, texts, self.vocab_size, self.start, self.train.seed)
        method.encoder.token_embedding.weight.requires_grad_(self.train_embeddings)
        return method

    def evaluate(self, method: Method, split: str, progress: Progress) -> Evaluation:
        """Judge by next-sentence prediction and masked tokens on documents that training never saw."""
        assert isinstance(method, BERT)
        assert isinstance(self.source, NextSentenceSource)
        return evaluate_pretraining(method, self.source, split, progress, full=split == self.final_split)

    def on(self, source: SourceConfig) -> Self:
        """Return the recipe on other text.

        Raises:
            DataError: if the source is not text in order.
        """
        if isinstance(source, TextSource):
            source = NextSentenceSource(text=source)
        if not isinstance(source, NextSentenceSource):
            raise DataError(f"The recipe {self.name!r} learns from text in order: a .txt file, or a folder of them.")
        return super().on(source).replace(also_count=())

    def on_named(self, data: str) -> Self:
        """Return the recipe on a text file, a folder of them, or a known set.

        Raises:
            DataError: if it is no text.
        """
        refuse_pairs(data, self.name)
        return super().on_named(data)

    def smoke(self) -> Self:
        """Return the same path with a network and a budget that take seconds."""
        return self.replace(
            model__encoder=SMALL.replace(context_length=32, width=32, depth=1, heads=2),
            vocab_size=400,
            also_count=(),
            source=smoke_source(self.source),
            train=smoke_train(self.train),
            expect=(),
        )


@dataclass(frozen=True, kw_only=True)
class SimCSERecipe(Recipe):
    """SimCSE: a BERT that embeds sentences, by contrast with the other sentences of the batch.

    Attributes:
        init: the BERT to start from: ours (a run or checkpoint), a published folder or a hub id; its tokenizer and
            sizes then take the place of ``encoder`` and ``vocab_size``. None starts a new one from ``start``.
        encoder: of a new BERT.
        vocab_size: of a new BERT's WordPiece.
        start: of a new BERT, as in :class:`BERTRecipe`.
        positives: ``dropout``, ``pairs`` or ``triplets``; pairs with a column of hard negatives are triplets.
        pool, projection, temperature, mlm_weight: as in :class:`~intermodal.methods.contrastive.bert.BERTConfig`.
        dropout: of embeddings, branches and attention weights while training; without pairs it makes the positives.
        words: the word2vec model whose averaged vectors stand beside the model when it is judged; it should have read
            what the BERT of ``init`` has. None trains one on the texts at hand.
    """

    method: str = "bert"
    init: str | None = "runs/bert"
    encoder: EncoderConfig = SMALL
    vocab_size: int = 8192
    start: Literal["statistics", "random"] = "statistics"
    positives: Literal["dropout", "pairs", "triplets"] = "dropout"
    pool: Literal["cls", "mean"] = "mean"
    projection: Literal["none", "training", "always"] = "training"
    temperature: float = 0.05
    mlm_weight: float = 0.0
    dropout: float = 0.1
    words: str | None = None

    def build(self) -> Method:
        """Take the encoder of the BERT to start from, with SimCSE's objective in place of its own.

        Raises:
            ConfigError: if there is no model at ``init``, it is no BERT, or it lacks the head that ``mlm_weight`` needs.
        """
        first = self._first()
        if self.words is not None and is_local(self.words) and not Path(self.words).exists():
            raise ConfigError(
                f"The recipe {self.name!r} is judged beside averaged word vectors, and there are none at {self.words}: run "
                f"`intermodal train word2vec --run {self.words}` first, or let it train its own with --words None."
            )
        if self.mlm_weight and not first.config.mlm:
            raise ConfigError(f"{self.init} has no masked language model's head: set mlm_weight to 0.")
        config = first.config.replace(
            objective="simcse",
            nsp=False,
            mlm=self.mlm_weight > 0,
            pooler=self.projection != "none",
            positives=self.positives,
            pool=self.pool,
            projection=self.projection,
            temperature=self.temperature,
            mlm_weight=self.mlm_weight,
            encoder__dropout=self.dropout,
            encoder__attention_dropout=self.dropout,
        )
        texts = {"dropout": ("text",), "pairs": ("text", "positive"), "triplets": ("text", "positive", "negative")}
        torch.manual_seed(self.train.seed)
        method = BERT(config, {name: first.processors["text"] for name in texts[self.positives]})
        weights = method.state_dict()  # SimCSE's projection is new, all else is what it starts from
        weights |= {k: v for k, v in first.state_dict().items() if k in weights and not k.startswith("pooler.")}
        method.load_state_dict(weights, strict=True)
        return method

    def _first(self) -> BERT:
        if self.init is None:
            model = BERTConfig(encoder=self.encoder, nsp=False)
            return new_bert(model, self.source.training_texts(), self.vocab_size, self.start, self.train.seed)
        if is_local(self.init) and not Path(self.init).exists():
            raise ConfigError(
                f"The recipe {self.name!r} starts from a trained BERT, and there is none at {self.init}: run `intermodal "
                f"train bert --run {self.init}` first, name another model with --init, or start anew with --init None."
            )
        first = load(self.init)
        if not isinstance(first, BERT):
            raise ConfigError(f"{self.init} holds the method {first.id!r}; this recipe starts from a bert.")
        return first

    def evaluate(self, method: Method, split: str, progress: Progress) -> Evaluation:
        """Judge by finding the other text of held-out pairs, beside averaged word vectors and the BERT before SimCSE."""
        assert isinstance(method, BERT)
        return evaluate_retrieval(
            method,
            self.source,
            split,
            progress,
            before=self.init,
            words=self.words,
            full=split == self.final_split,
        )

    def on(self, source: SourceConfig) -> Self:
        """Return the recipe on other sentences or pairs.

        Raises:
            DataError: if the source has no text, or no pairs where pairs are learnt from.
        """
        paired = isinstance(source, PairListSource | GlossSource) and getattr(source, "paired", True)
        if self.positives != "dropout":
            if not paired:
                raise DataError(
                    f"The recipe {self.name!r} learns from pairs of texts: a .csv, .tsv or .jsonl file of them."
                )
            triplets = isinstance(source, PairListSource) and source.has_negatives
            return super().on(source).replace(positives="triplets" if triplets else "pairs", words=None)
        if isinstance(source, TextSource):
            source = source.replace(unit="sentence", min_words=max(source.min_words, 3))
        if not isinstance(source, TextSource | GlossSource | PairListSource):
            raise DataError(f"The recipe {self.name!r} learns from sentences: a .txt file, or a folder of them.")
        return super().on(source).replace(words=None)

    def on_named(self, data: str) -> Self:
        """Return the recipe on a file of text, or with pairs on a list of them.

        Raises:
            DataError: if it is neither.
        """
        if Path(data).suffix.lower() in PAIR_FILES:
            return self.on(PairListSource(path=Path(data)))
        if self.positives != "dropout":
            raise DataError(f"{data} is no list of pairs: the recipe {self.name!r} reads .csv, .tsv and .jsonl files.")
        return super().on_named(data)

    def smoke(self) -> Self:
        """Return the same path from random weights, with a network and a budget that take seconds."""
        return self.replace(
            init=None,
            words=None,
            encoder=SMALL.replace(context_length=32, width=32, depth=1, heads=2),
            vocab_size=400,
            source=smoke_source(self.source),
            train=smoke_train(self.train),
            expect=(),
        )


def new_bert(
    model: BERTConfig, texts: Sequence[str], vocab_size: int, start: Literal["statistics", "random"], seed: int
) -> BERT:
    """Return a BERT that has seen nothing, with a WordPiece trained on ``texts`` and, if so asked, their statistics."""
    tokenizer = train_wordpiece(texts, vocab_size)
    pad, _, cls, sep, mask = range(len(WORDPIECE_SPECIAL))
    config = model.replace(
        encoder__vocab_size=tokenizer.get_vocab_size(),
        encoder__pad_id=pad,
        mask_id=mask,
        special_ids=(cls, sep),
    )
    processors = make_processors(tokenizer, config.encoder.context_length, sep_id=sep, pad_id=pad, pairs=config.nsp)
    torch.manual_seed(seed)
    method = BERT(config, processors)
    if start == "statistics":
        tokens_N = token_ids(tokenizer, texts)
        size = config.encoder.vocab_size
        vectors_VD = cooccurrence_vectors(tokens_N, size, config.encoder.width, seed=seed)
        counts_V = torch.bincount(tokens_N, minlength=size).float()
        start_from_statistics(method.encoder, method.mlm, vectors_VD, counts_V, torch.Generator().manual_seed(seed))
    return method


def token_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """Return the ids of all texts one after the other, int64, without special tokens."""
    parts = []
    for first in range(0, len(texts), AT_A_TIME):
        some = tokenizer.encode_batch(list(texts[first : first + AT_A_TIME]), add_special_tokens=False)
        parts.append(torch.tensor([i for encoded in some for i in encoded.ids], dtype=torch.int64))
    return torch.cat(parts)


def is_local(path: str) -> bool:
    """Say whether a name is that of a run of this machine by the form that the recipes give it."""
    return path.startswith("runs/")


def refuse_pairs(data: str, name: str) -> None:
    """Raise a DataError for a list of pairs, which says nothing about what comes next."""
    if Path(data).suffix.lower() in PAIR_FILES:
        raise DataError(
            f"{data} is a list of pairs, and the recipe {name!r} learns from text in order: use simcse-pairs."
        )


def smoke_source(source: SourceConfig) -> SourceConfig:
    """Return the least of the recipes' own data; other data is left as it is."""
    if isinstance(source, NextSentenceSource) and source.text == NextSentenceSource().text:
        return source.replace(text__parts=("sotu",), text__validation_share=0.9)
    return source


def smoke_train(train: TrainConfig) -> TrainConfig:
    """Return a budget of seconds."""
    return train.replace(steps=8, batch_size=16, workers=0, eval_every=0, log_every=1)


def bert() -> BERTRecipe:
    """BERT on 16 books and 210 speeches, in order: masked tokens and next sentences (needs ``INTERMODAL_DATA``).

    ``intermodal train bert --run runs/bert``, 8 minutes on one thread (3.7 M tokens): next sentences rightly told from
    random ones in held-out documents 81 % of the time (overlap of words: 83 %, chance: 50 %).
    """
    return BERTRecipe(
        name="bert",
        source=NextSentenceSource(),
        also_count=(GlossSource(paired=False),),
        train_embeddings=False,
        model=BERTConfig(encoder=SMALL, nsp_weight=2.0),
        optim=OptimConfig(lr=7e-4, weight_decay=0.01, warmup=50, ema=0.99),
        train=TrainConfig(steps=900, batch_size=32, precision="bf16", log_every=20, eval_every=450),
        expect=(
            Expect(
                metric="nsp_accuracy",
                low=0.77,
                high=0.84,
                on="2,000 pairs of 21 documents never seen",
                hardware="two CPU cores, one thread",
                minutes=8.2,
            ),
        ),
    )


def simcse() -> SimCSERecipe:
    """SimCSE without pairs: definitions of 20,000 words, each told from the others by two dropout masks.

    ``intermodal train bert --run runs/bert``, ``intermodal train word2vec --run runs/word2vec`` (which it is judged
    beside), then ``intermodal train simcse``: one minute; the right definition is among the first ten of 2,354 for 39 % of
    the words (word vectors averaged, of the same text 38 %, of 18 million words 60 %; the BERT before 29 %).
    """
    return SimCSERecipe(
        name="simcse",
        source=GlossSource(paired=False),
        words="runs/word2vec",
        optim=OptimConfig(lr=3e-4, weight_decay=0.01, warmup=10),
        train=TrainConfig(steps=40, batch_size=128, precision="bf16", log_every=5, eval_every=0),
        expect=(
            Expect(
                metric="r10",
                low=0.36,
                high=0.43,
                on="2,319 held-out words",
                hardware="two CPU cores, one thread",
                minutes=1.1,
            ),
        ),
    )


def simcse_pairs() -> SimCSERecipe:
    """SimCSE with pairs: what two dictionaries say of one word belongs together.

    ``intermodal train bert --run runs/bert``, ``intermodal train word2vec --run runs/word2vec`` (which it is judged
    beside), then ``intermodal train simcse-pairs``: nine minutes; the right definition is among the first ten of 2,354 for
    61 % of the words (word vectors averaged, of the same text 38 %, of 18 million words 60 %; the BERT before 29 %).
    """
    return SimCSERecipe(
        name="simcse-pairs",
        source=GlossSource(),
        words="runs/word2vec",
        positives="pairs",
        projection="none",
        optim=OptimConfig(lr=1e-3, weight_decay=0.01, warmup=20),
        train=TrainConfig(steps=200, batch_size=128, precision="bf16", log_every=10, eval_every=0),
        expect=(
            Expect(
                metric="r10",
                low=0.58,
                high=0.65,
                on="2,319 held-out words",
                hardware="two CPU cores, one thread",
                minutes=8.7,
            ),
        ),
    )

"""BERT (Devlin et al. 2019) with next-sentence prediction, and SimCSE (Gao et al. 2021) on the same encoder.

Pre-training reads a pair of passages in one sequence and answers two questions. The masked language model names the
tokens that were hidden. Next-sentence prediction says whether the second passage followed the first or was taken from
elsewhere: a binary contrastive task, in which the real pair is the positive and a random pair the negative, and which
differs from InfoNCE in that one network sees both sides at once and judges a single negative.

SimCSE makes the encoder embed one sentence alone, by InfoNCE over the batch: a sentence's positive is itself under
another dropout mask, or the other side of a given pair, and everything else in the batch is a negative.

Shapes: B batch, L tokens, D width, N chosen tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.fields import SEED, Field
from intermodal.core.registry import MethodCard
from intermodal.data.processors import Processor
from intermodal.losses.candidates import softmax_over_candidates
from intermodal.methods.base import Batch, Losses, Method, generator_of
from intermodal.nn.bert import BERTEncoder, EncoderConfig, MaskedLMHead, Pooler, init_weights

CARD = MethodCard(
    id="bert",
    title="BERT with next-sentence prediction, and SimCSE on the same encoder",
    paper="Devlin et al. 2019; Gao et al. 2021",
    cls="BERT",
    capabilities=("embed",),
    recipes=("bert", "simcse", "simcse-pairs"),
    reference="transformers BertForPreTraining and BertForNextSentencePrediction",
)

RELATIONS = ("next", "random")
"""The two answers of next-sentence prediction, in the order of transformers' labels: 0 follows, 1 does not."""

PAIR = Field((), "list[str]", "two passages")
RELATION = Field((), "str", "whether the second passage follows the first: next or random")
TEXT = Field((), "str", "a sentence")


@dataclass(frozen=True, kw_only=True)
class BERTConfig(Config):
    """What a BERT is made of, what it is trained for, and how it embeds a text.

    Attributes:
        encoder: embeddings and blocks.
        objective: ``pretraining`` (masked tokens and next sentence) or ``simcse``.
        pooler: whether it has the linear layer and tanh on a text's vector: next-sentence prediction reads it, and
            SimCSE's projection is it.
        mlm: whether it has the masked language model's head.
        nsp: whether it has the next-sentence head, which needs the pooler.
        pool: a text's vector is the first token's (``cls``) or the ``mean`` of all that are not padding.
        projection: the pooler is put on that vector ``training`` only (SimCSE without pairs, Gao 2021, section 6.1),
            ``always`` (SimCSE with pairs, and BERT's own pooled output with ``pool="cls"``), or never (``none``).
        mask_id: the token that hides a token; needed to train the masked language model.
        special_ids: tokens that are never hidden, besides padding.
        mask_share: share of a text's tokens to predict.
        nsp_weight: of the next-sentence loss; 1 in the paper.
        positives: SimCSE's positive is the sentence itself under another ``dropout`` mask, or is given: ``pairs``, or
            ``triplets`` with a hard negative too.
        temperature: SimCSE's; 0.05 in the paper.
        mlm_weight: of the masked language model beside SimCSE's loss; 0 for none (Gao 2021, appendix D.2, uses 0.1).

    Raises:
        ConfigError: if a part is missing that another part or the objective needs.
    """

    encoder: EncoderConfig
    objective: Literal["pretraining", "simcse"] = "pretraining"
    pooler: bool = True
    mlm: bool = True
    nsp: bool = True
    pool: Literal["cls", "mean"] = "mean"
    projection: Literal["none", "training", "always"] = "none"
    mask_id: int | None = None
    special_ids: tuple[int, ...] = ()
    mask_share: float = 0.15
    nsp_weight: float = 1.0
    positives: Literal["dropout", "pairs", "triplets"] = "dropout"
    temperature: float = 0.05
    mlm_weight: float = 0.0

    def __post_init__(self) -> None:
        if (self.nsp or self.projection != "none") and not self.pooler:
            raise ConfigError("BERT: next-sentence prediction and a projection need the pooler: set pooler=True.")
        if self.objective == "simcse" and self.mlm_weight and not self.mlm:
            raise ConfigError("BERT: mlm_weight needs the masked language model's head: set mlm=True.")
        if not 0 < self.mask_share < 1:
            raise ConfigError(f"BERT: mask_share must lie between 0 and 1, found {self.mask_share}.")
        if self.temperature <= 0:
            raise ConfigError(f"BERT: temperature must be positive, found {self.temperature}.")


class BERT(Method):
    """An encoder with the heads of its pre-training; see the module's text.

    Args:
        config: the architecture and the objective.
        processors: ``text`` to embed; for pre-training ``pair`` and ``relation``; for SimCSE with pairs ``positive``,
            and with triplets ``negative``.
    """

    id = "bert"
    modalities: tuple[str, ...] = ("text",)

    config: BERTConfig

    def __init__(self, config: BERTConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        width = config.encoder.width
        self.encoder = BERTEncoder(config.encoder)
        self.pooler = Pooler(width) if config.pooler else None
        self.mlm = MaskedLMHead(config.encoder) if config.mlm else None
        self.nsp = nn.Linear(width, 2) if config.nsp else None
        if self.nsp is not None:
            init_weights(self.nsp)
        self.needs = _needs(config)
        self.contrasts_batch = config.objective == "simcse"
        self._seen: dict[str, Tensor] = {}

    def loss(self, batch: Batch) -> Losses:
        """Return the objective's loss of a batch that holds what :attr:`needs` says.

        ``pair`` is int64 ``(B, 2, L)``, token ids and segment ids; ``relation`` int64 ``(B,)``, 0 where the second
        passage follows; ``text``, ``positive`` and ``negative`` are int64 ``(B, L)``; ``seed`` is int64 ``(B,)``.
        """
        losses = self._simcse_loss(batch) if self.config.objective == "simcse" else self._pretraining_loss(batch)
        self._seen = dict(losses.parts)
        return losses

    # --8<-- [start:pretraining]
    def _pretraining_loss(self, batch: Batch) -> Losses:
        tokens_BL, segments_BL = batch["pair"].unbind(1)
        targets_BL = torch.full_like(tokens_BL, IGNORED)
        if self.mlm is not None:
            tokens_BL, targets_BL = self._mask(tokens_BL, generator_of(batch))
        return self.pretraining_loss(tokens_BL, segments_BL, targets_BL, batch.get("relation"))

    def pretraining_loss(
        self, tokens_BL: Tensor, segments_BL: Tensor, targets_BL: Tensor, relation_B: Tensor | None
    ) -> Losses:
        """Return the mean cross entropies of hidden tokens and of the relation, summed (Devlin 2019, appendix A.2).

        Args:
            tokens_BL: int64, with tokens already hidden.
            segments_BL: int64, 0 in the first passage and 1 in the second.
            targets_BL: int64, the token to predict, and ``IGNORED`` where there is none.
            relation_B: int64, 0 where the second passage follows the first and 1 where it does not.
        """
        x_BLD = self.encoder(tokens_BL, segments_BL)
        total, parts = x_BLD.new_zeros((), dtype=torch.float32), {}
        if self.mlm is not None:
            chosen_BL = targets_BL != IGNORED
            logits_NV = self.token_logits(x_BLD[chosen_BL])  # only where there is something to predict
            mlm = _cross_entropy(logits_NV, targets_BL[chosen_BL])
            total, parts["mlm"] = total + mlm, mlm.detach()
        if self.nsp is not None and relation_B is not None:
            logits_B2 = self.relation_logits(x_BLD)
            nsp = _cross_entropy(logits_B2, relation_B)
            total, parts["nsp"] = total + self.config.nsp_weight * nsp, nsp.detach()
            parts["nsp_accuracy"] = (logits_B2.detach().argmax(-1) == relation_B).float().mean()
        return Losses(total, parts)

    # --8<-- [end:pretraining]

    # --8<-- [start:simcse]
    def _simcse_loss(self, batch: Batch) -> Losses:
        """Return InfoNCE of each sentence against all positives, and all hard negatives (Gao 2021, eq. 4 and 5)."""
        texts = {
            "dropout": ("text", "text"),
            "pairs": ("text", "positive"),
            "triplets": ("text", "positive", "negative"),
        }
        inputs = [batch[name] for name in texts[self.config.positives]]
        x_BLD = self._encode(torch.cat(inputs))  # one pass, in which each row has a dropout mask of its own
        query_BD, *candidates = self._pool(x_BLD, torch.cat(inputs)).chunk(len(inputs))
        total = softmax_over_candidates(query_BD, torch.cat(candidates), 1 / self.config.temperature)
        with torch.no_grad():
            alike = _mean_cosine(query_BD.float())
            parts = {"simcse": total.detach(), "alike": alike, "positive": _cosine(query_BD, candidates[0]).mean()}
        if self.config.mlm_weight:
            tokens_BL, targets_BL = self._mask(batch["text"], generator_of(batch))
            x_BLD = self._encode(tokens_BL)
            targets_BL = targets_BL[:, : x_BLD.shape[1]]
            chosen_BL = targets_BL != IGNORED
            mlm = _cross_entropy(self.token_logits(x_BLD[chosen_BL]), targets_BL[chosen_BL])
            total, parts["mlm"] = total + self.config.mlm_weight * mlm, mlm.detach()
        return Losses(total, parts)

    # --8<-- [end:simcse]

    def token_logits(self, x_ND: Tensor) -> Tensor:
        """Return the masked language model's logits ``(..., V)`` of the encoder's vectors ``(..., D)``."""
        if self.mlm is None:
            raise ConfigError("This BERT has no masked language model's head.")
        return self.mlm(x_ND, self.encoder.token_embedding.weight)

    def relation_logits(self, x_BLD: Tensor) -> Tensor:
        """Return next-sentence logits ``(B, 2)``, follows and random, of the encoder's output ``(B, L, D)``."""
        if self.nsp is None or self.pooler is None:
            raise ConfigError("This BERT has no next-sentence head.")
        return self.nsp(self.pooler(x_BLD[:, 0]))

    def _mask(self, tokens_BL: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        config = self.config
        if config.mask_id is None:
            raise ConfigError("BERT: training the masked language model needs mask_id, the token that hides a token.")
        return mask_tokens(
            tokens_BL,
            mask_id=config.mask_id,
            kept_ids=(config.encoder.pad_id, *config.special_ids),
            vocab_size=config.encoder.vocab_size,
            share=config.mask_share,
            generator=generator,
        )

    def _encode(self, tokens_BL: Tensor) -> Tensor:
        """Encode texts, cut to the longest of the batch."""
        longest = int((tokens_BL != self.config.encoder.pad_id).sum(1).max())
        return self.encoder(tokens_BL[:, : max(longest, 1)])

    def _pool(self, x_BLD: Tensor, tokens_BL: Tensor) -> Tensor:
        """Return unit vectors (B, D)."""
        config = self.config
        pooled_BD = x_BLD[:, 0]
        if config.pool == "mean":
            keep_BL1 = (tokens_BL[:, : x_BLD.shape[1]] != config.encoder.pad_id).unsqueeze(-1).to(x_BLD.dtype)
            pooled_BD = (x_BLD * keep_BL1).sum(1) / keep_BL1.sum(1).clamp(min=1)
        if self.pooler is not None and (
            config.projection == "always" or (config.projection == "training" and self.training)
        ):
            pooled_BD = self.pooler(pooled_BD)
        return F.normalize(pooled_BD, dim=-1)

    def health(self) -> list[str]:
        """Warn of a space in which all sentences point the same way."""
        alike = float(self._seen.get("alike", 0.0))
        if alike > 0.95:
            return [f"All sentences point the same way (mean cosine {alike:.2f}): the space has collapsed."]
        return []

    @torch.inference_mode()
    def embed(self, modality: str, inputs: Sequence[Any]) -> np.ndarray:
        """Return float32 unit vectors ``(len(inputs), D)`` of strings, pooled as the configuration says.

        Raises:
            DataError: if another modality than ``"text"`` is asked for.
        """
        if modality not in self.modalities:
            raise DataError(f"BERT embeds text, not {modality!r}.")
        if not len(inputs):
            return np.zeros((0, self.config.encoder.width), np.float32)
        tokens_BL = self.processors["text"](inputs).to(self.device)
        with self.evaluating():
            vectors_BD = self._pool(self._encode(tokens_BL), tokens_BL)
        return vectors_BD.float().cpu().numpy()

    @torch.inference_mode()
    def next_sentence(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Return the probability, float32 ``(len(pairs),)``, that the second text of each pair follows the first."""
        if not len(pairs):
            return np.zeros(0, np.float32)
        tokens_BL, segments_BL = self.processors["pair"](pairs).to(self.device).unbind(1)
        with self.evaluating():
            logits_B2 = self.relation_logits(self.encoder(tokens_BL, segments_BL))
        return logits_B2.float().softmax(-1)[:, 0].cpu().numpy()

    @torch.inference_mode()
    def fill(self, text: str, top: int = 5) -> list[list[tuple[str, float]]]:
        """Return, for each mask token that a text holds, the likeliest tokens with their probabilities.

        Raises:
            DataError: if the text holds no mask token.
        """
        processor: Any = self.processors["text"]
        tokens_BL = processor([text]).to(self.device)
        place_N = (tokens_BL[0] == self.config.mask_id).nonzero()[:, 0]
        if not len(place_N):
            raise DataError(f"There is nothing to fill in: no mask token within the first tokens of {text!r}.")
        with self.evaluating():
            found = self.token_logits(self.encoder(tokens_BL)[0, place_N]).float().softmax(-1).topk(top)
        return [
            [(processor.tokenizer.id_to_token(int(i)), float(p)) for p, i in zip(*row, strict=True)]
            for row in zip(found.values, found.indices, strict=True)
        ]

    def train_flops(self, batch_size: int) -> float:
        """Return the operations of one step, forward and backward, of texts of full length."""
        encoder = self.config.encoder
        texts = {"dropout": 2, "pairs": 2, "triplets": 3}[self.config.positives]
        with_mlm = self.config.objective == "pretraining" or self.config.mlm_weight > 0
        passes = 1 if self.config.objective == "pretraining" else texts + with_mlm
        predicted = self.config.mask_share * encoder.context_length * with_mlm * self.config.mlm
        decoder = predicted * 2 * encoder.width * (encoder.width + encoder.vocab_size)
        return 3.0 * batch_size * (passes * encoder.flops() + decoder)


IGNORED = -100
"""The target of a token that is not to be predicted."""


# --8<-- [start:mask]
def mask_tokens(
    tokens_BL: Tensor,
    *,
    mask_id: int,
    kept_ids: Sequence[int],
    vocab_size: int,
    share: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Hide tokens for the masked language model (Devlin et al. 2019, section 3.1 and appendix A.1).

    Of each text ``share`` of the tokens are chosen, rounded, at least one; of these 80 % become ``mask_id``, 10 % a
    random token, and 10 % stay.

    Args:
        tokens_BL: int64 token ids.
        mask_id: the mask token.
        kept_ids: tokens that are never chosen.
        vocab_size: V; random tokens are drawn from all of it, as in the published code.
        share: between 0 and 1.
        generator: on the CPU; all of the randomness.

    Returns:
        The texts with tokens hidden, and the targets: the token where one was chosen, else :data:`IGNORED`.
    """
    draws = torch.rand(3, *tokens_BL.shape, generator=generator).to(tokens_BL.device)
    order_BL, fate_BL, other_BL = draws.unbind(0)
    may_BL = ~torch.isin(tokens_BL, torch.tensor(list(kept_ids), device=tokens_BL.device))
    count_B1 = may_BL.sum(1, keepdim=True)
    wanted_B1 = (count_B1 * share).round().clamp(min=1).minimum(count_B1)
    rank_BL = order_BL.masked_fill(~may_BL, 2.0).argsort(1).argsort(1)
    chosen_BL = rank_BL < wanted_B1
    hidden_BL = torch.where(chosen_BL & (fate_BL < 0.8), mask_id, tokens_BL)
    random_BL = (other_BL * vocab_size).long().clamp(max=vocab_size - 1)
    hidden_BL = torch.where(chosen_BL & (fate_BL >= 0.9), random_BL, hidden_BL)
    return hidden_BL, torch.where(chosen_BL, tokens_BL, IGNORED)


# --8<-- [end:mask]


def _needs(config: BERTConfig) -> dict[str, Field]:
    if config.objective == "pretraining":
        needs = {"pair": PAIR}
        needs |= {"relation": RELATION} if config.nsp else {}
        return needs | ({"seed": SEED} if config.mlm else {})
    needs = {"text": TEXT}
    if config.positives != "dropout":
        needs["positive"] = Field((), "str", "a sentence that means the same, or answers it")
    if config.positives == "triplets":
        needs["negative"] = Field((), "str", "a sentence that looks alike and means something else")
    return needs | ({"seed": SEED} if config.mlm_weight else {})


def _cross_entropy(logits_NK: Tensor, target_N: Tensor) -> Tensor:
    """Return the mean cross entropy in at least float32; zero, with a graph, where there is nothing to predict."""
    logits_NK = logits_NK if logits_NK.dtype == torch.float64 else logits_NK.float()
    return F.cross_entropy(logits_NK, target_N) if len(target_N) else logits_NK.sum()


def _cosine(x_BD: Tensor, y_BD: Tensor) -> Tensor:
    return (x_BD.detach().float() * y_BD.detach().float()).sum(-1)


def _mean_cosine(x_BD: Tensor) -> Tensor:
    """Return the mean cosine of distinct pairs of unit vectors."""
    pairs = max(len(x_BD) * (len(x_BD) - 1), 1)
    return (x_BD.sum(0).square().sum() - x_BD.square().sum()) / pairs

"""Decoding that CLIP guides: a language model proposes words, CLIP reads each text again and says which fits best.

ZeroCap (Tewel et al. 2022) moves the language model's memory by gradients of CLIP's likeness; ConZIC (Zeng et al.
2023) needs no gradient: it proposes words for one place at a time and keeps the one that CLIP likes. This is the
latter way, with a causal language model: a beam writes a first text, each of whose words is chosen among the
likeliest by reading the text so far into the joint space, and then its words are exchanged one after the other while
that makes it better.

Neither model learns anything for it. Training, where it is asked for, tells the language model how captions read,
without pictures.

Shapes: B pictures, D the joint space, N texts, L tokens, V that are known.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from intermodal.core.captioning import Caption, Captioning
from intermodal.core.errors import ConfigError
from intermodal.core.fields import Field
from intermodal.core.registry import MethodCard
from intermodal.data.processors import Processor
from intermodal.decode.guided import Guided, Rows, ascend, guided_beam
from intermodal.decode.stepper import TransformerStepper
from intermodal.losses.distances import precise
from intermodal.methods.base import Batch, Losses
from intermodal.methods.captioning.joint import JointCaptioner, JointConfig
from intermodal.methods.writer import GREEDY

CARD = MethodCard(
    id="clip-guided",
    title="CLIP-guided decoding: a language model proposes, CLIP chooses, word by word",
    paper="Tewel et al. 2022; Zeng et al. 2023",
    cls="ClipGuided",
    capabilities=("caption",),
    recipes=("clip-guided", "clip-guided-flickr"),
    reference="exact",
)


@dataclass(frozen=True, kw_only=True)
class ClipGuidedConfig(JointConfig):
    """How CLIP guides.

    Attributes:
        match: weight of the cosine between text and picture in a text's score.
        fluency: weight of the mean log-probability of its tokens.
        beams: texts that are written at a time; a wider beam may be asked for when captioning.
        candidates: tokens that the language model proposes for each place.
        sweeps: over the places of the finished text, at most.

    Raises:
        ConfigError: if a number is out of range.
    """

    match: float = 1.0
    fluency: float = 0.1
    beams: int = 4
    candidates: int = 8
    sweeps: int = 2

    def __post_init__(self) -> None:
        if min(self.match, self.fluency, self.sweeps) < 0 or min(self.beams, self.candidates) < 1:
            raise ConfigError(
                "CLIP-guided: match, fluency and sweeps must be at least 0, beams and candidates at least 1."
            )


class ClipGuided(JointCaptioner):
    """A frozen CLIP and a language decoder; see the module's text.

    Args:
        config: how the one guides the other.
        processors: ``image`` and ``read`` of the CLIP, ``text`` of the decoder.
    """

    id = "clip-guided"
    config: ClipGuidedConfig

    def __init__(self, config: ClipGuidedConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        self.needs = {"text": Field((), "str", "a caption, of any picture")}
        self.requires_grad_(True)

    @classmethod
    def configuration(cls, **settings: Any) -> ClipGuidedConfig:
        """Return the configuration of these settings."""
        return ClipGuidedConfig(**settings)

    def loss(self, batch: Batch) -> Losses:
        """Return the language decoder's own loss on captions; no picture is seen."""
        return self.language.loss(batch)

    @torch.no_grad()
    def write_prepared(self, image: Tensor, settings: Captioning = GREEDY) -> list[Caption]:
        """Return one caption for each prepared picture.

        Raises:
            ConfigError: if it is asked to draw: it searches.
        """
        found = self.guide(image, settings)
        made: list[Caption] = []
        for one, log_prob in zip(found, self.log_probs([one.tokens for one in found]).tolist(), strict=True):
            made.append(Caption(self.say(one.tokens), log_prob, len(one.tokens) + 1))
        return made

    @torch.no_grad()
    def guide(self, image: Tensor, settings: Captioning = GREEDY) -> list[Guided]:
        """Return for each prepared picture the text, its score, and the steps that led to it from the beam's text.

        Raises:
            ConfigError: if it is asked to draw.
        """
        if settings.temperature > 0:
            raise ConfigError("CLIP-guided decoding searches and draws nothing: leave temperature at 0.")
        config, vector_BD = self.config, self.see(image)
        match = functools.partial(self.match, vector_BD)
        most = self.room if settings.most is None else min(settings.most + 1, self.room)
        found = guided_beam(
            TransformerStepper(self.language.network),
            torch.tensor(self.writes.prompt(""), device=image.device).expand(len(image), -1),
            match,
            most=max(most, 2),
            beams=max(config.beams, settings.beam),
            candidates=config.candidates,
            end=self.end,
            fluency=config.fluency,
        )
        ascend(found, self.proposals, functools.partial(self.score, vector_BD), sweeps=config.sweeps)
        return found

    # --8<-- [start:score]
    def score(self, vector_BD: Tensor, rows: Rows, owners: list[int]) -> Tensor:
        """Return ``match * cos(picture, text) + fluency * log p(text) / tokens`` of texts, ``(N,)``, ends counted."""
        tokens_N = torch.tensor([len(row) + 1 for row in rows], device=vector_BD.device)
        return self.match(vector_BD, rows, owners) + self.config.fluency * self.log_probs(rows) / tokens_N

    def match(self, vector_BD: Tensor, rows: Rows, owners: list[int]) -> Tensor:
        """Return ``match * cos`` of texts, read anew into the joint space, with their pictures, ``(N,)``."""
        texts = [self.say(row) for row in rows]
        place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        read = self.clip.encode_text(self.processors["read"](list(place)).to(vector_BD.device))
        text_ND = read[torch.tensor([place[text] for text in texts], device=read.device)]
        return self.config.match * (vector_BD[torch.tensor(owners, device=read.device)] * text_ND).sum(1)

    # --8<-- [end:score]

    def log_probs(self, rows: Rows) -> Tensor:
        """Return the language decoder's log-probability of texts and their ends, ``(N,)``."""
        logits_NLV, read_NL, real_NL = self._read(rows)
        each_NL = logits_NLV.log_softmax(-1).gather(2, read_NL[:, self._begins :, None]).squeeze(2)
        return (each_NL * real_NL).sum(1)

    def proposals(self, rows: Rows) -> list[Rows]:
        """Return the likeliest tokens for each place of texts, given what stands before it; never the end."""
        logits_NLV, _, _ = self._read(rows)
        logits_NLV[:, :, self.end] = float("-inf")
        found = logits_NLV.topk(min(self.config.candidates, logits_NLV.shape[-1] - 1)).indices.tolist()
        return [places[: len(row)] for row, places in zip(rows, found, strict=True)]

    @property
    def _begins(self) -> int:
        return len(self.writes.prompt(""))

    def _read(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits of every token of texts and of their ends, the sequences that were read, and what is no padding."""
        begin = self.writes.prompt("")
        longest = max(map(len, rows)) + 1
        padded = [[*begin, *row, *[self.end] * (longest - len(row))] for row in rows]
        read_NL = torch.tensor(padded, device=self.device)
        real_NL = torch.arange(longest, device=self.device) <= torch.tensor(
            [[len(row)] for row in rows], device=self.device
        )
        logits_NLV = self.language.network(read_NL[:, :-1])[:, len(begin) - 1 :]
        return precise(logits_NLV), read_NL, real_NL

    def say(self, row: list[int]) -> str:
        """Return the text of token ids."""
        return self.writes.tokenizer.decode(row).strip()

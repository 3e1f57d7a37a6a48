"""Acoustic model and language model together: the source-channel view of speech, its weights learnt by the errors they make.

What was said is sought as the words W of the highest ``P(X | W) P(W)``: a channel that turned words into sound X, and a
source that chose the words (Bahl, Jelinek & Mercer 1983). Neither part is exact, so the product becomes a log-linear model
with a weight for each (Och & Ney 2002, equation 6)::

    score(W) = ln p(X, W; acoustic) + weight * ln p(W; n-gram) + bonus * |W|

The acoustic model (a trained CTC recogniser) and the n-gram of its training transcripts stay as they are. The two weights
are learnt on speakers that neither has seen, by the expected number of word errors over the n-best list of the beam search
(minimum word error rate: Shannon 2017; Prabhavalkar et al. 2018, equation 3), which is differentiable where the error rate
of the best is not.

    B recordings   T samples   U frames   V symbols   H hypotheses of one recording
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError
from intermodal.core.fields import Field
from intermodal.core.registry import MethodCard
from intermodal.core.transcript import Alignment, Emissions, Transcribing, Transcript
from intermodal.data.processors import Processor
from intermodal.data.transcripts import AUDIO, TRANSCRIPT, TranscriptProcessor
from intermodal.decode.ctc import Beam, BeamConfig, BeamDecoder
from intermodal.decode.ngram import NGram, Tables
from intermodal.methods.base import Batch, Losses
from intermodal.methods.speech.ctc import CTC, CTCConfig
from intermodal.methods.speech.ctc_decoding import beam_decoder, transcript_of
from intermodal.methods.speech.recogniser import Recogniser
from intermodal.metrics.speech import errors

CARD = MethodCard(
    id="lm-fusion",
    title="A language model in the search: the source-channel view",
    paper="Bahl, Jelinek & Mercer 1983; Och & Ney 2002; Chen & Goodman 1999; Prabhavalkar et al. 2018",
    cls="LMFusion",
    capabilities=("transcribe", "align", "emit"),
    recipes=("lm-fusion",),
    reference="kenlm (scores), exact modified Kneser-Ney (estimation), pyctcdecode and flashlight (search)",
)


@dataclass(frozen=True, kw_only=True)
class LMFusionConfig(Config):
    """What is put together.

    Attributes:
        acoustic: the frozen recogniser.
        words: the n-gram's vocabulary.
        levels: where its entries of each length begin (:attr:`~intermodal.decode.ngram.NGram.levels`).
        closed: whether it has no ``<unk>``.
        beam: hypotheses that the search keeps.
        n_best: hypotheses of a recording over which errors are expected.
        lm_weight, word_bonus: from which learning begins.
        sharpness: factor of the scores in the probabilities of hypotheses; a high one counts the best alone.
        likelihood: weight of minus the log-probability of the hypothesis with the fewest errors (Och & Ney 2002, equation
            8), which still says where to go when all hypotheses have as many errors.
    """

    acoustic: CTCConfig
    words: tuple[str, ...]
    levels: tuple[int, ...]
    closed: bool = False
    beam: int = 50
    n_best: int = 16
    lm_weight: float = 1.0
    word_bonus: float = 0.0
    sharpness: float = 1.0
    likelihood: float = 0.01

    def __post_init__(self) -> None:
        if not 2 <= self.n_best <= self.beam:
            raise ConfigError(f"n_best is 2 to the beam ({self.beam}), found {self.n_best}.")
        if not (self.lm_weight > 0 and self.sharpness > 0 and self.likelihood >= 0):
            raise ConfigError("lm_weight and sharpness must be above 0, and likelihood not negative.")


class Scored(NamedTuple):
    """The n-best of some recordings, one hypothesis behind the other."""

    acoustic: Tensor
    """float32 (H,): log-probability of the sound."""
    language: Tensor
    """float32 (H,): log-probability of the words, unweighted."""
    words: Tensor
    """float32 (H,): how many there are."""
    wrong: Tensor
    """float32 (H,): word errors."""
    utterance: Tensor
    """int64 (H,): the recording."""
    oracle: Tensor
    """bool (H,): whether none of the recording's hypotheses has fewer errors (the first of equals, by characters)."""


class LMFusion(Recogniser):
    """A frozen CTC recogniser, a frozen n-gram model, and the two weights between them.

    Args:
        config: the parts.
        processors: ``audio`` and ``text``, those of the recogniser.
    """

    id = "lm-fusion"
    needs: Mapping[str, Field] = {"audio": AUDIO, "text": TRANSCRIPT}
    config: LMFusionConfig

    def __init__(self, config: LMFusionConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        self.acoustic = CTC(config.acoustic, processors).requires_grad_(False).eval()
        self.log_lm_weight = nn.Parameter(torch.tensor([math.log(config.lm_weight)]))
        self.word_bonus = nn.Parameter(torch.tensor([config.word_bonus]))
        nodes, inner = config.levels[-1], config.levels[-2]
        for name in Tables._fields:
            size = {"first": inner + 1, "backoff": inner, "link": inner}.get(name, nodes)
            # Numbers of single precision are kept as their bits, so that a model in half precision keeps its language model.
            self.register_buffer(f"lm_{name}", torch.zeros(size, dtype=torch.int32))
        self._lm: NGram | None = None
        self.register_load_state_dict_post_hook(_forget)

    @classmethod
    def over(cls, acoustic: CTC, lm: NGram, **settings: Any) -> Self:
        """Return the two together, with copies of the recogniser's weights.

        Args:
            acoustic: a trained recogniser.
            lm: an n-gram model of words as its transcripts are spelt.
            settings: others of :class:`LMFusionConfig`.
        """
        config = LMFusionConfig(
            acoustic=acoustic.config, words=lm.words, levels=lm.levels, closed=lm.closed, **settings
        )
        method = cls(config, acoustic.processors)
        method.acoustic.load_state_dict(acoustic.state_dict())
        for name, array in lm.tables._asdict().items():
            getattr(method, f"lm_{name}").copy_(torch.from_numpy(array.view(np.int32)))
        return method

    @property
    def lm(self) -> NGram:
        """The language model."""
        if self._lm is None:
            arrays = {name: getattr(self, f"lm_{name}").cpu().numpy() for name in Tables._fields}
            for name in ("logp", "backoff"):
                arrays[name] = arrays[name].view(np.float32)
            self._lm = NGram(self.config.words, Tables(**arrays), self.config.levels, closed=self.config.closed)
        return self._lm

    @property
    def text(self) -> TranscriptProcessor:
        """What turns transcripts into symbols and back."""
        return self.acoustic.text

    @property
    def weights(self) -> tuple[float, float]:
        """The language model's weight and the bonus of a word, as they are now."""
        return float(self.log_lm_weight.detach().exp()), float(self.word_bonus.detach())

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return the expected word errors of the n-best lists over the words said, and a little of the likelihood."""
        nbest = self.n_best(batch)
        with torch.autocast(self.device.type, enabled=False):
            score_H = nbest.acoustic + self.log_lm_weight.exp() * nbest.language + self.word_bonus * nbest.words
            log_p_H = _log_softmax_within(self.config.sharpness * score_H, nbest.utterance, len(batch["audio"]))
            words = self._said(batch)
            risk = (log_p_H.exp() * nbest.wrong).sum() / words
            likelihood = -log_p_H[nbest.oracle].mean()
        parts = {
            "expected_wer": risk.detach(),
            "oracle_wer": nbest.wrong[nbest.oracle].sum() / words,
            "lm_weight": self.log_lm_weight.detach().exp().squeeze(0),
            "word_bonus": self.word_bonus.detach().clone().squeeze(0),
        }
        return Losses(risk + self.config.likelihood * likelihood, parts)

    # --8<-- [end:loss]

    def _said(self, batch: Batch) -> int:
        return max(sum(len(text.split()) for text in self._references(batch)), 1)

    def _references(self, batch: Batch) -> list[str]:
        rows = zip(batch["text"].tolist(), batch["text_length"].tolist(), strict=True)
        return [self.text.decode(row[:length]) for row, length in rows]

    @torch.no_grad()
    def n_best(self, batch: Batch) -> Scored:
        """Return the n-best lists of a batch under the weights as they are, with their errors."""
        with torch.autocast(self.device.type, enabled=False):
            log_probs_BUV, frames_B = self.acoustic.emit(batch["audio"].float(), batch["audio_length"])
        emitted = [row[:n].cpu().numpy() for row, n in zip(log_probs_BUV, frames_B.tolist(), strict=True)]
        lists = self.decoder().decode(emitted, n_best=self.config.n_best, threads=torch.get_num_threads())
        beams = [beam for found in lists for beam in found]
        utterance = [i for i, found in enumerate(lists) for _ in found]
        references = self._references(batch)
        said, heard = [references[i] for i in utterance], [beam.text for beam in beams]
        wrong = np.array([e.wrong for e in errors(said, heard)], np.float32)
        letters = np.array([e.wrong for e in errors(said, heard, "character")])
        oracle = np.zeros(len(beams), bool)
        for i in range(len(lists)):
            own = np.flatnonzero(np.array(utterance) == i)
            oracle[own[np.lexsort((letters[own], wrong[own]))[:1]]] = True

        def tensor(values: Any, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.tensor(np.asarray(values), dtype=dtype, device=self.device)

        return Scored(
            tensor([b.acoustic for b in beams]),
            tensor([b.language for b in beams]),
            tensor([len(b.words) for b in beams]),
            tensor(wrong),
            tensor(utterance, torch.int64),
            tensor(oracle, torch.bool),
        )

    def decoder(
        self, lm: NGram | None = None, lm_weight: float | None = None, word_bonus: float | None = None
    ) -> BeamDecoder:
        """Return the beam search, with the model's own n-gram and weights where none are given."""
        weight, bonus = self.weights
        config = BeamConfig(
            beam=self.config.beam,
            lm_weight=weight if lm_weight is None else lm_weight,
            word_bonus=bonus if word_bonus is None else word_bonus,
        )
        return BeamDecoder(self.text.symbols, 0, self.text.delimiter, config, lm=lm or self.lm)

    # What the recogniser inside says.

    @property
    def emitted(self) -> tuple[tuple[str, ...], int | None]:
        """The symbols' names, and the blank, which is the first."""
        return self.acoustic.emitted

    @property
    def frame_seconds(self) -> float:
        """Seconds from one emitted frame to the next."""
        return self.acoustic.frame_seconds

    def emit(self, audio_BT: Tensor, length_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the recogniser's log-probabilities ``(B, U, V)`` and frames ``(B,)``."""
        return self.acoustic.emit(audio_BT, length_B)

    def align(self, audio: Any, text: str) -> Alignment:
        """Return where the words of a text are in a recording, by the recogniser alone."""
        return self.acoustic.align(audio, text)

    def decode(self, emissions: Sequence[Emissions], settings: Transcribing) -> list[Transcript]:
        """Return the transcripts of emissions by beam search with the model's own language model, or one that is named.

        A beam of 1, which is what settings have where a person says nothing, stands for the model's own beam.
        """
        if not emissions:
            return []
        if settings.beam == 1:
            settings = settings.replace(beam=self.config.beam)
        weight, bonus = self.weights
        decoder = beam_decoder(
            emissions[0],
            settings,
            self.text.delimiter,
            lm_weight=weight,
            word_bonus=bonus,
            case=self.text.case,
            **({} if settings.lm else {"lm": self.lm}),
        )
        lists = decoder.decode(
            [each.log_probs for each in emissions], n_best=settings.n_best, threads=torch.get_num_threads()
        )
        return [transcript_of(beams, each.frame_seconds) for beams, each in zip(lists, emissions, strict=True)]

    # What stays frozen.

    def train(self, mode: bool = True) -> Self:
        """Set training mode; the recogniser stays as it was trained."""
        super().train(mode)
        self.acoustic.eval()
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Ask for gradients of the weights; the recogniser stays frozen."""
        super().requires_grad_(requires_grad)
        self.acoustic.requires_grad_(False)
        return self

    def health(self) -> list[str]:
        """Warn of a language model that has been switched off."""
        weight, _ = self.weights
        if weight < 0.01:
            return [
                "The language model's weight has fallen to nothing: do its words look like the transcripts' (capitals)?"
            ]
        return []


def _forget(method: nn.Module, keys: Any) -> None:
    """Let the language model be read anew from what was loaded."""
    del keys
    assert isinstance(method, LMFusion)
    method._lm = None


def _log_softmax_within(score_H: Tensor, group_H: Tensor, groups: int) -> Tensor:
    """Return the log-probability of each hypothesis among those of its own recording."""
    top_B = score_H.new_full((groups,), -torch.inf).scatter_reduce(0, group_H, score_H.detach(), "amax")
    shifted_H = score_H - top_B[group_H]
    sum_B = score_H.new_zeros(groups).index_add(0, group_H, shifted_H.exp())
    return shifted_H - sum_B.log()[group_H]


def rescored(beams: Sequence[Beam], lm: NGram, lm_weight: float, word_bonus: float) -> Beam:
    """Return the best of a list of hypotheses from a search without a language model, judged with one (two passes)."""

    def score(beam: Beam) -> float:
        return beam.acoustic + lm_weight * language_score(lm, beam.text) + word_bonus * len(beam.words)

    return max(beams, key=score)


def language_score(lm: NGram, text: str) -> float:
    """Return what a language model says of a text, as the search has it: unknown words cost more than the model asks."""
    words = text.split()
    return lm.score(words) + BeamConfig().oov * sum(word not in lm for word in words)

"""HMM-GMM: hidden Markov models of phones whose states speak by mixtures of Gaussians (Rabiner 1989; Young et al. 1994).

A word is a sequence of phones (the lexicon), a phone a left-to-right chain of states, a state a mixture of Gaussians over
cepstra and their slopes. Which frame belongs to which state is never given: the likelihood sums over all ways through the
text (the forward algorithm), and expectation maximisation raises it (Baum-Welch).

Two ways of training share the numbers. The native engine (:mod:`intermodal.methods.speech.hmm_engine`) does what recognisers
of this kind have always done: a flat start, EM, components that split in two, decision trees that tie the states of
triphones, EM again. :meth:`Hmm.loss` is the same likelihood with its gradient, for the ordinary loop.

Triphones are word-internal: a phone's neighbours are those of its own word, and the boundary at a word's ends. Sounds that
change across words are not modelled; in return the decoder's tree of words is the same behind every word.

Shapes: B recordings, T samples, N frames, D features, P pdfs, K components, U pdfs of one text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError
from intermodal.core.fields import Field
from intermodal.core.registry import MethodCard
from intermodal.data.lexicon import WordProcessor
from intermodal.data.processors import Processor
from intermodal.data.transcripts import AUDIO, TRANSCRIPT
from intermodal.decode.graph import GraphConfig
from intermodal.methods.base import Batch, Losses
from intermodal.methods.speech.graph_recogniser import GraphRecogniser
from intermodal.nn.hmm import Graph, log_likelihood, training_graph
from intermodal.nn.mixtures import Mixtures
from intermodal.nn.speech_features import FeatureConfig, SpeechFeatures
from intermodal.nn.topology import Topology

if TYPE_CHECKING:
    from intermodal.methods.speech.hmm_engine import HmmEngine

CARD = MethodCard(
    id="hmm",
    title="HMM-GMM: hidden Markov models of phones with Gaussian mixtures",
    paper="Rabiner 1989; Young, Odell & Woodland 1994",
    cls="Hmm",
    capabilities=("transcribe", "align", "emit"),
    recipes=("hmm", "hmm-digits"),
    reference="hmmlearn GaussianHMM, GMMHMM; exact: sums over all paths",
)

NOTHING = -1e4
"""The logit of a component that is not there."""
LOG_VAR = (-14.0, 14.0)
"""Bounds of the logarithm of a variance where it is trained by gradients."""


def cepstra() -> FeatureConfig:
    """Return what an HMM-GMM hears by default: 13 cepstra with two orders of slopes, without each recording's mean.

    The deviation is left as it is: a short recording's says more about what was said than about how it was recorded.
    """
    return FeatureConfig(kind="mfcc", bins=26, deltas=2, cmvn="utterance", cmvn_variance=False)


@dataclass(frozen=True, kw_only=True)
class HmmConfig(Config):
    """What an HMM-GMM is made of.

    Attributes:
        features: what is heard; cepstra with slopes by default.
        topology: phones and states; the engine puts the trees of triphones here.
        mixtures: K; the engine changes it as components split.
        silence: the probability of silence at each place where it may be, in training.
        search: how it is decoded and aligned.
    """

    topology: Topology
    features: FeatureConfig = field(default_factory=cepstra)
    mixtures: int = 2
    silence: float = 0.5
    search: GraphConfig = field(default_factory=GraphConfig)

    def __post_init__(self) -> None:
        if self.mixtures < 1 or not 0 <= self.silence <= 1:
            raise ConfigError(
                f"An HMM needs at least one component and a probability of silence from 0 to 1, found {self.mixtures} and "
                f"{self.silence}."
            )


class Hmm(GraphRecogniser):
    """Hidden Markov models with Gaussian mixtures; see the module's text.

    Args:
        config: phones, features, mixtures.
        processors: ``audio``, and ``text``: a :class:`~intermodal.data.lexicon.WordProcessor` whose phones the topology has.

    Raises:
        ConfigError: if the lexicon has a phone that the topology lacks.
    """

    id = "hmm"
    needs: Mapping[str, Field] = {"audio": AUDIO, "text": TRANSCRIPT}
    config: HmmConfig
    means: Tensor
    log_vars: Tensor
    mixture_logits: Tensor
    stay_logits: Tensor

    def __init__(self, config: HmmConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        words = processors.get("text")
        if not isinstance(words, WordProcessor):
            raise ConfigError("An HMM needs a lexicon: the processor of its texts is a WordProcessor.")
        if unknown := sorted(set(words.lexicon.phones) - set(config.topology.phones)):
            raise ConfigError(f"The lexicon has phones that the model lacks: {', '.join(unknown)}.")
        self.features = SpeechFeatures(config.features)
        self._make(config.topology.pdfs, config.mixtures)
        self._graphs: dict[tuple[str, ...], Graph] = {}

    def _make(self, pdfs: int, mixtures: int) -> None:
        """Make parameters: near the standard normal distribution, components a little apart."""
        size = self.config.features.size
        self.means = nn.Parameter(0.1 * torch.randn(pdfs, mixtures, size))
        self.log_vars = nn.Parameter(torch.zeros(pdfs, mixtures, size))
        if mixtures > 1:
            self.mixture_logits = nn.Parameter(torch.zeros(pdfs, mixtures))
        else:  # the share of the only one is no matter of training
            self.register_buffer("mixture_logits", torch.zeros(pdfs, mixtures))
        self.stay_logits = nn.Parameter(torch.zeros(pdfs))

    @property
    def topology(self) -> Topology:
        """The phones and their states."""
        return self.config.topology

    @property
    def search(self) -> GraphConfig:  # type: ignore[override]
        """How it decodes where nothing else is said."""
        return self.config.search

    @property
    def frame_seconds(self) -> float:
        """Seconds from one frame to the next."""
        return self.features.frame_seconds

    def stay(self) -> np.ndarray:
        """Return each pdf's stay logit, float64 ``(P,)``."""
        return self.stay_logits.detach().double().cpu().numpy()

    def graph(self, words: tuple[str, ...]) -> Graph:
        """Return all ways through a text; those of the texts of training are kept."""
        if words not in self._graphs:
            self._graphs[words] = training_graph(words, self.lexicon, self.topology, self.config.silence)
        return self._graphs[words]

    # --8<-- [start:loss]
    def log_densities(self, feature_ND: Tensor, pdf_U: Tensor | None = None) -> Tensor:
        """Return the log-densities of frames in some pdfs (all by default), ``(N, U)``."""
        mean_PKD, log_var_PKD, logit_PK = self.means, self.log_vars, self.mixture_logits
        if pdf_U is not None:
            mean_PKD, log_var_PKD, logit_PK = mean_PKD[pdf_U], log_var_PKD[pdf_U], logit_PK[pdf_U]
        log_var_PKD = log_var_PKD.clamp(*LOG_VAR)
        precision_PKD = torch.exp(-log_var_PKD)
        scaled_PKD = mean_PKD * precision_PKD
        constant_PK = -0.5 * (mean_PKD * scaled_PKD + log_var_PKD + math.log(2 * math.pi)).sum(-1)
        both_NE = torch.cat([feature_ND.square(), feature_ND], 1)  # a log-density is linear in (x^2, x)
        matrix_PKE = torch.cat([-0.5 * precision_PKD, scaled_PKD], -1)
        parts = (both_NE @ matrix_PKE.flatten(0, 1).T).unflatten(1, logit_PK.shape)
        return torch.logsumexp(parts + constant_PK + logit_PK.log_softmax(-1), -1)

    def loss(self, batch: Batch) -> Losses:
        """Return minus the log-likelihood of recordings given their texts, for each frame.

        ``audio`` float32 ``(B, T)`` with ``audio_length``, ``text`` int64 ``(B, U)`` with ``text_length``: numbers of words.
        Recordings that are too short for their texts do not count; ``unfit`` says how many there were.
        """
        with torch.autocast(self.device.type, enabled=False):
            feature_BND, frames_B = self.features(batch["audio"].float(), batch["audio_length"])
            total, count, unfit = feature_BND.new_zeros(()), 0, 0
            for feature_ND, frames, text, length in zip(
                feature_BND, frames_B.tolist(), batch["text"].tolist(), batch["text_length"].tolist(), strict=True
            ):
                graph = self.graph(tuple(self.lexicon.words[i] for i in text[:length]))
                if frames < graph.shortest:
                    unfit += 1
                    continue
                pdf_U = torch.from_numpy(graph.local[0]).long().to(self.device)
                loglik_NU = self.log_densities(feature_ND[:frames], pdf_U)
                total = total + log_likelihood(loglik_NU, self.stay_logits, graph)
                count += frames
            if not count:
                total = 0.0 * sum(p.sum() for p in self.parameters())
            return Losses(-total / max(count, 1), {"unfit": torch.tensor(float(unfit))})

    # --8<-- [end:loss]

    def emit(self, audio_BT: Tensor, length_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-posteriors of the pdfs under equal priors ``(B, N, P)``, and each recording's frames."""
        feature_BND, frames_B = self.features(audio_BT, length_B)
        with torch.autocast(self.device.type, enabled=False):
            log_density = self.log_densities(feature_BND.flatten(0, 1)).unflatten(0, feature_BND.shape[:2])
        return log_density.log_softmax(-1), frames_B

    def mixture(self) -> Mixtures:
        """Return the densities in float64."""
        logits = self.mixture_logits.detach().double().cpu()
        return Mixtures(
            logits.softmax(-1).numpy(),
            self.means.detach().double().cpu().numpy(),
            self.log_vars.detach().double().cpu().clamp(*LOG_VAR).exp().numpy(),
            self.stay_logits.detach().double().cpu().sigmoid().numpy(),
        )

    def adopt(self, mixtures: Mixtures, topology: Topology) -> None:
        """Take other densities, and with them another number of pdfs and components, and another topology."""
        pdfs, size, _ = mixtures.mean_PKD.shape
        if topology != self.topology:
            self._graphs.clear()
        self.config = self.config.replace(topology=topology, mixtures=size)
        if (pdfs, size) != tuple(self.means.shape[:2]):
            for name in ("means", "log_vars", "mixture_logits", "stay_logits"):
                delattr(self, name)
            self._make(pdfs, size)
        with np.errstate(divide="ignore"):
            logits = np.maximum(np.log(mixtures.weight_PK), NOTHING)
        with torch.no_grad():
            self.means.copy_(torch.from_numpy(mixtures.mean_PKD))
            self.log_vars.copy_(torch.from_numpy(np.log(mixtures.var_PKD)))
            self.mixture_logits.copy_(torch.from_numpy(logits))
            self.stay_logits.copy_(torch.from_numpy(mixtures.stay_logit_P))

    @torch.no_grad()
    def begin(self, waves: Iterable[Tensor]) -> None:
        """Move the densities to where the sound is: each keeps its small offset from the moments of all frames.

        Args:
            waves: recordings ``(1, T)`` at the model's rate.
        """
        frames = [self.features(wave_1T.to(self.device))[0][0] for wave_1T in waves]
        feature_ND = torch.cat(frames).double()
        if len(feature_ND) < 2:
            return
        var_D = feature_ND.var(0, unbiased=False).clamp(min=1e-4)
        self.means.mul_(var_D.sqrt()).add_(feature_ND.mean(0))
        self.log_vars.copy_(var_D.log().expand_as(self.log_vars))

    def native(self, **budget: Any) -> HmmEngine:
        """Return the engine that trains by expectation maximisation; see its class for the budget.

        Raises:
            MissingExtraError: without numba.
        """
        from intermodal.methods.speech.hmm_engine import HmmEngine

        return HmmEngine(self, **budget)

    def health(self) -> list[str]:
        """Warn of densities that have collapsed onto a few frames."""
        narrow = (self.log_vars.detach() < math.log(1e-3)).all(-1).float().mean().item()
        if narrow > 0.05:
            return [f"{narrow:.0%} of the Gaussians have collapsed: fewer mixtures or more data."]
        return []

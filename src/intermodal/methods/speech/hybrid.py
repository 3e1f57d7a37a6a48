"""Hybrid recognisers: a network tells the states of a hidden Markov model apart, the model's search finds the words.

A trained Gaussian-mixture model (:mod:`intermodal.methods.speech.hmm`), which stays as it is, aligns each training recording
with its text: every frame gets the number of a state's density (its pdf). A network learns to classify frames. It gives the
posterior ``p(s | x)``, and the decoder wants a likelihood; Bayes' rule turns one into the other, up to what all states of a
frame share (Bourlard & Morgan 1994, section 6.4):

    log p(x | s) = log p(s | x) - log p(s) + log p(x)

The prior ``p(s)`` is counted over the alignments. Deep networks over spliced frames (Hinton et al. 2012), time-delay
networks (Peddinti et al. 2015) and LSTMs (Sak et al. 2014) differ in the encoder alone.

Shapes: B recordings, T samples, N frames, F features, P pdfs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError
from intermodal.core.fields import SEED, Field
from intermodal.core.registry import MethodCard
from intermodal.data.processors import Processor
from intermodal.data.transcripts import AUDIO, TRANSCRIPT
from intermodal.decode.graph import GraphConfig
from intermodal.methods.base import Batch, Losses, generator_of, seeded
from intermodal.methods.speech.graph_recogniser import GraphRecogniser
from intermodal.methods.speech.hmm import Hmm, HmmConfig
from intermodal.nn.distributed import all_reduce_sum
from intermodal.nn.hmm import viterbi
from intermodal.nn.speech_encoders import SpeechEncoderConfig
from intermodal.nn.speech_features import FeatureConfig, SpecAugmentConfig, SpeechFeatures, spec_augment
from intermodal.nn.topology import Topology

CARD = MethodCard(
    id="hybrid",
    title="Hybrid: a network's state posteriors in the decoder of a hidden Markov model",
    paper="Bourlard & Morgan 1994; Hinton et al. 2012; Peddinti et al. 2015; Sak et al. 2014",
    cls="Hybrid",
    capabilities=("transcribe", "align", "emit"),
    recipes=("hybrid", "hybrid-dnn", "hybrid-tdnn", "hybrid-lstm", "hybrid-digits"),
    reference="exact: scaled likelihoods by hand; a network of the exact posterior decodes as its Gaussian mixtures do",
)
SEARCH = GraphConfig(beam=100.0, lm_weight=6.0)
"""Posteriors of a network are less sure than likelihoods of Gaussians: less weight to the words, and a narrower beam."""
SILENT = 0.98
"""More silence than this in what is heard is a sign of a network that does not listen."""
NOT_A_FRAME = -100
"""The target of what counts in no loss: padding, and recordings that are too short for their texts."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(Config):
    """The network of a hybrid recogniser.

    Attributes:
        features: what the network hears; as many frames as the hidden Markov model's own features have.
        encoder: the network. Where it gives one vector for several frames, each of these frames has outputs of its own
            (Vanhoucke et al. 2013).
        delay: frames that the network hears beyond a frame before it speaks about it: for encoders that see no future
            (Sak et al. 2014, section 4).
        augment: SpecAugment of the training frames; None for none.
        smoothing: of the targets: this share of the probability is spread over all pdfs.
        prior_scale: kappa, how much of the prior is divided out, 0 to 1 (1 is Bayes' rule).
        search: how it is decoded.

    Raises:
        ConfigError: if a number is out of range.
    """

    features: FeatureConfig
    encoder: SpeechEncoderConfig
    delay: int = 0
    augment: SpecAugmentConfig | None = None
    smoothing: float = 0.0
    prior_scale: float = 1.0
    search: GraphConfig = SEARCH

    def __post_init__(self) -> None:
        if self.delay < 0 or not 0 <= self.smoothing < 1 or not 0 <= self.prior_scale <= 1:
            raise ConfigError(
                "A hybrid's delay is at least 0, its smoothing in [0, 1) and its prior_scale in [0, 1], found "
                f"{self.delay}, {self.smoothing} and {self.prior_scale}."
            )


@dataclass(frozen=True, kw_only=True)
class HybridConfig(Config):
    """A network on the states of a hidden Markov model.

    Attributes:
        hmm: the frozen model: phones, states, Gaussians for the alignment.
        network: what classifies frames.
    """

    hmm: HmmConfig
    network: NetworkConfig


class Hybrid(GraphRecogniser):
    """A frame classifier on the states of a frozen hidden Markov model; see the module's text.

    Args:
        config: both.
        processors: ``audio`` and ``text``, those of the hidden Markov model.

    Attributes:
        counts: ``(P,)`` int64, how often each pdf was a target: the prior.

    Raises:
        ConfigError: if the network's frames are not those of the hidden Markov model.
    """

    id = "hybrid"
    needs: Mapping[str, Field] = {"audio": AUDIO, "text": TRANSCRIPT, "seed": SEED}
    config: HybridConfig
    counts: Tensor

    def __init__(self, config: HybridConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        self.hmm = Hmm(config.hmm, processors).requires_grad_(False).eval()
        self.network = config.network
        self.features = SpeechFeatures(self.network.features)
        self._check_frames()
        self.encoder = self.network.encoder.build(self.features.size)
        self.out = nn.Linear(self.encoder.width, self.encoder.stride * self.pdfs)
        self.register_buffer("counts", torch.zeros(self.pdfs, dtype=torch.int64))
        self._aligned: dict[bytes, np.ndarray | None] = {}
        self._heard: dict[str, Tensor] = {}

    def _check_frames(self) -> None:
        """Check that the network hears the same frames as the model that aligns them, and the recordings' rate."""
        own, theirs = self.network.features, self.config.hmm.features
        if not own.rate == theirs.rate == self.sample_rate:
            raise ConfigError(
                f"The network's features are of {own.rate} samples a second, those of the hidden Markov model of "
                f"{theirs.rate}, and the recordings of {self.sample_rate}: they must agree."
            )
        count = "hop_samples", "edges", "drop_last"
        if any(getattr(own, name) != getattr(theirs, name) for name in count) or (
            own.edges == "inside" and own.window_samples != theirs.window_samples
        ):
            raise ConfigError(
                "The network's frames must be those of the hidden Markov model, which gives their states: set the same "
                "hop_ms and edges (and window_ms, where windows lie inside)."
            )

    @classmethod
    def over(cls, hmm: Hmm, network: NetworkConfig) -> Hybrid:
        """Return an untrained network over the states of a trained hidden Markov model, whose parameters are copied.

        Args:
            hmm: trained.
            network: the rate of its features is set to that of the model.
        """
        network = network.replace(features=network.features.replace(rate=hmm.sample_rate))
        hybrid = cls(HybridConfig(hmm=hmm.config, network=network), hmm.processors)
        hybrid.hmm.load_state_dict(hmm.state_dict())
        return hybrid

    @property
    def topology(self) -> Topology:
        """The phones and their states."""
        return self.hmm.topology

    @property
    def search(self) -> GraphConfig:  # type: ignore[override]
        """How it decodes where nothing else is said."""
        return self.network.search

    @property
    def frame_seconds(self) -> float:
        """Seconds from one frame to the next."""
        return self.features.frame_seconds

    def stay(self) -> np.ndarray:
        """Return each pdf's stay logit, float64 ``(P,)``: those of the hidden Markov model."""
        return self.hmm.stay()

    @property
    def pdfs(self) -> int:
        """P."""
        return self.topology.pdfs

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return the cross entropy of the frames' states, in nats: the mean over all frames that have a target."""
        target_BN = self.targets(batch["audio"], batch["audio_length"], batch["text"], batch["text_length"])
        generator, network = generator_of(batch), self.network
        feat_BNF, frames_B = self.features(batch["audio"].float(), batch["audio_length"])
        if self.training and network.augment is not None:
            blocks = 1 + network.features.deltas
            feat_BNF = spec_augment(feat_BNF, frames_B, network.augment, generator, blocks=blocks)
        with seeded(generator):
            logits_NP = self.logits(feat_BNF, frames_B)[target_BN != NOT_A_FRAME].float()
        target_N = target_BN[target_BN != NOT_A_FRAME]
        if self.training:  # the prior p(s), over all ranks
            self.counts += all_reduce_sum(torch.bincount(target_N, minlength=self.pdfs))
        total_N = F.cross_entropy(logits_NP, target_N, reduction="none", label_smoothing=network.smoothing)
        total = total_N.sum() / max(len(target_N), 1)
        # --8<-- [end:loss]
        return Losses(total, self._listen(logits_NP.detach().argmax(-1), target_N, target_BN))

    def _listen(self, best_N: Tensor, target_N: Tensor, target_BN: Tensor) -> dict[str, Tensor]:
        """Take note of what is heard, for :meth:`health`; return the share of right frames and of recordings left out."""
        frames = max(len(target_N), 1)
        quiet = self.topology.silence_states  # the first pdfs
        self._heard = {
            "right": (best_N == target_N).sum() / frames,
            "silent": (best_N < quiet).sum() / frames,
            "should": (target_N < quiet).sum() / frames,
        }
        return {"right": self._heard["right"], "left_out": (target_BN == NOT_A_FRAME).all(1).float().mean()}

    # --8<-- [start:scaled]
    def scaled(self, log_post_NP: Tensor) -> Tensor:
        """Return ``log p(x | s)`` up to a constant of each frame: the log-posteriors less kappa times the log-prior.

        A pdf that was never a target has no prior to divide out; its prior counts as 1, so that it stays as unlikely as the
        network says.
        """
        return log_post_NP - self.network.prior_scale * self.log_prior().to(log_post_NP)

    def log_prior(self) -> Tensor:
        """Return ``log p(s)`` of all pdfs, ``(P,)``, by the counts of the alignments; 0 where there is none."""
        counts_P = self.counts.double()
        return torch.where(counts_P > 0, counts_P.clamp(min=1).log() - counts_P.sum().clamp(min=1).log(), 0.0)

    # --8<-- [end:scaled]

    def logits(self, feat_BNF: Tensor, frames_B: Tensor) -> Tensor:
        """Return logits ``(B, N, P)`` of all frames; what lies beyond a recording's frames has no meaning."""
        frames, delay = feat_BNF.shape[1], self.network.delay
        if delay:
            feat_BNF, frames_B = F.pad(feat_BNF, (0, 0, 0, delay)), frames_B + delay
        hidden_BUD, _ = self.encoder(feat_BNF, frames_B)
        return (
            self.out(hidden_BUD).unflatten(2, (self.encoder.stride, self.pdfs)).flatten(1, 2)[:, delay : frames + delay]
        )

    # Targets: the states in which the frozen model sees each frame.

    @torch.no_grad()
    def targets(self, audio_BT: Tensor, audio_length_B: Tensor, text_BU: Tensor, text_length_B: Tensor) -> Tensor:
        """Return each frame's pdf by Viterbi alignment, int64 ``(B, N)``, :data:`NOT_A_FRAME` where there is none.

        Each recording is aligned once and then remembered, as long as the model is in memory.
        """
        device, found = audio_BT.device, []
        lengths, words = audio_length_B.tolist(), text_length_B.tolist()
        for audio_T, length, text_U, count in zip(audio_BT.cpu(), lengths, text_BU.cpu(), words, strict=True):
            samples, text = audio_T[:length].contiguous(), text_U[:count].contiguous()
            key = hashlib.blake2b(samples.numpy().tobytes() + text.numpy().tobytes(), digest_size=16).digest()
            if key not in self._aligned:
                self._aligned[key] = self._align_one(samples.to(device), text)
            found.append(self._aligned[key])
        frames = self.features.frames(audio_length_B).tolist()
        target_BN = torch.full((len(found), max(frames, default=0)), NOT_A_FRAME)
        for row, pdfs_N in zip(target_BN, found, strict=True):
            if pdfs_N is not None:
                row[: len(pdfs_N)] = torch.from_numpy(pdfs_N.astype(np.int64))
        return target_BN.to(device)

    def _align_one(self, samples_T: Tensor, text_U: Tensor) -> np.ndarray | None:
        """Return the pdfs ``(N,)`` of one recording's best path; None if it is too short for its text."""
        graph = self.hmm.graph(tuple(self.lexicon.words[i] for i in text_U.tolist()))
        feature_1ND, _ = self.hmm.features(samples_T[None].float())
        if feature_1ND.shape[1] < graph.shortest:
            return None
        with torch.autocast(samples_T.device.type, enabled=False):
            loglik_NP = self.hmm.log_densities(feature_1ND[0].float())
        path = viterbi(loglik_NP.cpu().numpy(), graph, self.stay())
        return graph.pdf_S[path.nodes_T].astype(np.int16 if self.pdfs < 2**15 else np.int32)

    def emit(self, audio_BT: Tensor, length_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return scaled log-likelihoods, normalised over the pdfs, ``(B, N, P)``, and each recording's frames ``(B,)``."""
        feat_BNF, frames_B = self.features(audio_BT.float(), length_B)
        log_post_BNP = self.logits(feat_BNF, frames_B).float().log_softmax(-1)
        return self.scaled(log_post_BNP).log_softmax(-1), frames_B

    # The hidden Markov model stays as it was trained.

    def train(self, mode: bool = True) -> Self:
        """Set training mode for the network; the hidden Markov model stays as it is."""
        super().train(mode)
        self.hmm.eval()
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Ask for gradients of the network; the hidden Markov model stays frozen."""
        super().requires_grad_(requires_grad)
        self.hmm.requires_grad_(False)
        return self

    def health(self) -> list[str]:
        """Warn of a network that hears silence everywhere, of one that has learnt nothing, and of recordings left out."""
        warnings, missing = [], sum(pdfs is None for pdfs in self._aligned.values())
        if missing:
            warnings.append(
                f"{missing} of {len(self._aligned)} recordings are shorter than what is said in them: nothing is learnt "
                "from them. Look for recordings that are cut off, or transcripts of others."
            )
        if self._heard:
            silent, said, right = (self._heard[name].item() for name in ("silent", "should", "right"))
            if silent > SILENT and said < 0.9 * SILENT:
                warnings.append(
                    f"{silent:.0%} of all frames are heard as silence, and {said:.0%} are: the network does not listen. "
                    "That is usual in the first steps; if it lasts, raise optim.lr or train.steps."
                )
            if right < 2 / self.pdfs:
                warnings.append(f"Only {right:.1%} of the frames get their state: the network has learnt nothing yet.")
        dead = int((self.counts == 0).sum())
        if int(self.counts.sum()) > 1000 * self.pdfs and dead > 0.1 * self.pdfs:
            warnings.append(
                f"{dead} of {self.pdfs} states occur in no alignment: the lexicon has phones that are never said, or the "
                "hidden Markov model has more states than the recordings fill."
            )
        return warnings

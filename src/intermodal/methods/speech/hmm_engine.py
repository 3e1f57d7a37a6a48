"""The native engine of HMM-GMM: expectation maximisation, from a flat start to tied triphones.

The plan is a list of passes over the recordings. Monophones begin flat (every state the Gaussian of all frames: the order of
the phones alone tells them apart), are re-estimated, split, re-estimated. Then one pass looks at each state in its context,
trees tie the contexts (:mod:`intermodal.nn.state_tying`), and the tied states are re-estimated and split in turn.

Features are computed once, into a temporary file beside the run, so that memory does not depend on how much is heard. Sums
are float64 and added in the order of the recordings: the same bits every time, also when a run goes on after an
interruption, which may be in the middle of a pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.progress import Progress
from intermodal.data.audio import read_audio, resample
from intermodal.data.source import Source, Unreadable, UnreadableCounter
from intermodal.methods.speech.hmm import Hmm
from intermodal.nn.hmm import Graph, viterbi
from intermodal.nn.hmm import Path as Way
from intermodal.nn.mixtures import Mixtures, Statistics, context_counts
from intermodal.nn.state_tying import Contexts, tie
from intermodal.nn.topology import Topology

FILE = "features.float32"


@dataclass(frozen=True, kw_only=True)
class HmmPlan(Config):
    """How an HMM-GMM is trained.

    Attributes:
        passes: over the recordings, for each number of components.
        splits: how often the monophones' components split before triphones are made, or at all where none are.
        tied_states: pdfs of the triphones, at most; 0 stays with monophones.
        tied_splits: how often the triphones' components split.
        last_passes: further passes in the end.
        viterbi: train triphones on the best path alone (faster) instead of on all paths.
        least: frames that a component needs to be re-estimated.
        least_state: frames that a tied state needs.
        least_gain: in log-likelihood, that a question of a tree must bring.
        variance_floor: no variance falls below this share of that of all frames.

    Raises:
        ConfigError: if a number is below its smallest value.
    """

    passes: int = 4
    splits: int = 2
    tied_states: int = 0
    tied_splits: int = 3
    last_passes: int = 2
    viterbi: bool = False
    least: float = 10.0
    least_state: float = 60.0
    least_gain: float = 60.0
    variance_floor: float = 0.02

    def __post_init__(self) -> None:
        counts = (self.passes - 1, self.splits, self.tied_states, self.tied_splits, self.last_passes)
        if min(counts) < 0 or min(self.least, self.least_state) <= 0 or self.variance_floor <= 0:
            raise ConfigError("A plan needs at least one pass, and no negative number of splits, states or frames.")

    def stages(self) -> list[Stage]:
        """Return what is done in each pass over the recordings."""
        first = Stage("flat")
        plain = Stage("")
        mono = [first, *[plain] * (self.passes - 1)]
        for _ in range(self.splits):
            mono += [Stage("split"), *[plain] * (self.passes - 1)]
        if self.tied_states:
            again = Stage("", best_only=self.viterbi)
            mono += [Stage("", contexts=True), *[again] * self.passes]
            for _ in range(self.tied_splits):
                mono += [Stage("split", best_only=self.viterbi), *[again] * (self.passes - 1)]
            plain = again
        return [*mono, *[plain] * self.last_passes]


@dataclass(frozen=True)
class Stage:
    """One pass over the recordings.

    Attributes:
        before: what is done to the densities first.
        best_only: whether only the best path counts.
        contexts: whether states are looked at in their contexts, which are tied in the end, instead of re-estimated.
    """

    before: Literal["", "flat", "split"]
    best_only: bool = False
    contexts: bool = False


class HmmEngine:
    """Trains a :class:`Hmm` in place.

    Args:
        method: what is trained.
        source: recordings with transcripts.
        plan: what is done.
        folder: where the temporary file of features is written; it is removed by :meth:`close`.
        steps: into how many equal parts the work is divided.
        progress: told of the listening.
        speeds: each recording is heard at each of these speeds (Ko et al. 2015), which moves voices up and down.
        max_unreadable: training stops when more than this share of the recordings cannot be read.

    Raises:
        ConfigError: if there are more steps than recordings to share.
        DataError: if words are missing from the lexicon (all are named), or no recording fits its text.
        MissingExtraError: without numba.
    """

    def __init__(
        self,
        method: Hmm,
        *,
        source: Source,
        plan: HmmPlan,
        folder: Path,
        steps: int,
        progress: Progress,
        speeds: Sequence[float] = (1.0,),
        max_unreadable: float = 0.05,
    ) -> None:
        from intermodal.nn import hmm_kernels  # noqa: F401 - says at once if numba is missing

        self.method, self.plan, self.steps = method, plan, steps
        self.stages = plan.stages()
        method.lexicon.check(source.texts())
        self.data = source.name
        self.path = folder / FILE
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._listen(source, speeds, UnreadableCounter(source.name, max_unreadable), progress)
        except BaseException:
            self.path.unlink(missing_ok=True)
            raise
        self.samples = len(self.stages) * len(self.texts)
        if steps > self.samples:
            self.close()
            raise ConfigError(
                f"{len(self.stages)} passes over {len(self.texts)} recordings cannot be shared by {steps} steps: lower "
                "train.steps."
            )
        self.about = f"{len(self.stages)} passes over {len(self.texts):,} recordings of {self.data}"
        if self.unfit:
            self.about += f" ({self.unfit} more are too short for their texts)"
        self.monophones = method.topology.replace(roots=(), nodes=(), questions=())
        self.floor_D = plan.variance_floor * self.var_D
        self.topology = self.monophones
        self.mixtures = method.mixture()
        self.statistics = Statistics.of(self.mixtures)
        self.contexts = Contexts(len(self.var_D))
        self.counts_PK = np.zeros_like(self.mixtures.weight_PK)
        self._loss = 0.0

    def _listen(
        self, source: Source, speeds: Sequence[float], unreadable: UnreadableCounter, progress: Progress
    ) -> None:
        """Write the features of all recordings that fit their texts, and take their moments."""
        method, rate = self.method, self.method.sample_rate
        self.texts: list[tuple[str, ...]] = []
        starts, self.unfit = [0], 0
        first = second = np.zeros(method.features.size)
        with self.path.open("wb") as file, torch.inference_mode(), method.evaluating():
            for row in range(len(source)):
                progress("listening to the recordings", (row + 1) / len(source))
                try:
                    sample = source.sample(row)
                except DataError as error:
                    unreadable.add([Unreadable(source.sample_name(row), str(error))], 0)
                    continue
                unreadable.add([], 1)
                words = tuple(method.lexicon.split(str(sample["text"])))
                wave = read_audio(sample["audio"], rate).samples
                for speed in speeds:
                    heard = wave if speed == 1 else resample(wave, rate * speed, rate)
                    feature_ND = method.features(torch.from_numpy(heard)[None].to(method.device))[0][0]
                    values_ND = feature_ND.cpu().numpy().astype(np.float32)
                    if len(values_ND) < method.graph(words).shortest:
                        self.unfit += 1
                        continue
                    file.write(values_ND.tobytes())
                    starts.append(starts[-1] + len(values_ND))
                    self.texts.append(words)
                    first = first + values_ND.sum(0, dtype=np.float64)
                    second = second + np.square(values_ND, dtype=np.float64).sum(0)
        if not self.texts:
            raise DataError(
                f"{source.name}: no recording is long enough for its text: {method.topology.states} states a phone need as "
                "many frames."
            )
        self.starts = np.array(starts)
        self.mean_D = first / starts[-1]
        self.var_D = np.maximum(second / starts[-1] - self.mean_D**2, 1e-6)

    def features(self, number: int) -> np.ndarray:
        """Return a recording's features, float64 ``(N, D)``."""
        start, end = int(self.starts[number]), int(self.starts[number + 1])
        width = len(self.var_D)
        flat = np.fromfile(self.path, np.float32, (end - start) * width, offset=4 * start * width)
        return flat.reshape(-1, width).astype(np.float64)

    def step(self, number: int) -> dict[str, float]:
        """Do one of the equal parts and return its figures: ``loss`` is minus the log-likelihood of a frame."""
        first, last = self.samples * number // self.steps, self.samples * (number + 1) // self.steps
        total, frames = 0.0, 0
        for job in range(first, last):
            stage, row = self.stages[job // len(self.texts)], job % len(self.texts)
            if row == 0:
                self._begin(stage)
            before = self.statistics.total, self.statistics.frames
            self._hear(stage, row)
            total += self.statistics.total - before[0]
            frames += self.statistics.frames - before[1]
            if row == len(self.texts) - 1:
                self._end(stage)
        if frames:
            self._loss = -total / frames
        size = float((self.mixtures.weight_PK > 0).sum())
        return {
            "loss": self._loss,
            "lr": 0.0,
            "epoch": (last - 1) // len(self.texts),
            "gaussians": size,
            "states": float(len(self.mixtures.stay_P)),
        }

    def _begin(self, stage: Stage) -> None:
        if stage.before == "flat":
            self.topology = self.monophones
            self.mixtures = Mixtures.flat(self.topology.pdfs, self.mean_D, self.var_D)
        elif stage.before == "split":
            self.mixtures = self.mixtures.split(self.plan.least, self.counts_PK)
        self._adopt()
        self.statistics = Statistics.of(self.mixtures)
        self.contexts = Contexts(len(self.var_D))

    def _hear(self, stage: Stage, row: int) -> None:
        graph, feature_ND = self.method.graph(self.texts[row]), self.features(row)
        if not stage.contexts:
            self.statistics.expect(self.mixtures, feature_ND, graph, best_only=stage.best_only)
            return
        loglik_NP = np.zeros((len(feature_ND), self.topology.pdfs))
        used = graph.local[0]
        loglik_NP[:, used] = self.mixtures.log_likelihood(feature_ND, used)
        way = viterbi(loglik_NP, graph, self.mixtures.stay_logit_P)
        self.statistics.total += way.score
        self.statistics.frames += len(feature_ND)
        keys, spoken = _keys(way, graph, self.topology)
        self.contexts.add(keys, feature_ND[spoken])

    def _end(self, stage: Stage) -> None:
        if stage.contexts:
            self.topology, self.mixtures = tie(
                self.contexts,
                self.monophones,
                _one_each(self.mixtures),
                self.floor_D,
                states=self.plan.tied_states,
                least=self.plan.least_state,
                least_gain=self.plan.least_gain,
            )
            self.contexts = Contexts(len(self.var_D))
            self.counts_PK = np.zeros_like(self.mixtures.weight_PK)
        else:
            self.mixtures = self.statistics.maximise(self.mixtures, self.floor_D, self.plan.least)
            self.counts_PK = self.statistics.weight_PK
        self._adopt()

    def _adopt(self) -> None:
        self.method.adopt(self.mixtures, self.topology)

    def state(self) -> dict[str, Any]:
        """Return the densities, the sums of the pass, and what the rest of the work depends on."""
        return {
            "topology": self.topology.to_dict(),
            "mixtures": {f.name: getattr(self.mixtures, f.name) for f in dataclasses.fields(self.mixtures)},
            "statistics": self.statistics.state(),
            "contexts": self.contexts.state(),
            "counts": self.counts_PK,
            "frames": int(self.starts[-1]),
            "recordings": len(self.texts),
            "loss": self._loss,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on with saved densities.

        Raises:
            ConfigError: if the recordings are no longer those that the run began with.
        """
        if (state["frames"], state["recordings"]) != (int(self.starts[-1]), len(self.texts)):
            raise ConfigError(
                f"{self.data} has changed since the run began ({state['recordings']:,} recordings then, "
                f"{len(self.texts):,} now): start a new run."
            )
        self.topology = Topology.from_dict(state["topology"])
        self.mixtures = Mixtures(**state["mixtures"])
        self.statistics = Statistics(**state["statistics"])
        self.contexts = Contexts.restored(state["contexts"], len(self.var_D))
        self.counts_PK = state["counts"]
        self._loss = state["loss"]
        self._adopt()

    def close(self) -> None:
        """Remove the temporary file."""
        self.path.unlink(missing_ok=True)


def _one_each(mixtures: Mixtures) -> Mixtures:
    """Return each pdf as the one Gaussian that has its mixture's moments."""
    share = mixtures.weight_PK[..., None]
    mean = (share * mixtures.mean_PKD).sum(1, keepdims=True)
    second = (share * (mixtures.var_PKD + mixtures.mean_PKD**2)).sum(1, keepdims=True)
    return Mixtures(np.ones((len(mean), 1)), mean, second - mean**2, mixtures.stay_P)


def _keys(way: Way, graph: Graph, topology: Topology) -> tuple[list[tuple[int, int, int, int]], np.ndarray]:
    """Return each spoken frame's state in its context (phone, state, left, right), and which frames are spoken."""
    unit_T, left_T, right_T = context_counts(way, graph)
    boundary = len(topology.phones)
    phone = [topology.number.get(unit.phone, -1) for unit in graph.units]  # silence is -1

    def beside(unit: int) -> int:
        return boundary if unit < 0 else phone[unit]

    starts = np.flatnonzero(np.diff(graph.unit_S, prepend=-1))[graph.unit_S]
    state_T = way.nodes_T - starts[way.nodes_T]
    spoken = np.flatnonzero(np.array(phone)[unit_T] >= 0)
    keys = [(phone[unit_T[t]], int(state_T[t]), beside(left_T[t]), beside(right_T[t])) for t in spoken]
    return keys, spoken

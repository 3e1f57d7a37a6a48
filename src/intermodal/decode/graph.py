"""Decoding of hidden Markov models: the words whose states, language model and sound fit best.

A :class:`Network` is a lexicon as a tree of states: words that begin alike share their first nodes. Contexts of phones
end at a word's ends (word-internal triphones), so that the tree is the same behind every word. :class:`GraphDecoder`
walks it frame by frame over ``loglik_TP``, log-likelihoods from any acoustic model, and asks an n-gram model at each
word's end.

score = acoustic + lm_weight * language + bonus, in natural logarithms. Gaussian mixtures take neighbouring
frames for independent, so that their likelihoods are far too sure: the language model's weight is then about 10.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.data.lexicon import Lexicon
from intermodal.decode.ngram import NGram, Tables
from intermodal.nn.topology import Topology

if TYPE_CHECKING:
    from intermodal.decode.graph_kernels import Lattice, Nodes

MOST_LINKS = 100_000
"""So many steps are taken at most in search of the n best."""
WIDENED = 2
"""So often is an utterance searched at most, each time with four times the beam."""


@dataclass(frozen=True, kw_only=True)
class GraphConfig(Config):
    """How a network is searched.

    Attributes:
        beam: tokens whose score is so far below the best are dropped.
        max_active: so many tokens are kept in a frame at most.
        lm_weight: of the language model's log-probabilities.
        word_bonus: added for each word; negative makes words fewer.
        bonus_alone: the same where there is no language model, whose probabilities then do not make words dear.
        silence: the probability of silence between two words, 0 (never) up to, but not, 1.
        grammar: ``loop``, any words in any order; ``single``, exactly one.

    Raises:
        ConfigError: if a number is out of range.
    """

    beam: float = 150.0
    max_active: int = 4000
    lm_weight: float = 10.0
    word_bonus: float = 0.0
    bonus_alone: float = 0.0
    silence: float = 0.5
    grammar: Literal["loop", "single"] = "loop"

    def __post_init__(self) -> None:
        if not self.beam > 0 or self.max_active < 1 or not 0 <= self.silence < 1:
            raise ConfigError(
                "A search needs a beam above 0, max_active of at least 1 and a probability of silence in [0, 1), found "
                f"{self.beam}, {self.max_active} and {self.silence}."
            )
        if not all(map(math.isfinite, (self.lm_weight, self.word_bonus, self.bonus_alone))):
            raise ConfigError("lm_weight, word_bonus and bonus_alone must be finite numbers.")


@dataclass(frozen=True)
class Heard:
    """A word that was found.

    Attributes:
        word: as the lexicon writes it.
        first, last: frames, both included.
    """

    word: str
    first: int
    last: int


@dataclass(frozen=True)
class Sentence:
    """A sequence of words that was found, with its scores apart.

    Attributes:
        words: with their frames.
        score: ``acoustic + lm_weight * language + bonus``.
        acoustic: log-likelihood of sound and states, silences and pronunciations included.
        language: log-probability of the words, unweighted.
        bonus: of word insertion and of favoured words.
        complete: whether it ends where a word or a silence ends; else the recording stops inside a word, which is
            left out.
    """

    words: tuple[Heard, ...]
    score: float
    acoustic: float
    language: float
    bonus: float
    complete: bool = True

    @property
    def text(self) -> str:
        """The words, separated by spaces."""
        return " ".join(heard.word for heard in self.words)


class Network:
    """A lexicon as a tree of states, for every search.

    Args:
        lexicon: the words that may be found.
        topology: their phones' states.

    Raises:
        DataError: if a phone of the lexicon is not in the topology.
    """

    def __init__(self, lexicon: Lexicon, topology: Topology) -> None:
        self.words, self.topology = lexicon.words, topology
        number = {word: i for i, word in enumerate(self.words)}
        pdf: list[int] = []
        children: list[dict[int, int]] = []  # of each node, by pdf
        ends: list[list[tuple[int, float]]] = []
        entries: dict[int, int] = {}
        for word in self.words:
            ways = lexicon.pronunciations(word)
            for way in ways:
                below, node = entries, -1
                for unit in topology.units(way):
                    for p in unit:
                        if p not in below:
                            below[p] = len(pdf)
                            pdf.append(p)
                            children.append({})
                            ends.append([])
                        node = below[p]
                        below = children[node]
                ends[node].append((number[word], -math.log(len(ways))))
        self.entries = np.array(list(entries.values()), np.int32)
        self.silence = len(pdf)
        for i, p in enumerate(topology.silence):
            pdf.append(p)
            children.append({p: len(pdf)} if i + 1 < topology.silence_states else {})
            ends.append([])
        self.pdf_N = np.array(pdf, np.int32)
        self._children = [list(below.values()) for below in children]
        self._ends = ends
        self.child_first, self.child = _ranges(self._children)
        self.word_first, self.word = _ranges([[w for w, _ in words] for words in ends])
        self.word_weight = np.array([weight for words in ends for _, weight in words])

    def __len__(self) -> int:
        return len(self.pdf_N)

    def look(self, value_W: np.ndarray) -> np.ndarray:
        """Return for each node the best value of the words behind it; 0 in silence."""
        look_N = np.full(len(self), -np.inf)
        look_N[self.silence :] = 0.0
        for n in range(self.silence - 1, -1, -1):  # a node's children come after it
            words = [value_W[w] for w, _ in self._ends[n]]
            look_N[n] = max([*words, *(look_N[c] for c in self._children[n])])
        return look_N


def _ranges(lists: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return lists as one array and where each begins in it."""
    first = np.zeros(len(lists) + 1, np.int32)
    first[1:] = np.cumsum([len(values) for values in lists])
    return first, np.array([value for values in lists for value in values], np.int32)


class GraphDecoder:
    """Finds the words of utterances.

    Args:
        network: the words.
        stay_P: each pdf's stay logit (``Hmm.stay_logits``; 0 lets all transitions cost the same).
        config: of the search.
        lm: an n-gram model; None makes all words as likely. A word that it does not have gets its ``<unk>``'s
            probability.
        favour: added for each time that a word occurs, beside ``word_bonus``: hot words.

    Raises:
        DataError: if a favoured word is not in the network.
        MissingExtraError: without numba.
    """

    def __init__(
        self,
        network: Network,
        stay_P: np.ndarray,
        config: GraphConfig | None = None,
        lm: NGram | None = None,
        favour: Mapping[str, float] | None = None,
    ) -> None:
        from intermodal.decode.graph_kernels import Nodes

        self.network, self.lm = network, lm
        self.config = config = config or GraphConfig()
        if config.grammar == "single":
            self.lm = lm = None
        if missing := [word for word in favour or {} if word not in network.words]:
            raise DataError(f"Words that cannot be found cannot be favoured: {', '.join(missing)}.")
        ahead_W = np.array([(favour or {}).get(word, 0.0) for word in network.words])
        self._bonus_W = config.word_bonus + ahead_W
        stay = stay_P.astype(np.float64)[network.pdf_N]
        if lm is None:
            zero, nothing = np.zeros(2, np.int32), np.zeros(1, np.float32)
            self._tables = Tables(zero, zero[:1], nothing, zero[:1], nothing, zero[:1])
            self._numbers = np.zeros(len(network.words), np.int32)
        else:
            self._tables = lm.tables
            self._numbers = np.array([lm.number(word) for word in network.words], np.int32)
            ahead_W = ahead_W + config.lm_weight * lm.tables.logp[1 + self._numbers]  # of the words alone
        look_N = network.look(ahead_W)
        look_root = float(look_N[network.entries].max())
        look_N[network.silence :] = look_root  # what is to come is a word as well, or the end
        quiet = config.silence > 0
        self._nodes: Nodes = Nodes(
            pdf=network.pdf_N,
            stay=-np.logaddexp(0, -stay),
            leave=-np.logaddexp(0, stay),
            child_first=network.child_first,
            child=network.child,
            word_first=network.word_first,
            word=network.word,
            word_weight=network.word_weight + self._bonus_W[network.word],
            entry=network.entries,
            look=look_N,
            look_root=look_root,
            silence=network.silence if quiet else -1,
            silence_last=len(network) - 1 if quiet else -1,
            to_silence=math.log(config.silence) if quiet else -math.inf,
            to_word=math.log1p(-config.silence),
        )

    def decode(self, loglik_TP: np.ndarray, n_best: int = 1) -> list[Sentence]:
        """Return the best sequences of words, best first; at least one, at most ``n_best``, all with different words.

        Args:
            loglik_TP: float ``(T, P)``, log-likelihoods of all pdfs in all frames (of any offset per frame).
            n_best: how many. The first is exact within the beam; the others are the best of the lattice that it leaves.
                Where the beam leaves nothing that ends with the recording, a wider one is tried.

        Raises:
            DataError: if a value is NaN, or there are not P columns.
        """
        if loglik_TP.ndim != 2 or loglik_TP.shape[1] != self.network.topology.pdfs:
            raise DataError(f"Expected {self.network.topology.pdfs} log-likelihoods a frame, found {loglik_TP.shape}.")
        if np.isnan(loglik_TP).any():
            raise DataError("A log-likelihood is not a number: the recording or the model is damaged.")
        if not len(loglik_TP):
            return [Sentence((), 0.0, 0.0, 0.0, 0.0, complete=False)]
        narrow = np.ascontiguousarray(loglik_TP, np.float32)
        beam, most = self.config.beam, self.config.max_active
        for _ in range(WIDENED):
            lattice = self._search(narrow, beam, most)
            if (lattice.link_to < 0).any():
                break
            beam, most = 4 * beam, 4 * most
        return [self._sentence(lattice, links, score) for links, score in paths(lattice, n_best)]

    def _search(self, loglik_TP: np.ndarray, beam: float, most: int) -> Lattice:
        from intermodal.decode.graph_kernels import search

        config, lm = self.config, self.lm
        return search(
            loglik_TP,
            self._nodes,
            self._tables,
            lm is not None,
            lm.start_state if lm is not None else 0,
            lm.end if lm is not None else 0,
            self._numbers,
            config.lm_weight,
            beam,
            most,
            config.grammar == "single",
        )

    def decode_all(self, logliks: Sequence[np.ndarray], n_best: int = 1, threads: int = 1) -> list[list[Sentence]]:
        """Return :meth:`decode` of several utterances, on several threads."""
        if threads <= 1:
            return [self.decode(loglik_TP, n_best) for loglik_TP in logliks]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(lambda loglik_TP: self.decode(loglik_TP, n_best), logliks))

    def _sentence(self, lattice: Lattice, links: Sequence[int], score: float) -> Sentence:
        config = self.config
        words, language, bonus = [], 0.0, 0.0
        for link in links:
            start, end = lattice.link_from[link], lattice.link_to[link]
            language += float(lattice.link_language[link] - lattice.root_language[start])
            if lattice.link_word[link] >= 0:
                bonus += float(self._bonus_W[lattice.link_word[link]])
                word = self.network.words[lattice.link_word[link]]
                words.append(Heard(word, int(lattice.root_frame[start]), int(lattice.root_frame[end]) - 1))
        acoustic = score - config.lm_weight * language - bonus
        complete = len(links) > 0 and int(lattice.link_word[links[-1]]) == -2
        return Sentence(tuple(words), score, acoustic, language, bonus, complete)


def paths(lattice: Lattice, n_best: int) -> list[tuple[list[int], float]]:
    """Return the best paths through a lattice with different words: their links in order, and their scores.

    A path's score is that of its best end less what each link on it is below the best arrival at its root; the searched
    ends know the best way to them, so that going backwards always the best first finds paths in order (A* with an exact
    estimate). Where nothing ends with the recording, the best root of its last frames stands for it.
    """
    into: dict[int, list[int]] = {}
    for link, target in enumerate(lattice.link_to.tolist()):
        into.setdefault(target, []).append(link)
    ends = into.get(-1)
    if not ends:
        if len(lattice.root_score) < 2:
            return [([], 0.0)]
        last = int(np.lexsort((lattice.root_score, lattice.root_frame))[-1])
        best = max(into[last], key=lambda link: lattice.link_score[link])
        ends = [best]
    order = 0
    queue: list[tuple[float, int, tuple[int, ...]]] = []
    for link in ends:
        heapq.heappush(queue, (-float(lattice.link_score[link]), order, (link,)))
        order += 1
    found: list[tuple[list[int], float]] = []
    seen: set[tuple[int, ...]] = set()
    for _ in range(MOST_LINKS):
        if not queue or len(found) == n_best:
            break
        score, _, path = heapq.heappop(queue)
        root = int(lattice.link_from[path[0]])
        if root == 0:
            words = tuple(w for w in lattice.link_word[list(path)].tolist() if w >= 0)
            if words not in seen:
                seen.add(words)
                found.append((list(path), -score))
            continue
        for link in into[root]:
            below = float(lattice.root_score[root] - lattice.link_score[link])
            heapq.heappush(queue, (score + below, order, (link, *path)))
            order += 1
    return found

"""word2vec: skip-gram and CBOW with negative sampling (Mikolov et al. 2013).

Each word has two vectors, one of each encoder: ``centre``, which is kept and used, and ``context``. Skip-gram asks of a pair
of words whether they stood near one another in the text or whether one of them was drawn from noise; CBOW asks the same of a
word and the mean of the words around it. The loss is that of a binary contrast (Mikolov 2013, equation 4), ``losses/sgns``.

Two ways of training share the tables. The native engine (:mod:`intermodal.methods.contrastive.word2vec_engine`, through
numba) follows word2vec.c word by word on all cores; :meth:`Word2Vec.loss` is the same loss on batches of texts, with its
true gradient, for the ordinary loop. Where the engine differs from word2vec.c:

- the noise is drawn from the exact distribution (alias method), not from a table of 10^8 entries;
- the sigmoid is interpolated between 64 points a unit and reaches to +-12; word2vec.c's table has 1,000 steps in +-6;
- a pair's scores are all taken before its rows change (word2vec.c takes them one after the other, which differs where the
  noise draws a word twice);
- the learning rate falls chunk by chunk (10,000 words), from ``lr`` to 1e-4 of it, and a window ends with its chunk.

As in word2vec.c, each word of a CBOW window gets the whole error of the window's mean, not its share of it; the gradient of
:meth:`Word2Vec.loss` gives the share (Irsoy et al. 2021 discuss the difference).

Shapes: B texts, L words of a text, N words of the vocabulary, M pairs, K noise words, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError
from intermodal.core.fields import SEED, Field
from intermodal.core.registry import MethodCard
from intermodal.data.processors import Processor
from intermodal.data.words import PAD, Vocabulary
from intermodal.losses.sgns import sgns
from intermodal.methods.base import Batch, Losses, Method, generator_of

if TYPE_CHECKING:
    from intermodal.methods.contrastive.word2vec_engine import Word2VecEngine

CARD = MethodCard(
    id="word2vec",
    title="word2vec: skip-gram and CBOW with negative sampling",
    paper="Mikolov et al. 2013",
    cls="Word2Vec",
    capabilities=("embed", "words"),
    recipes=("word2vec", "word2vec-cbow"),
    reference="gensim Word2Vec: formats, scores; word2vec.c's loop in float64",
)


@dataclass(frozen=True, kw_only=True)
class Word2VecConfig(Config):
    """What a word2vec is made of.

    Attributes:
        vocab_size: N; the vocabulary decides it.
        dim: D.
        algorithm: ``skip-gram`` or ``cbow``.
        window: how far a word's neighbours may be; each word draws its own reach, uniform in 1..window, so that near
            words count more.
        negatives: K, noise words for each true one; those that equal it are left out.
        noise_power: noise is drawn in proportion to count ** noise_power (Mikolov 2013, section 2.2: 3/4).
        sample: t of the subsampling: a word of frequency f is kept with probability min(1, (sqrt(f/t) + 1) t/f)
            (word2vec.c; the paper's section 2.3 prints 1 - sqrt(t/f) for dropping it); 0 keeps all.
    """

    vocab_size: int
    dim: int = 100
    algorithm: Literal["skip-gram", "cbow"] = "skip-gram"
    window: int = 5
    negatives: int = 5
    noise_power: float = 0.75
    sample: float = 1e-3


class Word2Vec(Method):
    """Two tables of word vectors; see the module's text.

    Args:
        config: the architecture and what a pair is.
        processors: ``text``, the :class:`intermodal.data.words.Vocabulary`.

    Raises:
        ConfigError: if there is no vocabulary or it is of another size, or a setting is below its smallest value.
    """

    id = "word2vec"
    needs: Mapping[str, Field] = {"text": Field((), "str", "a piece of text"), "seed": SEED}
    modalities: tuple[str, ...] = ("text",)

    config: Word2VecConfig

    def __init__(self, config: Word2VecConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        vocabulary = processors.get("text")
        if not isinstance(vocabulary, Vocabulary) or len(vocabulary) != config.vocab_size:
            found = f"one of {len(vocabulary)}" if isinstance(vocabulary, Vocabulary) else "none"
            raise ConfigError(f"word2vec needs the vocabulary of its {config.vocab_size} words, found {found}.")
        if min(config.dim, config.window) < 1 or min(config.negatives, config.sample) < 0:
            raise ConfigError("word2vec needs dim and window of at least 1, negatives and sample of at least 0.")
        self.vocabulary = vocabulary
        self.centre = nn.Embedding(config.vocab_size, config.dim)
        self.context = nn.Embedding(config.vocab_size, config.dim)
        nn.init.uniform_(self.centre.weight, -0.5 / config.dim, 0.5 / config.dim)
        nn.init.zeros_(self.context.weight)
        frequency = torch.from_numpy(vocabulary.counts / vocabulary.counts.sum())
        noise = frequency**config.noise_power
        self._noise = (noise / noise.sum()).cumsum(0)
        ratio = config.sample / frequency
        self._keep = (ratio.sqrt() + ratio).clamp(max=1) if config.sample else torch.ones_like(frequency)

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return the loss of texts ``text`` ``(B, L)``: word numbers, -1 behind the last; all chance comes from ``seed``.

        Words are subsampled, each draws the reach of its window, and every pair (skip-gram) or window (CBOW) gets K noise
        words. The mean over pairs or windows; 0 if no text has two words left.
        """
        generator, device = generator_of(batch), self.centre.weight.device
        words_BL = self._subsample(batch["text"].cpu(), generator)
        reach_BL = torch.randint(1, self.config.window + 1, words_BL.shape, generator=generator)
        if self.config.algorithm == "skip-gram":
            source_M, target_M = self._pairs(words_BL, reach_BL)
            centre_MD = self.centre(source_M.to(device))
        else:
            centre_MD, target_M = self._windows(words_BL, reach_BL)
        if not len(target_M):
            return Losses(0.0 * (self.centre.weight.sum() + self.context.weight.sum()))
        chance_MK = torch.rand(len(target_M), self.config.negatives, generator=generator, dtype=torch.float64)
        noise_MK = torch.searchsorted(self._noise, chance_MK).clamp(max=self.config.vocab_size - 1)
        total = sgns(
            centre_MD,
            self.context(target_M.to(device)),
            self.context(noise_MK.to(device)),
            keep_BK=(noise_MK != target_M[:, None]).to(device),
        )
        return Losses(total, {"pairs": torch.tensor(float(len(target_M)))})

    def _subsample(self, words_BL: Tensor, generator: torch.Generator) -> Tensor:
        """Drop frequent words at random and close the gaps: windows reach over them, as in word2vec.c."""
        chance_BL = torch.rand(words_BL.shape, generator=generator, dtype=torch.float64)
        stays_BL = (words_BL >= 0) & (chance_BL < self._keep[words_BL.clamp(min=0)])
        out_BL = torch.full_like(words_BL, PAD)
        text, place = stays_BL.nonzero(as_tuple=True)
        out_BL[text, stays_BL.cumsum(1)[text, place] - 1] = words_BL[text, place]
        return out_BL

    def _shifts(self, words_BL: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield each distance with the words that stand first and second in all pairs of it, ``(B, L - distance)``."""
        for distance in range(1, min(self.config.window, words_BL.shape[1] - 1) + 1):
            yield distance, words_BL[:, :-distance], words_BL[:, distance:]

    def _pairs(self, words_BL: Tensor, reach_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Return all pairs: whose centre vector, and whose context vector it is to match, both int64 ``(M,)``.

        The word whose window it is gives the context vector, its neighbour the centre vector (word2vec.c's way round).
        """
        sources, targets = [], []
        for distance, first, second in self._shifts(words_BL):
            both = (first >= 0) & (second >= 0)
            ahead = both & (reach_BL[:, :-distance] >= distance)
            behind = both & (reach_BL[:, distance:] >= distance)
            sources += [second[ahead], first[behind]]
            targets += [first[ahead], second[behind]]
        empty = words_BL.new_empty(0)
        return torch.cat([empty, *sources]), torch.cat([empty, *targets])

    def _windows(self, words_BL: Tensor, reach_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean centre vector of each window ``(M, D)`` and the word in its middle ``(M,)``."""
        device = self.centre.weight.device
        there_BL = words_BL >= 0
        centre_BLD = self.centre(words_BL.clamp(min=0).to(device))
        sum_BLD, count_BL = torch.zeros_like(centre_BLD), torch.zeros(words_BL.shape)
        for distance, first, second in self._shifts(words_BL):
            both = (first >= 0) & (second >= 0)
            ahead = (both & (reach_BL[:, :-distance] >= distance)).float()
            behind = (both & (reach_BL[:, distance:] >= distance)).float()
            sum_BLD[:, :-distance] += ahead[..., None].to(device) * centre_BLD[:, distance:]
            sum_BLD[:, distance:] += behind[..., None].to(device) * centre_BLD[:, :-distance]
            count_BL[:, :-distance] += ahead
            count_BL[:, distance:] += behind
        used_BL = there_BL & (count_BL > 0)
        mean_MD = sum_BLD[used_BL.to(device)] / count_BL[used_BL][:, None].to(device)
        return mean_MD, words_BL[used_BL]

    # --8<-- [end:loss]

    def native(self, **budget: Any) -> Word2VecEngine:
        """Return the engine that trains the tables in place; see its class for the budget.

        Raises:
            MissingExtraError: without numba.
        """
        from intermodal.methods.contrastive.word2vec_engine import Word2VecEngine

        return Word2VecEngine(self, **budget)

    def health(self) -> list[str]:
        """Warn of vectors that have grown together or apart without bound (512 words, evenly over the vocabulary)."""
        weight = self.centre.weight.detach()
        some = weight[:: max(1, len(weight) // 512)].float()
        norms = some.norm(dim=1)
        if not torch.isfinite(norms).all() or norms.max() > 1e3:
            return [f"word vectors have grown to a length of {norms.max():.0f}: lower optim.lr."]
        unit = some / norms.clamp(min=1e-12)[:, None]
        cosine = ((unit.sum(0) ** 2).sum() - len(some)) / (len(some) * (len(some) - 1))
        if cosine > 0.9:
            return [f"word vectors all point one way (mean cosine {cosine:.2f}): more negatives or more text."]
        return []

    @property
    def words(self) -> Sequence[str]:
        """The vocabulary, the most frequent word first."""
        return self.vocabulary.words

    def word_vectors(self) -> np.ndarray:
        """Return the centre vectors, float32 ``(N, D)``, in the order of :attr:`words`; they are not of unit length."""
        return self.centre.weight.detach().float().cpu().contiguous().numpy()

    @torch.no_grad()
    def embed(self, modality: str, inputs: Sequence[Any]) -> np.ndarray:
        """Return each text's vector, float32 ``(len(inputs), D)``: the mean of its known words' vectors, as a unit vector.

        A text without a known word gets the mean over the whole training text, which is what is known about it.

        Raises:
            ConfigError: for another modality than ``text``.
        """
        if modality != "text":
            raise ConfigError(f"word2vec embeds text, not {modality}.")
        table = self.word_vectors()
        shares = (self.vocabulary.counts / self.vocabulary.counts.sum()).astype(np.float32)
        out = np.empty((len(inputs), table.shape[1]), np.float32)
        for i, text in enumerate(inputs):
            known = self.vocabulary.numbers(str(text))
            mean = table[known].mean(0) if known else shares @ table
            out[i] = mean / max(float(np.linalg.norm(mean)), 1e-12)
        return out

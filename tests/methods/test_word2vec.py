"""word2vec: the compiled loops against a plain one in float64, the draws, the loss on batches, what it answers."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from intermodal.core.errors import ConfigError, MissingExtraError
from intermodal.data import words as words_module
from intermodal.data.words import Vocabulary
from intermodal.methods.contrastive.word2vec import Word2Vec, Word2VecConfig

pytest.importorskip("numba")
from intermodal.methods.contrastive import hogwild

MASK = (1 << 64) - 1


def zipf(count: int, size: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    ids = (rng.zipf(1.3, count).clip(1, size) - 1).astype(np.int32)
    ids[rng.integers(0, count, count // 15)] = -1
    return ids


def counts_of(ids: np.ndarray, size: int) -> np.ndarray:
    return np.sort(np.bincount(ids[ids >= 0], minlength=size) + 1)[::-1].astype(np.int64)


class Plain:
    """word2vec.c's loop in Python and float64, drawing the same random numbers as the compiled one."""

    def __init__(self, centre, context, draws, window, negatives, rate, seed):
        self.centre, self.context = centre.astype(np.float64), context.astype(np.float64)
        self.draws, self.window, self.negatives, self.rate = draws, window, negatives, rate
        value = (seed + 0x9E3779B97F4A7C15) & MASK
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
        self.state = value ^ (value >> 31)
        self.ahead = self.noise()
        self.losses: list[float] = []

    def upper(self) -> int:
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) & MASK
        return self.state >> 32

    def noise(self) -> list[int]:
        found = []
        for _ in range(self.negatives):
            scaled = self.upper() * len(self.draws.share)
            place = scaled >> 32
            stays = (scaled & 0xFFFFFFFF) <= int(self.draws.share[place])
            found.append(place if stays else int(self.draws.alias[place]))
        return found

    def descend(self, source: np.ndarray, word: int) -> np.ndarray:
        drawn, self.ahead = self.ahead, self.noise()
        targets = [word, *(d for d in drawn if d != word)]
        scores = [float(self.context[t] @ source) for t in targets]
        labels = [1.0] + [0.0] * (len(targets) - 1)
        self.losses.append(sum(math.log1p(math.exp(-s if y else s)) for s, y in zip(scores, labels, strict=True)))
        error = np.zeros_like(source)
        before = source.copy()
        for t, s, y in zip(targets, scores, labels, strict=True):
            step = (y - 1 / (1 + math.exp(-s))) * self.rate
            error += step * self.context[t]
            self.context[t] += step * before
        return error

    def train(self, ids: np.ndarray, skip_gram: bool) -> None:
        for sentence in np.split(ids, np.flatnonzero(ids < 0)):
            kept = [int(w) for w in sentence if w >= 0 and self.upper() <= int(self.draws.keep[w])]
            for i, word in enumerate(kept):
                reach = ((self.upper() * self.window) >> 32) + 1
                around = [j for j in range(max(0, i - reach), min(len(kept), i + reach + 1)) if j != i]
                if skip_gram:
                    for j in around:
                        self.centre[kept[j]] += self.descend(self.centre[kept[j]].copy(), word)
                elif around:
                    error = self.descend(np.mean([self.centre[kept[j]] for j in around], axis=0), word)
                    for j in around:
                        self.centre[kept[j]] += error


@pytest.mark.parametrize("skip_gram", [True, False])
@pytest.mark.parametrize(
    ("dim", "window", "negatives", "sample"), [(20, 5, 5, 1e-2), (16, 1, 1, 0.0), (11, 3, 12, 0.1)]
)
def test_the_compiled_loop_is_the_plain_one(skip_gram, dim, window, negatives, sample):
    size, ids = 40, zipf(700, 40)
    rng = np.random.default_rng(1)
    centre, context = (rng.normal(0, 0.3, (size, dim)).astype(np.float32) for _ in range(2))
    draws = hogwild.draws(counts_of(ids, size), sample)
    plain = Plain(centre, context, draws, window, negatives, 0.05, seed=7)
    plain.train(ids, skip_gram)
    tables = hogwild.padded(centre), hogwild.padded(context)
    train = hogwild.skip_gram if skip_gram else hogwild.cbow
    lanes = hogwild.lanes(tables[0])
    taken, loss = train(ids, *tables, *draws, hogwild.sigmoid_table(), window, negatives, 0.05, 7, lanes)
    assert np.abs(tables[0][:, :dim] - plain.centre).max() < 2e-5
    assert np.abs(tables[1][:, :dim] - plain.context).max() < 2e-5
    assert not tables[0][:, dim:].any() and not tables[1][:, dim:].any(), "the padding stays zero"
    sampled = plain.losses[:: hogwild.LOSS_EVERY]
    assert taken == len(sampled) and loss == pytest.approx(sum(sampled), rel=1e-5)
    assert np.abs(plain.centre - centre).max() > 1e-2, "something was learnt"


def test_rows_begin_at_cache_lines():
    table = hogwild.padded(np.ones((5, 100), np.float32))
    assert table.shape == (5, 112) and table.ctypes.data % 64 == 0 and table.sum() == 500


@pytest.mark.parametrize("size", [2, 7, 1000])
def test_the_alias_table_is_the_distribution(size):
    weights = np.random.default_rng(size).random(size) ** 6 + 1e-6
    share, alias = hogwild.alias_table(weights)
    stays = share / (2**32 - 1)
    chance = stays.copy()
    np.add.at(chance, alias, 1 - stays)
    assert chance / size == pytest.approx(weights / weights.sum(), abs=1e-8)


def test_subsampling_keeps_what_word2vec_keeps():
    counts = np.array([10**6, 10**5, 1000, 10])
    frequency = counts / counts.sum()
    expected = [min(1, (math.sqrt(f / 1e-3) + 1) * 1e-3 / f) for f in frequency]
    assert hogwild.keep_probability(counts, 1e-3) == pytest.approx(expected)
    assert expected[0] < 0.05 and expected[2:] == [1, 1]
    assert (hogwild.keep_probability(counts, 0) == 1).all()
    keep = hogwild.draws(counts, 0).keep
    assert (keep >= 2**32 - 1).all(), "with no subsampling every draw of 32 bits stays"


def test_the_sigmoid_table_is_close_everywhere():
    table, x = hogwild.sigmoid_table(), np.linspace(-12, 12, 9999)
    place = (x + hogwild.REACH) * hogwild.SPACING
    cell = place.astype(int)
    found = table[cell] + (place - cell) * (table[np.minimum(cell + 1, len(table) - 1)] - table[cell])
    assert np.abs(found - 1 / (1 + np.exp(-x))).max() < 3.5e-6


# ---- the method on batches


def small(algorithm: str = "skip-gram", words: int = 30, **settings: float) -> Word2Vec:
    torch.manual_seed(0)
    vocabulary = Vocabulary(
        [f"w{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(words)], range(words + 5, 5, -1), total=900
    )
    config = Word2VecConfig(vocab_size=words, dim=6, algorithm=algorithm, **settings)
    method = Word2Vec(config, {"text": vocabulary}).double()
    torch.nn.init.normal_(method.centre.weight)
    torch.nn.init.normal_(method.context.weight)
    return method


def batch_of(*rows: list[int]) -> dict[str, torch.Tensor]:
    length = max(map(len, rows))
    return {
        "text": torch.tensor([[*row, *[-1] * (length - len(row))] for row in rows]),
        "seed": torch.arange(len(rows)),
    }


@pytest.mark.parametrize("algorithm", ["skip-gram", "cbow"])
def test_with_a_window_of_one_the_loss_can_be_written_down(algorithm):
    method = small(algorithm, window=1, negatives=0, sample=0.0)
    centre, context = method.centre.weight, method.context.weight
    batch = batch_of([3, 1, 4], [5, 9])
    if algorithm == "skip-gram":
        pairs = [(1, 3), (3, 1), (4, 1), (1, 4), (9, 5), (5, 9)]
        expected = [F.softplus(-centre[a] @ context[b]) for a, b in pairs]
    else:
        windows = [([1], 3), ([3, 4], 1), ([1], 4), ([9], 5), ([5], 9)]
        expected = [F.softplus(-centre[around].mean(0) @ context[b]) for around, b in windows]
    losses = method.loss(batch)
    assert losses.total.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-6)
    assert losses.parts["pairs"] == len(expected)


def test_reach_is_uniform_and_noise_is_drawn_by_the_power_of_counts():
    method = small(window=4, sample=0.0)
    seen: Counter[int] = Counter()
    row = torch.arange(20).repeat(1, 1)
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        reach = torch.randint(1, 5, row.shape, generator=generator)
        source, target = method._pairs(row, reach)
        seen.update((source - target).abs().tolist())
    for distance in range(1, 5):  # a pair at this distance is there when the reach of the one word is as long
        expected = 300 * 2 * (20 - distance) * (5 - distance) / 4
        assert seen[distance] == pytest.approx(expected, rel=0.05)
    chance = torch.rand(200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn = np.bincount(torch.searchsorted(method._noise, chance), minlength=30) / 200_000
    counts = method.vocabulary.counts**0.75
    assert drawn == pytest.approx(counts / counts.sum(), abs=0.003)


def test_subsampled_words_leave_no_gap():
    method = small(sample=1e-3)
    row = torch.tensor([[*range(25), -1, -1]])
    kept = method._subsample(row, torch.Generator().manual_seed(3))
    known = kept[kept >= 0]
    assert 0 < len(known) < 25 and known.tolist() == sorted(known.tolist())
    assert kept[0, : len(known)].tolist() == known.tolist() and (kept[0, len(known) :] == -1).all()


@pytest.mark.parametrize("algorithm", ["skip-gram", "cbow"])
def test_texts_without_a_pair_give_zero_and_no_nan(algorithm):
    method = small(algorithm)
    losses = method.loss(batch_of([3], [4]))
    losses.total.backward()
    assert losses.total.item() == 0 and not method.centre.weight.grad.any()


def test_the_gradient_is_that_of_the_loss():
    method = small(window=2, negatives=3, sample=0.0)
    batch = batch_of([1, 2, 3, 4, 1])

    def loss(centre, context):
        return torch.func.functional_call(method, {"centre.weight": centre, "context.weight": context}, (batch,)).total

    assert torch.autograd.gradcheck(loss, (method.centre.weight, method.context.weight), atol=1e-5, eps=1e-4)


def test_a_text_is_the_mean_of_its_words():
    method = small().float()
    words = method.words
    found = method.embed("text", [f"{words[2]}, {words[5]}! unknown", words[7].upper(), "", "nothing known"])
    table = method.word_vectors()
    assert found.shape == (4, 6) and found.dtype == np.float32
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-6)
    mean = table[[2, 5]].mean(0)
    assert found[0] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)
    average = method.vocabulary.counts @ table
    assert found[2] == pytest.approx(average / np.linalg.norm(average), abs=1e-5)
    assert (found[2] == found[3]).all()
    with pytest.raises(ConfigError, match="embeds text, not image"):
        method.embed("image", [])


def test_health_speaks_of_collapse_and_of_growth():
    method = small().float()
    assert method.health() == []
    with torch.no_grad():
        method.centre.weight += 50
        assert "all point one way" in method.health()[0]
        method.centre.weight *= 1e4
        assert "lower optim.lr" in method.health()[0]


def test_settings_that_cannot_be():
    vocabulary = Vocabulary(["a", "b"], [2, 1], total=3)
    for change in ({"vocab_size": 3}, {"dim": 0}, {"window": 0}, {"negatives": -1}, {"sample": -1.0}):
        with pytest.raises(ConfigError, match="word2vec needs"):
            Word2Vec(Word2VecConfig(**{"vocab_size": 2, **change}), {"text": vocabulary})
    with pytest.raises(ConfigError, match="found none"):
        Word2Vec(Word2VecConfig(vocab_size=2), {})


def test_without_numba_the_engine_names_the_extra_and_the_loss_works(monkeypatch):
    import sys

    monkeypatch.setattr(words_module, "compiled", lambda: False)
    for name in ("numba", "intermodal.methods.contrastive.hogwild", "intermodal.methods.contrastive.word2vec_engine"):
        monkeypatch.setitem(sys.modules, name, None) if name == "numba" else monkeypatch.delitem(
            sys.modules, name, False
        )
    monkeypatch.delattr("intermodal.methods.contrastive.hogwild", raising=False)
    method = small(sample=0.0)
    assert method.loss(batch_of([1, 2, 3])).total > 0
    with pytest.raises(MissingExtraError, match=r'"intermodal\[text\]"'):
        method.native()

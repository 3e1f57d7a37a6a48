import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from intermodal.core.capabilities import Embeds
from intermodal.core.errors import DataError, TrainingError
from intermodal.evaluate.baselines import ColourWords, PixelNeighbours, Words, colour_features, raw_pixels
from intermodal.evaluate.encoding import BATCH, Steps, embed_pictures, embed_texts, label_vectors
from intermodal.evaluate.galleries import best, confident_mistakes, rank


def noise(seed: int, size: int = 24) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def test_words_are_unit_tf_idf_vectors():
    words = Words(["red apple", "red car", "Blue car!"])
    vector = words(["apple RED, red?"])[0]
    idf = {"red": math.log(4 / 3) + 1, "apple": math.log(4 / 2) + 1}
    expected = np.array([2 * idf["red"], idf["apple"]])
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(vector[[words.index["red"], words.index["apple"]]], expected, rtol=1e-6)
    assert np.count_nonzero(vector) == 2
    assert not words(["unknown"]).any()


def test_the_vocabulary_keeps_the_most_frequent_words():
    assert set(Words(["b a", "b c", "b a"], most=2).index) == {"a", "b"}


def test_pixel_neighbours_find_the_picture_itself():
    pictures, texts = [noise(i) for i in range(6)], [f"word{i} common" for i in range(6)]
    words = Words(texts)
    baseline = PixelNeighbours(words, raw_pixels(pictures), words(texts), neighbours=1)
    assert isinstance(baseline, Embeds)
    similarity = baseline.embed("image", pictures) @ baseline.embed("text", texts).T
    assert (similarity.argmax(1) == np.arange(6)).all()
    np.testing.assert_allclose(np.diag(similarity), 1, atol=1e-6)
    with pytest.raises(DataError, match="not 'audio'"):
        baseline.embed("audio", [])


def test_colours_predict_words_of_unseen_pictures():
    rng = np.random.default_rng(0)

    def painted(kind: int) -> Image.Image:
        colour = np.full(3, 40) + 180 * np.eye(3)[kind] + rng.normal(0, 12, 3)
        return Image.new("RGB", (16, 16), tuple(int(c) for c in colour.clip(0, 255)))

    kinds = [i % 3 for i in range(60)]
    words = Words(["red"] * 20 + ["green"] * 20 + ["blue"] * 20)
    vectors = words([("red", "green", "blue")[k] for k in kinds])
    baseline = ColourWords(words, colour_features([painted(k) for k in kinds]), vectors)
    similarity = baseline.embed("image", [painted(k) for k in range(3)]) @ words(["red", "green", "blue"]).T
    assert (similarity.argmax(1) == np.arange(3)).all()


def test_features_do_not_depend_on_the_mode_and_nothing_is_an_array_too():
    grey = Image.new("L", (9, 9), 120)
    np.testing.assert_array_equal(colour_features([grey]), colour_features([grey.convert("RGB")]))
    assert not raw_pixels([grey]).any()
    assert raw_pixels([]).shape == (0, 3 * 32 * 32)


class Counting:
    modalities = ("image", "text")

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def embed(self, modality, inputs):
        self.sizes.append(len(inputs))
        values = [x.getpixel((0, 0))[0] if modality == "image" else len(x) for x in inputs]
        return np.array(values, np.float32).reshape(-1, 1)


def test_batches_keep_the_order_and_large_pictures_end_a_batch(monkeypatch):
    pictures = [Image.new("RGB", (2, 2), (i % 256, 0, 0)) for i in range(BATCH + 3)]
    counting = Counting()
    shares: list[float] = []
    (rows,) = embed_pictures([lambda b: counting.embed("image", b)], iter(pictures), len(pictures), shares.append)
    assert rows[:, 0].tolist() == [i % 256 for i in range(BATCH + 3)]
    assert counting.sizes == [BATCH, 3] and shares[-1] == 1.0
    monkeypatch.setattr("intermodal.evaluate.encoding.BATCH_PIXELS", 7)
    counting.sizes.clear()
    embed_pictures([lambda b: counting.embed("image", b)], pictures[:5], 5, shares.append)
    assert counting.sizes == [2, 2, 1]


def test_each_distinct_text_is_embedded_once():
    counting = Counting()
    assert embed_texts(counting, ["a", "bbb", "a", "cc"])[:, 0].tolist() == [1, 3, 1, 2]
    assert counting.sizes == [3]


def test_broken_weights_are_said_so():
    with pytest.raises(TrainingError, match="not finite"):
        embed_pictures([lambda batch: np.full((len(batch), 2), np.nan)], [noise(0)], 1, lambda share: None)


def test_a_label_is_the_normalised_mean_of_its_prompts():
    class Axes:
        modalities = ("text",)

        def embed(self, modality, inputs):
            return np.stack([np.eye(3, dtype=np.float32)[len(x)] for x in inputs])

    np.testing.assert_allclose(label_vectors(Axes(), [["", "a"], ["bb", "bb"]]), [[0.5**0.5, 0.5**0.5, 0], [0, 0, 1]])


def test_steps_run_from_nothing_to_one_and_never_back():
    told: list[tuple[str, float]] = []
    steps = Steps(lambda what, share: told.append((what, share)), {"read": 1, "judge": 3})
    steps.of("read")(0.5)
    steps.of("judge")(1.0)
    assert told == [("read", 0.0), ("read", 0.125), ("judge", 0.25), ("judge", 1.0)]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 8))
def test_best_of_each_kind(values, top):
    scores, kind = np.array(values, float), [v % 3 for v in values]
    chosen = best(scores, top, kind)
    assert len({kind[i] for i in chosen}) == len(chosen) == min(top, len(set(kind)))
    assert scores[chosen[0]] == scores.max()
    assert best(scores, top) == sorted(range(len(values)), key=lambda i: (-values[i], i))[:top]


def test_rank_counts_what_is_above_the_best_right_item():
    assert rank(np.array([0.9, 0.5, 0.7, 0.1]), [1, 3]) == 3


def test_confident_mistakes_take_one_of_each_kind_and_answer():
    items = np.eye(4, dtype=np.float32)
    queries = np.array([[0.9, 0, 0, 0], [0, 0.8, 0, 0], [0, 0.95, 0, 0], [0, 0, 0.7, 0], [0, 0, 0, 1]], np.float32)
    right = [[1], [0], [0], [0], [3]]
    assert confident_mistakes(queries, items, right, 5, kind=["a", "b", "c", "c", "d"]) == [2, 0]

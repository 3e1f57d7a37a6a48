"""The judgement of generators: perfect, copying, constant and noisy ones, of which the figures are known beforehand."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from intermodal.core.drawing import Drawing
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.fields import Field
from intermodal.data.processors import signed_pixels
from intermodal.data.source import Source, SourceConfig
from intermodal.evaluate import generation, generation_panels, generation_sets
from intermodal.methods.base import Method
from intermodal.metrics.frechet import frechet_distance

COLOURS = ("red", "green", "blue", "grey")


def told(what, done):
    assert 0 <= done <= 1


@dataclass(frozen=True, kw_only=True)
class BlotSource(SourceConfig):
    """Blots: the red channel of the first pixel is the picture's number, which its text tells."""

    train: int = 60
    test: int = 40
    side: int = 20
    texts: bool = True
    same: int = 1

    def open(self, split):
        return Blots(self, split)


class Blots(Source):
    def __init__(self, config, split):
        self.config, self.split, self.name = config, split, f"blots ({split})"
        self.count = config.train if split == "train" else config.test
        self.fields = {"image": Field((), "image", "")} | ({"text": Field((), "str", "")} if config.texts else {})

    def __len__(self):
        return self.count

    def sample(self, index, rng=None):
        image = blot(index, self.config.side, self.split)
        number = index // self.config.same
        return {"image": image} | ({"text": f"blot {number}", "label": COLOURS[index % 4]} if self.config.texts else {})


def blot(index, side, split):
    array = np.random.default_rng([index, split == "train"]).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = np.array(Image.fromarray(array).resize((side, side)))
    image[0, 0] = index
    return Image.fromarray(image)


def number_of(text):
    return int(text.split()[-1]) if text.startswith("blot") else 0


class Fake:
    """A model that draws by a function of prompt and seed; it notes what it was asked for."""

    takes_prompt, guidable, generates = True, False, "image"

    def __init__(self, make, side=20):
        self.make, self.asked = make, []
        self.processors = {"image": signed_pixels(side, "crop")}

    @property
    def drawing(self):
        return Drawing()

    def draw(self, prompts, seeds, drawing=None, *, watch=None):
        self.asked += list(zip(prompts, seeds, strict=True))
        return [self.make(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]


class Reader:
    """A judge that reads a picture's number off its first pixel."""

    modalities = ("image", "text")

    def embed(self, modality, inputs):
        numbers = [number_of(x) if modality == "text" else x.getpixel((0, 0))[0] for x in inputs]
        return np.eye(256, dtype=np.float32)[numbers]


@pytest.fixture(autouse=True)
def fresh():
    generation_sets.training_of.cache_clear()


def judged(model, source=None, **options):
    options = {"full": False, **options}
    return generation.judge_generation(model, source or BlotSource(), "test", told, **options)


def perfect(text, seed):
    return blot(number_of(text), 20, "test")


def test_held_out_pictures_themselves_are_perfect():
    metrics, panels = judged(Fake(perfect), judge=Reader())
    assert next(iter(metrics)) == "frechet" and panels == []
    assert metrics["frechet"] == pytest.approx(0, abs=1e-9)
    assert metrics["precision"] == metrics["recall"] == 1
    assert metrics["kid"] < 0 and metrics["kid"] < min(metrics["training_kid"], metrics["chance_kid"])
    assert metrics["frechet"] < min(metrics["training_frechet"], metrics["chance_frechet"])
    assert metrics["novelty"] == 0.95  # by definition: 5 % of the held-out pictures are nearer than the others
    assert metrics["clip_score"] == metrics["real_clip_score"] == metrics["clip_r1"] == metrics["real_clip_r10"] == 1
    assert metrics["chance_clip_score"] == 0
    assert metrics["chance_clip_r1"] == pytest.approx(1 / 40) and metrics["chance_clip_r10"] == pytest.approx(10 / 40)
    assert metrics["pictures"] == 40


def test_prompts_are_the_held_out_texts_and_seeds_count_from_nought():
    model = Fake(perfect)
    judged(model)
    assert model.asked == [(f"blot {i}", i) for i in range(40)]


def test_a_copier_is_not_novel_and_is_as_near_as_training_pictures_are():
    source = BlotSource(train=40)
    metrics, _ = judged(Fake(lambda text, seed: blot(seed, 20, "train")), source)
    assert metrics["novelty"] == 0
    assert metrics["frechet"] == pytest.approx(metrics["training_frechet"], rel=1e-9)


def test_wrong_pictures_are_told_from_right_ones_by_the_judge():
    metrics, _ = judged(Fake(lambda text, seed: blot((number_of(text) + 1) % 40, 20, "test")), judge=Reader())
    assert metrics["clip_r1"] == metrics["clip_score"] == 0 and metrics["real_clip_r1"] == 1
    assert metrics["chance_clip_score"] == pytest.approx(1 / 39)


def test_pictures_with_the_same_text_are_right_for_it_alike():
    class Halves(Reader):
        def embed(self, modality, inputs):
            numbers = [number_of(x) if modality == "text" else x.getpixel((0, 0))[0] // 2 for x in inputs]
            return np.eye(256, dtype=np.float32)[numbers]

    metrics, _ = judged(Fake(lambda t, seed: blot(seed, 20, "test")), BlotSource(same=2), judge=Halves())
    assert metrics["clip_r1"] == 1 and metrics["chance_clip_r1"] == pytest.approx(1 / 20)


def test_a_mean_picture_has_no_recall():
    grey = Image.new("RGB", (20, 20), (127, 127, 127))
    metrics, _ = judged(Fake(lambda text, seed: grey))
    assert metrics["recall"] == 0 and metrics["frechet"] > metrics["training_frechet"]


def test_a_model_without_prompts_is_told_none_and_the_judge_is_not_asked():
    model = Fake(lambda text, seed: blot(seed, 20, "other"))
    model.takes_prompt = False
    metrics, panels = judged(model, full=True, judge=Reader())
    assert {text for text, _ in model.asked} == {None}
    assert not any("clip" in name for name in metrics)
    assert [p.title for p in panels] == [
        "Figures",
        "What it draws",
        "Beside training pictures",
        "Nearest to training pictures",
    ]
    model = Fake(lambda text, seed: blot(seed, 20, "other"))
    judged(model, BlotSource(texts=False))
    assert {text for text, _ in model.asked} == {None}


def test_a_model_that_generates_is_asked_prompt_by_prompt():
    class OneByOne:
        takes_prompt, generates = True, "image"
        processors = Fake(perfect).processors

        def __init__(self):
            self.asked = []

        def generate(self, count, *, prompt=None, seed=0, steps=None):
            self.asked.append((count, prompt, seed))
            return [blot(seed + i, 20, "test") for i in range(count)]

    model = OneByOne()
    judged(model)
    assert model.asked == [(1, f"blot {i}", i) for i in range(40)]
    model.takes_prompt, model.asked = False, []
    judged(model)
    assert model.asked == [(40, None, 0)]


def test_a_model_that_draws_many_prompts_at_once_is_asked_once():
    class Many:
        takes_prompt, generates = True, "image"
        processors = Fake(perfect).processors

        def drawn(self, prompts, seeds):
            assert len(prompts) == len(seeds) == 40
            return [perfect(prompt, 0) for prompt in prompts]

        def generate(self, *arguments, **options):
            raise AssertionError

    assert judged(Many())[0]["frechet"] == pytest.approx(0, abs=1e-9)


def test_a_judge_is_read_from_where_it_lies_and_must_embed_both(monkeypatch):
    monkeypatch.setattr(generation, "load", lambda path: Reader() if path == "runs/clip" else Fake(perfect))
    result = generation.evaluate_generation(Fake(perfect), BlotSource(), "test", told, full=False, judge="runs/clip")
    assert result.metrics["clip_r1"] == 1
    with pytest.raises(ConfigError, match="embeds both"):
        generation.evaluate_generation(Fake(perfect), BlotSource(), "test", told, judge="runs/other")


def test_settings_of_a_drawing_reach_the_model():
    class Stepwise(Fake):
        def draw(self, prompts, seeds, drawing=None, *, watch=None):
            self.drawings = [*getattr(self, "drawings", []), drawing]
            return super().draw(prompts, seeds)

    model = Stepwise(perfect)
    generation.evaluate_generation(model, BlotSource(), "test", told, full=False, drawing=Drawing(steps=3))
    assert model.drawings == [Drawing(steps=3)]


def test_another_way_to_draw_and_labels_as_prompts():
    model, asked = Fake(perfect), []

    def draw(prompts, seeds):
        asked.extend(prompts)
        return [blot(seed, 20, "test") for seed in seeds]

    _, panels = judged(model, draw=draw, told="label", full=True)
    assert model.asked == [] and asked[:4] == list(COLOURS)
    assert [p.title for p in panels][1] == "Drawn for held-out classes"
    assert "Drawn for prompts that nobody drew" not in [p.title for p in panels]


def test_the_panels_hold_what_they_say():
    def make(text, seed):
        return blot(number_of(text), 20, "test") if text.startswith("blot") else blot(seed + 100, 20, "other")

    model = Fake(make)
    metrics, panels = judged(model, full=True, count=30, judge=Reader())
    assert metrics["pictures"] == 30
    table, texts, prompts, beside, nearest = panels
    assert table.rows[0][1] == metrics["frechet"] and table.rows[0][3] == metrics["training_frechet"]
    for query, items in texts.rows:
        assert query.image.tobytes() == items[0].image.tobytes() and len(items) == generation_panels.SEEDS
    assert [query.text for query, _ in prompts.rows] == list(generation_panels.PROMPTS)
    assert [i.image.getpixel((0, 0))[0] for i in prompts.rows[0][1]] == [100, 101, 102, 103]
    drawn, known = (items for _, items in beside.rows)
    features = generation_sets.features_of
    train = features([blot(i, 20, "train") for i in range(60)])
    for item, other in zip(drawn, known, strict=True):
        distance = (features([item.image]) - train).norm(dim=1)
        assert other.image.tobytes() == blot(int(distance.argmin()), 20, "train").tobytes()
        assert float(other.note) == pytest.approx(float(distance.min()), abs=0.006)
    notes = [float(item.note) for item in nearest.rows[1][1]]
    assert notes == sorted(notes) and len(notes) == generation_panels.SHOWN


def test_an_evaluation_says_its_headline():
    model = Fake(lambda text, seed: blot(seed, 20, "other"))
    result = generation.evaluate_generation(model, BlotSource(), "test", told, count=20)
    assert result.headline.figure == f"{result.metrics['frechet']:.2f}"
    assert "20 drawn pictures" in result.headline.sentence and result.split == "test" and result.seconds > 0
    assert generation.evaluate_generation(model, BlotSource(), "test", told, full=False).headline is None


def test_few_pictures_leave_figures_out_instead_of_failing():
    model = Fake(perfect)
    metrics, _ = judged(model, BlotSource(test=3), judge=Reader())
    assert "frechet" in metrics and "precision" not in metrics
    result = generation.evaluate_generation(model, BlotSource(test=1), "test", told, judge=Reader())
    assert "frechet" not in result.metrics and result.metrics["novelty"] == 1 and result.headline is None
    with pytest.raises(DataError, match="no pictures to compare"):
        judged(model, BlotSource(test=0))


def test_pictures_too_small_for_the_network_are_enlarged():
    metrics, _ = judged(Fake(lambda text, seed: blot(number_of(text), 8, "test"), side=8), BlotSource(side=8))
    assert metrics["frechet"] == pytest.approx(0, abs=1e-9)
    small = Image.new("RGB", (1, 1))
    assert torch.isfinite(generation_sets.features_of([small])).all()


def test_both_sides_are_judged_at_the_size_of_the_model():
    larger = Fake(lambda text, seed: blot(number_of(text), 40, "test").resize((80, 80)), side=20)
    same = judged(larger, BlotSource(side=40))[0]
    images = [larger.processors["image"].fitted(blot(i, 40, "test")) for i in range(40)]
    drawn = [larger.processors["image"].fitted(blot(i, 40, "test").resize((80, 80))) for i in range(40)]
    expected = frechet_distance(generation_sets.features_of(images), generation_sets.features_of(drawn))
    assert same["frechet"] == pytest.approx(expected, rel=1e-9)


def test_a_model_that_draws_too_few_or_nothing_is_refused():
    with pytest.raises(DataError, match="asked for 40 pictures and drew 39"):
        judged(Fake(perfect), draw=lambda prompts, seeds: [blot(0, 20, "test")] * (len(prompts) - 1))
    nothing = type("Silent", (), {"processors": Fake(perfect).processors})()
    with pytest.raises(DataError, match="Silent draws no pictures"):
        judged(nothing)


def test_a_method_is_judged_in_evaluation_mode_and_is_as_before_afterwards():
    class Model(Fake, Method):
        id = "model"

        def __init__(self):
            Method.__init__(self, Drawing(), {"image": signed_pixels(20, "crop")})
            self.make = lambda text, seed: blot(seed, 20, "test" if not self.training else "train")
            self.asked = []

    model = Model().train()
    assert judged(model)[0]["frechet"] == pytest.approx(0, abs=1e-9)
    assert model.training


def test_the_gaussian_has_the_mean_and_covariance_of_the_pixels():
    generator = torch.Generator().manual_seed(1)
    x_MP = torch.randn(50, 6, generator=generator) @ torch.randn(6, 6, generator=generator) * 20 + 30
    gaussian = generation_sets.PixelGaussian(6, 40_000)
    for part in x_MP.split(7):
        gaussian.add(part)
    samples = gaussian.samples().double().numpy()
    covariance = np.cov(x_MP.double().numpy().T)
    scale = np.sqrt(np.diag(covariance))
    assert np.abs(samples.mean(0) - x_MP.numpy().mean(0)).max() < 0.03 * scale.max()
    assert (np.abs(np.cov(samples.T) - covariance) / np.outer(scale, scale)).max() < 0.04
    one = generation_sets.PixelGaussian(6, 3)
    one.add(x_MP[:1])
    assert torch.allclose(one.samples(), x_MP[:1].expand(3, 6), atol=1e-4)


def test_novelty_by_its_definition():
    typical = torch.arange(1.0, 101.0)
    assert generation_sets.novelty(torch.tensor([0.0, 5.0, 5.9, 6.0, 90.0]), typical) == pytest.approx(2 / 5)
    assert generation_sets.novelty(torch.zeros(4), torch.zeros(4)) == 0
    assert generation_sets.novelty(typical, typical) == 0.95


def test_the_nearest_training_picture_is_that_of_brute_force(monkeypatch):
    monkeypatch.setattr(generation_sets, "ROWS", 7)
    generator = torch.Generator().manual_seed(0)
    asked, known = torch.randn(30, 5, generator=generator), torch.randn(40, 5, generator=generator)
    known[11] = asked[3]
    distance, place = generation_sets.nearest_known(asked, known)
    expected = (asked[:, None].double() - known[None].double()).norm(dim=2).min(1)
    assert torch.equal(place, expected.indices) and torch.allclose(distance.double(), expected.values, atol=1e-6)
    assert distance[3] == 0


def test_training_pictures_are_looked_at_once(monkeypatch):
    calls = []
    monkeypatch.setattr(
        Blots, "sample", lambda self, i, rng=None, plain=Blots.sample: (calls.append(self.split), plain(self, i))[1]
    )
    for _ in range(2):
        judged(Fake(perfect))
    assert calls.count("train") == 60

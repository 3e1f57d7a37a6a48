"""The text-conditional GAN: losses by the paper's equations, wrong texts, the penalty, prompts, health, refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from intermodal.core.capabilities import capabilities_of
from intermodal.core.errors import ConfigError, DataError
from intermodal.data.folder import FolderSource
from intermodal.data.processors import TextProcessor, signed_pixels
from intermodal.data.tokenizers import special_ids, train_words
from intermodal.methods.base import generator_of
from intermodal.methods.image_generation.t2i_gan import TextGAN, TextGANConfig, derangements
from intermodal.methods.image_generation.text import TextEncoderConfig
from intermodal.nn.diffaugment import DiffAugment
from intermodal.nn.text import TextConfig
from intermodal.nn.text_gan import TextDiscriminatorConfig, TextGeneratorConfig
from intermodal.recipes import get_recipe
from intermodal.recipes.image_generation import TextChoice
from intermodal.train.optim import alone
from intermodal.train.run import fit

TEXTS = ["red heart", "blue apple", "green cat", "a star", "red cat", "blue heart"]
SIDE = 8


def processor() -> TextProcessor:
    tokenizer = train_words(TEXTS, 64)
    pad, eos = special_ids(tokenizer)
    return TextProcessor(tokenizer, context_length=6, eos_id=eos, pad_id=pad)


def small(**changes) -> TextGAN:
    torch.manual_seed(0)
    text = processor()
    tower = TextConfig(
        vocab_size=text.vocab_size,
        context_length=6,
        width=8,
        depth=1,
        heads=2,
        eos_id=text.eos_id,
        pad_id=text.pad_id,
        causal=False,
        pool="mean",
    )
    config = TextGANConfig(
        text=TextEncoderConfig(tower=tower, frozen=False),
        generator=TextGeneratorConfig(image_size=SIDE, noise=4, width=8, channels=4, most=8),
        discriminator=TextDiscriminatorConfig(image_size=SIDE, channels=4, most=8, features=6),
        augment=None,
        r1=0.0,
        drop=0.0,
    ).replace(**changes)
    return TextGAN(config, {"image": signed_pixels(SIDE, "crop"), "text": text})


def batch_of(model: TextGAN, texts: list[str] = TEXTS, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(len(texts), 3, SIDE, SIDE, generator=generator) * 2 - 1
    return {"image": image, "text": model.tokens_of(texts), "seed": torch.arange(len(texts)) + 100 * seed}


# The losses


@pytest.mark.parametrize("objective", ["logistic", "hinge"])
@pytest.mark.parametrize(("mismatch", "wrong"), [(0.5, 1), (0.25, 3), (0.0, 1)])
def test_the_discriminator_s_loss_is_algorithm_1(objective, mismatch, wrong):
    """Reed et al. 2016, algorithm 1, lines 6 to 9, in float64 and pair by pair; log s(x) is -softplus(-x)."""
    model = small(objective=objective, mismatch=mismatch, wrong=wrong).double().eval()
    batch = batch_of(model)
    batch["image"] = batch["image"].double()
    generator = generator_of(batch)
    others = derangements(6, wrong, generator)
    noise = torch.randn(6, 4, generator=generator)
    with torch.no_grad():
        text = model.text(batch["text"]).pooled
        made = model.generator(noise.double(), text)
        judge = model.discriminator
        right = judge(batch["image"], text)
        real, fake = (F.softplus(-right), F.softplus) if objective == "logistic" else (F.relu(1 - right), hinge)
        wanted = real.mean() + (1 - mismatch) * fake(judge(made, text)).mean()
        pairs = [fake(judge(batch["image"][i : i + 1], text[j : j + 1])) for i in range(6) for j in others[i].tolist()]
        wanted = wanted + mismatch * torch.cat(pairs).mean()
        model.noise = lambda count, g: torch.randn(count, 4, generator=g).double()
        found = model.loss(batch)
    torch.testing.assert_close(found.total, wanted, rtol=1e-12, atol=1e-12)


def hinge(score: torch.Tensor) -> torch.Tensor:
    return F.relu(1 + score)


def test_the_generator_s_loss_does_not_saturate_and_is_of_its_own_text():
    model = small().eval()
    batch = batch_of(model)
    generator = generator_of(batch)
    generator.manual_seed(generator.initial_seed() ^ 1)
    text = model.text(batch["text"]).pooled
    made = model.generator(model.noise(6, generator), text)
    wanted = F.softplus(-model.discriminator(made, text)).mean()
    torch.testing.assert_close(model.generator_loss(batch).total, wanted)


@pytest.mark.parametrize("count", [2, 3, 7, 64])
def test_a_wrong_text_is_another_s_and_each_is_wrong_equally_often(count):
    for seed in range(20):
        others = derangements(count, 5, torch.Generator().manual_seed(seed))
        assert others.shape == (count, min(5, count - 1))
        assert not (others == torch.arange(count)[:, None]).any()
        for column in others.T:
            assert sorted(column.tolist()) == list(range(count))
        assert all(len(set(row.tolist())) == len(row) for row in others)
    assert torch.equal(derangements(1, 5, torch.Generator()), torch.zeros(1, 1, dtype=torch.int64))


def test_every_other_text_is_taken_equally_often():
    generator, found = torch.Generator().manual_seed(0), torch.zeros(5)
    for _ in range(4000):
        found[derangements(5, 1, generator)[0, 0]] += 1
    assert found[0] == 0 and float((found[1:] / 4000 - 0.25).abs().max()) < 0.03


def test_equal_texts_and_the_empty_one_are_not_wrong():
    """Of pictures that have one text in common nothing is learnt from the pair: the drawn picture takes its place."""
    model = small(mismatch=0.5).eval()
    with torch.no_grad():
        same = model.loss(batch_of(model, ["red cat"] * 6))
        plain = small(mismatch=0.0).eval().loss(batch_of(model, ["red cat"] * 6))
        torch.testing.assert_close(same.total, plain.total)
        assert float(same.parts["text_right"]) == 0.5
    tokens = model.tokens_of(["red cat", "red cat", "red cat", ""])
    other = model.tokens_of(["red cat", "blue heart", "", "red cat"])
    assert model.differ(tokens, other).tolist() == [False, True, False, True]


def test_texts_that_are_not_told_are_the_empty_text_and_only_in_training():
    model = small(drop=0.5)
    tokens = model.tokens_of(TEXTS * 100)
    told = model.train().dropped(tokens, model.config.drop, torch.Generator().manual_seed(0))
    empty = (told == model.nothing()).all(1)
    assert abs(float(empty.float().mean()) - 0.5) < 0.08
    assert torch.equal(told[~empty], tokens[~empty])
    assert torch.equal(model.eval().dropped(tokens, model.config.drop, torch.Generator()), tokens)


def test_the_penalty_is_added_every_few_steps_and_counts_as_often():
    model, plain = small(r1=2.0, r1_every=4).eval(), small().eval()
    batch = batch_of(model)
    image = batch["image"].clone().requires_grad_()
    score = model.discriminator(image, model.text(batch["text"]).pooled.detach())
    (slope,) = torch.autograd.grad(score.sum(), image)
    wanted = 2.0 / 2 * 4 * slope.square().flatten(1).sum(1).mean()
    base = plain.loss(batch).total
    for step, factor in ((0, 1), (1, 0), (4, 1)):
        model.begin_step(step, 10)
        torch.testing.assert_close(model.loss(batch).total, base + factor * wanted)
    assert not batch["image"].requires_grad


def test_a_real_picture_is_penalised_through_its_augmentation():
    model = small(r1=1.0, r1_every=1, augment=DiffAugment()).train()
    with alone(model, model.phases()[0], model.phases()):
        model.loss(batch_of(model)).total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.discriminator.parameters())


def test_each_phase_moves_its_own_weights_alone():
    model = small(r1=0.1).train()
    for phase, own in zip(model.phases(), ({"discriminator", "text"}, {"generator"}), strict=True):
        model.zero_grad()
        with alone(model, phase, model.phases()):
            model(batch_of(model), phase.loss).total.backward()
        moved = {n.partition(".")[0] for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        assert moved == own


def test_spectral_norm_trains_and_is_saved(tmp_path):
    model = small(discriminator__spectral_norm=True, objective="hinge").train()
    model.loss(batch_of(model)).total.backward()
    model.save(tmp_path / "model")
    again, batch = TextGAN.load(tmp_path / "model"), batch_of(model)
    with torch.no_grad():
        assert torch.equal(again.loss(batch).total, model.eval().loss(batch).total)


def test_the_seed_alone_decides_what_is_random():
    model = small(augment=DiffAugment(), drop=0.3).train()
    with torch.no_grad():
        values = [model.loss(batch_of(model)).total.item()]
        torch.manual_seed(5)
        values += [model.loss(batch_of(model)).total.item()]
        other = {**batch_of(model), "seed": torch.arange(6) + 7}
        assert values[0] == values[1] != model.loss(other).total.item()


def test_it_learns_which_text_is_whose():
    """Pictures of one colour each: in a few steps right texts have the higher scores."""
    model = small(mismatch=0.5, wrong=5).train()
    texts = TEXTS * 4
    colours_63 = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1]]) * 2 - 1
    image = colours_63.repeat(4, 1)[..., None, None].expand(-1, -1, SIDE, SIDE)
    phase = model.phases()[0]
    trained = [p for n, p in model.named_parameters() if n.startswith(phase.trains)]
    optimizer = torch.optim.AdamW(trained, lr=5e-3, betas=(0.0, 0.99))
    for step in range(120):
        batch = {"image": image, "text": model.tokens_of(texts), "seed": torch.arange(24) + step}
        losses = model.loss(batch)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    assert float(losses.parts["text_right"]) > 0.9


# The text encoder


def test_a_frozen_encoder_stays_as_it_is(small_clip, tmp_path):
    small_clip.save(tmp_path / "clip")
    recipe = get_recipe("t2i-gan").smoke().replace(texts=TextChoice(encoder=str(tmp_path / "clip")))
    run = fit(recipe, tmp_path / "run", evaluate=False, quiet=True)
    model = TextGAN.load(run.model_path)
    assert model.config.text.frozen and model.text.width == 16
    for name, value in small_clip.text.state_dict().items():
        assert torch.equal(model.text.tower.state_dict()[name], value), name
    assert not any(p.requires_grad for p in model.text.parameters())
    assert not model.train().text.training


def test_an_encoder_that_learns_along_is_averaged_and_saved(tmp_path):
    recipe = get_recipe("t2i-gan").smoke()
    run = fit(recipe, tmp_path / "run", evaluate=False, quiet=True)
    model, fresh = TextGAN.load(run.model_path), recipe.build()
    moved = {n.partition(".")[0] for n, p in fresh.state_dict().items() if not torch.equal(p, model.state_dict()[n])}
    assert moved == {"generator", "discriminator", "text"}


def test_models_without_a_text_encoder_are_refused(tmp_path):
    model = get_recipe("vqgan").smoke().build()
    model.save(tmp_path / "vqgan")
    with pytest.raises(ConfigError, match="vqgan"):
        get_recipe("t2i-gan").smoke().replace(texts=TextChoice(encoder=str(tmp_path / "vqgan"))).build()
    with pytest.raises(ConfigError, match="draws from texts"):
        get_recipe("t2i-gan").smoke().replace(texts=None).build()


# What a person does with it


def test_a_picture_depends_on_its_seed_and_prompt_alone():
    model = small().train()
    three = model.generate(3, prompt="red heart", seed=5)
    assert all(isinstance(p, Image.Image) and p.size == (SIDE, SIDE) and p.mode == "RGB" for p in three)
    assert model.generate(1, prompt="red heart", seed=7)[0].tobytes() == three[2].tobytes()
    assert model.generate(1, prompt="blue apple", seed=7)[0].tobytes() != three[2].tobytes()
    assert model.drawn(["a star", "red heart"], [1, 7])[1].tobytes() == three[2].tobytes()
    assert len({p.tobytes() for p in three}) == 3
    assert model.training, "it is as it was"
    assert set(capabilities_of(model)) == {"generate", "interpolate"}


def test_no_prompt_is_the_empty_one_and_so_are_unknown_words_and_white_space():
    model = small()
    wanted = model.generate(1, seed=1)[0].tobytes()
    for prompt in ("", "   ", "\n\t", "qwertz \u2603 \U0001f9a9"):
        assert model.generate(1, prompt=prompt, seed=1)[0].tobytes() == wanted, prompt


def test_a_long_prompt_is_cut_and_one_that_is_too_long_refused():
    model = small()
    assert len(model.generate(1, prompt="red " * 300)) == 1
    with pytest.raises(DataError, match="at most 10,000 characters, found 40,000"):
        model.generate(1, prompt="red " * 10_000)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"count": 0}, "at least 1"),
        ({"count": 1, "steps": 0}, "at least 1"),
        ({"count": 1, "steps": -3}, "at least 1"),
        ({"count": 1, "seed": -1}, "at least 0"),
    ],
)
def test_generate_refuses_what_means_nothing(arguments, words):
    with pytest.raises(DataError, match=words):
        small().generate(**arguments)


def test_one_goes_from_a_text_to_a_text():
    model = small()
    found = model.interpolate("red heart", "blue apple", 4, seed=3)
    ends = [model.generate(1, prompt=p, seed=3)[0] for p in ("red heart", "blue apple")]
    assert len(found) == 4
    for made, end in zip((found[0], found[-1]), ends, strict=True):
        assert max(abs(a - b) for a, b in zip(made.tobytes(), end.tobytes(), strict=True)) <= 1
    with torch.no_grad():
        text = model.text(model.tokens_of(["red heart", "blue apple"])).pooled
        third = model.generator(model._noise_of([3]), torch.lerp(*text, 1 / 3)[None])
    assert found[1].tobytes() == model.picture.decode(third)[0].tobytes()


def test_there_is_no_way_back_from_a_picture():
    picture = Image.new("RGB", (SIDE, SIDE))
    with pytest.raises(DataError, match="no way back from a picture"):
        small().interpolate(picture, picture, 3)
    with pytest.raises(DataError, match="at least 2 pictures, found 1"):
        small().interpolate("a", "b", 1)


# Health


def seen(model: TextGAN, **changes) -> TextGAN:
    batch = batch_of(model)
    real = batch["image"] * 0.5
    figures = {"real_right": 0.7, "drawn_right": 0.7, "text_right": 0.8, "discriminator": 1.0}
    model._seen = {k: torch.tensor(float(v)) for k, v in (figures | changes).items() if isinstance(v, float)}
    model._seen |= {"real": real, "drawn": real.flip(0), "tokens": batch["text"]}
    model._seen |= {k: v for k, v in changes.items() if not isinstance(v, float)}
    model.begin_step(50, 100)
    return model


def test_nothing_is_said_of_a_fair_game():
    assert small().health() == []
    assert seen(small()).health() == []


def test_a_discriminator_that_is_never_wrong():
    for changes in ({"real_right": 1.0, "drawn_right": 0.99}, {"discriminator": 0.01}):
        (warning,) = seen(small(), **changes).health()
        assert "hardly ever wrong" in warning and "model.r1" in warning


def test_a_generator_that_draws_one_picture():
    one = batch_of(small())["image"][:1].expand(6, -1, -1, -1) * torch.linspace(0.99, 1, 6).view(-1, 1, 1, 1)
    (warning,) = seen(small(), drawn=one).health()
    assert "collapsed" in warning and "0.0" in warning


def test_noise_that_is_not_heard():
    model = small()
    torch.nn.init.zeros_(model.generator.drawn.weight)
    (warning,) = seen(model).health()
    assert "noise is not heard" in warning


def test_figures_are_averages_over_steps():
    model = seen(small().eval(), text_right=0.5)
    with torch.no_grad():
        now = float(model.loss(batch_of(model)).parts["text_right"])
    assert float(model._seen["text_right"]) == pytest.approx(0.95 * 0.5 + 0.05 * now, abs=1e-6)


def test_a_text_that_is_not_heard():
    (warning,) = seen(small(), text_right=0.5).health()
    assert "text is not heard" in warning and "50%" in warning
    assert seen(small(mismatch=0.0), text_right=0.5).health() == []
    early = seen(small(), text_right=0.5, real_right=1.0, drawn_right=1.0)
    early.begin_step(5, 100)
    assert early.health() == []


# Bad input


@pytest.mark.parametrize(
    "changes",
    [
        {"mismatch": 1.0},
        {"mismatch": -0.1},
        {"drop": 1.0},
        {"r1": -1.0},
        {"r1_every": 0},
        {"wrong": 0},
        {"objective": "least-squares"},
        {"generator__image_size": 16},
    ],
)
def test_bad_configurations_are_refused(changes):
    with pytest.raises(ConfigError, match="t2i-gan"):
        small(**changes)


def test_pictures_of_another_size_are_refused():
    model = small()
    with pytest.raises(ConfigError, match="networks are for 8 pixels a side, the pictures have 12 x 12"):
        TextGAN(model.config, {**model.processors, "image": signed_pixels(12, "crop")})
    with pytest.raises(ConfigError, match="power of two"):
        get_recipe("t2i-gan").smoke().replace(size=24).build()


def test_a_batch_of_one_has_no_wrong_text():
    model = small(r1=0.1).train()
    assert torch.isfinite(model.loss(batch_of(model, ["red cat"])).total)


def test_it_trains_on_a_person_s_own_folder(pictures, tmp_path):
    recipe = get_recipe("t2i-gan").smoke().on(FolderSource(path=pictures))
    assert recipe.model.augment == DiffAugment(), "few pictures: the discriminator would learn them by heart"
    recipe = recipe.replace(texts__tower__width=16, texts__tower__depth=1, texts__tower__heads=2)
    run = fit(recipe.replace(train__batch_size=4), tmp_path / "run", quiet=True)
    metrics = run.evaluation().metrics
    assert {"pictures", "seconds_per_picture"} <= set(metrics)
    assert len(TextGAN.load(run.model_path).generate(2, prompt="a red square")) == 2


def test_a_folder_without_texts_is_refused(pictures, tmp_path):
    for path in pictures.glob("*.txt"):
        path.unlink()
    with pytest.raises(DataError, match="text|caption"):
        fit(get_recipe("t2i-gan").smoke().on(FolderSource(path=pictures)), tmp_path / "run", quiet=True)


def test_a_clip_can_be_the_encoder_of_other_pictures(small_clip, pictures, tmp_path):
    small_clip.save(tmp_path / "clip")
    recipe = get_recipe("t2i-gan").smoke().on(FolderSource(path=pictures))
    model = recipe.replace(texts=TextChoice(encoder=str(tmp_path / "clip"))).build()
    assert len(model.generate(1, prompt="a red square")) == 1

"""VQGAN and the prior over codes: the loss term by term, two descents, codes as they are, bits that are probabilities."""

import copy
import math

import numpy as np
import pytest
import torch
from PIL import Image

import intermodal
from intermodal.core.capabilities import capabilities_of
from intermodal.core.errors import CheckpointError, ConfigError, DataError
from intermodal.data.emoji import EmojiSource
from intermodal.data.folder import FolderSource
from intermodal.data.processors import LabelProcessor, signed_pixels
from intermodal.decode.sampling import Sampling
from intermodal.evaluate.prior import STRENGTHS, Unigram
from intermodal.losses.perceptual import perceptual_distance
from intermodal.methods.image_tokenizers.prior import CodePrior, CodePriorConfig
from intermodal.methods.image_tokenizers.vae import VAE, VAEConfig
from intermodal.methods.image_tokenizers.vqgan import VQGAN, VQGANConfig
from intermodal.methods.image_tokenizers.vqvae import VQVAE, VQVAEConfig
from intermodal.nn.autoencoder import AutoencoderConfig
from intermodal.nn.causal import CausalConfig
from intermodal.nn.discriminator import PatchDiscriminatorConfig
from intermodal.nn.quantizers import ResidualQuantizerConfig, VectorQuantizerConfig
from intermodal.recipes import get_recipe
from intermodal.recipes.vqgan import TINY
from intermodal.train.optim import alone, build_optimizer
from intermodal.train.run import fit

NETWORK = AutoencoderConfig(channels=(8, 16), blocks=1, latent_channels=4, groups=4)
CODES = VectorQuantizerConfig(codes=12, dim=4, update="loss", commitment=1.0, codebook=0.25)
CONFIG = VQGANConfig(
    network=NETWORK,
    quantizer=CODES,
    discriminator=PatchDiscriminatorConfig(channels=8, layers=2),
    start=0.0,
)
TRANSFORMER = CausalConfig(width=16, depth=2, heads=2)


def tokenizer(size: int = 16, **changes) -> VQGAN:
    torch.manual_seed(0)
    return VQGAN(CONFIG.replace(**changes), {"image": signed_pixels(size, "crop")})


def batch_of(count: int = 4, size: int = 16, dtype: torch.dtype = torch.float32):
    image = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return {"image": (image * 2 - 1).to(dtype), "seed": torch.arange(count)}


def spread(model: VQGAN) -> VQGAN:
    """Put the codes among the encoder's vectors, so that pictures have different ones."""
    with torch.no_grad():
        vectors = model.encoder(batch_of(8, model.picture.size[0])["image"].to(model.quantizer.codebook.dtype))
        rows = vectors.movedim(1, -1).flatten(0, -2)
        model.quantizer.codebook.copy_(rows[:: len(rows) // 12][:12])
        model.quantizer.started.fill_(True)
    return model


def prior(size: int = 16, inside: VQGAN | None = None, **changes) -> CodePrior:
    torch.manual_seed(3)
    found = CodePrior.over(spread(tokenizer(size)).bare() if inside is None else inside, TRANSFORMER, **changes)
    with torch.no_grad():
        for parameter in found.network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return found


# The loss.


def test_the_loss_is_the_sum_of_its_terms_in_float64():
    """Equations 4 to 7 written out, the gradients of the last layer by their own backward passes."""
    model = spread(tokenizer(perceptual=0.3, adversarial=0.7).double()).eval()
    batch = batch_of(dtype=torch.float64)
    image, losses = batch["image"], model.loss(batch)
    vectors = model.encoder(image)
    distance = (vectors.movedim(1, -1).unsqueeze(-2) - model.quantizer.codebook).square().sum(-1)
    chosen = model.quantizer.codebook[distance.argmin(-1)].movedim(-1, 1)
    codes = (vectors - chosen.detach()).square().mean() + 0.25 * (chosen - vectors.detach()).square().mean()
    made = model.decoder(vectors + (chosen - vectors).detach())
    perceptual = perceptual_distance((made + 1) / 2, (image + 1) / 2).mean()
    reconstruction = (made - image).abs().mean() + 0.3 * perceptual
    push = -model.discriminator(made).mean()
    last = model.decoder.conv_out.weight
    pulls = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (reconstruction, push)]
    weight = float(pulls[0] / (pulls[1] + 1e-4))
    wanted = reconstruction + codes + 0.7 * weight * push
    assert float(losses.total.detach()) == pytest.approx(float(wanted.detach()), rel=1e-6)
    assert float(losses.parts["adaptive_weight"]) == pytest.approx(weight, rel=1e-6)
    parameters = [p for n, p in model.named_parameters() if not n.startswith("discriminator.")]
    found = torch.autograd.grad(losses.total, parameters)
    for a, b in zip(found, torch.autograd.grad(wanted, parameters), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("objective", "pixel"), [("hinge", "l1"), ("logistic", "l2")])
def test_both_descents_by_their_definitions(objective, pixel):
    model = spread(tokenizer(objective=objective, pixel=pixel, perceptual=0.0).double()).eval()
    batch = batch_of(dtype=torch.float64)
    image = batch["image"]
    with torch.no_grad():
        made = model.to_image(model.to_latent(image))
        real, false = model.discriminator(image), model.discriminator(made)
        found = model.discriminator_loss(batch)
        wanted = {
            "hinge": (1 - real).clamp(min=0).mean() + (1 + false).clamp(min=0).mean(),
            "logistic": -real.sigmoid().log().mean() - (1 - false.sigmoid()).log().mean(),
        }[objective]
        assert float(found.total) == pytest.approx(float(wanted), abs=1e-9)
        assert float(found.parts["score_real"]) == pytest.approx(float(real.mean()), abs=1e-6)
        pixels = model.loss(batch).parts["pixels"]
        difference = made - image
        wanted = difference.abs().mean() if pixel == "l1" else difference.square().mean()
        assert float(pixels) == pytest.approx(float(wanted), abs=1e-9)


def test_without_gradients_or_before_its_start_the_discriminator_does_not_count():
    model = spread(tokenizer()).eval()
    with torch.no_grad():
        assert "adversarial" not in model.loss(batch_of()).parts
    model = spread(tokenizer(start=0.5)).train()
    for step, judged in ((0, False), (4, False), (5, True), (9, True)):
        model.begin_step(step, 10)
        assert ("adversarial" in model.loss(batch_of()).parts) is judged
        losses = model.discriminator_loss(batch_of())
        assert (float(losses.total.detach()) != 0) is judged
        losses.total.backward()


def descend(model, steps, phases=None):
    phases = phases or model.phases()
    optimizers = [build_optimizer(model, get_recipe("vqgan").optim.replace(lr=1e-3), phase) for phase in phases]
    for step in range(steps):
        model.begin_step(step, steps)
        for phase, optimizer in zip(phases, optimizers, strict=True):
            with alone(model, phase, among=phases):
                model(batch_of(), phase.loss).total.backward()
            optimizer.step()
            optimizer.zero_grad()


def test_each_descent_moves_its_own_parameters_alone():
    for number in (0, 1):
        model = spread(tokenizer()).train()
        before = copy.deepcopy(model.state_dict())
        phase = model.phases()[number]
        with alone(model, phase, among=model.phases()):
            model(batch_of(), phase.loss).total.backward()
        moved = {n for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
        assert all(n.startswith("discriminator.") == bool(number) for n in moved) and moved
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items() if "discriminator" in k)


def test_the_discriminator_s_descent_leaves_the_codebook_alone():
    """A moving average must not learn from the same pictures twice."""
    model = tokenizer(quantizer=CODES.replace(update="ema")).train()
    model.loss(batch_of())
    before = copy.deepcopy(model.quantizer.state_dict())
    model.discriminator_loss(batch_of())
    assert model.training and model.quantizer.training
    assert all(torch.equal(before[k], v) for k, v in model.quantizer.state_dict().items())


def test_a_trained_discriminator_tells_pictures_from_what_comes_back():
    model = spread(tokenizer(perceptual=0.0)).train()
    descend(model, 30, phases=(model.phases()[1],))
    parts = model.discriminator_loss(batch_of()).parts
    assert float(parts["score_real"]) > float(parts["score_made"]) + 0.5


# The tokenizer.


def test_codes_are_those_of_a_vqvae_with_the_same_weights():
    model = spread(tokenizer()).eval()
    plain = VQVAE(VQVAEConfig(network=NETWORK, quantizer=CODES), model.processors).eval()
    plain.load_state_dict(model.bare().state_dict())
    images = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)) for i in range(5)]
    codes = model.encode(images)
    assert codes.shape == (5, 8, 8) and np.array_equal(codes, plain.encode(images)) and len(np.unique(codes)) > 2
    assert [a.tobytes() for a in model.decode(codes)] == [b.tobytes() for b in plain.decode(codes)]
    assert capabilities_of(model) == ("reconstruct",)


def test_a_bare_model_is_without_the_discriminator_and_loads(tmp_path):
    model = spread(tokenizer()).train()
    bare = model.bare()
    assert bare.config.discriminator is None and not any(k.startswith("discriminator") for k in bare.state_dict())
    assert [phase.loss for phase in bare.phases()] == ["loss"] and len(model.phases()) == 2
    bare.save(tmp_path / "bare")
    again = intermodal.load(tmp_path / "bare")
    image = batch_of()["image"]
    with torch.no_grad():
        assert torch.equal(again.to_latent(image), model.eval().to_latent(image))
    model.save(tmp_path / "whole")
    whole = intermodal.load(tmp_path / "whole")
    assert torch.equal(whole.discriminator.layers[0].weight, model.discriminator.layers[0].weight)


@pytest.mark.parametrize(
    ("changes", "size", "words"),
    [
        ({}, 15, "multiples of 2 pixels, found 15 x 15"),
        ({"discriminator__layers": 3}, 16, "finds no patch in 16 x 16"),
        ({"quantizer__dim": 5}, 16, "must be the same"),
        ({"start": 1.5}, 16, "start in 0..1"),
        ({"perceptual": -1.0}, 16, "at least 0"),
        ({"discriminator__in_channels": 1}, 16, "equally many channels"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(changes, size, words):
    with pytest.raises(ConfigError, match=words):
        tokenizer(size, **changes)


def test_pictures_too_small_for_the_network_of_features_are_refused_in_words():
    model = tokenizer(8, discriminator=None)
    with pytest.raises(DataError, match="at least 16 x 16"):
        model.loss(batch_of(size=8))


def test_constant_pictures_and_a_batch_of_one_train():
    for count in (1, 3):
        model = tokenizer().train()
        batch = {"image": torch.ones(count, 3, 16, 16), "seed": torch.arange(count)}
        for phase in model.phases():
            losses = model(batch, phase.loss)
            losses.total.backward()
            assert bool(losses.total.isfinite())


def test_health_speaks_of_a_discriminator_that_is_never_wrong_and_of_a_collapsed_codebook():
    model = spread(tokenizer()).train()
    assert model.health() == []
    model.loss(batch_of())
    model._seen["discriminator"] = torch.tensor(0.001)
    assert any("tells every patch" in warning for warning in model.health())
    model._seen |= {"used": torch.tensor(1 / 12), "perplexity": torch.tensor(1.0), "discriminator": torch.tensor(1.0)}
    assert any("codebook has collapsed" in warning for warning in model.health())


# The prior.


@pytest.mark.parametrize("levels", [1, 2])
def test_bits_are_the_probabilities_of_codes_one_by_one(levels):
    """Every code's probability from a forward pass over what comes before it alone, in float64."""
    inside = spread(tokenizer()).bare()
    if levels > 1:
        config = CONFIG.replace(quantizer=ResidualQuantizerConfig(level=CODES, levels=levels), discriminator=None)
        torch.manual_seed(0)
        inside = VQGAN(config, inside.processors)
    model = prior(inside=inside).double().eval()
    image = batch_of(2, dtype=torch.float64)["image"]
    codes = model.codes(image)
    assert codes.shape == (2, 64 * levels) == (2, model.config.network.context_length)
    wanted = torch.zeros(2, dtype=torch.float64)
    with torch.no_grad():
        for row in range(2):
            for place in range(codes.shape[1]):
                read = torch.cat([torch.tensor([12]), codes[row, :place]])
                share = model.network(read[None])[0, -1].softmax(-1)
                wanted[row] -= share[codes[row, place]].log2()
        found = model.rate(image)
        losses = model.loss({"image": image})
    assert torch.allclose(found.double(), wanted, rtol=1e-5)
    assert float(losses.parts["bits"]) == pytest.approx(float(wanted.mean()), rel=1e-5)
    assert float(losses.total) * codes.shape[1] / math.log(2) == pytest.approx(float(wanted.mean()), rel=1e-5)


def test_the_probabilities_of_all_pictures_sum_to_one():
    """Two places and three codes: all nine pictures, enumerated."""
    torch.manual_seed(0)
    network = NETWORK.replace(channels=(8, 8))
    inside = VQGAN(
        CONFIG.replace(network=network, quantizer=CODES.replace(codes=3), discriminator=None),
        {"image": signed_pixels(2, "crop").replace(size=(2, 4))},
    )
    model = prior(inside=inside).double().eval()
    assert model.latent_shape() == (1, 2)
    codes = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    with torch.no_grad():
        bits = model.bits_of(codes, model.logits(codes)).sum(1)
    assert float(torch.exp2(-bits.double()).sum()) == pytest.approx(1, abs=1e-6)
    made = model.continued(torch.empty(20_000, 0, dtype=torch.int64), torch.Generator().manual_seed(0))
    share = (made[:, 0] * 3 + made[:, 1]).bincount(minlength=9) / 20_000
    assert torch.allclose(share.double(), torch.exp2(-bits.double()), atol=0.015), (
        "samples occur as often as they should"
    )


def test_the_tokenizer_inside_stays_as_it_is():
    model = prior().train()
    assert not model.tokenizer.training and not any(p.requires_grad for p in model.tokenizer.parameters())
    before = copy.deepcopy(model.tokenizer.state_dict())
    descend(model, 3)
    assert all(torch.equal(before[k], v) for k, v in model.tokenizer.state_dict().items())
    model.requires_grad_(True)
    assert not any(p.requires_grad for p in model.tokenizer.parameters())


def test_generated_pictures_repeat_with_their_seed_and_are_the_same_two_by_two():
    model = prior().eval()
    first, again, other = (model.generate(3, seed=s) for s in (1, 1, 2))
    assert all(isinstance(p, Image.Image) and p.size == (16, 16) for p in first)
    assert [p.tobytes() for p in first] == [p.tobytes() for p in again] != [p.tobytes() for p in other]
    assert capabilities_of(model) == ("reconstruct", "generate") and model.generates == "image"


def test_what_is_given_stays_and_a_whole_picture_comes_back_as_it_is():
    model = prior(sampling=Sampling(temperature=0)).eval()
    codes, generator = model.codes(batch_of()["image"]), torch.Generator().manual_seed(0)
    made = model.continued(codes[:, :20], generator)
    assert made.shape == codes.shape and torch.equal(made[:, :20], codes[:, :20])
    assert torch.equal(model.continued(codes, generator), codes)
    with torch.no_grad():
        greedy = model.logits(made).argmax(-1)
    assert torch.equal(greedy[:, 20:], made[:, 20:]), "greedy codes are the most probable given those before"


def test_classes_begin_a_sequence_and_some_are_not_told():
    model = prior(labels=LabelProcessor(names=("cat", "dog")), unlabelled=0.5).train()
    assert set(model.needs) == {"image", "label", "seed"} and model.config.network.vocab_size == 12 + 3
    batch = {**batch_of(400, 16), "label": torch.tensor([0, 1] * 200)}
    starts = model._starts(batch)
    assert set(starts.tolist()) == {12, 13, 14} and abs(int((starts == 12).sum()) - 200) < 50
    assert torch.equal(starts, model._starts(batch)), "the batch's seeds decide"
    assert model.eval()._starts(batch).tolist() == [13, 14] * 200
    made = [model.generate(2, prompt=name, seed=0)[0].tobytes() for name in ("cat", "dog")]
    assert made[0] != made[1]
    with pytest.raises(DataError, match="no class 'dogg'; did you mean 'dog'"):
        model.generate(1, prompt="dogg")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"count": 0}, "at least 1"),
        ({"count": 1, "steps": 0}, "at least 1"),
        ({"count": 1, "prompt": "x"}, "no prompt"),
    ],
)
def test_generate_refuses_what_it_cannot_do(arguments, words):
    with pytest.raises(DataError, match=words):
        prior().generate(**arguments)


def test_a_prior_is_saved_with_its_tokenizer_and_loads_as_what_it_is(tmp_path):
    model = prior().eval()
    model.save(tmp_path / "prior")
    again = intermodal.load(tmp_path / "prior")
    assert isinstance(again, CodePrior) and again.config == model.config
    assert not any(p.requires_grad for p in again.tokenizer.parameters())
    assert [p.tobytes() for p in again.generate(2, seed=5)] == [p.tobytes() for p in model.generate(2, seed=5)]
    with torch.no_grad():
        assert torch.equal(again.rate(batch_of()["image"]), model.rate(batch_of()["image"]))
    with pytest.raises(CheckpointError, match="do not fit"):
        VQGAN(CONFIG, {}).save(tmp_path / "other")
        (tmp_path / "other" / "model.safetensors").replace(tmp_path / "prior" / "model.safetensors")
        intermodal.load(tmp_path / "prior")


def test_a_latent_of_real_numbers_has_no_prior_and_wrong_sizes_are_refused():
    vae = VAE(VAEConfig(network=NETWORK), {"image": signed_pixels(16, "crop")})
    with pytest.raises(ConfigError, match="vae is of real numbers"):
        CodePrior.over(vae, TRANSFORMER)
    config = prior().config
    with pytest.raises(ConfigError, match="need a network of"):
        CodePrior(config.replace(network=config.network.replace(context_length=9)), prior().processors)
    with pytest.raises(ConfigError, match="unlabelled"):
        CodePriorConfig(tokenizer=CONFIG, method="vqgan", network=TRANSFORMER, unlabelled=2.0)


def test_the_unigram_is_counting():
    codes = torch.randint(5, (200, 3), generator=torch.Generator().manual_seed(0)).clamp(max=3)
    codes[:, 1] = 4
    model = Unigram(codes, 5)
    model.strength = 10.0
    overall = (codes.flatten().bincount(minlength=5) + 0.5) / (600 + 2.5)
    for place in range(3):
        wanted = (codes[:, place].bincount(minlength=5) + 10 * overall) / 210
        assert torch.allclose(model.probabilities()[place], wanted.double(), atol=1e-6)
    assert torch.allclose(model.probabilities().sum(1), torch.ones(3, dtype=torch.float64))
    assert float(model.bits(codes)[:, 1].mean()) < 0.1
    model.fit(codes)
    assert model.strength == STRENGTHS[0]
    assert (model.sample(50, torch.Generator().manual_seed(1))[:, 1] == 4).float().mean() > 0.9


# The recipes.


def test_the_recipe_of_the_prior_asks_for_a_tokenizer_in_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = get_recipe("vqgan-prior")
    with pytest.raises(ConfigError, match="intermodal train vqgan --run runs/vqgan"):
        recipe.build()
    model = prior()
    model.save(tmp_path / "prior")
    with pytest.raises(ConfigError, match="no tokenizer to learn a prior for"):
        recipe.replace(model__tokenizer=str(tmp_path / "prior")).build()
    with pytest.raises(CheckpointError, match="no model at"):
        recipe.replace(model__tokenizer="./nowhere").build()


def test_it_trains_on_a_person_s_own_folder_and_a_prior_over_its_codes(pictures, tmp_path):
    smaller = {"train__batch_size": 4, "train__steps": 2}
    first = fit(
        get_recipe("vqgan").smoke().on(FolderSource(path=pictures)).replace(**smaller), tmp_path / "a", quiet=True
    )
    assert {"psnr", "usage"} <= set(first.evaluation().metrics)
    recipe = get_recipe("vqgan-prior").smoke().on(FolderSource(path=pictures))
    run = fit(recipe.replace(model__tokenizer=str(first.path), **smaller), tmp_path / "b", quiet=True)
    metrics = run.evaluation().metrics
    assert metrics["bits"] == -metrics["log2_likelihood"] and metrics["uniform_bits"] == 256 * 5
    assert metrics["chance_log2_likelihood"] == -metrics["unigram_bits"]
    model = intermodal.load(run.path)
    assert isinstance(model, CodePrior) and "discriminator" not in str(list(model.state_dict()))
    assert model.generate(1)[0].size == (64, 64)


def test_a_prior_of_classes_trains_and_resumes_with_the_same_losses(tmp_path):
    recipe = get_recipe("vqgan-prior").smoke().replace(model__labels=True, train__steps=4, train__checkpoint_every=2)
    whole = fit(recipe, tmp_path / "whole", evaluate=False, quiet=True)
    part = fit(recipe, tmp_path / "part", evaluate=False, quiet=True)
    newest = part.checkpoints()[-1]
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    resumed = fit(recipe, part.path, evaluate=False, quiet=True)
    losses = [[line["loss"] for line in run.metrics("train")] for run in (whole, resumed)]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    assert isinstance(recipe.source, EmojiSource) and TINY.start == 0

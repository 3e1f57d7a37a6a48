"""DALL-E: a distribution over texts and codes that sums to one, GPT-2's numbers, drawing with a cache, what is kept kept."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import intermodal
from intermodal.core.capabilities import capabilities_of
from intermodal.core.errors import ConfigError, DataError
from intermodal.data.folder import FolderSource
from intermodal.data.pictures import PictureSource
from intermodal.data.processors import TextProcessor, signed_pixels
from intermodal.data.tokenizers import special_ids, train_bpe, train_words
from intermodal.decode.generate import uniform
from intermodal.decode.sampling import Sampling, choose
from intermodal.evaluate import dalle as evaluation
from intermodal.evaluate import prior as counting
from intermodal.hub.gpt2 import key_map
from intermodal.methods.image_generation.dalle import DALLE, DALLEConfig
from intermodal.methods.image_generation.rerank import best
from intermodal.methods.image_tokenizers.dvae import DVAE
from intermodal.methods.image_tokenizers.vae import VAE, VAEConfig
from intermodal.methods.image_tokenizers.vqvae import VQVAE, VQVAEConfig
from intermodal.nn.autoencoder import AutoencoderConfig
from intermodal.nn.causal import CausalConfig
from intermodal.nn.quantizers import ResidualQuantizerConfig, VectorQuantizerConfig
from intermodal.recipes import get_recipe
from intermodal.train.run import fit

NETWORK = AutoencoderConfig(channels=(8, 16, 16), blocks=1, latent_channels=4, groups=4)
LEVEL = VectorQuantizerConfig(codes=12, dim=4, update="loss")
CODES = VQVAEConfig(network=NETWORK, quantizer=LEVEL)
TRANSFORMER = CausalConfig(width=16, depth=2, heads=2)
TEXTS = ["a red square", "a green square", "the blue circle"]
GREEDY = Sampling(temperature=0)


def words(length: int = 6, texts: list[str] = TEXTS, kind=train_words, size: int = 300) -> TextProcessor:
    tokenizer = kind(texts, size)
    pad, eos = special_ids(tokenizer)
    return TextProcessor(tokenizer, context_length=length, eos_id=eos, pad_id=pad)


def codes_tokenizer(config: VQVAEConfig = CODES, size: tuple[int, int] = (16, 12)) -> VQVAE:
    torch.manual_seed(0)
    return VQVAE(config, {"image": signed_pixels(16, "crop").replace(size=size)})


def model_of(tokenizer=None, text: TextProcessor | None = None, **settings) -> DALLE:
    torch.manual_seed(1)
    found = DALLE.over(tokenizer or codes_tokenizer(), text or words(), TRANSFORMER, **settings)
    with torch.no_grad():
        for parameter in found.network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return found.eval()


def batch_of(model: DALLE, count: int = 4, dtype: torch.dtype = torch.float32):
    image = torch.rand(count, 3, *model.picture.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    texts = [TEXTS[i % 3] for i in range(count)]
    return {"image": (image * 2 - 1).to(dtype), "text": model.text(texts), "seed": torch.arange(count)}


def some_codes(model: DALLE, count: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.codebook_size, (count, model.length), generator=generator)


def noise(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def pictures(count: int = 2) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (20, 17, 3), dtype=np.uint8)) for _ in range(count)]


# The distribution.


def tiny() -> DALLE:
    """Three tokens of texts, three places of a text, three codes, two places of a picture."""
    inside = codes_tokenizer(CODES.replace(network=NETWORK.replace(channels=(8, 8)), quantizer__codes=3), (2, 4))
    return model_of(inside, words(3, ["a"])).double()


@torch.no_grad()
def test_the_probabilities_of_all_texts_with_all_pictures_sum_to_one():
    model = tiny()
    assert model.latent_shape() == (1, 2) and model.text.vocab_size == 3
    begin, end = special_ids(model.text.tokenizer)
    # A text begins with its first token and ends with the last, or where there is no more place.
    texts = [(begin, end, begin)] + [(begin, a, b) for a in (0, 1, 2) if a != end for b in (0, 1, 2)]
    codes = torch.tensor(list(itertools.product(range(3), repeat=2)))
    total = 0.0
    for text in texts:
        text_BT = torch.tensor([text]).expand(len(codes), -1)
        given = torch.exp2(-model.bits_of(codes, model.logits(codes, text_BT)).double().sum(1))
        assert float(given.sum()) == pytest.approx(1, abs=1e-6), "and those of all pictures of one text"
        total += float((given * torch.exp2(-model.text_bits(text_BT).double())).sum())
    assert total == pytest.approx(1, abs=1e-6)


@torch.no_grad()
def test_what_is_drawn_occurs_as_often_as_it_should():
    model = tiny()
    text = model.text(["a"])
    codes = torch.tensor(list(itertools.product(range(3), repeat=2)))
    wanted = torch.exp2(-model.bits_of(codes, model.logits(codes, text.expand(9, -1))).double().sum(1))
    made = model.continued(torch.empty(6000, 0, dtype=torch.int64), text.expand(6000, -1), noise(*range(6000)))
    assert torch.allclose((made[:, 0] * 3 + made[:, 1]).bincount(minlength=9).double() / 6000, wanted, atol=0.025)


@torch.no_grad()
def test_no_code_sees_what_comes_after_it_and_no_text_sees_the_picture():
    model = model_of().double()
    codes, text = some_codes(model), model.text(TEXTS)
    before = model.network.both_logits(model.sequence(text), codes)
    for place in (0, 5, model.length - 1):
        changed = codes.clone()
        changed[:, place] = (changed[:, place] + 1) % 12
        after = model.network.both_logits(model.sequence(text), changed)
        assert torch.equal(before[0], after[0])
        assert torch.allclose(before[1][:, : place + 1], after[1][:, : place + 1], atol=1e-12)
        assert place == model.length - 1 or not torch.allclose(before[1][:, place + 1 :], after[1][:, place + 1 :])


def test_tokens_of_texts_codes_and_what_stands_behind_a_text_are_all_different():
    model = model_of(text=words(9))
    text = model.text(["a red square", "", "square " * 20])
    read = model.sequence(text)
    codes, vocabulary = 12, model.text.vocab_size
    ended = model.ended(text)
    assert ended.sum(1).tolist() == [4, 7, 0] and text[2, -1] == model.text.eos_id
    assert bool((read[~ended] - codes == text[~ended]).all())
    assert read[0, 5:].tolist() == [codes + vocabulary + place for place in (5, 6, 7, 8)], "another one for each place"
    assert int(read.min()) >= codes and int(read.max()) < model.config.network.vocab_size


# Equal to GPT-2, and the loss.


@pytest.mark.parametrize("levels", [1, 2])
def test_text_and_code_logits_are_those_of_a_gpt2(levels):
    """Its positions are the text's, then the sums of a row's, a column's (and a level's) vector; its loss is ours."""
    transformers = pytest.importorskip("transformers")
    quantizer = LEVEL if levels == 1 else ResidualQuantizerConfig(level=LEVEL, levels=levels)
    model = model_of(codes_tokenizer(CODES.replace(quantizer=quantizer))).double()
    network, length = model.network, model.text.context_length
    assert model.latent_shape() == ((4, 3) if levels == 1 else (4, 3, 2))
    config = transformers.GPT2Config(
        vocab_size=network.config.vocab_size,
        n_positions=network.config.context_length,
        n_embd=16,
        n_layer=2,
        n_head=2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=False,
    )
    theirs = transformers.GPT2LMHeadModel(config).double().eval()
    ours = {k: v.detach() for k, v in network.state_dict().items() if not k.startswith(("axis_embeddings", "head"))}
    axes = [table.detach() for table in network.axis_embeddings]
    places = [sum(axes[k][i] for k, i in enumerate(place)) for place in np.ndindex(*model.latent_shape())]
    ours["position_embedding"] = torch.cat([network.position_embedding.detach(), torch.stack(places)])[:-1]
    head = torch.zeros(network.config.vocab_size, 16, dtype=torch.float64)
    head[: network.config.outputs] = network.head.weight.detach()
    theirs.load_state_dict({**key_map().to_published(ours), "lm_head.weight": head}, strict=True)

    batch = batch_of(model, dtype=torch.float64)
    codes, text = model.codes(batch["image"]), batch["text"]
    assert len(codes.unique()) > 2
    read = torch.cat([model.sequence(text), codes[:, :-1]], 1)
    logits = theirs(read).logits
    found = network.both_logits(model.sequence(text), codes)
    wanted = logits[:, : length - 1, 12 : 12 + model.text.vocab_size], logits[:, length - 1 :, :12]
    for ours_BLV, theirs_BLV in zip(found, wanted, strict=True):
        assert torch.allclose(ours_BLV, theirs_BLV, rtol=0, atol=1e-10)

    spoken = ~model.ended(text)[:, 1:]
    nats = [
        F.cross_entropy(wanted[0][spoken], text[:, 1:][spoken]),
        F.cross_entropy(wanted[1].flatten(0, 1), codes.flatten()),
    ]
    total = nats[0] / 8 + nats[1] * 7 / 8
    losses = model.loss(batch)
    assert float(losses.total.detach()) == pytest.approx(float(total.detach()), rel=1e-6)
    assert float(losses.parts["bits"]) == pytest.approx(float(nats[1].detach()) * model.length / math.log(2), rel=1e-6)
    words_each = float(spoken.sum()) / len(text)
    assert float(losses.parts["text_bits"]) == pytest.approx(
        float(nats[0].detach()) * words_each / math.log(2), rel=1e-6
    )
    losses.total.backward()
    total.backward()
    gradients = key_map().to_ours({k: p.grad for k, p in theirs.named_parameters()})
    for name in ("token_embedding.weight", "final_norm.weight", "transformer.blocks.0.attention.qkv.weight"):
        assert torch.allclose(dict(network.named_parameters())[name].grad, gradients[name], rtol=1e-5, atol=1e-8), name
    rows = gradients["position_embedding"][length:]  # the first code is predicted by the text's last place
    shape = model.latent_shape()
    padded = torch.cat([rows, rows.new_zeros(math.prod(shape) - len(rows), 16)]).view(*shape, 16)
    for axis, table in enumerate(network.axis_embeddings):
        others = [k for k in range(len(shape)) if k != axis]
        assert torch.allclose(table.grad, padded.sum(others), rtol=1e-5, atol=1e-8)


def test_texts_are_left_out_by_the_batch_s_seeds_and_then_cost_nothing():
    model = model_of(untold=0.5).train()
    batch = batch_of(model, 200)
    first, again = model.loss(batch), model.loss(batch)
    assert torch.equal(first.total, again.total)
    told = model.eval().loss(batch)
    assert not torch.equal(first.total, told.total)
    none = model_of(untold=1.0).train()
    losses = none.loss(batch)
    assert float(losses.parts["text_bits"]) == 0
    other = {**batch, "text": none.text(["green"] * 200)}
    assert torch.equal(none.loss(other).total, losses.total), "not told is not told"
    losses.total.backward()
    assert bool(losses.total.isfinite())


def test_the_tokenizer_inside_stays_as_it_is():
    model = model_of().train()
    assert not model.tokenizer.training and not any(p.requires_grad for p in model.tokenizer.parameters())
    model.requires_grad_(True)
    assert not any(p.requires_grad for p in model.tokenizer.parameters())
    assert model.train_flops(2) > 0


# Drawing.


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 3.0, 0.0])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(temperature=0.8, top_k=5, top_p=0.9)])
def test_drawing_with_a_cache_is_drawing_by_full_passes(guidance, sampling):
    """Each code from the logits of whole passes over all that stands before it, the extrapolation written out."""
    model = model_of().double()
    text, nothing = model.text(TEXTS), model.text(["", "", ""])
    made = model.continued(
        torch.empty(3, 0, dtype=torch.int64), text, noise(3, 4, 5), sampling=sampling, guidance=guidance
    )
    drawn = uniform(3, model.length, noise(3, 4, 5))
    codes = torch.zeros(3, model.length, dtype=torch.int64)
    for place in range(model.length):
        told, untold = (model.logits(codes, t)[:, place] for t in (text, nothing))
        codes[:, place] = choose(untold + guidance * (told - untold), sampling, drawn[:, place])
    assert torch.equal(made, codes) and int(made.max()) < model.codebook_size
    assert (len({tuple(row) for row in made.tolist()}) == 1) == (guidance == 0 and sampling == GREEDY)


@torch.no_grad()
def test_of_no_text_guidance_makes_nothing_of_it():
    model = model_of().double()
    nothing, start = model.text([""] * 2), torch.empty(2, 0, dtype=torch.int64)
    plain, guided = (model.continued(start, nothing, noise(0, 1), guidance=scale) for scale in (1.0, 5.0))
    assert torch.equal(plain, guided)


@torch.no_grad()
def test_a_picture_does_not_depend_on_those_drawn_with_it():
    model = model_of().double()
    together = model.continued(torch.empty(3, 0, dtype=torch.int64), model.text(TEXTS), noise(7, 8, 9), guidance=2.0)
    alone = [
        model.continued(torch.empty(1, 0, dtype=torch.int64), model.text([text]), noise(seed), guidance=2.0)
        for text, seed in zip(TEXTS, (7, 8, 9), strict=True)
    ]
    assert torch.equal(together, torch.cat(alone))
    with pytest.raises(ValueError, match="one generator or as many"):
        model.continued(torch.empty(3, 0, dtype=torch.int64), model.text(TEXTS), noise(7, 8))


def test_generated_pictures_have_a_seed_each():
    model = model_of()
    made = model.generate(3, prompt="a red square", seed=5)
    assert all(isinstance(p, Image.Image) and p.size == (12, 16) for p in made)
    again = model.drawn(["a red square"] * 2, [6, 7])
    assert [p.tobytes() for p in made[1:]] == [p.tobytes() for p in again]
    assert [p.tobytes() for p in made] == [p.tobytes() for p in model.candidates(3, "a red square", 5)]
    assert len({p.tobytes() for p in made}) == 3
    nothing = [[p.tobytes() for p in model.generate(2, prompt=prompt)] for prompt in (None, "", "unheard")]
    assert nothing[0] == nothing[1] == nothing[2] != [p.tobytes() for p in model.generate(2, prompt="a green square")]
    guided, plain = (model.candidates(2, "a red square", guidance=scale) for scale in (6.0, None))
    assert [p.tobytes() for p in guided] != [p.tobytes() for p in plain]
    assert capabilities_of(model) == ("reconstruct", "generate", "complete") and model.takes_prompt


@pytest.mark.parametrize(("keep", "rows"), [(0.0, 0), (0.3, 1), (0.5, 2), (0.8, 3), (1.0, 4)])
def test_what_is_given_is_kept_exactly(keep, rows, monkeypatch):
    model, images = model_of(), pictures(3)
    seen = []
    monkeypatch.setattr(model, "pictures", lambda codes_BL: seen.append(codes_BL) or [None] * len(codes_BL))
    model.complete(images, keep, prompt=TEXTS, seed=4)
    codes, given = torch.cat(seen).unflatten(1, (4, 3)), torch.from_numpy(model.encode(images))
    assert torch.equal(codes[:, :rows], given[:, :rows])
    if rows < 4:
        assert not torch.equal(codes[:, rows:], given[:, rows:])


def test_completed_pictures_are_pictures_and_repeat_with_their_seeds():
    model, images = model_of(), pictures(2)
    first, again, other = (model.complete(images, prompt="a red square", seed=s) for s in (1, 1, 2))
    assert [p.tobytes() for p in first] == [p.tobytes() for p in again] != [p.tobytes() for p in other]
    assert model.complete(images[1:], seed=2)[0].tobytes() == model.complete(images, seed=1)[1].tobytes()
    whole = model.complete(images, keep=1)
    assert [p.tobytes() for p in whole] == [p.tobytes() for p in model.decode(model.encode(images))]
    assert model.complete([]) == []


class Dark:
    """Finds dark pictures most like any text."""

    modalities = ("image", "text")

    def embed(self, modality, inputs):
        if modality == "text":
            return np.ones((len(inputs), 1), np.float32)
        return np.array([[-np.asarray(image).mean()] for image in inputs], np.float32)


def test_reranking_keeps_the_best_of_more_candidates():
    model = model_of()
    kept = model.generate(2, prompt="a red square", seed=3, rerank=Dark(), candidates=4)
    drawn = model.candidates(8, "a red square", 3)
    order = sorted(range(8), key=lambda i: np.asarray(drawn[i]).mean())
    assert [p.tobytes() for p in kept] == [drawn[i].tobytes() for i in order[:2]]
    chosen, cosine = best(drawn, "a red square", 3, Dark())
    assert chosen == order[:3] and cosine.shape == (8,)


def test_a_trained_judge_is_a_clip(small_clip):
    assert len(model_of().generate(1, prompt="a red square", rerank=small_clip, candidates=3)) == 1


@pytest.mark.parametrize(
    ("call", "error", "about"),
    [
        (lambda m: m.generate(0), DataError, "at least 1"),
        (lambda m: m.generate(1, steps=0), DataError, "at least 1"),
        (lambda m: m.generate(1, prompt="word " * 10_000), DataError, "at most 10,000 characters"),
        (lambda m: m.generate(1, seed=-1), DataError, "seeds of at least 0"),
        (lambda m: m.drawn(["a", "b"], [1]), DataError, "2 prompts need as many seeds"),
        (lambda m: m.candidates(1, "a", guidance=math.nan), ConfigError, "finite"),
        (lambda m: m.complete(pictures(), keep=1.5), DataError, "from 0 to 1"),
        (lambda m: m.complete(pictures(), keep=math.nan), DataError, "from 0 to 1"),
        (lambda m: m.complete(pictures(), prompt=["a"] * 3), DataError, "one prompt or as many, found 3"),
        (lambda m: m.generate(1, prompt="a", rerank=m), ConfigError, "cannot choose among pictures"),
        (lambda m: m.generate(1, rerank=Dark()), DataError, "how well they show a prompt"),
        (lambda m: m.generate(1, prompt="a", rerank=Dark(), candidates=0), DataError, "at least 1 for each"),
        (lambda m: best(pictures(), "a", 3, Dark()), DataError, "best 3 of 2"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(call, error, about):
    with pytest.raises(error, match=about):
        call(model_of())


def test_long_texts_and_unknown_characters_are_read_as_far_as_they_go():
    for kind, size in ((train_words, 300), (train_bpe, 300)):
        model = model_of(text=words(8, kind=kind, size=size))
        for prompt in ("square " * 1400, "\u2603 \U0001f34e", "ünïcödé", "\x00\ud7ff"):
            assert model.generate(1, prompt=prompt)[0].size == (12, 16)


# Tokenizers, files, sizes.


@pytest.mark.parametrize(
    "quantizer", [LEVEL, ResidualQuantizerConfig(level=LEVEL, levels=3)], ids=["one code", "three codes"]
)
def test_it_is_saved_with_its_tokenizer_and_draws_the_same_when_loaded(quantizer, tmp_path):
    model = model_of(codes_tokenizer(CODES.replace(quantizer=quantizer)), guidance=1.5)
    model.save(tmp_path / "model")
    again = intermodal.load(tmp_path / "model")
    assert isinstance(again, DALLE) and again.config == model.config and again.text == model.text
    assert not any(p.requires_grad for p in again.tokenizer.parameters())
    made = [[p.tobytes() for p in m.generate(2, prompt="a red square", seed=5)] for m in (model, again)]
    assert made[0] == made[1]
    batch = batch_of(model)
    with torch.no_grad():
        assert torch.equal(model.loss(batch).total, again.loss(batch).total)


def test_a_dvae_will_do_and_a_vae_is_refused_in_words():
    dvae = get_recipe("dvae").smoke().build()
    assert isinstance(dvae, DVAE)
    assert model_of(dvae).generate(1, prompt="a red square")[0].size == dvae.picture.size
    vae = VAE(VAEConfig(network=NETWORK), {"image": signed_pixels(16, "crop")})
    with pytest.raises(ConfigError, match="vae is of real numbers"):
        DALLE.over(vae, words(), TRANSFORMER)


def test_sizes_and_numbers_that_do_not_fit_are_refused_in_words():
    model = model_of()
    config = model.config
    with pytest.raises(ConfigError, match="need a network of"):
        DALLE(config.replace(network=config.network.replace(context_length=9)), model.processors)
    for changes in ({"text_weight": 1.0}, {"untold": -0.1}, {"guidance": math.inf}):
        with pytest.raises(ConfigError, match="DALL-E|finite"):
            config.replace(**changes)
    assert isinstance(config, DALLEConfig)


def test_constant_pictures_one_pixel_and_empty_texts_train():
    model = model_of().train()
    image = model.picture([Image.new("L", (1, 1), 9), Image.new("RGBA", (30, 2))])
    batch = {"image": image, "text": model.text(["", ""]), "seed": torch.arange(2)}
    losses = model.loss(batch)
    losses.total.backward()
    assert bool(losses.total.isfinite())


def test_health_speaks_of_texts_that_say_nothing_and_of_codes_that_are_never_expected():
    model = model_of().train()
    assert model.health() == []
    model.loss(batch_of(model, 20))
    with torch.no_grad():
        model.network.head.weight[:12] = 0
    assert any("texts say nothing" in warning for warning in model.health()), "bits with and without are the same"
    with torch.no_grad():
        model.network.final_norm.bias.fill_(1.0)
        model.network.final_norm.weight.zero_()
        model.network.head.weight[0] = 5.0
    model._seen = model._seen[0], torch.arange(192).view(16, 12) % 12
    assert any("expects about 1 codes where about 12 occur" in warning for warning in model.health())
    assert model.training


def test_health_is_content_where_texts_decide():
    model = model_of(untold=0.3).train()
    batch = batch_of(model, 12)
    number = torch.arange(12) % 3
    model.codes = lambda image: number.unsqueeze(1).expand(-1, model.length)
    optimizer = torch.optim.AdamW(model.network.parameters(), lr=0.01)
    for step in range(40):
        model.loss({**batch, "seed": torch.arange(12) + 12 * step}).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert model.health() == []
    with torch.no_grad():
        told = model.eval().loss(batch).parts
    assert float(told["bits"]) < 6 and float(told["right"]) > 0.9


# The recipe and its evaluation.


def test_the_recipe_asks_for_a_tokenizer_and_texts_in_words(tmp_path, monkeypatch, pictures):
    monkeypatch.chdir(tmp_path)
    recipe = get_recipe("dalle")
    with pytest.raises(ConfigError, match="intermodal train vqgan --run runs/vqgan"):
        recipe.build()
    model_of().save(tmp_path / "dalle")
    with pytest.raises(ConfigError, match="no tokenizer"):
        recipe.replace(model__tokenizer=str(tmp_path / "dalle")).build()
    with pytest.raises(DataError, match="draws from texts"):
        recipe.smoke().on(PictureSource(path=pictures)).build()
    for file in pictures.glob("*.txt"):
        file.unlink()
    with pytest.raises(DataError):
        recipe.smoke().on(FolderSource(path=pictures)).build()


def test_it_trains_on_a_person_s_own_folder_and_is_judged(pictures, tmp_path):
    recipe = get_recipe("dalle").smoke().on(FolderSource(path=pictures)).replace(train__batch_size=4, train__steps=2)
    run = fit(recipe, tmp_path / "a", quiet=True)
    metrics = run.evaluation().metrics
    assert metrics["log2_likelihood"] == -metrics["bits"] and metrics["uniform_bits"] == 16 * 5
    assert {"untold_bits", "unigram_bits", "text_bits", "novelty"} <= set(metrics)
    model = intermodal.load(run.path)
    assert isinstance(model, DALLE) and len(model.generate(1, prompt="a red square")) == 1


@pytest.fixture
def trained(monkeypatch):
    for name, value in (("PICTURES", 20), ("QUICK", 10), ("COUNTED", 60), ("CHUNK", 7)):
        monkeypatch.setattr(evaluation, name, value)
        monkeypatch.setattr(counting, name, value)
    recipe = get_recipe("dalle").smoke()
    return recipe, recipe.build().eval()


@torch.no_grad()
def test_figures_are_those_of_the_model_and_of_counting(trained):
    recipe, model = trained
    metrics, panels = evaluation.judge_codes(model, recipe.source, "test", lambda what, done: None)
    source = recipe.source.open("test")
    samples = [source.sample(i) for i in evaluation.spread_out(len(source), 20)]
    images, texts = [s["image"] for s in samples], [s["text"] for s in samples]
    assert metrics["untold_bits"] == pytest.approx(float(model.bits(images).mean()), rel=1e-5)
    losses = model.loss({"image": model.picture(images), "text": model.text(texts), "seed": torch.arange(20)})
    assert metrics["bits"] == pytest.approx(float(losses.parts["bits"]), rel=1e-5)
    assert metrics["text_bits"] == pytest.approx(float(losses.parts["text_bits"]), rel=1e-5)
    assert metrics["bits_per_pixel"] == pytest.approx(metrics["bits"] / 16**2)
    assert 0 <= metrics["right_text"] <= 1 and next(iter(metrics)) == "log2_likelihood"
    titles = [panel.title for panel in panels]
    assert titles == ["Bits of a picture", "Bits by place", "The upper half given"]
    assert "bits" in evaluation.headline(metrics).figure


@torch.no_grad()
def test_wrong_texts_are_wrong(trained):
    _, model = trained
    codes = some_codes(model, 5)
    right = evaluation.code_bits(model, codes, ["cat", "cat", "dog", "cat", "cat"]).sum(1)
    found = evaluation.wrong_texts(model, codes, ["cat", "cat", "dog", "cat", "cat"], right)
    wrong = evaluation.code_bits(model, codes, ["dog", "dog", "cat", "dog", "dog"]).sum(1)
    assert found["wrong_bits"] == pytest.approx(float(wrong.mean()))
    assert found["right_text"] == pytest.approx(float((right < wrong).double().mean()))
    assert evaluation.wrong_texts(model, codes, ["cat"] * 5, right) == {}

"""Noise-contrastive estimation: known normalisers, the softmax limit, what is written and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from intermodal.core.errors import ConfigError, DataError
from intermodal.data.densities import DensitySource, density
from intermodal.data.folder import FolderSource
from intermodal.data.processors import TextProcessor
from intermodal.data.text import TextSource
from intermodal.data.tokenizers import special_ids, train_word_level
from intermodal.evaluate.normaliser import fit_gaussian
from intermodal.methods.contrastive.nce import NCE, NCEConfig
from intermodal.nn.energy import MLPEnergyConfig
from intermodal.nn.language import WordModelConfig
from intermodal.recipes import get_recipe
from intermodal.train.run import fit

TEXTS = ["the cat sat on the mat .", "the dog sat on the cat .", "a mat is on the dog , the cat 's dog ."]


def writer(objective="nce", noise_samples=5, hidden=8, dtype=torch.float32) -> NCE:
    tokenizer = train_word_level(TEXTS, 50)
    pad, eos = special_ids(tokenizer)
    text = TextProcessor(tokenizer, context_length=16, eos_id=eos, pad_id=pad)
    torch.manual_seed(0)
    network = WordModelConfig(vocab_size=text.vocab_size, context=2, width=6, hidden=hidden, pad_id=pad)
    method = NCE(NCEConfig(network=network, objective=objective, noise_samples=noise_samples), {"text": text})
    ids = np.concatenate([tokenizer.encode(t).ids[1:] for t in TEXTS])
    method.set_noise(torch.from_numpy(np.bincount(ids, minlength=text.vocab_size)))
    return method.to(dtype)


def batch_of(method: NCE, texts=TEXTS) -> dict[str, torch.Tensor]:
    return {"text": method.processors["text"](texts), "seed": torch.arange(len(texts))}


def gradients(method: NCE, batch) -> dict[str, torch.Tensor]:
    method.zero_grad()
    method.loss(batch).total.backward()
    return {n: p.grad.clone() for n, p in method.named_parameters() if p.grad is not None}


@pytest.mark.filterwarnings("ignore:Converting a tensor")
def test_as_noise_grows_the_gradient_becomes_that_of_the_likelihood(monkeypatch):
    """With the noise's expectation exact (each word as often as its probability says) the difference falls as 1 / k."""
    difference = {}
    for rounds in (1, 10, 100):
        method = writer(dtype=torch.float64)
        counts = torch.arange(1, len(method.log_noise) + 1)
        counts[method.network.config.pad_id] = 0
        method.log_noise = (counts / counts.sum()).clamp(min=1e-300).double().log()
        with torch.no_grad():  # one distribution at every place, normalised: what NCE's normaliser of one means
            nn.init.zeros_(method.network.before.weight)
            method.network.mix.bias.normal_(generator=torch.Generator().manual_seed(1))
            batch = batch_of(method)
            _, normaliser, _ = method.log_probabilities(batch["text"])
            method.network.bias -= normaliser[0]
            assert method.log_probabilities(batch["text"])[1].abs().max() < 1e-6
        words = torch.repeat_interleave(torch.arange(len(counts)), counts * rounds)
        monkeypatch.setattr(method, "draw_words", lambda texts, generator, words=words: words.repeat(texts, 1))
        found = gradients(method, batch)
        softmax = NCE(method.config.replace(objective="softmax"), method.processors).double()
        softmax.load_state_dict(method.state_dict())
        exact = gradients(softmax, batch)
        assert set(found) == set(exact)
        scale = max(float(g.abs().max()) for g in exact.values())
        difference[rounds] = max(float((found[n] - exact[n]).abs().max()) for n in exact) / scale
    assert difference[1] > 1e-3, "the noise of one round is far from the limit"
    assert difference[10] == pytest.approx(difference[1] / 10, rel=0.25)
    assert difference[100] == pytest.approx(difference[10] / 10, rel=0.1)


def test_the_loss_is_the_classification_written_out():
    """Word by word, in float64: -log h(word) - sum over the text's noise of log(1 - h(noise))."""
    method = writer(noise_samples=4, dtype=torch.float64)
    batch = batch_of(method)
    with torch.no_grad():
        found = method.loss(batch).total.item()
    from intermodal.methods.base import generator_of

    words = method.draw_words(len(TEXTS), generator_of(batch))
    noise, network, total, count = method.log_noise, method.network, 0.0, 0
    with torch.no_grad():
        for row, drawn in zip(batch["text"].tolist(), words.tolist(), strict=True):
            for place in range(1, len(row)):
                if row[place] == network.config.pad_id:
                    continue
                context = [network.config.pad_id, row[0]] if place == 1 else row[place - 2 : place]
                hidden = network.mix(network.before(torch.tensor(context)).flatten())
                state = network.hidden(nn.functional.silu(hidden))

                def logit(word, state=state):
                    score = float(network.words.weight[word] @ state + network.bias[word])
                    return score - float(noise[word]) - math.log(4)

                total -= math.log(1 / (1 + math.exp(-logit(row[place]))))
                total -= sum(math.log(1 - 1 / (1 + math.exp(-logit(w)))) for w in drawn)
                count += 1
    assert found == pytest.approx(total / count, rel=1e-9)


def test_noise_words_come_as_often_as_the_noise_says_and_never_the_padding():
    method = writer(noise_samples=20_000)
    drawn = method.draw_words(2, torch.Generator().manual_seed(0)).flatten()
    shares = torch.bincount(drawn, minlength=len(method.log_noise)) / len(drawn)
    expected = method.log_noise.exp()
    assert shares[method.network.config.pad_id] == 0
    assert ((shares - expected).abs() < 5 * (expected / len(drawn)).sqrt() + 1e-9).all()


def test_before_training_it_is_the_unigram_model_and_nearly_normalised():
    method = writer().eval()
    with torch.no_grad():
        nn.init.zeros_(method.network.words.weight)
        chosen, normaliser, _ = method.log_probabilities(batch_of(method)["text"])
    assert normaliser.abs().max() < 1e-5
    ids = [i for t in TEXTS for i in method.processors["text"].tokenizer.encode(t).ids[1:]]
    torch.testing.assert_close(chosen, method.log_noise[ids], atol=1e-5, rtol=0)


def test_probabilities_sum_to_one_over_the_vocabulary():
    method = writer(hidden=0, dtype=torch.float64).eval()
    tokens = batch_of(method)["text"][:1]
    length = int((tokens != method.network.config.pad_id).sum()) + 1
    with torch.no_grad():
        total = 0.0
        for word in range(method.network.config.vocab_size):
            if word == method.network.config.pad_id:
                continue
            changed = tokens[:, :length].clone()
            changed[0, 3] = word
            total += float(method.log_probabilities(changed)[0][2].exp())
        state = method.network(tokens[:, :3])[0, -1]
        padding = method.network.logits(state[None]).float().softmax(1)[0, method.network.config.pad_id]
    assert total + float(padding) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", ["gaussian-1d", "gaussian"])
def test_a_known_normaliser_comes_out_right(kind):
    """10,000 samples, k = 5: the log normaliser to 0.05 nats, the precision matrix to a few per cent."""
    truth = density(kind)
    rng = np.random.default_rng(0)
    learnt, method = fit_gaussian(truth.sample(10_000, rng), 5, rng)
    assert learnt == pytest.approx(truth.log_normaliser, abs=0.05)
    factor = method.network.factor.detach().tril()
    np.testing.assert_allclose((factor @ factor.T).numpy(), truth.precision, atol=0.1 * np.abs(truth.precision).max())


@pytest.mark.filterwarnings("ignore:Converting a tensor")
def test_an_untruthful_normaliser_is_pulled_back():
    truth = density("gaussian")
    rng = np.random.default_rng(1)
    learnt, method = fit_gaussian(truth.sample(5000, rng), 5, rng)
    points = torch.from_numpy(truth.sample(5000, rng)).float()
    method.float()
    for offset in (1.0, -1.0):
        with torch.no_grad():
            method.log_normaliser.fill_(learnt + offset)
        method.zero_grad()
        method.loss({"point": points, "seed": torch.tensor([0])}).total.backward()
        assert np.sign(float(method.log_normaliser.grad)) == np.sign(offset)


def test_points_are_generated_from_the_learnt_density():
    truth = density("gaussian")
    rng = np.random.default_rng(0)
    _, method = fit_gaussian(truth.sample(5000, rng), 5, rng)
    found = np.array(method.float().generate(2000, seed=0))
    np.testing.assert_allclose(found.mean(0), truth.mean[0], atol=0.1)
    np.testing.assert_allclose(np.cov(found.T), np.linalg.inv(truth.precision), atol=0.12)
    assert method.generates == "point"
    with pytest.raises(DataError, match="'up'"):
        method.generate(1, prompt="up")


def test_texts_go_on_from_a_prompt_and_repeat_with_their_seed():
    method = writer().eval()
    first, again, other = (method.generate(3, prompt="The cat", seed=s, steps=5) for s in (1, 1, 2))
    assert first == again != other
    assert all(text.startswith("the cat") and "<unk>" not in text for text in first)
    assert all(len(text.split()) <= 7 for text in first)
    assert len(method.generate(2)) == 2
    for bad in ({"count": 0}, {"count": 1, "steps": 0}):
        with pytest.raises(DataError, match="at least 1"):
            method.generate(**bad)


def test_health_tells_of_scores_that_are_far_from_normalised():
    method = writer()
    method.loss(batch_of(method))
    assert method.health() == []
    method._seen = {"log_normaliser": torch.tensor(6.0)}
    assert "e^6.0" in method.health()[0]


def test_bad_configurations_and_batches_are_refused():
    words = WordModelConfig(vocab_size=9)
    for make, sentence in (
        (lambda: NCEConfig(network=words, noise_samples=0), "at least 1"),
        (lambda: NCEConfig(network=MLPEnergyConfig(), objective="softmax"), "softmax objective is for words"),
        (lambda: NCEConfig(network=MLPEnergyConfig(), noise_mean=(0.0,), noise_std=(1.0, 1.0)), "2 numbers each"),
        (lambda: NCEConfig(network=MLPEnergyConfig(), noise_mean=(0.0, 0.0), noise_std=(1.0, 0.0)), "above 0"),
        (lambda: WordModelConfig(vocab_size=9, pad_id=9), "pad_id 9"),
        (lambda: WordModelConfig(vocab_size=0), "at least 1"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            make()
    method = writer()
    empty = torch.full((1, 16), method.network.config.pad_id)
    with pytest.raises(DataError, match="holds a word"):
        method.loss({"text": empty, "seed": torch.zeros(1, dtype=torch.int64)})
    assert torch.isfinite(method.loss(batch_of(method, TEXTS[:1])).total)
    with pytest.raises(DataError, match="no word to count"):
        method.set_noise(torch.zeros(9))


def test_a_corpus_of_one_word_or_none_is_a_sentence(tmp_path):
    recipe = get_recipe("nce").smoke()
    file = tmp_path / "text.txt"
    for content, words in (("", "nothing to read"), ("yes yes yes " * 50, "only 'yes'")):
        file.write_text(content)
        with pytest.raises(DataError, match=words):
            fit(recipe.on(TextSource(path=file)), tmp_path / "run", quiet=True)
    with pytest.raises(DataError, match="nce learns from texts"):
        recipe.on(DensitySource())
    with pytest.raises(DataError, match="nce-density from points"):
        get_recipe("nce-density").on(FolderSource(path=tmp_path))


def test_a_person_s_own_text_file_trains_with_one_call(tmp_path):
    file = tmp_path / "book.txt"
    file.write_text("\n\n".join(f"The cat number {i} sat on the mat. It was happy there." for i in range(200)))
    recipe = get_recipe("nce").smoke().on(TextSource(path=file, unit="sentence"))
    metrics = fit(recipe, tmp_path / "run", quiet=True).evaluation().metrics
    assert metrics["perplexity"] > 1 and metrics["bigram_perplexity"] < metrics["chance_perplexity"]


def test_the_density_recipe_states_its_normaliser(tmp_path):
    run = fit(get_recipe("nce-density").smoke(), tmp_path / "run", quiet=True)
    metrics = run.evaluation().metrics
    assert metrics["normaliser_error"] >= 0 and {"kl", "chance_kl", "gaussian_error_100"} <= set(metrics)
    assert {"Gallery", "Lines", "Table"} <= {type(p).__name__ for p in run.evaluation().panels}

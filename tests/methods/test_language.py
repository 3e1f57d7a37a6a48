"""The language decoder: its loss, what it writes, its recipe and its evaluation; sentences and their tokens."""

import math

import pytest
import torch
from torch.nn import functional as F

from intermodal.core.errors import ConfigError, DataError
from intermodal.data.processors import Processor
from intermodal.data.sentences import SentenceProcessor
from intermodal.data.tokenizers import special_ids, train_bpe
from intermodal.decode import rules
from intermodal.decode.sampling import Sampling
from intermodal.evaluate.language_decoder import evaluate_language_decoder
from intermodal.methods.captioning.language import LanguageConfig, LanguageDecoder, check_language
from intermodal.nn.causal import CausalConfig
from intermodal.recipes import get_recipe

TEXTS = ["The old man goes to the sea.", "A small boat, and nobody in it!", "Rain"]


@pytest.fixture
def processor():
    tokenizer = train_bpe([t.lower() for t in TEXTS * 3], 290)
    bos, eos = special_ids(tokenizer)
    return SentenceProcessor(tokenizer, context_length=24, eos_id=eos, pad_id=bos, bos_id=bos, lower=True)


@pytest.fixture
def decoder(processor):
    torch.manual_seed(0)
    network = CausalConfig(vocab_size=290, context_length=24, width=16, depth=1, heads=2)
    return LanguageDecoder(LanguageConfig(network=network), {"text": processor}).eval()


def test_a_sentence_ends_and_a_prompt_does_not(processor, tmp_path):
    ids = processor.prompt("The  OLD man")
    assert ids[0] == processor.bos_id and processor.eos_id not in ids
    whole = processor.encode("the old man").tolist()
    assert whole[: len(ids) + 1] == [*ids, processor.eos_id] and set(whole[len(ids) + 1 :]) == {processor.pad_id}
    long = processor.encode("rain " * 90)
    assert len(long) == 24 and long[-1] == processor.eos_id
    assert processor.real(torch.stack([long, processor.encode("rain")])).sum(1).tolist() == [
        24,
        len(processor.prompt("rain")) + 1,
    ]
    assert processor.decode_each([processor.encode(TEXTS[2]), torch.tensor(ids)]) == [" rain", " the old man"]
    assert Processor.from_folder(processor.to_folder(tmp_path), tmp_path) == processor
    bare = SentenceProcessor(processor.tokenizer, context_length=8, eos_id=1, pad_id=1)
    assert bare.prompt("") == [1] and bare != processor
    assert bare.real(torch.tensor([[1, 5, 1, 1], [1, 1, 1, 1]])).tolist() == [
        [True] * 3 + [False],
        [True] * 2 + [False] * 2,
    ]


def test_the_loss_is_the_mean_over_all_tokens_but_the_first(decoder):
    tokens = decoder.text(TEXTS)
    total = decoder.loss({"text": tokens}).total
    nats, count = 0.0, 0
    for text in TEXTS:
        ids = torch.tensor([[*decoder.text.prompt(text), decoder.text.eos_id]])
        log_prob = decoder.network(ids[:, :-1])[0].log_softmax(-1)
        nats -= log_prob.gather(1, ids[0, 1:, None]).sum().item()
        count += ids.shape[1] - 1
    assert total.item() == pytest.approx(nats / count, rel=1e-5)
    chosen, normaliser, right = decoder.log_probabilities(tokens)
    assert chosen.mean().item() == pytest.approx(-nats / count, rel=1e-5)
    assert len(normaliser) == len(right) == count
    logits, targets = decoder.predicted(tokens)
    assert F.cross_entropy(logits, targets).item() == pytest.approx(total.item())


def test_what_is_written_depends_on_its_own_prompt_and_seed(decoder):
    sampling = Sampling(temperature=1.5)
    together = decoder.write(["the old", "rain", ""], 9, sampling=sampling, seed=4)
    for i, prompt in enumerate(("the old", "rain", "")):
        assert decoder.write([prompt], 9, sampling=sampling, seed=4 + i) == together[i : i + 1]
    assert len(set(together)) == 3
    vectors = decoder.network.embed(torch.tensor(decoder.text.prompt("the old"))).detach()
    for beams in (1, 3):
        assert decoder.write([vectors], 9, beams=beams) == decoder.write(["the old"], 9, beams=beams)
    found = decoder.write(
        ["rain"], 9, beams=2, rule=rules.among([decoder.text.prompt("a small boat")[1:]], decoder.ends)
    )
    assert found == [" a small boat"]


def test_pieces_are_the_whole_also_where_a_character_is_many_tokens(decoder):
    snow = decoder.text.prompt("\u2603 \u2603 rain")[1:]
    rule = rules.among([snow], decoder.ends)
    pieces = list(decoder.stream("the", 20, rule=rule))
    assert "".join(pieces) == decoder.write(["the"], 20, rule=rule)[0]
    assert "\u2603" in "".join(pieces) and all("\ufffd" not in piece for piece in pieces)
    assert len(pieces) > 2


def test_generate_is_repeatable_and_says_what_is_wrong(decoder):
    assert decoder.generate(2, prompt="the", seed=1, steps=5) == decoder.generate(2, prompt="the", seed=1, steps=5)
    assert all(text.startswith("the") for text in decoder.generate(2, prompt="the", steps=3))
    with pytest.raises(DataError, match="shorten the prompt"):
        decoder.generate(1, prompt="rain " * 90)
    with pytest.raises(DataError, match="at least 1"):
        decoder.generate(0)
    with pytest.raises(ConfigError, match="no tokenizer"):
        LanguageDecoder(decoder.config, {}).write(["the"])
    with pytest.raises(ConfigError, match="the network only 100"):
        LanguageDecoder(decoder.config.replace(network__vocab_size=100), {"text": decoder.text})
    assert check_language(decoder, "here") is decoder


@pytest.mark.parametrize("name", ["language", "language-llama"])
def test_the_recipe_is_judged_beside_counting(name):
    recipe = get_recipe(name).smoke()
    model = recipe.build().eval()
    assert isinstance(model, LanguageDecoder) and (model.network.rotary is None) == (name == "language")
    result = evaluate_language_decoder(model, recipe.source, "test", lambda *_: None, full=True)
    metrics = result.metrics
    assert metrics["held_out_tokens"] == metrics["trigram_tokens"] > 0, "both foretell the same tokens"
    assert metrics["perplexity"] == pytest.approx(model.text.vocab_size, rel=0.2), "untrained: as good as chance"
    assert metrics["trigram_perplexity"] < metrics["chance_perplexity"]
    assert metrics["bits"] == pytest.approx(math.log2(metrics["perplexity"]))

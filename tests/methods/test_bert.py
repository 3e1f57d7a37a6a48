"""BERT and SimCSE: masking, the losses, embedding, and what wrong use says."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from intermodal.core.errors import ConfigError, DataError
from intermodal.data.tokenizers import train_wordpiece
from intermodal.hub.bert import make_processors
from intermodal.methods.contrastive.bert import BERT, IGNORED, RELATIONS, BERTConfig, mask_tokens
from intermodal.nn.bert import EncoderConfig

TEXTS = ["the cat sat on the mat", "a dog ran over the hill", "rain fell on the old town all day", "she read a book"]
SPECIAL = (0, 2, 3)


def build(**changes):
    tokenizer = train_wordpiece(TEXTS * 3, 120)
    encoder = EncoderConfig(vocab_size=tokenizer.get_vocab_size(), context_length=16, width=16, depth=1, heads=2)
    config = BERTConfig(encoder=encoder, mask_id=4, special_ids=(2, 3)).replace(**changes)
    processors = make_processors(tokenizer, 16, sep_id=3, pad_id=0, pairs=config.nsp)
    if config.objective == "simcse":
        processors = {name: processors["text"] for name in ("text", "positive", "negative")}
    torch.manual_seed(0)
    return BERT(config, processors)


def simcse(**changes):
    return build(**{"objective": "simcse", "nsp": False, "mlm": False, "projection": "training"} | changes)


def masked(tokens, seed=0, share=0.15):
    return mask_tokens(
        tokens, mask_id=4, kept_ids=SPECIAL, vocab_size=1000, share=share, generator=torch.Generator().manual_seed(seed)
    )


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**40), used=st.integers(0, 20), share=st.floats(0.01, 0.9))
def test_masking_keeps_its_rules(seed, used, share):
    """So many of each text's own tokens, at least one; special tokens and all that is not chosen stay."""
    tokens = torch.zeros(3, 24, dtype=torch.int64)
    tokens[:, 0] = 2
    tokens[:, 1 : 1 + used] = torch.arange(10, 10 + used)
    tokens[:, 1 + used] = 3
    hidden, targets = masked(tokens, seed, share)
    chosen = targets != IGNORED
    expected = 0 if used == 0 else max(1, int(torch.tensor(used * share).round()))
    assert chosen.sum(1).tolist() == [expected] * 3
    assert torch.equal(targets[chosen], tokens[chosen])
    assert (tokens[chosen] >= 10).all()
    assert torch.equal(hidden[~chosen], tokens[~chosen])
    again = masked(tokens, seed, share)
    assert torch.equal(hidden, again[0])
    assert torch.equal(targets, again[1])


def test_chosen_tokens_are_hidden_replaced_and_kept_as_often_as_published():
    """80 %, 10 % and 10 %, each within four standard deviations; random tokens come from the whole vocabulary."""
    tokens = torch.full((400, 400), 999)
    hidden, targets = masked(tokens)
    chosen = targets != IGNORED
    count = int(chosen.sum())
    assert count == 400 * 60
    kept = float((hidden[chosen] == 999).float().mean())
    mask = float((hidden[chosen] == 4).float().mean())
    for share, wanted in ((mask, 0.8 + 0.1 / 1000), (kept, 0.1 + 0.1 / 1000)):
        assert abs(share - wanted) < 4 * math.sqrt(wanted * (1 - wanted) / count)
    others = hidden[chosen & (hidden != 4) & (hidden != 999)]
    assert others.min() < 20
    assert others.max() > 980


def test_the_order_of_relations_is_transformers():
    """0 is the next sentence; the processor numbers sorted names so."""
    processor = build().processors["relation"]
    assert RELATIONS == ("next", "random")
    assert [int(processor.encode(name)) for name in RELATIONS] == [0, 1]


def test_the_pretraining_loss_is_the_mean_over_chosen_tokens_and_pairs():
    """Written out: log softmax at every hidden token and of every relation, the second with its weight."""
    model = build(nsp_weight=2.5).double().eval()
    pairs = model.processors["pair"]([(TEXTS[0], TEXTS[1]), (TEXTS[2], TEXTS[3])])
    batch = {"pair": pairs, "relation": torch.tensor([0, 1]), "seed": torch.tensor([5, 6])}
    found = model.loss(batch)
    from intermodal.methods.base import generator_of

    tokens, targets = model._mask(pairs[:, 0], generator_of(batch))
    x = model.encoder(tokens, pairs[:, 1])
    terms = [
        -float(model.token_logits(x[b, i]).log_softmax(-1)[targets[b, i]].detach())
        for b in range(2)
        for i in range(16)
        if targets[b, i] != IGNORED
    ]
    relation = [
        -float(row[k].detach()) for row, k in zip(model.relation_logits(x).log_softmax(-1), (0, 1), strict=True)
    ]
    wanted = sum(terms) / len(terms) + 2.5 * sum(relation) / 2
    assert found.total.item() == pytest.approx(wanted, abs=1e-10)
    assert found.parts["nsp"].item() == pytest.approx(sum(relation) / 2, abs=1e-10)
    assert torch.equal(model.loss(batch).total, found.total)
    other = model.loss(batch | {"seed": torch.tensor([5, 7])}).total
    assert not torch.equal(other, found.total)


def test_simcse_is_the_equation():
    """Equation 5 of Gao et al. 2021, with pairs and hard negatives, one sentence at a time."""
    model = simcse(positives="triplets", projection="none", pooler=False).double().eval()
    text = model.processors["text"]
    batch = {"text": text(TEXTS), "positive": text(TEXTS[::-1]), "negative": text([*TEXTS[1:], TEXTS[0]])}
    x, y, z = (model._pool(model.encoder(t), t).detach() for t in batch.values())
    terms = []
    for i in range(4):
        scores = torch.cat([x[i] @ y.T, x[i] @ z.T]) / 0.05
        terms.append(float(scores.logsumexp(0) - scores[i]))
    assert model.loss(batch).total.item() == pytest.approx(sum(terms) / 4, abs=1e-9)


def test_without_pairs_the_two_sides_differ_by_dropout_alone():
    """In training the positive is another vector of the same sentence; in evaluation it is the same vector."""
    model = simcse()
    batch = {"text": model.processors["text"](TEXTS)}
    torch.manual_seed(1)
    assert model.train().loss(batch).parts["positive"].item() < 0.9999
    assert model.eval().loss(batch).parts["positive"].item() == pytest.approx(1.0, abs=1e-5)


def test_the_projection_is_where_it_should_be():
    """For training only, always, or never: seen in the vectors that embed gives."""
    text = TEXTS[:2]
    models = {kind: simcse(projection=kind).eval() for kind in ("training", "always", "none")}
    state = models["training"].state_dict()
    for model in models.values():
        model.load_state_dict(state)
    vectors = {kind: model.embed("text", text) for kind, model in models.items()}
    assert np.array_equal(vectors["training"], vectors["none"])
    assert not np.allclose(vectors["always"], vectors["none"])
    tokens = models["none"].processors["text"](text)
    trained = models["training"].train()
    trained.encoder.eval()
    assert np.allclose(trained._pool(trained._encode(tokens), tokens).detach(), vectors["always"], atol=1e-6)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_embedding_does_not_depend_on_the_company(pool):
    """Unit vectors, the same alone and in a batch with longer texts; an empty text and an empty list are defined."""
    model = build(pool=pool).eval()
    together = model.embed("text", TEXTS)
    alone = np.concatenate([model.embed("text", [t]) for t in TEXTS])
    assert together.dtype == np.float32
    assert np.allclose(together, alone, atol=1e-5)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.isfinite(model.embed("text", [""])).all()
    assert model.embed("text", []).shape == (0, 16)
    with pytest.raises(DataError, match="embeds text"):
        model.embed("image", [])


def test_next_sentence_and_filling_in():
    """Probabilities of pairs, and of tokens in the place of a mask."""
    model = build().eval()
    found = model.next_sentence([(TEXTS[0], TEXTS[1]), ("", "")])
    assert found.shape == (2,)
    assert ((found > 0) & (found < 1)).all()
    assert model.next_sentence([]).shape == (0,)
    (first, second) = model.fill("the [MASK] sat on [MASK]", top=3)
    assert len(first) == len(second) == 3
    assert first[0][1] >= first[1][1]
    with pytest.raises(DataError, match="nothing to fill in"):
        model.fill("the cat")


@pytest.mark.parametrize("make", [build, simcse])
def test_a_batch_of_one_has_a_finite_loss(make):
    """And so has a text of nothing but special tokens."""
    model = make()
    for text in ("the cat sat", ""):
        if make is build:
            pair = model.processors["pair"]([(text, text)])
            batch = {"pair": pair, "relation": torch.tensor([1]), "seed": torch.tensor([0])}
        else:
            batch = {"text": model.processors["text"]([text])}
        total = model.loss(batch).total
        total.backward()
        assert torch.isfinite(total)
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_collapse_is_noticed():
    """health speaks when all sentences of a batch point the same way."""
    model = simcse(mlm=True, mlm_weight=0.1, pooler=True)
    assert model.health() == []
    batch = {"text": model.processors["text"]([TEXTS[0]] * 3), "seed": torch.zeros(3, dtype=torch.int64)}
    losses = model.eval().loss(batch)
    assert "collapsed" in model.health()[0]
    assert set(losses.parts) == {"simcse", "alike", "positive", "mlm"}
    assert losses.parts["simcse"].item() == pytest.approx(math.log(3), abs=1e-5)  # three equal sentences: a guess


def test_what_needs_what():
    """The batch that each objective asks for, and parts that are missing."""
    assert set(build().needs) == {"pair", "relation", "seed"}
    assert set(build(nsp=False).needs) == {"pair", "seed"}
    assert set(simcse().needs) == {"text"}
    assert set(simcse(positives="triplets").needs) == {"text", "positive", "negative"}
    assert simcse().contrasts_batch
    assert not build().contrasts_batch
    for changes, said in (
        ({"pooler": False}, "pooler"),
        ({"objective": "simcse", "mlm": False, "mlm_weight": 0.1}, "mlm_weight"),
        ({"mask_share": 0.0}, "mask_share"),
        ({"temperature": 0.0}, "temperature"),
    ):
        with pytest.raises(ConfigError, match=said):
            build(**changes)
    bare = build(mlm=False, nsp=False)
    with pytest.raises(ConfigError, match="no masked"):
        bare.token_logits(torch.zeros(16))
    with pytest.raises(ConfigError, match="no next-sentence"):
        bare.relation_logits(torch.zeros(1, 2, 16))
    model = build(mask_id=None)
    with pytest.raises(ConfigError, match="mask_id"):
        model.loss({"pair": torch.ones(1, 2, 4, dtype=torch.int64), "relation": torch.zeros(1), "seed": torch.zeros(1)})


def test_flops_are_those_of_the_products():
    """A forward pass by torch's own count, times three."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model = build(mask_share=0.25).eval()
    pair = torch.randint(5, 50, (2, 2, 16))
    pair[:, 1] = 0
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.loss(
            {"pair": pair, "relation": torch.zeros(2, dtype=torch.int64), "seed": torch.zeros(2, dtype=torch.int64)}
        )
    heads = 2 * (2 * 16 * 16 + 2 * 16 * 2)  # pooler and next sentence, which are left out
    assert model.train_flops(2) == pytest.approx(3 * (counter.get_total_flops() - heads))


def test_a_copy_is_independent():
    """deepcopy, as the moving average makes, keeps loss and needs."""
    model = build()
    again = copy.deepcopy(model)
    assert again.needs == model.needs
    assert F.mse_loss(again.encoder.norm.weight, model.encoder.norm.weight) == 0

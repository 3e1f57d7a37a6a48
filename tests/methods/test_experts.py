"""Modality experts: a block against loops over the paper's equations, the three losses by hand, and what experts may see."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from intermodal.core.captioning import Captioning
from intermodal.core.errors import ConfigError, DataError
from intermodal.data.processors import ImageProcessor, TextProcessor
from intermodal.data.tokenizers import special_ids, train_words
from intermodal.evaluate.encoding import Steps
from intermodal.evaluate.experts import masked, odds, prepared, reranked, swapped
from intermodal.evaluate.pairs import Pairs
from intermodal.methods.base import generator_of
from intermodal.methods.vision_language.expert_parts import hard, some
from intermodal.methods.vision_language.experts import Experts, ExpertsMethodConfig
from intermodal.nn.expert_blocks import ExpertBlock
from intermodal.nn.experts import ExpertsConfig
from toy_captioner import TEXTS, pictures


def tiny(**network) -> Experts:
    tokenizer = train_words(TEXTS, 100)
    pad, eos = special_ids(tokenizer)
    text = TextProcessor(tokenizer, context_length=6, eos_id=eos, pad_id=pad)
    network = ExpertsConfig(
        image_size=8,
        patch_size=4,
        vocab_size=text.vocab_size,
        context_length=6,
        pad_id=pad,
        eos_id=eos,
        width=12,
        depth=3,
        fusion_depth=1,
        heads=3,
    ).replace(**network)
    torch.manual_seed(0)
    config = ExpertsMethodConfig(network=network, embed_dim=10, codes=5, code_cells=2)
    model = Experts(config, {"image": ImageProcessor(size=(8, 8)), "text": text})
    model.patch_codes.fit(torch.randn(9, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.Generator())
    return model


def batch_of(model: Experts, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    image = model.processors["image"](pictures()).to(dtype)
    return {"image": image, "text": model.processors["text"](TEXTS), "seed": torch.arange(len(TEXTS))}


@torch.no_grad()
def test_a_block_is_the_papers_equations_token_by_token():
    torch.manual_seed(1)
    block = ExpertBlock(12, 3, 48, "gelu", 1e-5, ("vision", "language", "fusion")).double()
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    mask = torch.tensor([[True] * 7, [True] * 5 + [False] * 2])
    found = block(x, (("vision", 4), ("language", 3)), mask[:, None, None])

    def norm(layer, v):
        return layer.weight * (v - v.mean()) / torch.sqrt(v.var(correction=0) + 1e-5) + layer.bias

    weight, bias = block.attention.qkv.weight, block.attention.qkv.bias
    wanted = torch.empty_like(x)
    for b in range(2):
        rows = [weight @ norm(block.norm, x[b, i]) + bias for i in range(7)]
        for i in range(7):
            heads = []
            for h in range(3):
                q = rows[i][4 * h : 4 * h + 4]
                keys = [rows[j][12 + 4 * h : 16 + 4 * h] for j in range(7)]
                values = [rows[j][24 + 4 * h : 28 + 4 * h] for j in range(7)]
                chances = [math.exp(float(q @ k) / 2) if mask[b, j] else 0.0 for j, k in enumerate(keys)]
                heads.append(sum(c * v for c, v in zip(chances, values, strict=True)) / sum(chances))
            y = x[b, i] + block.attention.out.weight @ torch.cat(heads) + block.attention.out.bias
            name = "vision" if i < 4 else "language"
            mlp, inner = block.mlps[name], norm(block.norms[name], y)
            hidden = mlp.fc1.weight @ inner + mlp.fc1.bias
            hidden = torch.stack([v * 0.5 * (1 + math.erf(float(v) / math.sqrt(2))) for v in hidden])
            wanted[b, i] = y + mlp.fc2.weight @ hidden + mlp.fc2.bias
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def nats_of(model, x_BLD, places, targets, head):
    """Return the sum of -log p of targets at places (row, column), and how many there are."""
    return sum(
        -float(head(x_BLD[i, j]).log_softmax(0)[int(t)]) for (i, j), t in zip(places, targets, strict=True)
    ), len(places)


@torch.no_grad()
@pytest.mark.parametrize(("layout", "apart"), [("shared", 0), ("shared", 2), ("separate", 0)])
def test_every_loss_is_its_written_out_equation(layout, apart):
    model = tiny(layout=layout, fusion_depth=int(layout == "shared"), apart=apart).double().eval()
    batch = batch_of(model, torch.float64)
    batch["image"] = image = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    text, net, mask_id = batch["text"], model.network, model.network.mask_id
    parts = {k: float(v) for k, v in model.loss(batch).parts.items()}
    image_E, text_E = model.encode_image(image), model.encode_text(text)
    similar = math.exp(float(model.logit_scale)) * image_E @ text_E.T
    contrast = 0.0
    for i in range(4):
        row, column = similar[i].exp(), similar[:, i].exp()
        contrast -= float(torch.log(row[i] / row.sum()) + torch.log(column[i] / column.sum())) / 8
    assert parts["contrastive"] == pytest.approx(contrast, rel=1e-10)

    generator, code = generator_of(batch), model.patch_codes(image)
    word = some(net.words(text), 0.4, generator)
    patch = some(torch.ones(4, 4, dtype=torch.bool), 0.6, generator)
    assert word.sum(1).tolist() == [1] * 4 and patch.sum(1).tolist() == [2] * 4
    assert not bool(word[:, 0].any()) and not bool((word & (text < 2)).any())

    def words_alone(i):
        return net(None, text[i : i + 1].masked_fill(word[i], mask_id), real_BL=net.real(text[i : i + 1]))

    nats = count = 0.0
    for i in (2, 3):  # the second half is read alone
        more, n = nats_of(
            model, words_alone(i), [(0, int(j)) for j in word[i].nonzero()], text[i, word[i]], model.word_head
        )
        nats, count = nats + more, count + n
    assert parts["words_alone"] == pytest.approx(nats / count, rel=1e-10)
    nats = count = 0.0
    for i in (2, 3):
        x = net(image[i : i + 1], None, hidden_BP=patch[i : i + 1])
        more, n = nats_of(model, x, [(0, 1 + int(j)) for j in patch[i].nonzero()], code[i, patch[i]], model.code_head)
        nats, count = nats + more, count + n
    assert parts["patches_alone"] == pytest.approx(nats / count, rel=1e-10)

    texts, images = (hard(scores, model.hardness, generator) for scores in (similar.float(), similar.float().T))
    by_text = torch.rand(4, generator=generator) < 0.5
    nats = 0.0
    for i in range(4):
        wrong = (i, int(texts[i])) if by_text[i] else (int(images[i]), i)
        assert wrong[0] != wrong[1]
        for (picture, words), right in (((i, i), 1), (wrong, 0)):
            x = net(image[picture : picture + 1], text[words : words + 1])[0]
            seen, said = model.image_projection(x[0]), model.text_projection(x[5])
            both = math.exp(float(model.logit_scale)) * seen / seen.norm() * said / said.norm()
            nats -= float(model.matching_head(both).log_softmax(0)[right])
    assert parts["matching"] == pytest.approx(nats / 8, rel=1e-10)

    x = net(image[:1], text[:1].masked_fill(word[0], mask_id), real_BL=net.real(text[:1]))  # the first pair: words
    more, n = nats_of(model, x, [(0, 5 + int(j)) for j in word[0].nonzero()], text[0, word[0]], model.word_head)
    assert parts["words"] == pytest.approx(more / n, rel=1e-10)
    x = net(image[1:2], text[1:2], hidden_BP=patch[1:2])  # the second: patches
    more, n = nats_of(model, x, [(0, 1 + int(j)) for j in patch[1].nonzero()], code[1, patch[1]], model.code_head)
    assert parts["patches"] == pytest.approx(more / n, rel=1e-10)

    hidden = some(net.words(text[2:], end=True), 0.7, generator)
    nats = count = 0.0
    for i, j in hidden.nonzero().tolist():  # a word sees the picture, which sees itself, and the words up to itself
        said = text[2 + i : 3 + i, : j + 1].masked_fill(hidden[i, : j + 1], mask_id)
        x, _ = net.onward(net.read(said), net.begun(net.placed(net.seen(image[2 + i : 3 + i]))))
        nats, count = nats - float(model.word_head(x[0, -1]).log_softmax(0)[text[2 + i, j]]), count + 1
    assert parts["writing"] == pytest.approx(nats / count, rel=1e-10)
    total = sum(v for k, v in parts.items() if k not in ("logit_scale", "told"))
    assert float(model.loss(batch).total) == pytest.approx(total, rel=1e-12)

    model.begin_step(0, 10)  # of a training that begins with everything together
    assert model.joined
    apart = Experts(model.config.replace(first_apart=0.5), model.processors).double().eval()
    apart.begin_step(4, 10)
    assert set(apart.loss(batch).parts) == {"contrastive", "words_alone", "patches_alone", "logit_scale"}
    apart.begin_step(5, 10)
    assert "matching" in apart.loss(batch).parts and apart.hardness == 0.0
    apart.begin_step(7, 10)
    assert apart.hardness == pytest.approx(0.5 * 2 / 5)


@torch.no_grad()
@pytest.mark.parametrize("apart", [0, 2])
def test_writing_a_hole_at_a_time_is_reading_anew_under_the_mask(apart):
    """What the stepper keeps gives the logits of a pass over picture and words with a mask token at the end."""
    model = tiny(apart=apart).double().eval()
    image = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    words = batch_of(model, torch.float64)["text"][:, :4]
    stepper, first = model.begun(image)
    assert torch.equal(first, words[:, :1])
    state = stepper.start(6)
    for end in range(1, 5):
        read = words[:, :2] if end == 2 else words[:, end - 1 : end]
        if end == 1:
            continue  # the first step reads two tokens at once
        logits, state = stepper.step(state, read)
        holed = torch.cat([words[:, :end], torch.full((4, 1), model.network.mask_id)], 1)
        real = torch.ones_like(holed, dtype=torch.bool)
        wanted = model.word_head(model.network(image, holed, real_BL=real, writing=True)[:, -1])
        torch.testing.assert_close(logits, wanted, rtol=1e-10, atol=1e-10)
    state = stepper.reorder(state, torch.tensor([2, 2]))
    logits, _ = stepper.step(state, words[:2, :1])
    assert torch.equal(logits[0], logits[1])
    other = model.network(image, words, writing=True)
    changed = words.clone()
    changed[:, 3] = words[:, 3].roll(1)
    again = model.network(image, changed, writing=True)
    torch.testing.assert_close(
        again[:, :8], other[:, :8], rtol=0, atol=1e-12
    )  # neither picture nor earlier words saw it


def test_holes_are_of_the_rows_own_places_and_number():
    among = torch.tensor([[False, True, True, True, True], [False, True, False, False, False], [False] * 5])
    found = some(among, 0.5, torch.Generator().manual_seed(0))
    assert found.sum(1).tolist() == [2, 1, 0] and not bool((found & ~among).any())
    many = torch.stack([some(among, 0.5, torch.Generator().manual_seed(i)) for i in range(600)])
    np.testing.assert_allclose(many[:, 0].float().mean(0), [0, 0.5, 0.5, 0.5, 0.5], atol=0.08)


def test_codes_are_the_nearest_mean_colours():
    model = tiny()
    image = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    code = model.patch_codes(image)
    for b in range(3):
        for place in range(4):
            top, left = 4 * (place // 2), 4 * (place % 2)
            means = [
                float(image[b, c, top + 2 * y : top + 2 * y + 2, left + 2 * x : left + 2 * x + 2].mean())
                for c in range(3)
                for y in range(2)
                for x in range(2)
            ]
            distance = ((model.patch_codes.codebook - torch.tensor(means)) ** 2).sum(1)
            assert int(distance.argmin()) == int(code[b, place])
    shown = model.patch_codes.pictures(code, (2, 2))
    assert shown.shape == (3, 3, 4, 4)
    assert torch.equal(
        model.patch_codes.means(shown.repeat_interleave(2, 2).repeat_interleave(2, 3)).flatten(0, 1),
        model.patch_codes.codebook[code.flatten()],
    )


@torch.no_grad()
def test_apart_blocks_make_of_a_picture_the_same_beside_every_text():
    model = tiny(apart=2).double().eval()
    batch = batch_of(model, torch.float64)
    image, text = batch["image"], batch["text"]
    real = model.network.real(text)
    low = model.network.low(model.network.placed(model.network.seen(image)), None, None)
    said = model.network.low(None, model.network.read(text), real)
    for order in (torch.arange(4), torch.tensor([2, 0, 3, 1])):
        wanted = model.network(image, text[order])
        torch.testing.assert_close(model.network.high(low, said[order], real[order]), wanted, rtol=1e-12, atol=1e-12)
    x, parts = torch.cat([low, said], 1), ((("fusion", 11)),)
    mask = torch.cat([torch.ones(4, 5, dtype=torch.bool), real], 1)[:, None, None]
    wanted = model.network.final_norm(model.network.block(2)(x, parts, mask))  # the only block that sees both
    torch.testing.assert_close(model.network(image, text), wanted, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_a_patch_read_by_convolutions_is_hidden_whole():
    model = tiny(stem=(6, 8)).eval()
    image = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    other, hidden = image.clone(), torch.tensor([[True, False, False, False]] * 2)
    other[:, :, :4, :4] += 1.0
    read = [model.network(x, None, hidden_BP=hidden) for x in (image, other)]
    assert torch.equal(read[0], read[1])
    assert not torch.allclose(model.network(image, None), model.network(other, None))


def test_hard_negatives_are_drawn_by_how_similar_they_are():
    similar = torch.log(torch.tensor([[5.0, 3.0, 1.0], [1.0, 9.0, 1.0], [1.0, 1.0, 1.0]]))
    generator = torch.Generator().manual_seed(0)
    for hardness, wanted in ((1.0, 0.75), (0.4, 0.6), (0.0, 0.5)):
        drawn = torch.stack([hard(similar, hardness, generator) for _ in range(2000)])
        assert not bool((drawn == torch.arange(3)).any())
        assert float((drawn[:, 0] == 1).float().mean()) == pytest.approx(wanted, abs=0.04)
    assert hard(torch.ones(1, 1), 1.0, generator).tolist() == [0]


@torch.no_grad()
def test_each_expert_serves_its_own_modality_and_padding_changes_nothing():
    model = tiny().double().eval()
    batch = batch_of(model, torch.float64)
    image, text = batch["image"], batch["text"]
    before = [model.encode_image(image), model.encode_text(text), model.match_logits(image, text)]
    for expert, changed in (
        ("vision", (True, False, True)),
        ("language", (False, True, True)),
        ("fusion", (False, False, True)),
    ):
        other = tiny().double().eval()
        for name, parameter in other.network.blocks.named_parameters():
            if f".{expert}." in name:
                parameter.mul_(1.5)
        after = [other.encode_image(image), other.encode_text(text), other.match_logits(image, text)]
        assert tuple(not torch.allclose(a, b) for a, b in zip(after, before, strict=True)) == changed, expert
    short = text[:, :5]  # all texts have three words and two special tokens
    torch.testing.assert_close(model.encode_text(short), before[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model.match_logits(image, short), before[2], rtol=1e-12, atol=1e-12)
    swapped_text = model.encode_text(text, {"language": "vision"})
    assert not torch.allclose(swapped_text, before[1])
    assert torch.equal(model.encode_image(image, {"language": "vision"}), before[0])


@torch.no_grad()
def test_the_first_answers_are_ordered_by_the_dual_encoders_logit_and_the_fusions_odds(monkeypatch):
    """With wrong pairs drawn from half softmax, half all, the best judge says log(p / q): log q + odds is the order of p."""
    model = tiny().eval()
    pairs = Pairs(source=None, indices=[0, 1, 2, 3], captions=[[t] for t in TEXTS], labels=[""] * 4)  # type: ignore[arg-type]
    generator = np.random.default_rng(0)
    right = generator.dirichlet(np.ones(4), 4) * 0.2 + 0.8 * np.eye(4)  # the truth, p(picture | text)
    scale = float(model.logit_scale.exp())
    similar = generator.normal(size=(4, 4)).astype(np.float32) * 0.2
    noise = np.exp(scale * similar)
    noise = 0.5 * noise / noise.sum(1, keepdims=True) + 0.5 / 4
    odds = np.log(right / noise)
    ready = prepared(model, pictures(), pairs)
    place = {tuple(row.tolist()): i for i, row in enumerate(ready.text)}
    shown = {float(image.sum()): i for i, image in enumerate(ready.image)}

    def best_judge(method, image, text, swap=None):
        return np.array(
            [odds[place[tuple(t.tolist())], shown[float(x.sum())]] for x, t in zip(image, text, strict=True)]
        )

    monkeypatch.setattr("intermodal.evaluate.experts.odds", best_judge)
    scores, figures = reranked(model, ready, similar, pairs, Steps(lambda *_: None, {"Ordering again": 1.0}))
    assert (np.argsort(-scores, 1) == np.argsort(-right, 1)).all()
    assert figures["reranked_r1"] > figures["fusion_r1"] - 1e-9 and figures["reranked_r5"] == 1.0


def test_four_pairs_are_learnt_and_every_use_of_the_weights_knows_them():
    model = tiny().train()
    batch = batch_of(model)
    model.patch_codes.fit(batch["image"], torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(400):
        order = torch.randperm(4, generator=torch.Generator().manual_seed(step))  # its half decides a row's tasks
        rows = {"image": batch["image"][order], "text": batch["text"][order]}
        loss = model.loss({**rows, "seed": torch.arange(4) + 4 * step}).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    image, text = model.embed("image", pictures()), model.embed("text", TEXTS)
    assert (image @ text.T).argmax(1).tolist() == [0, 1, 2, 3]
    sure = np.stack([model.match(pictures(), [t] * 4) for t in TEXTS])
    assert sure.argmax(1).tolist() == [0, 1, 2, 3] and bool((sure.diagonal() > 0.5).all())
    pairs = Pairs(source=None, indices=[0, 1, 2, 3], captions=[[t] for t in TEXTS], labels=[""] * 4)  # type: ignore[arg-type]
    ready = prepared(model, pictures(), pairs)
    figures, found = swapped(model, ready, pairs, (image, text), {}), masked(model, ready)
    assert figures == {"r10": 1.0, "told": 1.0, "words": found["words"], "patches": found["patches"]}
    assert found["words"] > max(0.7, found["blind_words"]) and found["patches"] > max(0.7, found["blind_patches"])
    exchanged = swapped(model, ready, pairs, (image, text), {"fusion": "vision"})
    assert exchanged["r10"] == 1.0  # the dual encoder has lost nothing, and the fusion another's place is taken in
    sure, other = odds(model, ready.image, ready.own), odds(model, ready.image, ready.own, {"fusion": "vision"})
    assert not np.allclose(sure, other, rtol=0.01)
    for settings in (None, Captioning(beam=3)):
        assert [caption.text for caption in model.caption(pictures(), settings)] == TEXTS
    looks, grid = model.looks_of(pictures()[:1], TEXTS[:1])
    assert grid == (2, 2) and looks[0][1] == TEXTS[0].split()
    np.testing.assert_allclose(looks[0][2].sum(1), 1.0, rtol=1e-5)


def test_wrong_inputs_are_refused():
    model = tiny()
    with pytest.raises(DataError, match="needs a text to match"):
        model.match(pictures(), TEXTS[:1])
    with pytest.raises(DataError, match="there is neither"):
        model.network(None, None)
    with pytest.raises(DataError, match="1 to 6 tokens"):
        model.network(None, torch.zeros(1, 7, dtype=torch.int64))
    with pytest.raises(DataError, match="not 'audio'"):
        model.embed("audio", [])
    with pytest.raises(ConfigError, match="fusion_depth"):
        model.config.network.replace(fusion_depth=4)
    with pytest.raises(ConfigError, match="reads patches of 8 pixels"):
        model.config.network.replace(stem=(4, 4, 4))
    with pytest.raises(ConfigError, match="first_apart"):
        model.config.replace(first_apart=1.0)
    with pytest.raises(ConfigError, match="below the depth"):
        model.config.network.replace(apart=3)
    with pytest.raises(ConfigError, match="joint space"):
        model.config.replace(heads=("matching",))
    with pytest.raises(DataError, match="no tokenizer"):
        Experts(model.config, {"image": model.processors["image"]}).embed("text", ["a"])
    few = Experts(model.config.replace(heads=("words",)), model.processors)
    with pytest.raises(DataError, match="not trained for 'matching', but for words"):
        few.match(pictures(), TEXTS)
    assert model.match([], []).shape == (0,) and model.embed("text", []).shape == (0, 10)

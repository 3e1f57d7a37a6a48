"""Modality experts: a block against loops over the paper's equations, the three losses by hand, and what experts may see."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from intermodal.core.errors import ConfigError, DataError
from intermodal.data.processors import ImageProcessor, TextProcessor
from intermodal.data.tokenizers import special_ids, train_words
from intermodal.evaluate.experts import masked_words, swapped
from intermodal.evaluate.pairs import Pairs
from intermodal.methods.base import generator_of
from intermodal.methods.vision_language.experts import Experts, ExpertsMethodConfig, hard
from intermodal.nn.experts import ExpertBlock, ExpertsConfig
from toy_captioner import TEXTS, pictures


def tiny() -> Experts:
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
    )
    torch.manual_seed(0)
    config = ExpertsMethodConfig(network=network, embed_dim=10)
    return Experts(config, {"image": ImageProcessor(size=(8, 8)), "text": text})


def batch_of(model: Experts, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    image = model.processors["image"](pictures()).to(dtype)
    return {"image": image, "text": model.processors["text"](TEXTS), "seed": torch.arange(len(TEXTS))}


@torch.no_grad()
def test_a_block_is_the_papers_equations_token_by_token():
    torch.manual_seed(1)
    block = ExpertBlock(tiny().config.network, ("vision", "language", "fusion")).double()
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    mask = torch.tensor([[True] * 7, [True] * 5 + [False] * 2])
    found = block(x, (("vision", 4), ("language", 3)), mask)

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


@torch.no_grad()
def test_the_three_losses_are_the_written_out_equations():
    model = tiny().double().eval()
    batch = batch_of(model, torch.float64)
    batch["image"] = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    losses = model.loss(batch)
    image, text = model.encode_image(batch["image"]), model.encode_text(batch["text"])
    scale = math.exp(float(model.logit_scale))
    similar = scale * image @ text.T
    contrast = 0.0
    for i in range(4):
        row, column = similar[i].exp(), similar[:, i].exp()
        contrast -= float(torch.log(row[i] / row.sum()) + torch.log(column[i] / column.sum())) / 8
    assert float(losses.parts["contrastive"]) == pytest.approx(contrast, rel=1e-10)

    generator = generator_of(batch)
    texts, images = hard(similar.float(), generator), hard(similar.float().T, generator)
    assert all(int(t) != i and int(j) != i for i, (t, j) in enumerate(zip(texts, images, strict=True)))
    nats = 0.0
    for i in range(4):
        for picture, words, right in ((i, i, 1), (i, int(texts[i]), 0), (int(images[i]), i, 0)):
            logits = model.match_logits(batch["image"][picture : picture + 1], batch["text"][words : words + 1])[0]
            nats -= float(logits.log_softmax(0)[right])
    assert float(losses.parts["matching"]) == pytest.approx(nats / 12, rel=1e-10)

    hidden = model.holes(batch["text"], generator)
    assert bool(hidden.any()) and not bool(hidden[:, 0].any()) and not bool((hidden & (batch["text"] < 2)).any())
    nats, count = 0.0, 0
    for i, j in hidden.nonzero().tolist():
        holed = torch.where(hidden[i], model.network.mask_id, batch["text"][i])
        vectors = model.network(
            batch["image"][i : i + 1], holed[None], real_BL=model.network.real(batch["text"][i : i + 1])
        )
        nats -= float(model.word_head(vectors[0, 5 + j]).log_softmax(0)[batch["text"][i, j]])
        count += 1
    assert float(losses.parts["masked"]) == pytest.approx(nats / count, rel=1e-10)
    assert float(losses.total) == pytest.approx(
        sum(float(losses.parts[k]) for k in ("contrastive", "matching", "masked"))
    )


def test_hard_negatives_are_drawn_by_how_similar_they_are():
    similar = torch.log(torch.tensor([[5.0, 3.0, 1.0], [1.0, 9.0, 1.0], [1.0, 1.0, 1.0]]))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([hard(similar, generator) for _ in range(2000)])
    assert not bool((drawn == torch.arange(3)).any())
    assert float((drawn[:, 0] == 1).float().mean()) == pytest.approx(0.75, abs=0.04)
    assert hard(torch.ones(1, 1), generator).tolist() == [0]


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


def test_four_pairs_are_learnt_and_every_use_of_the_weights_knows_them():
    model = tiny().train()
    batch = batch_of(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(400):
        loss = model.loss({**batch, "seed": torch.arange(4) + 4 * step}).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    image, text = model.embed("image", pictures()), model.embed("text", TEXTS)
    assert (image @ text.T).argmax(1).tolist() == [0, 1, 2, 3]
    sure = np.stack([model.match(pictures(), [t] * 4) for t in TEXTS])
    assert sure.argmax(1).tolist() == [0, 1, 2, 3] and bool((sure.diagonal() > 0.5).all())
    pairs = Pairs(source=None, indices=[0, 1, 2, 3], captions=[[t] for t in TEXTS], labels=[""] * 4)  # type: ignore[arg-type]
    figures = swapped(model, pictures(), pairs, (image, text), {})
    assert figures == {"r10": 1.0, "told": 1.0, "words": masked_words(model, pictures(), pairs, {})}
    assert figures["words"] > 0.7
    exchanged = swapped(model, pictures(), pairs, (image, text), {"fusion": "vision"})
    assert exchanged["r10"] == 1.0 and exchanged["told"] < 1.0  # only the fusion has lost its expert
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
    assert model.match([], []).shape == (0,) and model.embed("text", []).shape == (0, 10)

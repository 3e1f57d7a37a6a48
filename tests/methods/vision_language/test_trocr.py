"""TrOCR's own behaviour: lines of any width, pages and boxes, spelling, and what it is given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from intermodal.core.capabilities import Captions, Reads
from intermodal.core.captioning import Captioning
from intermodal.core.errors import ConfigError, DataError
from intermodal.data.ocr import draw_line
from intermodal.data.page import lines
from intermodal.evaluate.reading import rates
from intermodal.evaluate.reading_picture import draw_reading
from intermodal.nn.reader import ReaderConfig, ReadingDecoder
from toy_reader import tiny


def drawn(*texts: str) -> list[Image.Image]:
    return [draw_line(text, np.random.default_rng(i)) for i, text in enumerate(texts)]


def sheet(pictures: list[Image.Image]) -> Image.Image:
    page = Image.new("L", (360, 60 * len(pictures)), 250)
    for i, picture in enumerate(pictures):
        ink = picture.point(lambda v: 0 if v < 140 else 250)
        page.paste(ink, (20, 60 * i + 8))
    return page


def test_a_line_reads_the_same_beside_wider_ones():
    model = tiny().double()
    narrow, wide = drawn("AB", "A LONG ONE")
    alone, _ = model.tokens(model.pictures([narrow]))
    both, seen = model.tokens(model.pictures([wide, narrow]))
    count = int(seen[1].sum())
    assert count < both.shape[1]
    assert torch.allclose(both[1, :count], alone[0, :count], atol=1e-12)
    settings = Captioning(beam=2)
    assert (
        model.read([narrow], settings, cut=False)[0][0].text
        == model.read([wide, narrow], settings, cut=False)[1][0].text
    )


def test_a_step_with_memory_is_the_whole_text_read_at_once():
    for positions, scaled, norm in (("learnt", False, True), ("sines", True, False)):
        config = ReaderConfig(
            vocab_size=20,
            context_length=9,
            width=16,
            depth=2,
            heads=2,
            context_dim=12,
            positions=positions,
            scaled=scaled,
            embedding_norm=norm,
            tied=False,
            activation="relu",
        )
        torch.manual_seed(1)
        decoder = ReadingDecoder(config).double().eval()
        tokens, context = torch.randint(2, 20, (3, 7)), torch.randn(3, 5, 12, dtype=torch.float64)
        seen = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] + [False] * 4])
        with torch.no_grad():
            whole = decoder.hidden(tokens, context, seen)
            memory = decoder.start(context, 7, seen)
            parts = [decoder.hidden(tokens[:, i : i + 1], memory) for i in range(7)]
            assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-12)
            changed = decoder.hidden(tokens, context + 5 * ~seen.unsqueeze(-1), seen)
        assert torch.equal(changed, whole)
        with pytest.raises(DataError, match="at most 9 tokens"):
            decoder.hidden(torch.zeros(1, 10, dtype=torch.int64), context[:1])


def test_a_page_is_read_line_by_line_with_boxes():
    model = tiny()
    page = sheet(drawn("FIRST", "SECOND 2", "3.00"))
    (found,) = model.read([page])
    assert [line.box for line in found] == lines(page) and len(found) == 3
    for line in found:
        assert line.text == model.read([page.crop(line.box)], cut=False)[0][0].text
        assert line.to_dict()["box"] == list(line.box)
    assert model.read([]) == []
    blank = Image.new("RGB", (50, 80), "white")
    assert [len(p) for p in model.read([blank, page, blank])] == [0, 3, 0]


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "RGBA", "CMYK", "P"])
@pytest.mark.parametrize("size", [(1, 1), (1, 400), (2000, 3), (90, 30)])
def test_pictures_of_any_size_and_mode_are_read_whole(mode, size):
    (page,) = tiny().read([Image.new(mode, size)], Captioning(most=3), cut=False)
    assert len(page) == 1 and page[0].box == (0, 0, *size)


def test_letters_and_their_order_can_be_learnt_and_looked_at():
    model = tiny().train()
    pictures, texts = drawn("AB", "BA", "A", "BB"), ["AB", "BA", "A", "BB"]
    batch = {"image": model.pictures(pictures), "text": torch.stack([model.text.encode(t) for t in texts])}
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    first = model.loss(batch).total.item()
    for _ in range(120):
        optimizer.zero_grad()
        loss = model.loss(batch).total
        loss.backward()
        optimizer.step()
    model.eval()
    assert loss.item() < 0.2 * first
    assert [page[0].text for page in model.read(pictures, cut=False)] == texts
    image, said, look = model.looks_of(pictures[0])
    assert said == ["A", "B"] and look.shape[:2] == (2, 1) and np.allclose(look.sum((1, 2)), 1, atol=1e-5)
    assert draw_reading([(image, said, look)]).width > 300
    with pytest.raises(DataError, match="do not fit"):
        draw_reading([(image, [*said, "C"], look)])
    assert len(model.spelled(pictures)) == 4


def batch_of(model, pictures, texts, seed=0):
    ids = torch.stack([model.text.encode(t) for t in texts])
    return {"image": model.pictures(pictures), "text": ids, "seed": torch.arange(len(texts)) + seed}


def descend(model, batch, steps, rate=4e-3):
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(batch).total.backward()
        optimizer.step()


def test_an_encoder_alone_learns_to_spell_and_is_read_without_a_decoder(tmp_path):
    model = tiny(1.0).train()
    pictures, texts = drawn("AB", "BA", "A", "BB"), ["AB", "BA", "A", "BB"]
    descend(model, batch_of(model, pictures, texts), 150)
    model.eval()
    assert not any("decoder" in name for name, _ in model.named_parameters())
    assert [page[0].text for page in model.read(pictures, cut=False)] == texts == model.spelled(pictures)
    assert all(page[0].log_prob < 0 for page in model.read(pictures, cut=False))
    with pytest.raises(ConfigError, match="no decoder"):
        model.read(pictures, Captioning(beam=2), cut=False)
    with pytest.raises(ConfigError, match="no decoder"):
        model.looks_of(pictures[0])


def test_a_beam_weighs_what_the_encoder_spells():
    """The decoder of the model has learnt nothing; what the encoder has learnt decides with a weight near one."""
    model = tiny(0.9, joint=0.99).train()
    pictures, texts = drawn("AB", "BA", "A", "BB"), ["AB", "BA", "A", "BB"]
    fresh = {k: v.clone() for k, v in model.decoder.state_dict().items()}
    descend(model, batch_of(model, pictures, texts), 150)
    model.decoder.load_state_dict(fresh)
    model.eval()
    together = [page[0].text for page in model.read(pictures, cut=False)]
    assert model.reading == Captioning(beam=4) and tiny().reading == Captioning()
    assert together == texts != [page[0].text for page in model.read(pictures, Captioning(), cut=False)]
    with pytest.raises(ConfigError, match="joint needs"):
        tiny(0.0, joint=0.3)


def test_a_token_counts_the_same_in_long_and_short_lines_by_the_usual_length():
    texts, pictures = ["AB", "BAB1", "A"], drawn("AB", "BAB1", "A")
    for weight, part, ends in ((0.0, "writing", 1), (1.0, "ctc", 0)):
        plain, usual = tiny(weight).double(), tiny(weight, usual_length=5.0).double()
        mean, found = (m.loss(batch_of(m, pictures, texts)).parts[part] for m in (plain, usual))
        tokens = sum(len(t) + ends for t in texts)
        assert float(found) == pytest.approx(float(mean) * tokens / (5.0 * len(texts)), rel=1e-9)


def test_hidden_tokens_are_drawn_by_the_seeds_while_training_alone():
    model, plain = tiny(0.0, hidden=0.5).double(), tiny(0.0).double()
    texts, pictures = ["ABC1", "BAB1"], drawn("ABC1", "BAB1")
    first, again, other = (batch_of(model, pictures, texts, seed) for seed in (0, 0, 9))
    assert model.loss(first).total.item() == plain.loss(first).total.item()
    losses = [model.train().loss(batch).total.item() for batch in (first, again, other)]
    assert losses[0] == losses[1] and losses[0] != losses[2] and losses[0] != plain.loss(first).total.item()
    with pytest.raises(ConfigError, match="unknown_id"):
        model.config.replace(unknown_id=None)


def test_where_the_decoder_looked_is_what_its_text_was_made_of():
    model = tiny().double()
    batch = batch_of(model, drawn("AB", "A LONG ONE"), ["AB", "A LONG ONE"])
    (tokens, seen), text = model.tokens(batch["image"]), batch["text"][:, :-1]
    hidden, look = model.decoder.looked(text, tokens, seen)
    assert torch.allclose(hidden, model.decoder.hidden(text, tokens, seen), atol=1e-12)
    assert torch.allclose(look.sum(-1), torch.ones((), dtype=torch.float64)) and not look.movedim(-1, 1)[~seen].any()
    alone = model.decoder.looked(text[:1], tokens[:1, : int(seen[0].sum())])[1]
    assert torch.allclose(look[:1, ..., : alone.shape[-1]], alone, atol=1e-12)


def test_a_reader_offers_no_captions():
    assert not isinstance(tiny(), Captions) and isinstance(tiny(), Reads)


def test_a_character_that_the_tokenizer_lacks_is_unknown_and_never_written():
    model = tiny()
    ids = model.text.encode("A合").tolist()
    assert ids[2] == model.text.tokenizer.token_to_id("<unk>")
    assert model.text.decode_each([torch.tensor(ids[1:])])[0] == "A"
    batch = {"image": model.pictures(drawn("A")), "text": torch.tensor([ids])}
    assert torch.isfinite(model.loss(batch).total)


def test_rates_are_counted_over_characters_as_they_are_written():
    found = rates(["AB C", "D"], ["AB c", "D"])
    assert found == {"cer": 1 / 5, "wer": 1 / 3, "exact": 0.5}


def test_parts_that_do_not_fit_are_refused():
    config = tiny().config
    with pytest.raises(ConfigError, match="width"):
        config.replace(text=config.text.replace(context_dim=8))
    with pytest.raises(ConfigError, match="no ctc_weight"):
        tiny(0.0).spelled(drawn("A"))

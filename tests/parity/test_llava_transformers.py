"""LLaVA as transformers publishes it: logits, the answers' loss, gradients, greedy and beam tokens, old names."""

from __future__ import annotations

import pytest
import torch

transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402

from intermodal.core.captioning import Captioning  # noqa: E402
from intermodal.core.chat import Turn  # noqa: E402
from intermodal.core.errors import CheckpointError, DataError  # noqa: E402
from intermodal.decode.beam import beam_search  # noqa: E402
from intermodal.decode.generate import generate  # noqa: E402
from intermodal.decode.stepper import TransformerStepper  # noqa: E402
from intermodal.hub import llava  # noqa: E402
from intermodal.hub.load import load  # noqa: E402
from published_llava import CASES, CHATS, SIZE, close, picture, published  # noqa: E402

PAD = 303


@pytest.fixture(scope="module", params=list(CASES))
def pair(request, tmp_path_factory):
    """Return the reference, its tokenizer and image processor, ours as loaded from what they save, and the folder."""
    theirs, tokenizer, image = published(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    for part in (theirs, tokenizer, image):
        part.save_pretrained(folder)
    return theirs, tokenizer, image, load(folder), folder


@pytest.fixture
def exact(monkeypatch):
    """Let transformers' Llama compute its norms and rotations in double, which it does in single precision always."""

    def norm(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

    def rotation(self, x, position_ids):
        half = torch.arange(0, self.config.head_dim, 2, dtype=torch.float64) / self.config.head_dim
        angle = position_ids[..., None].double() * self.config.rope_parameters["rope_theta"] ** -half
        both = torch.cat([angle, angle], -1)
        return both.cos().to(x.dtype), both.sin().to(x.dtype)

    from transformers.models.llama import modeling_llama

    monkeypatch.setattr(modeling_llama.LlamaRMSNorm, "forward", norm)
    monkeypatch.setattr(modeling_llama.LlamaRotaryEmbedding, "forward", rotation)


def inputs(pair, chats):
    """Return what their processors make of the chats, padded on the left."""
    _, tokenizer, image, ours, _ = pair
    texts, shown = [], []
    for chat in chats:
        text = ""
        for turn in chat:
            marks = "".join("<image>" * ours.config.patches + "\n" for _ in turn.pictures)
            text += f"USER: {marks}{turn.question} ASSISTANT:"
            text += "" if turn.answer is None else f" {turn.answer}{tokenizer.eos_token}"
            shown += turn.pictures
        texts.append(text)
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "left"
    found = tokenizer(texts, return_tensors="pt", padding=True)
    pixels = image(shown, return_tensors="pt")["pixel_values"]
    return {"input_ids": found["input_ids"], "attention_mask": found["attention_mask"], "pixel_values": pixels}


@torch.no_grad()
def test_chats_are_the_same_tokens_and_logits_in_a_batch_of_unequal_prompts(pair):
    theirs, _, _, ours, _ = pair
    given = inputs(pair, CHATS)
    real = given["attention_mask"].bool()
    for chat, row, kept in zip(CHATS, given["input_ids"], real, strict=True):
        assert ours.chats.chat(chat)[0] == row[kept].tolist()
    place = (given["attention_mask"].cumsum(1) - 1).clamp(min=0)
    wanted = theirs(**given, position_ids=place).logits
    prompt, padding = ours.prompt(CHATS)
    assert padding is not None
    found = ours.language.network(prompt, padding_B=padding)
    close(found[real], wanted[real], 1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["plain", "grouped"])
def test_in_double_precision_logits_are_theirs_to_the_last_digits(name, exact, tmp_path):
    theirs, _, _ = published(name)
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path, processors={}).double()
    image = torch.randn(2, 3, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ids = torch.randint(2, 200, (2, 30), generator=torch.Generator().manual_seed(2))
    ids[:, 3 : 3 + ours.config.patches] = ours.config.image_id
    wanted = theirs.double()(input_ids=ids, pixel_values=image).logits
    close(ours.language.network(ours.mixed(ids, ours.see(image))), wanted, 1e-9)


def test_the_loss_of_the_answers_and_its_gradients_are_theirs(pair):
    theirs, _, image, ours, _ = pair
    chats = [
        [Turn("The old man?", "It rains", (picture(0),)), Turn("blue", "A square one and a sea")],
        [Turn("red", "nobody", (picture(1),))],
    ]
    chat = torch.stack([ours.chats.encode(one) for one in chats])
    pixels = image([picture(0), picture(1)], return_tensors="pt")["pixel_values"]
    total = ours.loss({"image": pixels, "chat": chat}).total
    total.backward()
    ids, kind = chat[:, 0], chat[:, 1]
    wanted = theirs(
        input_ids=ids, attention_mask=(kind > 0).long(), pixel_values=pixels, labels=ids.masked_fill(kind != 2, -100)
    ).loss
    wanted.backward()
    assert total.item() == pytest.approx(wanted.item(), rel=1e-5)
    keys = llava.key_map(ours.config)
    named = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in ours.named_parameters()}
    gradients = keys.to_published(named)
    seen = 0
    for name, parameter in llava.current_names(dict(theirs.named_parameters()), "").items():
        if not name.startswith("vision_tower") and parameter.grad is not None:  # ours leaves the tower as it is
            close(gradients[name], parameter.grad, 1e-3 if parameter.grad.abs().max() < 1e-4 else 1e-4)
            seen += 1
    assert seen > 20
    assert not any(p.grad is not None for p in ours.tower.parameters())
    ours.zero_grad()
    theirs.zero_grad()


@torch.no_grad()
def test_greedy_answers_are_theirs_token_for_token(pair):
    theirs, tokenizer, _, ours, _ = pair
    given = inputs(pair, CHATS)
    made = theirs.generate(**given, do_sample=False, max_new_tokens=20, pad_token_id=PAD)[
        :, given["input_ids"].shape[1] :
    ]
    prompt, padding = ours.prompt(CHATS)
    stepper = TransformerStepper(ours.language.network, padding_B=padding)
    found = generate(stepper, prompt, 20, end=ours.end)
    ends = lambda row: row[: row.index(ours.end)] if ours.end in row else row  # noqa: E731
    for row, wanted in zip(found.tolist(), made.tolist(), strict=True):
        assert ends(row) == ends(wanted)
    said = ours.answer(CHATS, Captioning(most=20))
    assert [c.text for c in said] == [
        tokenizer.decode(ends(row), skip_special_tokens=True).strip() for row in made.tolist()
    ]
    alone = [ours.answer([chat], Captioning(most=20))[0] for chat in CHATS]
    assert [c.text for c in alone] == [c.text for c in said]
    assert ["".join(ours.answering(chat, Captioning(most=20))).strip() for chat in CHATS] == [c.text for c in said]


@torch.no_grad()
@pytest.mark.parametrize(("beams", "penalty"), [(2, 1.0), (4, 0.0)])
def test_beams_are_theirs_token_for_token(pair, beams, penalty):
    theirs, _, _, ours, _ = pair
    given, ends = inputs(pair, CHATS), [1, *range(40, 70)]
    wanted = theirs.generate(
        **given,
        num_beams=beams,
        length_penalty=penalty,
        do_sample=False,
        max_new_tokens=12,
        eos_token_id=ends,
        pad_token_id=PAD,
    )[:, given["input_ids"].shape[1] :]
    prompt, padding = ours.prompt(CHATS)
    stepper = TransformerStepper(ours.language.network, padding_B=padding)
    found = beam_search(stepper, prompt, 12, beams=beams, end=ends, length_penalty=penalty)
    for row, best in zip(wanted, found, strict=True):
        count = len(best[0].tokens)
        assert best[0].tokens.tolist() == row[:count].tolist() and bool((row[count:] == PAD).all())


def renamed(key, layout):
    """Return a name of today's files as files of another time have it."""
    if layout == "first":
        return key.replace("vision_tower.", "vision_tower.vision_model.")
    key = key.replace("language_model.lm_head", "lm_head").replace("language_model.model.", "language_model.")
    return key if key == "lm_head.weight" else f"model.{key}".replace("vision_tower.", "vision_tower.vision_model.")


@torch.no_grad()
@pytest.mark.parametrize("layout", ["first", "second"])
def test_every_naming_of_its_tensors_is_read_and_nothing_else(pair, layout, tmp_path):
    ours, folder = pair[3], pair[4]
    tensors = load_file(folder / "model.safetensors")
    old = {renamed(key, layout): value for key, value in tensors.items()}
    assert set(old) != set(tensors)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    save_file(old, tmp_path / "model.safetensors")
    again = load(tmp_path, processors={})
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in ours.state_dict().items())
    save_file({**old, "projector.extra": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"projector\.extra"):
        load(tmp_path, processors={})
    lost = {name: value for name, value in old.items() if "linear_2" not in name}
    save_file(lost, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="linear_2"):
        load(tmp_path, processors={})


def test_what_cannot_be_answered_is_said_in_a_sentence(pair):
    ours = pair[3]
    with pytest.raises(DataError, match="the model reads at most 160: shorten the prompt"):
        ours.answer([[Turn("sea " * 200, None, (picture(0),))]])
    with pytest.raises(DataError, match="may not be part of a text"):
        ours.answer([[Turn("what is <image>?", None, (picture(0),))]])
    with pytest.raises(DataError, match="the question is empty"):
        ours.answer([[Turn(" ", None)]])
    with pytest.raises(DataError, match="the last one has none|the last has none"):
        ours.answer([[Turn("a", "b")]])
    with pytest.raises(DataError, match="ask a question"):
        ours.answer([[]])
    said = ours.answer([[Turn("The old man?", None)]])[0]
    assert said.tokens <= 160, "a question without a picture is answered from its text, within bounds"

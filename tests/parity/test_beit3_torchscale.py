"""BEiT-3 against torchscale's: vectors of pictures, texts and pairs, holes, captions word by word, gradients."""

import json
from typing import Any

import pytest
import torch
from torch import nn

from intermodal.core.errors import CheckpointError, DataError
from intermodal.hub import beit3 as layout
from intermodal.hub.load import load
from intermodal.methods.vision_language.expert_parts import HoleStepper

pytest.importorskip("torchscale", reason="torchscale is installed in the vision environment only")
pytestmark = [pytest.mark.vision, pytest.mark.filterwarnings("ignore")]
DTYPES = [torch.float32, torch.float64]
CASES: dict[str, dict[str, Any]] = {
    "base": {"img_size": 32, "patch_size": 8, "encoder_embed_dim": 24, "encoder_attention_heads": 3},
    "deep-odd": {
        "img_size": 35,
        "patch_size": 7,
        "encoder_embed_dim": 20,
        "encoder_attention_heads": 2,
        "encoder_layers": 5,
        "encoder_ffn_embed_dim": 37,
        "layernorm_eps": 1e-6,
    },
}
COMMON = {"multiway": True, "vocab_size": 60, "encoder_layers": 3, "encoder_ffn_embed_dim": 48}
COMMON |= {"max_source_positions": 12, "no_output_layer": True, "normalize_output": True}
START, END, PAD, MASK = 0, 2, 1, 59


class Published(nn.Module):
    """The trunk under its published name, and the heads of the two tasks."""

    def __init__(self, config: dict[str, Any], heads: tuple[str, ...]) -> None:
        from torchscale.architecture.config import EncoderConfig
        from torchscale.model.BEiT3 import BEiT3

        super().__init__()
        self.beit3 = BEiT3(EncoderConfig(**config))
        width = config["encoder_embed_dim"]
        if "contrast" in heads:
            self.vision_head, self.language_head = (
                nn.Linear(width, width, bias=False),
                nn.Linear(width, width, bias=False),
            )
            self.logit_scale = nn.Parameter(torch.ones([]))
        if "words" in heads:
            self.mlm_head = nn.Linear(width, config["vocab_size"])


class InFloat64:
    """torch.nn.functional for the reference's attention, whose softmax would else be rounded to float32."""

    @staticmethod
    def softmax(scores, dim, dtype):
        del dtype
        return scores.softmax(dim)


@pytest.fixture
def exact(monkeypatch):
    """Take the reference's roundings to float32 out (of softmax and activation), so that float64 can be compared."""
    from torchscale.component import multihead_attention

    monkeypatch.setattr(multihead_attention, "F", InFloat64)
    rounded = torch.Tensor.float
    monkeypatch.setattr(torch.Tensor, "float", lambda x: x if x.dtype == torch.float64 else rounded(x))


@pytest.fixture
def prepare(tmp_path, randomise, texts):
    """Build a reference of random weights, save it with its published keys and load it; return both and a batch."""
    from safetensors.torch import save_file

    def build(name, heads, dtype=torch.float32, *, described=True):
        config = {**COMMON, **CASES[name]}
        reference = Published(dict(config), heads).to(dtype).eval()
        randomise(reference, seed=len(name))
        file = "model.safetensors" if described else "beit3_tiny_patch8_32_retrieval.safetensors"
        save_file({k: v.contiguous() for k, v in reference.state_dict().items()}, tmp_path / file)
        if described:
            (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "beit3", "mask_token_id": MASK}))
        image = torch.randn(
            4, 3, config["img_size"], config["img_size"], generator=torch.Generator().manual_seed(7), dtype=dtype
        )
        text = texts(4, 10, bos=START, eos=END, pad=PAD)
        return reference, load(tmp_path, processors={}), image, text

    return build


def readings(reference, ours, image, text):
    """Return vectors of pictures alone, texts alone, pairs, and pairs with holes in both, of both; padding left out."""
    real = ours.network.real(text)
    hidden = torch.rand(4, ours.config.network.patches, generator=torch.Generator().manual_seed(3)) < 0.4
    holed = text.masked_fill(ours.network.words(text) & (torch.arange(10) % 3 == 1), MASK)
    pair = torch.cat([torch.ones(4, ours.config.network.image_tokens, dtype=torch.bool), real], 1)

    def theirs(**given):
        return reference.beit3(text_padding_position=~real, **given)["encoder_out"]

    wanted = {
        "image": reference.beit3(visual_tokens=image)["encoder_out"],
        "text": theirs(textual_tokens=text)[real],
        "pair": theirs(textual_tokens=text, visual_tokens=image)[pair],
        "holes": theirs(textual_tokens=holed, visual_tokens=image, vision_masked_position=hidden)[pair],
    }
    found = {
        "image": ours.network(image, None),
        "text": ours.network(None, text)[real],
        "pair": ours.network(image, text)[pair],
        "holes": ours.network(image, holed, real_BL=real, hidden_BP=hidden)[pair],
    }
    return found, wanted


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_agree(name, dtype, prepare, agree, request):
    """Pictures, texts, pairs and holes give the same vectors, and the same gradient of every parameter."""
    if dtype == torch.float64:
        request.getfixturevalue("exact")
    reference, ours, image, text = prepare(name, ("contrast",), dtype)
    found, wanted = readings(reference, ours, image, text)
    agree({k: v.detach() for k, v in found.items()}, {k: v.detach() for k, v in wanted.items()}, f"{name} outputs")

    def vectors(head, x_BLD):
        return nn.functional.normalize(head(x_BLD[:, 0]), dim=-1)

    both = {"image": ours.encode_image(image), "text": ours.encode_text(text)}
    real = ours.network.real(text)
    alone = reference.beit3(textual_tokens=text, text_padding_position=~real)["encoder_out"]
    theirs = {"image": vectors(reference.vision_head, wanted["image"]), "text": vectors(reference.language_head, alone)}
    agree({k: v.detach() for k, v in both.items()}, {k: v.detach() for k, v in theirs.items()}, f"{name} vectors")

    for outputs, vectors_of, scale in ((found, both, ours.logit_scale), (wanted, theirs, reference.logit_scale)):
        loss = sum(output.sin().sum() for output in outputs.values())
        loss = loss + (scale.exp() * vectors_of["image"] @ vectors_of["text"].T).log_softmax(1).diagonal().sum()
        loss.backward()
    published = layout.key_map(ours.config).to_published({k: p.grad for k, p in ours.named_parameters()})
    gradients = {k: p.grad for k, p in reference.named_parameters()}
    agree({k: published[k] for k in gradients}, gradients, f"{name} gradients")


@pytest.mark.parametrize("name", CASES)
def test_a_caption_is_written_as_the_reference_fills_holes(name, prepare, exact):
    """Each step's logits are those of the reference's mask token, which reads picture and words anew under BEiT-3's mask."""
    reference, ours, image, _ = prepare(name, ("words",), torch.float64)
    stepper = HoleStepper(ours.network, ours.word_head, ours.network.placed(ours.network.seen(image)))
    words, state = torch.full((4, 1), START), stepper.start(10)
    read, first = words, ours.config.network.image_tokens
    with torch.no_grad():
        for _ in range(6):
            logits, state = stepper.step(state, read)
            holed = torch.cat([words, torch.full((4, 1), MASK)], 1)
            size = first + holed.shape[1]
            forbidden = torch.zeros(size, size, dtype=torch.float64)
            forbidden[:first, first:] = 1
            forbidden[first:, first:] = torch.ones(holed.shape[1], holed.shape[1]).triu(1)
            out = reference.beit3(textual_tokens=holed, visual_tokens=image, attn_mask=forbidden)["encoder_out"]
            wanted = reference.mlm_head(out[:, -1])
            assert float((logits - wanted).abs().max()) < 1e-9 * float(wanted.abs().max())
            read = wanted.argmax(-1, keepdim=True)
            words = torch.cat([words, read], 1)


def test_weights_without_a_configuration_are_read_by_their_shapes(prepare, monkeypatch):
    monkeypatch.setattr(layout, "HEAD_WIDTH", 8)  # of a width of 24, three heads
    reference, ours, image, text = prepare("base", ("contrast",), described=False)
    assert (ours.config.network.heads, ours.config.network.image_size, ours.config.heads) == (3, 32, ("contrast",))
    found, wanted = readings(reference, ours, image, text)
    torch.testing.assert_close(found["pair"], wanted["pair"], rtol=1e-4, atol=1e-4)
    with pytest.raises(DataError, match="not trained for 'words'"):
        ours.begun(image)


def test_what_is_not_supported_is_refused(prepare, tmp_path):
    prepare("base", ("contrast",))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"deepnorm": True}))
    with pytest.raises(CheckpointError, match="deepnorm=True is not supported"):
        load(tmp_path, processors={})

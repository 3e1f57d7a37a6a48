"""DALL-E's discrete VAE in published layouts: transformers' codebook equals ours, OpenAI's keys load, bad files do not."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from intermodal.core.errors import CheckpointError, ConfigError, DataError
from intermodal.hub import dalle_dvae
from intermodal.hub.load import load
from intermodal.methods.image_tokenizers.dvae import DVAE
from intermodal.nn.dalle_coder import map_pixels

WEIGHTS = "model.safetensors"
CASES = {
    "plain": {},
    "one block": {"num_blocks_per_group": 1},
    "three blocks": {"num_blocks_per_group": 3, "hidden_size": 12},
    "another gain": {"num_groups": 2},
    "grey": {"input_channels": 1},
}
SIZES = [(8, 8), (24, 40), (9, 31), (64, 17)]


def reference(dtype=torch.float64, **changes):
    """Return transformers' codebook of a tiny size, with weights large enough that every block matters."""
    flava = pytest.importorskip("transformers.models.flava", reason="transformers, of the core group, is not installed")
    torch.manual_seed(0)
    config = flava.FlavaImageCodebookConfig(**{"hidden_size": 8, "vocab_size": 37, "freeze": False, **changes})
    model = flava.FlavaImageCodebook(config).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=1.5 * parameter[0].numel() ** -0.5)
    return model


def pair(folder, dtype=torch.float64, **changes):
    """Save transformers' model, load it as ours, and return both."""
    model = reference(dtype, **changes)
    model.save_pretrained(folder)
    ours = load(folder, processors={} if changes.get("input_channels", 3) == 1 else None)
    assert isinstance(ours, DVAE) and not ours.training and ours.decoder is None
    assert next(ours.encoder.parameters()).dtype == dtype
    return ours, model


def pictures(channels, height, width, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return map_pixels(torch.rand(2, channels, height, width, generator=generator, dtype=dtype))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_logits_codes_and_gradients_equal_transformers(case, size, tmp_path):
    ours, theirs = pair(tmp_path, **CASES[case])
    image = pictures(theirs.input_channels, *size)
    inputs = [image.clone().requires_grad_() for _ in range(2)]
    found, wanted = ours.encoder(inputs[0]), theirs(inputs[1])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-11 * float(wanted.detach().abs().max()))
    assert torch.equal(ours.to_latent(image), theirs.get_codebook_indices(image))
    probabilities = found.detach().softmax(1)
    torch.testing.assert_close(probabilities, theirs.get_codebook_probs(image).detach(), rtol=0, atol=1e-11)
    weights = torch.linspace(-1, 1, wanted.numel(), dtype=torch.float64).view_as(wanted)
    for logits in (found, wanted):
        (logits * weights).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=0, atol=1e-11 * float(inputs[1].grad.abs().max()))
    published = dalle_dvae.flava_map(ours.config).to_published({k: p.grad for k, p in ours.named_parameters()})
    gradients = {k: p.grad for k, p in theirs.named_parameters()}
    assert set(published) == set(gradients)
    for name, gradient in gradients.items():
        tolerance = 1e-11 * max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(published[name], gradient, rtol=0, atol=tolerance)


def test_single_precision_too(tmp_path):
    ours, theirs = pair(tmp_path, torch.float32)
    image = pictures(3, 40, 24, torch.float32)
    wanted = theirs(image).detach()
    torch.testing.assert_close(ours.encoder(image).detach(), wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


def test_the_way_back_is_the_published_file(tmp_path):
    ours, theirs = pair(tmp_path)
    published = dalle_dvae.flava_map(ours.config).to_published(ours.state_dict())
    state = theirs.state_dict()
    assert set(published) - set(state) == {"temperature", "beta"}
    assert all(torch.equal(published[k], v) for k, v in state.items())
    ours.save(tmp_path / "ours")
    again = load(tmp_path / "ours")
    assert all(torch.equal(again.state_dict()[k], v) for k, v in ours.state_dict().items())


def test_without_settings_pictures_have_the_size_that_transformers_fills_in(tmp_path):
    ours, theirs = pair(tmp_path, torch.float32)
    assert (
        ours.picture.size == (112, 112) and ours.picture.interpolation == "lanczos" and ours.latent_shape() == (14, 14)
    )
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8))
    values = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    torch.testing.assert_close(ours.picture([image]), map_pixels(values), rtol=0, atol=1e-6)
    assert np.array_equal(ours.encode([image]), theirs.get_codebook_indices(map_pixels(values)).numpy())


def test_settings_of_the_pictures_are_read(tmp_path):
    pair(tmp_path)
    box = {"height": 16, "width": 24}
    settings = {
        "codebook_size": box,
        "codebook_crop_size": box,
        "codebook_resample": 2,
        "codebook_image_mean": [0.5, 0.4, 0.3],
        "codebook_image_std": [0.5, 0.25, 1.0],
        "size": {"height": 224, "width": 224},
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    ours = load(tmp_path)
    assert ours.picture.size == (16, 24) and ours.picture.interpolation == "bilinear" and ours.latent_shape() == (2, 3)
    values = torch.rand(1, 3, 16, 24)
    mean, std = (torch.tensor(settings[f"codebook_image_{n}"]).view(1, 3, 1, 1) for n in ("mean", "std"))
    torch.testing.assert_close(ours.picture.prepare(values), map_pixels((values - mean) / std), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"codebook_do_map_pixels": False}, "codebook_do_map_pixels=false"),
        ({"codebook_rescale_factor": 1.0}, "must be 1/255"),
        ({"codebook_size": {"shortest_edge": 16}}, "one height and width"),
        ({"codebook_crop_size": {"height": 8, "width": 8}}, "one height and width"),
        ({"codebook_resample": 4}, "codebook_resample=4"),
        ({"codebook_image_std": [1.0, 0.0, 1.0]}, "above 0"),
        (
            {"codebook_size": {"height": 20, "width": 20}, "codebook_crop_size": {"height": 20, "width": 20}},
            "multiples of 8",
        ),
    ],
    ids=str,
)
def test_settings_that_are_not_supported_are_refused(settings, words, tmp_path):
    pair(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises((CheckpointError, ConfigError), match=words):
        load(tmp_path)


def test_an_encoder_alone_says_so(tmp_path):
    ours, _ = pair(tmp_path, torch.float32)
    with pytest.raises(DataError, match="encoder alone"):
        ours.decode(np.zeros((1, 14, 14), np.int64))
    with pytest.raises(ConfigError, match="encoder alone"):
        ours.loss({"image": torch.zeros(1, 3, 8, 8), "seed": torch.zeros(1)})


def test_wrong_keys_and_configurations_of_the_codebook_are_named(tmp_path):
    pair(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    save_file({k: v for k, v in tensors.items() if k != "blocks.output.conv.bias"}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"1 missing: blocks\.output\.conv\.bias"):
        load(tmp_path)
    save_file({**tensors, "blocks.group_5.x": torch.zeros(1)}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"blocks\.group_5\.x"):
        load(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for changes in ({"hidden_size": 6}, {"num_groups": 0}, {"vocab_size": 1}):
        (tmp_path / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(CheckpointError, match=str(tmp_path)):
            load(tmp_path)


# OpenAI's layout. The networks below are written down from the published description of its keys and shapes, so that what is
# loaded is not our own state under other names; a file of whole modules is made of them as well.


class Convolution(nn.Module):
    """Weights under ``w`` and ``b``."""

    def __init__(self, before, after, kernel):
        super().__init__()
        self.w = nn.Parameter(torch.randn(after, before, kernel, kernel) * (before * kernel**2) ** -0.5)
        self.b = nn.Parameter(0.1 * torch.randn(after))

    def forward(self, x):
        return nn.functional.conv2d(x, self.w, self.b, padding=self.w.shape[-1] // 2)


class Block(nn.Module):
    def __init__(self, before, after, layers, kernels):
        super().__init__()
        self.gain = 1 / layers**2
        self.id_path = Convolution(before, after, 1) if before != after else nn.Identity()
        widths = [before, *[after // 4] * 3, after]
        path = {}
        for n, kernel in enumerate(kernels):
            path[f"relu_{n + 1}"] = nn.ReLU()
            path[f"conv_{n + 1}"] = Convolution(widths[n], widths[n + 1], kernel)
        self.res_path = nn.ModuleDict(path)

    def forward(self, x):
        y = x
        for layer in self.res_path.values():
            y = layer(y)
        return self.id_path(x) + self.gain * y


class Network(nn.Module):
    """``blocks.input``, four groups of two blocks, ``blocks.output.conv``; a layer between groups."""

    def __init__(self, first, widths, between, last, kernels):
        super().__init__()
        blocks = {"input": first}
        for g in range(4):
            pairs = [(widths[g], widths[g + 1]), (widths[g + 1], widths[g + 1])]
            blocks[f"group_{g + 1}"] = nn.ModuleDict(
                {f"block_{n + 1}": Block(*pair, 8, kernels) for n, pair in enumerate(pairs)}
            )
        blocks["output"] = nn.ModuleDict({"relu": nn.ReLU(), "conv": last})
        self.blocks, self.between = nn.ModuleDict(blocks), between

    def forward(self, x):
        x = self.blocks["input"](x)
        for g in range(4):
            for block in self.blocks[f"group_{g + 1}"].values():
                x = block(x)
            x = self.between(x) if g < 3 else x
        return self.blocks["output"]["conv"](torch.relu(x))


def openai(hidden=8, codes=21, first=12):
    torch.manual_seed(0)
    up, down = [hidden * m for m in (1, 1, 2, 4, 8)], [first, *[hidden * m for m in (8, 4, 2, 1)]]
    encoder = Network(Convolution(3, hidden, 7), up, nn.MaxPool2d(2), Convolution(up[-1], codes, 1), (3, 3, 3, 1))
    upsample = nn.Upsample(scale_factor=2, mode="nearest")
    decoder = Network(Convolution(codes, first, 1), down, upsample, Convolution(hidden, 6, 1), (1, 3, 3, 3))
    return encoder, decoder


@pytest.fixture(params=[".safetensors", ".pkl"])
def published(request, tmp_path):
    for name, network in zip(("encoder", "decoder"), openai(), strict=True):
        if request.param == ".pkl":
            torch.save(network.state_dict(), tmp_path / f"{name}.pkl")
        else:
            save_file(network.state_dict(), tmp_path / f"{name}.safetensors")
    return tmp_path


@torch.no_grad()
def test_openai_s_two_networks_load_and_agree(published):
    encoder, decoder = openai()
    assert {"blocks.input.w", "blocks.group_2.block_1.id_path.b", "blocks.group_1.block_2.res_path.conv_4.w"} <= set(
        encoder.state_dict()
    )
    model = load(published)
    assert isinstance(model, DVAE) and model.codebook_size == 21
    assert model.picture.size == (256, 256) and model.latent_shape() == (32, 32)
    image = pictures(3, 32, 48, torch.float32)
    torch.testing.assert_close(model.encoder(image), encoder(image), rtol=0, atol=1e-5)
    codes = encoder(image).argmax(1)
    assert torch.equal(model.to_latent(image), codes)
    mixture = nn.functional.one_hot(codes, 21).movedim(-1, 1).float()
    wanted = decoder(mixture)
    torch.testing.assert_close(torch.cat(model.decoder(mixture), 1), wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(model.to_image(codes), wanted[:, :3].sigmoid(), rtol=0, atol=1e-6)
    back = dalle_dvae.openai_map(model.config).to_published(model.state_dict())
    assert all(torch.equal(back[f"encoder.{k}"], v) for k, v in encoder.state_dict().items())
    assert all(torch.equal(back[f"decoder.{k}"], v) for k, v in decoder.state_dict().items())


class Harmful:
    """What a pickle can do: call anything when it is read."""

    called = False

    def __reduce__(self):
        return (_harm, ())


def _harm():
    Harmful.called = True


@pytest.mark.parametrize("what", ["module", "harm", "plain pickle", "damaged", "list"])
def test_pickles_that_are_no_dictionary_of_tensors_are_refused_unread(what, tmp_path):
    encoder, decoder = openai()
    torch.save(decoder.state_dict(), tmp_path / "decoder.pkl")
    path = tmp_path / "encoder.pkl"
    if what == "plain pickle":
        path.write_bytes(pickle.dumps(Harmful()))
    elif what == "damaged":
        path.write_bytes(b"not a file of torch's")
    else:
        torch.save({"module": encoder, "harm": {"blocks.input.w": Harmful()}, "list": [torch.zeros(1)]}[what], path)
    words = "holds no dictionary" if what == "list" else r"runs whatever code.*state_dict\(\).*encoder\.safetensors"
    with pytest.raises(CheckpointError, match=words):
        load(tmp_path)
    assert not Harmful.called


def test_a_dalle_folder_that_is_not_one(tmp_path):
    encoder, decoder = openai()
    save_file(decoder.state_dict(), tmp_path / "decoder.safetensors")
    with pytest.raises(CheckpointError, match="holds no model"):
        load(tmp_path)
    save_file({"weight": torch.zeros(1)}, tmp_path / "encoder.safetensors")
    with pytest.raises(CheckpointError, match="not DALL-E's"):
        load(tmp_path)
    state = encoder.state_dict()
    state.pop("blocks.group_3.block_2.res_path.conv_2.b")
    save_file(state, tmp_path / "encoder.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing: encoder\.blocks\.group_3\.block_2\.res_path\.conv_2\.b"):
        load(tmp_path)

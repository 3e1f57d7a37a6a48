"""AutoencoderKL in diffusers' layout: outputs, gradients, samples, tiles and slices are diffusers'; files go both ways."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

diffusers = pytest.importorskip("diffusers", reason="diffusers, of the core group, is not installed")

import intermodal  # noqa: E402
from intermodal.core.errors import CheckpointError, ConfigError, DataError  # noqa: E402
from intermodal.data.processors import signed_pixels  # noqa: E402
from intermodal.hub import autoencoder_kl  # noqa: E402
from intermodal.hub.load import load  # noqa: E402
from intermodal.hub.save import export  # noqa: E402
from intermodal.hub.weights import DIFFUSERS  # noqa: E402
from intermodal.methods.image_tokenizers.vae import VAE, VAEConfig  # noqa: E402
from intermodal.nn.autoencoder import AutoencoderConfig  # noqa: E402

PLAIN = {
    "block_out_channels": (8, 16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "norm_num_groups": 4,
    "sample_size": 24,
}
CASES = {
    "plain": PLAIN,
    "stable-diffusion": PLAIN | {"layers_per_block": 2, "scaling_factor": 0.18215},
    "one level": {"block_out_channels": (8,), "norm_num_groups": 8, "latent_channels": 1},
    "no quant": PLAIN
    | {"use_quant_conv": False, "use_post_quant_conv": False, "latent_channels": 16, "shift_factor": 0.1},
    "half quant": PLAIN | {"use_quant_conv": False},
    "no attention": PLAIN | {"mid_block_add_attention": False, "in_channels": 1, "out_channels": 1},
    "attention": PLAIN
    | {
        "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D", "DownEncoderBlock2D"),
        "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D", "AttnUpDecoderBlock2D"),
        "latents_mean": [0.1, -0.2, 0.3, 0.0],
        "latents_std": [0.5, 1.0, 2.0, 1.5],
    },
}


def reference(dtype: torch.dtype = torch.float64, **changes):
    """Return diffusers' model, with weights that are neither zero nor one."""
    torch.manual_seed(0)
    model = diffusers.AutoencoderKL(**changes).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif "conv_out" in name or "quant" in name:
                parameter.mul_(2)
    return model


def pair(folder, dtype: torch.dtype = torch.float64, **changes) -> tuple:
    """Save diffusers' model, load it as ours, and return both."""
    model = reference(dtype, **changes)
    model.save_pretrained(folder)
    ours = load(folder, processors={} if changes.get("in_channels", 3) == 1 else None)
    assert isinstance(ours, VAE)
    assert next(ours.parameters()).dtype == dtype
    return ours, model


def pictures(model, height: int, width: int, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (count, model.config.in_channels, height, width)
    return torch.rand(shape, generator=generator, dtype=model.dtype) * 2 - 1


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-11) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * max(1.0, wanted.abs().max().item()))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [(24, 24), (4, 20), (60, 68)])
def test_posterior_and_picture_are_those_of_diffusers(tmp_path, name, size):
    ours, model = pair(tmp_path, **CASES[name])
    image = pictures(model, *size)
    with torch.no_grad():
        found, wanted = ours.posterior(image), model.encode(image).latent_dist
        close(found.mean, wanted.mean)
        close(found.log_var, wanted.logvar)
        close(found.kl().sum((1, 2, 3)), wanted.kl())
        close(ours.to_latent(image), wanted.mode())
        latent = wanted.mode()
        close(ours.to_image(latent), model.decode(latent).sample)


@pytest.mark.parametrize("name", CASES)
def test_float32_outputs_are_those_of_diffusers(tmp_path, name):
    ours, model = pair(tmp_path, torch.float32, **CASES[name])
    image = pictures(model, 36, 44)
    with torch.no_grad():
        wanted = model.encode(image).latent_dist.mode()
        close(ours.to_latent(image), wanted, 1e-5)
        close(ours.to_image(wanted), model.decode(wanted).sample, 1e-5)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_diffusers(tmp_path, name):
    ours, model = pair(tmp_path, **CASES[name])
    image = pictures(model, 36, 68).requires_grad_()
    posterior = ours.posterior(image)
    sample = posterior.sample(torch.Generator().manual_seed(3))
    (ours.output(sample).square().mean() + posterior.kl().mean()).backward()
    found, image.grad = image.grad, None
    other = model.encode(image).latent_dist
    value = other.sample(torch.Generator().manual_seed(3))
    (model.decode(value).sample.square().mean() + other.kl().mean() * len(value) / value.numel()).backward()
    close(found, image.grad)
    wanted = autoencoder_kl.key_map().to_ours({k: p.grad for k, p in model.named_parameters()})
    assert set(wanted) == {k for k, _ in ours.named_parameters()}
    for key, parameter in ours.named_parameters():
        close(parameter.grad, wanted[key])


def test_samples_of_a_given_generator_are_those_of_diffusers(tmp_path):
    for dtype in (torch.float32, torch.float64):
        ours, model = pair(tmp_path / str(dtype), dtype, **PLAIN)
        image = pictures(model, 24, 32)
        with torch.no_grad():
            wanted = model.encode(image).latent_dist.sample(torch.Generator().manual_seed(5))
            close(ours.posterior(image).sample(torch.Generator().manual_seed(5)), wanted, 1e-5)
            torch.manual_seed(6)
            wanted = model.encode(image).latent_dist.sample()
            torch.manual_seed(6)
            close(ours.posterior(image).sample(), wanted, 1e-5)


@pytest.mark.parametrize("size", [(64, 64), (40, 92), (32, 36), (16, 100), (28, 24)])
def test_tiles_are_those_of_diffusers(tmp_path, size):
    ours, model = pair(tmp_path, **PLAIN | {"sample_size": 32})
    model.enable_tiling()
    ours.tile = 32
    image = pictures(model, *size).requires_grad_()
    found, wanted = ours.to_latent(image), model.encode(image).latent_dist.mode()
    close(found, wanted)
    close(*(torch.autograd.grad(latent.square().sum(), image)[0] for latent in (found, wanted)))
    latent = wanted.detach()
    close(ours.to_image(latent), model.decode(latent).sample)
    ours.tile = None
    whole = ours.to_latent(image)
    assert (whole - wanted).abs().max() < 1e-11 or max(size) > 32


def test_slices_are_those_of_diffusers_and_of_the_whole(tmp_path):
    ours, model = pair(tmp_path, **PLAIN)
    image = pictures(model, 24, 32, 3)
    with torch.no_grad():
        whole = ours.to_latent(image)
        model.enable_slicing()
        ours.one_by_one = True
        wanted = model.encode(image).latent_dist.mode()
        close(ours.to_latent(image), wanted)
        close(wanted, whole)
        close(ours.to_image(wanted), model.decode(wanted).sample)


def test_tiles_that_are_no_whole_number_of_places_and_sizes_that_do_not_fit_are_refused(tmp_path):
    ours, model = pair(tmp_path, **PLAIN)
    ours.tile = 24
    with pytest.raises(ConfigError, match="multiple of 16 pixels"):
        ours.to_latent(pictures(model, 32, 32))
    ours.tile = 16
    with pytest.raises(DataError, match="multiples of 4 pixels, found 30 x 32"):
        ours.to_latent(pictures(model, 30, 32))


def test_bfloat16_is_no_further_from_float64_than_diffusers(tmp_path):
    ours, model = pair(tmp_path, **PLAIN)
    image = pictures(model, 64, 64)
    with torch.no_grad():
        latent = model.encode(image).latent_dist.mode()
        exact = model.decode(latent).sample
        halves = model.bfloat16(), ours.bfloat16()
        theirs = [halves[0].encode(image.bfloat16()).latent_dist.mode(), halves[0].decode(latent.bfloat16()).sample]
        found = [halves[1].to_latent(image.bfloat16()), halves[1].to_image(latent.bfloat16())]
    for a, b, wanted in zip(found, theirs, (latent, exact), strict=True):
        assert (a.double() - wanted).square().mean() < 1.1 * (b.double() - wanted).square().mean()


def test_attention_under_its_old_names_loads(tmp_path):
    ours, _ = pair(tmp_path, **CASES["attention"])
    file = tmp_path / DIFFUSERS
    today = load_file(file)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for key, tensor in today.items():
        for new, name in old.items():
            key = key.replace(f".{new}.", f".{name}.")
        renamed[key] = tensor
    assert any("proj_attn" in key for key in renamed) and not any("to_q" in key for key in renamed)
    save_file(renamed, file, metadata={"format": "pt"})
    again = load(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), again.state_dict().values(), strict=True))
    model = diffusers.AutoencoderKL.from_pretrained(tmp_path)
    image = pictures(model, 24, 24)
    with torch.no_grad():
        close(again.float().to_latent(image), model.encode(image).latent_dist.mode(), 1e-5)
    both = renamed | {k: v.clone() for k, v in today.items() if ".to_q." in k}
    save_file(both, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="twice, under an old name"):
        load(tmp_path)


def test_a_loaded_model_encodes_and_decodes_pictures_and_keeps_the_scale_of_its_latents(tmp_path):
    ours, model = pair(tmp_path / "published", torch.float32, **CASES["attention"] | {"scaling_factor": 0.5})
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8))
    model_of_mine = intermodal.load(tmp_path / "published")
    latents = model_of_mine.encode([image])
    assert latents.shape == (1, 4, 6, 6) == (1, *model_of_mine.latent_shape())
    assert model_of_mine.decode(latents)[0].size == (24, 24)
    assert model_of_mine.bits([image])[0] > 0
    z = torch.from_numpy(latents)
    mean, std = (torch.tensor(model.config[k]).view(1, 4, 1, 1) for k in ("latents_mean", "latents_std"))
    close(ours.scaled(z), (z - mean) * 0.5 / std, 1e-6)
    close(ours.unscaled(ours.scaled(z)), z, 1e-6)
    ours.save(tmp_path / "saved")
    again = intermodal.load(tmp_path / "saved")
    assert np.array_equal(again.encode([image]), latents)
    assert again.config == ours.config


@pytest.mark.parametrize("name", CASES)
def test_a_published_folder_goes_out_as_it_came(tmp_path, name):
    ours, model = pair(tmp_path / "in", **CASES[name])
    export(ours, tmp_path / "out", layout="diffusers")
    before, after = (load_file(tmp_path / p / DIFFUSERS) for p in ("in", "out"))
    assert set(before) == set(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    again = diffusers.AutoencoderKL.from_pretrained(tmp_path / "out", torch_dtype=torch.float64)
    image = pictures(model, 24, 28)
    with torch.no_grad():
        close(again.encode(image).latent_dist.mode(), ours.to_latent(image))
    told = {k: v for k, v in model.config.items() if not k.startswith("_") and k != "sample_size"}
    kept = {k: tuple(again.config[k]) if isinstance(v, tuple) else again.config[k] for k, v in told.items()}
    assert kept == told


def small(**changes) -> VAE:
    torch.manual_seed(0)
    network = AutoencoderConfig(channels=(8, 16), blocks=1, latent_channels=4, groups=4)
    return VAE(VAEConfig(network=network).replace(**changes), {"image": signed_pixels(16, "crop")})


@pytest.mark.parametrize("changes", [{}, {"scale": "learnt"}, {"scale": "learnt", "likelihood": "logistic"}])
def test_a_model_of_ours_loads_in_diffusers(tmp_path, changes):
    ours = small(**changes).eval()
    export(ours, tmp_path, layout="diffusers")
    model = diffusers.AutoencoderKL.from_pretrained(tmp_path)
    image = pictures(model, 16, 20)
    with torch.no_grad():
        close(model.encode(image).latent_dist.mode(), ours.to_latent(image), 1e-5)
        close(model.decode(ours.to_latent(image)).sample, ours.to_image(ours.to_latent(image)), 1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"latent_dim": 5}, "map, not a vector"),
        ({"scale": "pixel"}, "one output for each pixel"),
        ({"likelihood": "bernoulli"}, "logits"),
        ({"network__inner_channels": 6}, "inner_channels"),
    ],
)
def test_what_diffusers_cannot_hold_is_refused_in_words(tmp_path, changes, words):
    with pytest.raises(CheckpointError, match=words):
        export(small(**changes), tmp_path / "out", layout="diffusers")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"act_fn": "relu"}, "act_fn='relu' is not supported"),
        ({"down_block_types": ["AttnDownBlock2D"] * 3}, "AttnDownBlock2D are not supported"),
        ({"up_block_types": ["UpDecoderBlock2D"]}, "of one length"),
        ({"norm_num_groups": 7}, "multiples of the 7 groups"),
        ({"out_channels": 4}, "equally many channels"),
        ({"_class_name": "AutoencoderTiny"}, "AutoencoderTiny.*not supported"),
        ({"layers_per_block": 2}, "missing"),
        ({"use_quant_conv": False}, "left over|another shape"),
    ],
)
def test_folders_that_this_model_cannot_be_are_refused_in_words(tmp_path, changes, words):
    reference(**PLAIN).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(CheckpointError, match=words):
        load(tmp_path)


def test_a_pipeline_is_told_from_a_model_and_a_pickle_is_refused(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="pipeline of several models.*vae"):
        load(tmp_path)
    folder = tmp_path / "vae"
    reference(**PLAIN).save_pretrained(folder)
    (folder / DIFFUSERS).rename(folder / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickle"):
        load(folder)


def test_a_published_sample_size_becomes_one_that_the_stride_divides(tmp_path):
    for stated, size in ((24, (24, 24)), (27, (24, 24)), (2, (4, 4)), ((20, 30), (20, 28))):
        ours, _ = pair(tmp_path / str(stated), torch.float32, **PLAIN | {"sample_size": stated})
        assert ours.picture.size == size


def test_padding_below_and_to_the_right_is_what_the_published_network_does():
    conv = torch.nn.Conv2d(1, 1, 3, stride=2)
    x = torch.randn(1, 1, 6, 6)
    wanted = diffusers.models.downsampling.Downsample2D(1, use_conv=True, padding=0)
    wanted.conv.load_state_dict(conv.state_dict())
    assert torch.equal(conv(F.pad(x, (0, 1, 0, 1))), wanted(x))

"""VQModel in diffusers' layout: encoder, codes, decoder and gradients equal diffusers'; files go both ways."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

diffusers = pytest.importorskip("diffusers", reason="diffusers, of the core group, is not installed")

import intermodal  # noqa: E402
from intermodal.core.errors import CheckpointError, DataError  # noqa: E402
from intermodal.data.processors import signed_pixels  # noqa: E402
from intermodal.hub import vqmodel  # noqa: E402
from intermodal.hub.load import load  # noqa: E402
from intermodal.hub.save import export  # noqa: E402
from intermodal.hub.weights import DIFFUSERS  # noqa: E402
from intermodal.methods.image_tokenizers.vqgan import VQGAN, VQGANConfig  # noqa: E402
from intermodal.nn.autoencoder import AutoencoderConfig  # noqa: E402
from intermodal.nn.discriminator import PatchDiscriminatorConfig  # noqa: E402
from intermodal.nn.quantizers import FiniteScalarQuantizerConfig, VectorQuantizerConfig  # noqa: E402

PLAIN = {
    "block_out_channels": (8, 16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "norm_num_groups": 4,
    "sample_size": 24,
    "num_vq_embeddings": 19,
}
CASES = {
    "plain": PLAIN,
    "latent diffusion": PLAIN | {"layers_per_block": 2, "latent_channels": 3, "vq_embed_dim": 3, "scaling_factor": 1.0},
    "narrow codes": PLAIN | {"latent_channels": 6, "vq_embed_dim": 4, "num_vq_embeddings": 1},
    "no attention": PLAIN | {"mid_block_add_attention": False, "lookup_from_codebook": True, "force_upcast": True},
    "grey": PLAIN | {"in_channels": 1, "out_channels": 1, "num_vq_embeddings": 300},
    "attention": PLAIN
    | {
        "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"),
    },
}
SIZES = [(24, 24), (4, 20), (44, 28)]


def reference(dtype: torch.dtype = torch.float64, **changes):
    """Return diffusers' model, with weights that are neither zero nor one and a codebook that the vectors reach."""
    torch.manual_seed(0)
    model = diffusers.VQModel(**changes).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
        vectors = model.encode(pictures(model, 40, 40)).latents.transpose(0, 1).flatten(1).T
        codebook = model.quantize.embedding.weight
        codebook.copy_(vectors.mean(0) + vectors.std(0) * torch.randn_like(codebook))
    return model


def pair(folder, dtype: torch.dtype = torch.float64, **changes) -> tuple:
    """Save diffusers' model, load it as ours, and return both."""
    model = reference(dtype, **changes)
    model.save_pretrained(folder)
    ours = load(folder, processors={} if changes.get("in_channels", 3) == 1 else None)
    assert isinstance(ours, VQGAN) and not ours.training
    assert next(ours.parameters()).dtype == dtype
    return ours, model


def pictures(model, height: int, width: int, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (count, model.config.in_channels, height, width)
    return torch.rand(shape, generator=generator, dtype=model.dtype) * 2 - 1


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-11) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * max(1.0, wanted.abs().max().item()))


def codes_of(model, latents: torch.Tensor) -> torch.Tensor:
    """Return diffusers' codes ``(B, h, w)``, which it gives in one row."""
    _, _, (_, _, codes) = model.quantize(latents)
    return codes.view(len(latents), *latents.shape[2:])


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", SIZES)
def test_vectors_codes_and_picture_are_those_of_diffusers(tmp_path, name, size):
    ours, model = pair(tmp_path, **CASES[name])
    image = pictures(model, *size)
    latents = model.encode(image).latents
    close(ours.encoder(image), latents)
    wanted = codes_of(model, latents)
    codes = ours.to_latent(image)
    assert torch.equal(codes, wanted)
    answer = model.decode(latents)
    close(ours.to_image(codes), answer.sample)
    quantized = ours.quantizer(latents)
    close(quantized.z, model.quantize(latents)[0])
    close(quantized.loss, answer.commit_loss)
    if name != "narrow codes" and size != (4, 20):
        assert len(codes.unique()) > 1, "the codes differ: the comparison means something"


@torch.no_grad()
def test_codes_are_looked_up_as_in_diffusers(tmp_path):
    ours, model = pair(tmp_path, **PLAIN | {"lookup_from_codebook": True})
    codes = torch.randint(19, (2, 5, 3), generator=torch.Generator().manual_seed(2))
    wanted = model.decode(codes, force_not_quantize=True, shape=(2, 5, 3, 3)).sample
    close(ours.to_image(codes), wanted)


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_float32_is_that_of_diffusers(tmp_path, name):
    ours, model = pair(tmp_path, torch.float32, **CASES[name])
    image = pictures(model, 36, 44)
    latents = model.encode(image).latents
    close(ours.encoder(image), latents, 1e-5)
    agree = (ours.to_latent(image) == codes_of(model, latents)).float().mean()
    assert float(agree) > 0.99, "vectors half way between two codes may fall either way in single precision"
    codes = codes_of(model, latents)
    close(ours.to_image(codes), model.decode(latents).sample, 2e-5)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_diffusers(tmp_path, name):
    """Straight through the codes, and of both terms of the codebook's loss."""
    ours, model = pair(tmp_path, **CASES[name])
    image = pictures(model, 20, 36).requires_grad_()
    quantized = ours.quantizer(ours.encoder(image))
    (ours.decoder(quantized.z).square().mean() + quantized.loss).backward()
    found, image.grad = image.grad, None
    sample, loss = model(image, return_dict=False)
    (sample.square().mean() + loss).backward()
    close(found, image.grad)
    gradients = {k: p.grad for k, p in model.named_parameters()}
    wanted = vqmodel.key_map().to_ours(vqmodel.with_counts(gradients, tmp_path))
    assert {k for k, _ in ours.named_parameters()} <= set(wanted)
    for key, parameter in ours.named_parameters():
        close(parameter.grad, wanted[key])


@pytest.mark.parametrize("name", CASES)
def test_a_published_folder_goes_out_as_it_came(tmp_path, name):
    ours, model = pair(tmp_path / "in", **CASES[name])
    export(ours, tmp_path / "out", layout="diffusers")
    before, after = (load_file(tmp_path / p / DIFFUSERS) for p in ("in", "out"))
    assert set(before) == set(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    again = diffusers.VQModel.from_pretrained(tmp_path / "out", torch_dtype=torch.float64)
    own = {"sample_size", "lookup_from_codebook", "force_upcast", "vq_embed_dim"}
    told = {k for k in dict(model.config) if not k.startswith("_") and k not in own}
    assert json.dumps({k: again.config[k] for k in told}) == json.dumps({k: model.config[k] for k in told})


@pytest.mark.parametrize("update", ["ema", "loss"])
def test_a_trained_model_of_ours_loads_in_diffusers_without_its_discriminator(tmp_path, update):
    torch.manual_seed(0)
    ours = VQGAN(
        VQGANConfig(
            network=AutoencoderConfig(channels=(8, 16), blocks=1, latent_channels=4, inner_channels=6, groups=4),
            quantizer=VectorQuantizerConfig(codes=16, dim=4, update=update),
            discriminator=PatchDiscriminatorConfig(channels=8, layers=2),
            perceptual=0.0,
            start=0.0,
        ),
        {"image": signed_pixels(16, "crop")},
    ).train()
    ours.loss({"image": torch.rand(4, 3, 16, 16) * 2 - 1, "seed": torch.arange(4)})
    export(ours.eval(), tmp_path, layout="diffusers")
    model = diffusers.VQModel.from_pretrained(tmp_path)
    image = pictures(model, 16, 20)
    with torch.no_grad():
        latents = model.encode(image).latents
        close(ours.encoder(image), latents, 1e-5)
        assert torch.equal(ours.to_latent(image), codes_of(model, latents))
        close(model.decode(latents).sample, ours.to_image(ours.to_latent(image)), 1e-5)


def test_a_loaded_model_encodes_and_decodes_pictures(tmp_path):
    pair(tmp_path / "published", torch.float32, **PLAIN | {"scaling_factor": 0.5})
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8))
    ours = intermodal.load(tmp_path / "published")
    codes = ours.encode([image])
    assert codes.shape == (1, 6, 6) == (1, *ours.latent_shape()) and codes.dtype == np.int64
    assert ours.decode(codes)[0].size == (24, 24)
    assert float(ours.bits([image])[0]) == pytest.approx(36 * np.log2(19))
    assert ours.config.scaling_factor == 0.5
    ours.save(tmp_path / "saved")
    again = intermodal.load(tmp_path / "saved")
    assert np.array_equal(again.encode([image]), codes) and again.config == ours.config
    with pytest.raises(DataError, match="made by another model"):
        ours.decode(codes + 19)


def test_sizes_that_the_stride_does_not_divide_are_refused(tmp_path):
    ours, model = pair(tmp_path, **PLAIN)
    with pytest.raises(DataError, match="multiples of 4 pixels, found 30 x 32"):
        ours.to_latent(pictures(model, 30, 32))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"norm_type": "spatial"}, "norm_type='spatial' is not supported; group is"),
        ({"act_fn": "relu"}, "act_fn='relu' is not supported"),
        ({"down_block_types": ["AttnDownBlock2D"] * 3}, "AttnDownBlock2D are not supported"),
        ({"up_block_types": ["UpDecoderBlock2D"]}, "of one length"),
        ({"norm_num_groups": 7}, "multiples of the 7 groups"),
        ({"num_vq_embeddings": 0}, "codes and dim"),
        ({"num_vq_embeddings": 20}, "another shape"),
        ({"layers_per_block": 2}, "missing"),
    ],
)
def test_folders_that_this_model_cannot_be_are_refused_in_words(tmp_path, changes, words):
    reference(**PLAIN).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(CheckpointError, match=words):
        load(tmp_path)


def test_missing_and_left_over_tensors_are_listed(tmp_path):
    reference(**PLAIN).save_pretrained(tmp_path)
    file = tmp_path / DIFFUSERS
    whole = load_file(file)
    save_file({k: v for k, v in whole.items() if k != "quantize.embedding.weight"}, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"no codebook: quantize\.embedding\.weight"):
        load(tmp_path)
    save_file({**whole, "loss.discriminator.main.0.weight": torch.zeros(1)}, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="left over"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quantizer": FiniteScalarQuantizerConfig(levels=(3, 3, 3, 3))}, "one codebook"),
        ({"quantizer__cosine": True}, "cosine=False"),
        ({"network__quant_conv": False}, "quant_conv"),
    ],
)
def test_what_diffusers_cannot_hold_is_refused_in_words(tmp_path, changes, words):
    config = VQGANConfig(
        network=AutoencoderConfig(channels=(8, 16), blocks=1, latent_channels=4, groups=4),
        quantizer=VectorQuantizerConfig(codes=16, dim=4),
        discriminator=None,
    )
    with pytest.raises(CheckpointError, match=words):
        export(VQGAN(config.replace(**changes), {}), tmp_path / "out", layout="diffusers")
    assert not (tmp_path / "out").exists()

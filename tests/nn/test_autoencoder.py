"""The convolutional autoencoder: shapes, what it refuses, the merged up-sampling, half precision, memory formats, tiles."""

import copy

import pytest
import torch
from torch.nn import functional as F

from intermodal.core.errors import ConfigError, DataError
from intermodal.nn import autoencoder
from intermodal.nn.autoencoder import AutoencoderConfig, Decoder, Encoder, Upsample
from intermodal.nn.tiling import blend, check_tile, tiled

SMALL = AutoencoderConfig(channels=(8, 12, 16), blocks=1, latent_channels=3, groups=4)


def coder(**changes) -> tuple[Encoder, Decoder]:
    torch.manual_seed(0)
    config = SMALL.replace(**changes)
    return Encoder(config), Decoder(config)


@pytest.mark.parametrize("size", [(4, 4), (12, 20), (4, 36)])
@pytest.mark.parametrize("moments", [False, True])
def test_a_latent_has_the_stated_shape_and_comes_back_at_the_pictures_size(size, moments):
    encoder, decoder = coder(moments=moments)
    latent = encoder(torch.randn(2, 3, *size))
    shape = SMALL.latent_shape(*size)
    assert latent.shape == (2, (2 if moments else 1) * shape[0], *shape[1:])
    assert decoder(latent[:, :3]).shape == (2, 3, *size)


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": (8,)},
        {"quant_conv": False, "post_quant_conv": False},
        {"inner_channels": 5},
        {"inner_channels": 5, "moments": True},
        {"mid_attention": False},
        {"encoder_attention": (0, 2), "decoder_attention": (1,)},
        {"in_channels": 1, "out_channels": 2},
    ],
)
def test_every_option_gives_a_network_that_runs_and_whose_gradients_are_whole(changes):
    encoder, decoder = coder(**changes)
    latent = encoder(torch.randn(2, encoder.config.in_channels, 8, 8))
    decoder(latent[:, :3]).square().sum().backward()
    for half in (encoder, decoder):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in half.parameters())


@pytest.mark.parametrize("size", [(1, 1), (6, 8), (8, 9), (0, 4)])
def test_a_size_that_the_stride_does_not_divide_is_refused_in_words(size):
    encoder, _ = coder()
    with pytest.raises(DataError, match=f"multiples of 4 pixels, found {size[0]} x {size[1]}"):
        encoder(torch.zeros(1, 3, *size))


def test_other_channels_are_refused_in_words():
    encoder, decoder = coder()
    with pytest.raises(DataError, match=r"\(B, 3, H, W\)"):
        encoder(torch.zeros(1, 1, 8, 8))
    for shape in [(1, 4, 2, 2), (3, 2, 2), (1, 3, 0, 2)]:
        with pytest.raises(DataError, match="another model"):
            decoder(torch.zeros(shape))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channels": ()}, "at least one level"),
        ({"channels": (8, 10)}, "multiples of the 4 groups"),
        ({"blocks": 0}, "at least 1"),
        ({"inner_channels": 0}, "at least 1"),
        ({"encoder_attention": (3,)}, "levels 0 to 2"),
        ({"decoder_attention": (-1,)}, "levels 0 to 2"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_in_words(changes, words):
    with pytest.raises(ConfigError, match=words):
        SMALL.replace(**changes)


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (3, 100)])
def test_merged_up_sampling_is_doubling_and_convolving(size):
    torch.manual_seed(0)
    layer = Upsample(6).double()
    x = torch.randn(2, 6, *size, dtype=torch.float64, requires_grad=True)
    assert x.numel() >= autoencoder.FEW * 6
    plain = layer.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    merged = layer(x)
    torch.testing.assert_close(merged, plain, rtol=0, atol=1e-13)
    weight = torch.randn_like(plain)
    inputs = (x, layer.conv.weight, layer.conv.bias)
    for a, b in zip(
        torch.autograd.grad(merged, inputs, weight), torch.autograd.grad(plain, inputs, weight), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_results_do_not_depend_on_gradients_or_the_memory_format():
    encoder, decoder = (half.double() for half in coder(moments=True, encoder_attention=(1,), decoder_attention=(0,)))
    image = torch.randn(2, 3, 28, 36, dtype=torch.float64)
    moments = encoder(image)
    picture = decoder(moments[:, :3])
    with torch.no_grad():
        torch.testing.assert_close(encoder(image), moments, rtol=0, atol=1e-12)
        torch.testing.assert_close(decoder(moments[:, :3]), picture, rtol=0, atol=1e-12)
        last = [copy.deepcopy(half).to(memory_format=torch.channels_last) for half in (encoder, decoder)]
        torch.testing.assert_close(last[0](image), moments, rtol=0, atol=1e-12)
        torch.testing.assert_close(last[1](moments[:, :3]), picture, rtol=0, atol=1e-12)


def test_no_input_is_changed_where_maps_are_reused():
    encoder, decoder = coder(channels=(8,), quant_conv=False, post_quant_conv=False)
    image = torch.randn(1, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    latent = torch.randn(1, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    kept = image.clone(), latent.clone()
    with torch.no_grad():
        encoder(image), decoder(latent)
    assert torch.equal(image, kept[0])
    assert torch.equal(latent, kept[1])


def test_merging_costs_no_accuracy_in_bfloat16(monkeypatch):
    encoder, decoder = coder()
    image = torch.randn(2, 3, 64, 68)
    with torch.no_grad():
        exact = decoder(encoder(image))
        halves = [copy.deepcopy(half).bfloat16() for half in (encoder, decoder)]
        errors = []
        for few in (autoencoder.FEW, 10**9):
            monkeypatch.setattr(autoencoder, "FEW", few)
            coarse = halves[1](halves[0](image.bfloat16()))
            assert coarse.dtype == torch.bfloat16
            errors.append((coarse.float() - exact).square().mean().item())
    assert errors[0] <= 1.1 * errors[1]
    assert errors[1] < 0.01 * exact.square().mean()


def test_one_tile_that_holds_everything_is_the_network_alone():
    encoder, _ = coder()
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(tiled(encoder, image, tile=48, made=12), encoder(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(24, 40), (17, 16), (50, 33)])
def test_tiles_of_a_local_network_give_back_the_whole(size):
    x = torch.rand(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(tiled(lambda part: 2 * part, x, tile=16, made=16), 2 * x, rtol=0, atol=1e-14)
    double = tiled(lambda part: F.interpolate(part, scale_factor=2.0), x, tile=16, made=32)
    torch.testing.assert_close(double, F.interpolate(x, scale_factor=2.0), rtol=0, atol=1e-14)


def test_blending_fades_linearly_from_the_neighbour():
    ones, zeros = torch.ones(1, 1, 3, 6), torch.zeros(1, 1, 3, 6)
    faded = blend(ones, zeros, 4, axis=3)
    assert faded[0, 0, 0].tolist() == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert blend(ones, zeros, 2, axis=2)[0, 0, :, 0].tolist() == [1.0, 0.5, 0.0]
    assert torch.equal(blend(ones, zeros, 0, axis=2), zeros)


@pytest.mark.parametrize("tile", [0, 8, 24, 41])
def test_a_tile_that_is_no_whole_number_of_places_is_refused_in_words(tile):
    with pytest.raises(ConfigError, match=f"multiple of 16 pixels.*found {tile}"):
        check_tile(tile, 4)
    check_tile(32, 4)

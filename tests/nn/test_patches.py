"""Patches: parity with the published embeddings at odd sizes, exact inverses, stems, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.patches import ConvStem, PatchConfig, PatchEmbedding, interpolate_positions, join, split

DOUBLE = torch.float64
SIZES = [(8, 8), (12, 20), (13, 9), (17, 31), (4, 4)]


def picture(height: int, width: int, channels: int = 3, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * 100 + width)
    return torch.randn(count, channels, height, width, generator=generator, dtype=DOUBLE)


def same(ours, theirs, image, pairs):
    """Compare outputs, and the gradients of the picture and of pairs of parameters, in float64."""
    image = image.clone().requires_grad_()
    weights = torch.randn(theirs(image).shape, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    found, wanted = ours(image), theirs(image)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)
    got = torch.autograd.grad((found * weights).sum(), [image, *(a for a, _ in pairs)])
    want = torch.autograd.grad((wanted * weights).sum(), [image, *(b for _, b in pairs)])
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


# The references.


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("patch", [4, 3])
def test_vit_embeddings_are_those_of_transformers(size, patch):
    vit = pytest.importorskip("transformers.models.vit.modeling_vit")
    torch.manual_seed(0)
    config = vit.ViTConfig(image_size=12, patch_size=patch, hidden_size=10, num_attention_heads=2)
    theirs = vit.ViTPatchEmbeddings(config).double()
    ours = PatchEmbedding(3, 10, PatchConfig(size=patch)).double()
    ours.load_state_dict({k.removeprefix("projection."): v for k, v in theirs.state_dict().items()})
    pairs = [(ours.weight, theirs.projection.weight), (ours.bias, theirs.projection.bias)]
    same(ours, theirs, picture(*size), pairs)


@pytest.mark.parametrize("size", [(12, 12), (13, 14), (12, 20), (27, 8), (9, 33)])
def test_vit_positions_are_interpolated_as_in_transformers(size):
    vit = pytest.importorskip("transformers.models.vit.modeling_vit")
    torch.manual_seed(0)
    config = vit.ViTConfig(image_size=12, patch_size=4, hidden_size=10, num_attention_heads=2, hidden_dropout_prob=0.0)
    theirs = vit.ViTEmbeddings(config).double()
    patches = PatchConfig(size=4)
    embedding = PatchEmbedding(3, 10, patches).double()
    weights = theirs.patch_embeddings.projection
    embedding.load_state_dict({"weight": weights.weight, "bias": weights.bias})
    position = theirs.position_embeddings.detach()[0].clone().requires_grad_()
    token = theirs.cls_token.detach().clone()

    def ours(image):
        table = interpolate_positions(position, (3, 3), patches.grid(*image.shape[2:]), extra=1)
        return torch.cat([token.expand(len(image), -1, -1), embedding(image)], 1) + table

    image = picture(*size)
    pairs = [(embedding.weight, weights.weight), (embedding.bias, weights.bias)]
    same(ours, lambda x: theirs(x, interpolate_pos_encoding=True), image, pairs)
    ours(image).square().sum().backward()
    theirs(image, interpolate_pos_encoding=True).square().sum().backward()
    torch.testing.assert_close(position.grad, theirs.position_embeddings.grad[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", [*SIZES, (1, 1), (5, 3)])
@pytest.mark.parametrize("patch", [4, 3])
def test_swin_embeddings_and_their_padding_are_those_of_transformers(size, patch):
    swin = pytest.importorskip("transformers.models.swin.modeling_swin")
    torch.manual_seed(0)
    config = swin.SwinConfig(image_size=12, patch_size=patch, embed_dim=8, num_channels=2)
    theirs = swin.SwinPatchEmbeddings(config).double()
    patches = PatchConfig(size=patch, edge="pad")
    ours = PatchEmbedding(2, 8, patches).double()
    ours.load_state_dict({k.removeprefix("projection."): v for k, v in theirs.state_dict().items()})
    pairs = [(ours.weight, theirs.projection.weight), (ours.bias, theirs.projection.bias)]
    image = picture(*size, channels=2)
    same(ours, lambda x: theirs(x)[0], image, pairs)
    assert patches.grid(*size) == tuple(theirs(image)[1])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("patch", "stride"), [(7, 4), (3, 2), (5, 1)])
def test_overlapping_embeddings_are_those_of_segformer(size, patch, stride):
    segformer = pytest.importorskip("transformers.models.segformer.modeling_segformer")
    torch.manual_seed(0)
    theirs = segformer.SegformerOverlapPatchEmbeddings(patch, stride, 3, 6).double()
    theirs.layer_norm = torch.nn.Identity()
    patches = PatchConfig(size=patch, stride=stride, border=patch // 2)
    ours = PatchEmbedding(3, 6, patches).double()
    ours.load_state_dict({k.removeprefix("proj."): v for k, v in theirs.proj.state_dict().items()})
    pairs = [(ours.weight, theirs.proj.weight), (ours.bias, theirs.proj.bias)]
    same(ours, lambda x: theirs(x)[0], picture(*size), pairs)
    assert patches.grid(*size) == tuple(theirs(picture(*size))[1:])


# Cutting and joining.

SHAPES = {
    "size": st.tuples(st.integers(1, 5), st.integers(1, 5)),
    "stride": st.tuples(st.integers(1, 6), st.integers(1, 6)),
    "border": st.tuples(st.integers(0, 2), st.integers(0, 2)),
    "picture": st.tuples(st.integers(1, 13), st.integers(1, 13)),
    "edge": st.sampled_from(["cut", "pad"]),
}


@settings(deadline=None, max_examples=100)
@given(**SHAPES)
def test_patches_are_torch_s_unfold_and_joining_them_inverts_it(size, stride, border, edge, **rest):
    height, width = rest["picture"]
    border = tuple(min(b, s - 1) for b, s in zip(border, size, strict=True))
    config = PatchConfig(size=size, stride=stride, border=border, edge=edge)
    image = picture(height, width)
    try:
        rows, columns = config.grid(height, width)
    except DataError:
        assert edge == "cut"
        return
    patches = split(image, config)
    padded = config.padded(image)
    assert padded.shape[2] == (rows - 1) * stride[0] + size[0]
    wanted = F.unfold(padded, size, stride=stride).transpose(1, 2)
    assert torch.equal(patches, wanted)
    assert patches.shape == (2, rows * columns, config.numbers(3))
    again = join(patches, config, height, width)
    assert again.shape == image.shape
    whole = config.covers(height, width)
    if whole:
        torch.testing.assert_close(again, image, rtol=1e-14, atol=1e-15)
    covered = join(torch.ones_like(patches), config, height, width)
    assert whole == bool((covered == 1).all())
    torch.testing.assert_close(again, image * covered, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("size", SIZES)
def test_patches_side_by_side_come_back_bit_for_bit_in_every_dtype(size):
    config = PatchConfig(size=(4, 3), edge="pad")
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        image = picture(*size).to(dtype)
        assert torch.equal(join(split(image, config), config, *size), image)


def test_a_pixel_of_several_patches_is_the_mean_of_what_they_say():
    config = PatchConfig(size=(1, 2), stride=1)
    patches = torch.tensor([[[1.0, 2.0], [4.0, 8.0]]])
    assert join(patches, config, 1, 3).flatten().tolist() == [1.0, 3.0, 8.0]


# The embedding.


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("size", [(9, 13), (8, 8)])
def test_an_embedding_of_full_rank_has_an_inverse(overlap, size):
    torch.manual_seed(0)
    config = PatchConfig(size=4, stride=2 if overlap else None, border=1 if overlap else 0, edge="pad")
    embedding = PatchEmbedding(3, 60, config).double()
    assert embedding.invertible()
    image = picture(*size)
    torch.testing.assert_close(embedding.inverse(embedding(image), *size), image, rtol=0, atol=1e-11)


def test_an_embedding_of_fewer_numbers_gives_the_shortest_patch_of_its_token():
    torch.manual_seed(0)
    config = PatchConfig(size=4)
    embedding = PatchEmbedding(3, 10, config, bias=False).double()
    assert not embedding.invertible()
    image = picture(8, 8)
    back = embedding.inverse(embedding(image), 8, 8)
    torch.testing.assert_close(embedding(back), embedding(image), rtol=0, atol=1e-11)
    rows = torch.linalg.svd(embedding.weight.detach().flatten(1), full_matrices=False).Vh
    projected = join(split(image, config) @ rows.T @ rows, config, 8, 8)
    torch.testing.assert_close(back, projected, rtol=0, atol=1e-11)


def test_a_matrix_of_a_missing_rank_is_said_to_have_no_inverse():
    embedding = PatchEmbedding(3, 60, PatchConfig(size=4))
    with torch.no_grad():
        embedding.weight[:, 0, 0, 0] = embedding.weight[:, 1, 1, 1]
    assert not embedding.invertible()


# The convolutional stem.


@pytest.mark.parametrize("size", [(16, 16), (13, 27), (1, 1)])
def test_a_stem_is_its_convolutions_and_takes_any_size(size):
    torch.manual_seed(0)
    stem = ConvStem(3, 7, (4, 6)).double().eval()
    with torch.no_grad():
        for name, value in [*stem.named_parameters(), *stem.named_buffers()]:
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.5 if "var" in name else torch.randn_like(value))
    x = image = picture(*size)
    for i in (0, 3):
        conv, norm = stem.layers[i], stem.layers[i + 1]
        x = F.conv2d(x, conv.weight, stride=2, padding=1)
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        x = ((x - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]).clamp(min=0)
    wanted = torch.einsum("bchw,dc->bhwd", x, stem.layers[6].weight[:, :, 0, 0]) + stem.layers[6].bias
    found = stem(image)
    assert stem.grid(*size) == tuple(wanted.shape[1:3])
    torch.testing.assert_close(found, wanted.flatten(1, 2), rtol=0, atol=1e-11)


# What is refused.


def test_configurations_survive_a_file():
    config = PatchConfig(size=(7, 5), stride=4, border=2, edge="pad")
    assert Config.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("changes", [{"size": 0}, {"stride": 0}, {"size": (3, -1)}, {"border": 4}, {"border": -1}])
def test_numbers_out_of_range_are_refused(changes):
    with pytest.raises(ConfigError, match="Patches"):
        PatchConfig(**{"size": 4, **changes})


def test_pictures_and_patches_that_do_not_fit_are_refused_in_words():
    config = PatchConfig(size=4)
    with pytest.raises(DataError, match="No patch of 4 pixels fits into a picture's height of 3"):
        split(picture(3, 8), config)
    assert split(picture(1, 1), config.replace(edge="pad")).shape == (2, 1, 48)
    with pytest.raises(DataError, match="4 patches"):
        join(torch.zeros(1, 5, 48), config, 8, 8)
    with pytest.raises(DataError, match="4 patches"):
        join(torch.zeros(1, 4, 47), config, 8, 8)
    with pytest.raises(DataError, match=r"\(B, 3, H, W\)"):
        PatchEmbedding(3, 5, config)(picture(8, 8, channels=1).float())
    with pytest.raises(DataError, match="position embeddings"):
        interpolate_positions(torch.zeros(10, 4), (3, 4), (2, 2))
    for layers in ((), (4, 0)):
        with pytest.raises(ConfigError, match="layer"):
            ConvStem(3, 4, layers)


def test_positions_of_the_same_grid_are_the_same_tensor():
    table = torch.randn(13, 4)
    assert interpolate_positions(table, (3, 4), (3, 4), extra=1) is table

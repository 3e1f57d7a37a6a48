"""The vision transformer: shapes, patches against the convolution, pooling, and what it refuses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.patches import interpolate_positions
from intermodal.nn.vit import VisionTransformer, ViTConfig, attention_rollout

POOLS = ["cls", "attention", "mean", "flat"]


def small(**changes):
    values = {"image_size": 12, "patch_size": 4, "width": 12, "depth": 2, "heads": 3, **changes}
    return ViTConfig(**values)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("size", [12, (8, 17)])
def test_shapes(pool, size):
    """One vector a picture, one token a patch (and the class token)."""
    config = small(pool=pool, image_size=size)
    height, width = config.size
    pooled, tokens = VisionTransformer(config)(torch.zeros(2, 3, height, width))
    assert pooled.shape == (2, config.output_dim)
    assert tokens.shape == (2, config.tokens, 12)
    assert config.tokens == (height // 4) * (width // 4) + (pool == "cls")


@torch.no_grad()
@settings(deadline=None, max_examples=25)
@given(
    patch=st.integers(1, 5),
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    rest=st.integers(0, 4),
    bias=st.booleans(),
)
def test_patches_are_the_convolution(patch, rows, columns, rest, bias):
    """The matrix product is the strided convolution that the papers write, also where a rest is cut off."""
    size = (rows * patch + min(rest, patch - 1), columns * patch)
    model = VisionTransformer(small(image_size=size, patch_size=patch, patch_bias=bias, depth=0)).double()
    image = torch.randn(2, 3, *size, dtype=torch.float64)
    embedding = model.patch_embedding
    wanted = F.conv2d(image, embedding.weight, embedding.bias, stride=patch).flatten(2).transpose(1, 2)
    assert torch.allclose(embedding(image), wanted, rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("pool", POOLS)
def test_pictures_of_a_batch_do_not_meet(pool, randomise):
    """Each picture's vector is the one that it has alone."""
    model = randomise(VisionTransformer(small(pool=pool)).double())
    images = torch.randn(3, 3, 12, 12, dtype=torch.float64)
    together = model(images)[0]
    alone = torch.cat([model(image[None])[0] for image in images])
    assert torch.allclose(together, alone, rtol=0, atol=1e-12)


@torch.no_grad()
def test_what_is_cut_off_is_not_seen(randomise):
    """Pixels beyond the last whole patch do not matter."""
    model = randomise(VisionTransformer(small(image_size=14)).double())
    image = torch.randn(1, 3, 14, 14, dtype=torch.float64)
    other = image.clone()
    other[..., 12:] = 9
    other[..., 12:, :] = -9
    assert torch.equal(model(image)[0], model(other)[0])


@torch.no_grad()
def test_pooling_is_what_it_says(randomise):
    """The class token alone is normalised; the mean is that of normalised patches."""
    image = torch.randn(2, 3, 12, 12)
    model = randomise(VisionTransformer(small(pool="cls")))
    pooled, tokens = model(image)
    assert torch.allclose(pooled, model.post_norm(tokens[:, 0]))
    model = randomise(VisionTransformer(small(pool="mean")))
    pooled, tokens = model(image)
    assert torch.allclose(pooled, tokens.mean(1))
    model = randomise(VisionTransformer(small(pool="attention")))
    pooled, tokens = model(image)
    assert torch.allclose(pooled, model.pool(tokens.flip(1)), atol=1e-5)  # a set, not a sequence


@pytest.mark.parametrize("pool", POOLS)
def test_gradients_reach_every_parameter(pool, randomise, gradients_reach):
    """Every part takes part."""
    model = randomise(VisionTransformer(small(pool=pool, patch_bias=True)).double())
    pooled, _ = model(torch.randn(2, 3, 12, 12, dtype=torch.float64))
    gradients_reach(model, pooled)


@pytest.mark.parametrize("pool", POOLS)
def test_flops_are_what_torch_counts(pool):
    """Every product of one picture's forward pass is counted."""
    config = small(pool=pool, image_size=(12, 9), mlp_width=20)
    model = VisionTransformer(config)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 12, 9))
    assert counter.get_total_flops() == config.flops()


@torch.no_grad()
def test_flat_pooling_keeps_places_apart(randomise):
    """Patches one behind the other; of twice the size, means of 2 x 2."""
    config = small(pool="flat", image_size=(8, 12))
    model = VisionTransformer(config)
    randomise(model)
    pooled, tokens = model(torch.randn(2, 3, 8, 12))
    assert config.output_dim == config.pooled_dim == 6 * 12
    assert torch.equal(pooled, tokens.flatten(1))
    pooled, tokens = model(torch.randn(2, 3, 16, 24), interpolate=True)
    wanted = tokens.unflatten(1, (2, 2, 3, 2)).mean((2, 4)).flatten(1)
    assert torch.allclose(pooled, wanted, atol=1e-5)


@pytest.mark.parametrize("size", [(16, 16), (12, 21)])
def test_convolutions_stand_in_the_place_of_patches(size):
    """One token for each 4 x 4 pixels, begun ones too; other sizes are taken; every product is counted."""
    config = small(image_size=16, stem=(5, 7), pre_norm=False)
    model = VisionTransformer(config).eval()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        _, tokens = model(torch.zeros(1, 3, *size), interpolate=True)
    assert tokens.shape == (1, -(-size[0] // 4) * -(-size[1] // 4) + 1, 12)
    assert counter.get_total_flops() == config.flops(*size)
    x = torch.randn(1, 3, 16, 16)
    layers = model.patch_embedding.layers
    wanted = (
        F.conv2d(x, layers[0].weight, stride=2, padding=1) / (1 + 1e-5) ** 0.5
    )  # fresh statistics: mean 0, variance 1
    wanted = F.conv2d(wanted.relu(), layers[3].weight, stride=2, padding=1) / (1 + 1e-5) ** 0.5
    wanted = F.conv2d(wanted.relu(), layers[6].weight, layers[6].bias).flatten(2).transpose(1, 2)
    assert torch.allclose(model.embed_patches(x)[:, 1:], wanted + model.position_embedding[1:], atol=1e-5)
    with pytest.raises(ConfigError, match="patches of 4 pixels"):
        small(stem=(5, 7), patch_size=8, image_size=16)


def test_config_survives_json():
    """Both forms of the size come back."""
    for config in (small(), small(image_size=(8, 17), pool="mean", mlp_width=7)):
        assert Config.from_dict(config.to_dict()) == config
        assert Config.from_json(config.to_json()) == config


def test_it_is_built_on_the_meta_device():
    """Nothing is outside the state that a checkpoint holds."""
    with torch.device("meta"):
        model = VisionTransformer(small())
    other = VisionTransformer(small())
    model.load_state_dict(other.state_dict(), strict=True, assign=True)
    image = torch.randn(1, 3, 12, 12)
    assert torch.equal(model(image)[0], other(image)[0])


@pytest.mark.parametrize("shape", [(1, 3, 12, 13), (1, 3, 8, 12), (1, 1, 12, 12), (3, 12, 12)])
def test_wrong_pictures_are_refused(shape):
    """The error states the shape that is wanted and the one found."""
    with pytest.raises(DataError, match=r"\(B, 3, 12, 12\), found \("):
        VisionTransformer(small())(torch.zeros(shape))


@pytest.mark.parametrize("distillation", [False, True])
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_class_tokens_are_those_of_all_tokens(distillation, depth, randomise):
    """Leaving out what nobody reads of the last block changes neither numbers nor gradients."""
    model = randomise(VisionTransformer(small(depth=depth, distillation=distillation, pre_norm=False)).double())
    image = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    whole = model.post_norm(model(image, interpolate=True)[1][:, : 1 + distillation])
    few = model.class_tokens(image, interpolate=True)
    assert torch.allclose(few, whole, rtol=0, atol=1e-12)
    weight = torch.randn(few.shape, dtype=torch.float64)
    wanted = torch.autograd.grad((whole * weight).sum(), list(model.parameters()))
    found = torch.autograd.grad((few * weight).sum(), list(model.parameters()))
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-10)


def test_only_towers_with_class_tokens_give_them():
    """The others pool."""
    with pytest.raises(ConfigError, match="no class token"):
        VisionTransformer(small(pool="mean")).class_tokens(torch.zeros(1, 3, 12, 12))
    with pytest.raises(ConfigError, match="beside a class token"):
        small(pool="mean", distillation=True)


@torch.no_grad()
def test_other_sizes_are_those_of_a_model_with_interpolated_positions(randomise):
    """A picture of another shape is read as by a tower of that shape whose positions were carried over."""
    model = randomise(VisionTransformer(small(distillation=True)).double())
    image = torch.randn(2, 3, 17, 25, dtype=torch.float64)
    other = VisionTransformer(small(image_size=(17, 25), distillation=True)).double()
    positions = interpolate_positions(model.position_embedding, (3, 3), (4, 6), extra=2)
    other.load_state_dict({**model.state_dict(), "position_embedding": positions})
    assert torch.equal(model(image, interpolate=True)[0], other(image)[0])
    assert model.attention_maps(image).shape == (2, 2, 3, 26, 26)


@torch.no_grad()
def test_attention_maps_weigh_what_the_blocks_read(randomise):
    """With the weights of the maps, the blocks written out give the tower's output."""
    model = randomise(VisionTransformer(small()).double())
    image = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    maps = model.attention_maps(image)
    assert torch.allclose(maps.sum(-1), torch.ones_like(maps.sum(-1)))
    x = model.embed_patches(image)
    for block, weights in zip(model.transformer.blocks, maps.unbind(1), strict=True):
        value = block.attention.qkv(block.norm1(x)).chunk(3, -1)[2].unflatten(-1, (3, -1)).transpose(1, 2)
        x = x + block.attention.out((weights @ value).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    assert torch.allclose(x, model(image)[1], rtol=0, atol=1e-11)


def test_rollout_is_the_sum_over_all_ways():
    """Written out for two blocks: each token takes itself by half, and by half the mean of the heads."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(1, 2, 3, 4, 4, generator=generator, dtype=torch.float64)
    weights = weights / weights.sum(-1, keepdim=True)
    rolled = attention_rollout(weights)[0]
    step = [
        [[0.5 * float(weights[0, n, :, i, j].mean()) + 0.5 * (i == j) for j in range(4)] for i in range(4)]
        for n in (0, 1)
    ]
    for i in range(4):
        for j in range(4):
            ways = sum(step[1][i][middle] * step[0][middle][j] for middle in range(4))
            assert float(rolled[i, j]) == pytest.approx(ways, abs=1e-12)
    assert torch.allclose(rolled.sum(-1), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize(
    "changes",
    [{"heads": 5}, {"patch_size": 13}, {"patch_size": 0}, {"depth": -1}, {"activation": "tanh"}],
    ids=str,
)
def test_wrong_sizes_are_refused(changes):
    """A configuration that cannot be built is an error when it is written."""
    with pytest.raises(ConfigError):
        small(**changes)

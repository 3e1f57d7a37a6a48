"""CLIP's ResNet: shapes, its attention pooling, gradients, and what it refuses. Parity is with open_clip."""

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.resnet import Bottleneck, ModifiedResNet, ResNetConfig


def small(**changes):
    values = {"image_size": 64, "layers": (1, 2, 1, 1), "width": 4, "heads": 4, "output_dim": 6, **changes}
    return ResNetConfig(**values)


@pytest.mark.parametrize("size", [64, (32, 96)])
def test_shapes(size):
    """One vector a picture in the shared space, one token a position of the last map."""
    config = small(image_size=size)
    pooled, tokens = ModifiedResNet(config).eval()(torch.zeros(2, 3, *config.size))
    assert pooled.shape == (2, 6)
    assert tokens.shape == (2, config.tokens, 128)


@torch.no_grad()
def test_a_stride_is_an_average_pool():
    """The block equals its definition with every operation written out."""
    block = Bottleneck(8, 4, stride=2).double().eval()
    for layer in block.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
            layer.weight.normal_()

    def norm(x, layer):
        mean, variance = layer.running_mean[:, None, None], layer.running_var[:, None, None]
        return (x - mean) / (variance + 1e-5).sqrt() * layer.weight[:, None, None] + layer.bias[:, None, None]

    def halve(x):
        return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4

    x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    y = norm(F.conv2d(x, block.conv1.weight), block.bn1).relu()
    y = norm(F.conv2d(y, block.conv2.weight, padding=1), block.bn2).relu()
    y = norm(F.conv2d(halve(y), block.conv3.weight), block.bn3)
    wanted = (y + norm(F.conv2d(halve(x), block.skip[0].weight), block.skip[1])).relu()
    assert torch.allclose(block(x), wanted, rtol=0, atol=1e-12)


@torch.no_grad()
def test_the_pooling_is_attention_with_the_mean_as_query(randomise):
    """The pooled vector is the first of torch's own attention over the mean and all positions."""
    model = randomise(ModifiedResNet(small()).double()).eval()
    pooled, tokens = model(torch.randn(2, 3, 64, 64, dtype=torch.float64))
    pool = model.pool
    x = torch.cat([tokens.mean(1, keepdim=True), tokens], 1) + model.position_embedding
    reference = torch.nn.MultiheadAttention(128, 4, batch_first=True).double()
    reference.in_proj_weight.copy_(torch.cat([pool.q.weight, pool.kv.weight]))
    reference.in_proj_bias.copy_(torch.cat([pool.q.bias, pool.kv.bias]))
    reference.out_proj.weight.copy_(torch.eye(128))
    reference.out_proj.bias.zero_()
    wanted = pool.out(reference(x, x, x)[0][:, 0])
    assert torch.allclose(pooled, wanted, rtol=0, atol=1e-10 * float(wanted.abs().max()))


def test_gradients_reach_every_parameter(randomise, gradients_reach):
    """Every part takes part, in training mode."""
    model = randomise(ModifiedResNet(small()).double()).train()
    pooled, _ = model(torch.randn(3, 3, 64, 64, dtype=torch.float64))
    gradients_reach(model, pooled)


def test_each_block_starts_as_the_identity():
    """The last normalisation of every block is zero at first."""
    model = ModifiedResNet(small())
    assert all(not b.bn3.weight.any() for b in model.modules() if isinstance(b, Bottleneck))


@pytest.mark.parametrize("size", [64, (32, 96)])
def test_flops_are_what_torch_counts(size):
    """Every product of one picture's forward pass is counted."""
    config = small(image_size=size)
    model = ModifiedResNet(config).eval()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, *config.size))
    assert counter.get_total_flops() == config.flops()


def test_it_is_built_on_the_meta_device():
    """Statistics included, nothing is outside the state that a checkpoint holds."""
    with torch.device("meta"):
        model = ModifiedResNet(small())
    other = ModifiedResNet(small())
    model.load_state_dict(other.state_dict(), strict=True, assign=True)
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(model.eval()(image)[0], other.eval()(image)[0])


def test_config_survives_json():
    """Out and back, the tuple too."""
    assert Config.from_json(small().to_json()) == small()


@pytest.mark.parametrize(
    "changes",
    [{"image_size": 65}, {"image_size": 16}, {"width": 3}, {"heads": 3}, {"layers": (1, 0, 1, 1)}],
    ids=str,
)
def test_wrong_sizes_are_refused(changes):
    """A configuration that cannot be built is an error when it is written."""
    with pytest.raises(ConfigError):
        small(**changes)


def test_wrong_pictures_are_refused():
    """The error states the shape that is wanted and the one found."""
    with pytest.raises(DataError, match=r"\(B, 3, 64, 64\), found \(1, 3, 64, 32\)"):
        ModifiedResNet(small())(torch.zeros(1, 3, 64, 32))


@pytest.mark.parametrize(("layers", "side", "features"), [((1, 1, 1, 1), 2, 128), ((1, 1, 1), 4, 64), ((1, 1), 8, 32)])
@pytest.mark.parametrize("pool", ["mean", "flat"])
def test_other_poolings_and_fewer_stages(layers, side, features, pool):
    config = ResNetConfig(image_size=64, layers=layers, width=4, pool=pool)
    network = ModifiedResNet(config)
    pooled, tokens = network(torch.randn(2, 3, 64, 64))
    assert tokens.shape == (2, side * side, features)
    assert torch.equal(pooled, tokens.mean(1) if pool == "mean" else tokens.flatten(1))
    assert pooled.shape == (2, config.pooled_dim)
    assert not any("pool" in name or "position" in name for name, _ in network.named_parameters())
    assert config.flops() < small(layers=layers, output_dim=6).flops()
    with pytest.raises(ConfigError, match="leave output_dim out"):
        config.replace(output_dim=5)


def test_attention_pooling_needs_an_output_and_stages_have_their_stride():
    with pytest.raises(ConfigError, match="output_dim of at least 1"):
        ResNetConfig(image_size=64, width=4)
    with pytest.raises(ConfigError, match="multiple of 16"):
        ResNetConfig(image_size=40, layers=(1, 1, 1), width=4, pool="mean")
    with pytest.raises(ConfigError, match="one to four"):
        ResNetConfig(image_size=64, layers=(), width=4, pool="mean")

"""DiT beside diffusers': random weights saved in the published layout, loaded, and the same outputs and gradients."""

import json

import pytest
import torch

from intermodal.core.errors import CheckpointError
from intermodal.hub.dit import in_every_block, key_map, load_dit

diffusers = pytest.importorskip("diffusers")

CONFIGS = [
    {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "in_channels": 3,
        "num_layers": 2,
        "sample_size": 8,
        "patch_size": 2,
    },
    {
        "num_attention_heads": 3,
        "attention_head_dim": 4,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 3,
        "sample_size": 6,
        "patch_size": 1,
        "norm_eps": 1e-3,
    },
]


def saved(config, randomise, folder, tie=True):
    theirs = diffusers.DiTTransformer2DModel(**config, num_embeds_ada_norm=7)
    randomise(theirs, 1)
    theirs.pos_embed.pos_embed.copy_(
        diffusers.DiTTransformer2DModel(**config, num_embeds_ada_norm=7).pos_embed.pos_embed
    )
    if tie:
        for block in theirs.transformer_blocks[1:]:
            block.norm1.emb.load_state_dict(theirs.transformer_blocks[0].norm1.emb.state_dict())
    theirs.save_pretrained(folder)
    return theirs.double().eval()


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("scale", [1, 2])
def test_dit(config, scale, randomise, agree, tmp_path):
    theirs = saved(config, randomise, tmp_path)
    ours = load_dit(tmp_path).double()
    size = config["sample_size"] * scale
    x = torch.randn(
        2, config["in_channels"], size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    t, classes = torch.tensor([0, 731]), torch.tensor([3, 7])
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    wanted, found = theirs(inputs[0], t, classes).sample, ours(inputs[1], t, classes)
    weight = torch.linspace(-1, 2, wanted.numel(), dtype=wanted.dtype).view_as(wanted)
    (wanted * weight).sum().backward()
    (found * weight).sum().backward()
    agree(
        {"output": found.detach(), "input": inputs[1].grad}, {"output": wanted.detach(), "input": inputs[0].grad}, "dit"
    )
    mine = key_map().to_published({n: p.grad for n, p in ours.named_parameters()})
    others = {n: p.grad for n, p in theirs.named_parameters()}
    shared = {}  # the gradient of what we keep once is the sum of those of their copies
    for name in [n for n in others if ".norm1.emb." in n]:
        key = "emb." + name.split(".norm1.emb.")[1]
        grad = others.pop(name)
        if grad is not None:
            shared[key] = shared.get(key, 0) + grad
    agree(mine, others | shared, "dit, gradients")


def test_back_to_the_published_layout(randomise, tmp_path):
    theirs = saved(CONFIGS[0], randomise, tmp_path).float().state_dict()
    ours = load_dit(tmp_path)
    back = in_every_block(key_map().to_published(ours.state_dict()), ours.config.depth)
    assert sorted(back) == sorted(theirs)
    assert all(torch.equal(back[name], theirs[name]) for name in theirs)


def test_what_does_not_fit_is_named(randomise, tmp_path):
    saved(CONFIGS[0], randomise, tmp_path / "a")
    file = tmp_path / "a" / "config.json"
    config = json.loads(file.read_text())
    for change, word in (
        ({"_class_name": "PixArtTransformer2DModel"}, "found 'PixArtTransformer2DModel'"),
        ({"activation_fn": "geglu"}, "activation_fn='geglu'"),
        ({"num_layers": 3}, "missing"),
        ({"patch_size": 3}, "do not divide"),
    ):
        file.write_text(json.dumps({**config, **change}))
        with pytest.raises(CheckpointError, match=word):
            load_dit(tmp_path / "a")
    saved(CONFIGS[0], randomise, tmp_path / "b", tie=False)
    with pytest.raises(CheckpointError, match="must be copies"):
        load_dit(tmp_path / "b")
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        load_dit(tmp_path)

"""The U-Net beside diffusers': random weights saved in the published layout, loaded, and the same outputs and gradients."""

import json

import pytest
import torch

from intermodal.core.errors import CheckpointError
from intermodal.hub.unet import key_map, load_unet, read_config
from intermodal.nn.unet import UNet

diffusers = pytest.importorskip("diffusers")

SMALL = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 4}
PLAIN = {
    "attention": {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    },
    "one level": {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)},
    "one head": {
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D"),
        "attention_head_dim": None,
        "layers_per_block": 2,
    },
    "ho": {  # as google/ddpm-cifar10-32: sines first, shift 1, padding 0
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
        "attention_head_dim": None,
        "center_input_sample": True,
    },
    "adm": {
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift",
        "num_class_embeds": 7,
        "out_channels": 6,
    },
    "adm with the middle's norm": {
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 2,
        "mid_block_scale_factor": 1.7,
        "class_embed_type": "timestep",
    },
    "no attention": {
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "add_attention": False,
        "class_embed_type": "identity",
        "time_embedding_dim": 24,
    },
    "no middle": {
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "mid_block_type": None,
    },
}
CONDITIONAL = {
    "1.x": {"cross_attention_dim": 12, "attention_head_dim": 2},
    "2.x": {
        "cross_attention_dim": 12,
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "transformer_layers_per_block": 2,
        "num_class_embeds": 5,
    },
}


def saved(make, config, randomise, folder):
    torch.manual_seed(0)
    theirs = make(**{**SMALL, **config})
    randomise(theirs, 1)
    theirs.save_pretrained(folder)
    return theirs.double().eval()


def told(config, width):
    generator = torch.Generator().manual_seed(2)
    match config.get("class_embed_type"):
        case "timestep":
            return torch.tensor([3.0, 8.0])
        case "identity":
            return torch.randn(2, width, generator=generator, dtype=torch.float64)
    return torch.tensor([1, 4]) if "num_class_embeds" in config else None


def compare(theirs, ours, agree, run_theirs, run_ours, x, what):
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    wanted, found = run_theirs(inputs[0]), run_ours(inputs[1])
    weight = torch.linspace(-1, 2, wanted.numel(), dtype=wanted.dtype).view_as(wanted)
    (wanted * weight).sum().backward()
    (found * weight).sum().backward()
    mine = key_map(ours.config).to_published({n: p.grad for n, p in ours.named_parameters()})
    others = {n: p.grad for n, p in theirs.named_parameters()}
    agree(
        {"output": found.detach(), "input": inputs[1].grad}, {"output": wanted.detach(), "input": inputs[0].grad}, what
    )
    agree(mine, others, f"{what}, gradients")


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("size", [(8, 8), (6, 10)])
def test_unet(name, size, randomise, agree, tmp_path):
    config = PLAIN[name]
    theirs = saved(diffusers.UNet2DModel, config, randomise, tmp_path)
    ours = load_unet(tmp_path).double()
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    if config.get("class_embed_type") == "timestep":  # theirs forgets to convert its waves, and runs in float32 only
        theirs, ours, x = theirs.float(), ours.float(), x.float()
    t, classes = torch.tensor([0, 731]), told(config, ours.config.width)
    compare(
        theirs,
        ours,
        agree,
        lambda x: theirs(x, t, class_labels=classes).sample,
        lambda x: ours(x, t, classes),
        x,
        name,
    )


@pytest.mark.parametrize("name", CONDITIONAL)
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (9, 6)])
def test_conditional_unet(name, size, randomise, agree, tmp_path):
    config = {
        **CONDITIONAL[name],
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    theirs = saved(diffusers.UNet2DConditionModel, config, randomise, tmp_path)
    ours = load_unet(tmp_path).double()
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 4, *size, generator=generator, dtype=torch.float64)
    context = torch.randn(2, 6, 12, generator=generator, dtype=torch.float64)
    t, classes = torch.tensor([3, 999]), told(config, ours.config.width)
    mask = torch.tensor([[True] * 6, [True] * 2 + [False] * 4])
    for seen in (None, mask):
        ours.zero_grad()
        theirs.zero_grad()
        compare(
            theirs,
            ours,
            agree,
            lambda x, m=seen: theirs(x, t, context, class_labels=classes, encoder_attention_mask=m).sample,
            lambda x, m=seen: ours(x, t, classes, context_BSE=context, mask_BS=m),
            x,
            name,
        )


def test_back_to_the_published_layout(randomise, tmp_path):
    saved(diffusers.UNet2DModel, PLAIN["adm"], randomise, tmp_path)
    ours = load_unet(tmp_path)
    theirs = diffusers.UNet2DModel.from_pretrained(tmp_path).state_dict()
    back = key_map(ours.config).to_published(ours.state_dict())
    assert sorted(back) == sorted(theirs)
    assert all(torch.equal(back[name], theirs[name]) for name in theirs)


def test_what_does_not_fit_is_named(randomise, tmp_path):
    saved(diffusers.UNet2DModel, PLAIN["attention"], randomise, tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    for change, word in (
        ({"_class_name": "UNet3DConditionModel"}, "found 'UNet3DConditionModel'"),
        ({"act_fn": "gelu"}, "act_fn='gelu'"),
        ({"down_block_types": ["SkipDownBlock2D", "DownBlock2D"]}, "SkipDownBlock2D are not supported"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type='fourier'"),
        ({"layers_per_block": [1, 2]}, "one number"),
        ({"norm_num_groups": 3}, "multiples of the 3 groups"),
        ({"attention_head_dim": 5}, "no multiple of the 5"),
        ({"layers_per_block": 2}, "missing"),
        ({"class_embed_type": "projection"}, "class_embed_type='projection'"),
        ({"upsample_type": "resnet"}, "one way"),
        ({"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "middle of the type"),
        ({"resnet_time_scale_shift": "spatial"}, "resnet_time_scale_shift='spatial'"),
    ):
        file.write_text(json.dumps({**config, **change}))
        with pytest.raises(CheckpointError, match=word):
            load_unet(tmp_path)
    file.write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        load_unet(tmp_path)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        load_unet(tmp_path)


def test_published_configurations_are_read():
    """The sizes that Stable Diffusion 1.x and google/ddpm-cifar10-32 state."""
    stable = read_config(
        {"_class_name": "UNet2DConditionModel", "cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64},
        "-",
    )
    with torch.device("meta"):
        assert sum(p.numel() for p in UNet(stable).parameters()) == 859_520_964
        cifar = read_config(
            {
                "_class_name": "UNet2DModel",
                "attention_head_dim": None,
                "block_out_channels": [128, 256, 256, 256],
                "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
                "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
                "downsample_padding": 0,
                "flip_sin_to_cos": False,
                "freq_shift": 1,
                "norm_eps": 1e-6,
            },
            "-",
        )
        assert sum(p.numel() for p in UNet(cifar).parameters()) == 35_746_307


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_a_whole_sampling_run(sampler, randomise, tmp_path):
    """Network, schedule, steps and sampler together: the picture that diffusers' pipeline makes from the same seed."""
    from intermodal.diffusion.denoiser import Constrained, NetworkDenoiser, clip
    from intermodal.diffusion.grids import make_grid
    from intermodal.diffusion.samplers import ddim, ddpm, start
    from intermodal.diffusion.schedules import DiscreteSchedule

    theirs = saved(diffusers.UNet2DModel, {**PLAIN["attention"], "sample_size": 8}, randomise, tmp_path).float()
    name = {"ddpm": "DDPM", "ddim": "DDIM"}[sampler]
    pipeline = getattr(diffusers, f"{name}Pipeline")(theirs, getattr(diffusers, f"{name}Scheduler")())
    pipeline.set_progress_bar_config(disable=True)
    wanted = pipeline(2, torch.Generator().manual_seed(5), num_inference_steps=6, output_type="np").images
    schedule = DiscreteSchedule.linear()
    denoiser = Constrained(NetworkDenoiser(load_unet(tmp_path), "eps", schedule), clip(), keep_eps=True)
    grid, generator = make_grid(schedule, 6, "leading"), torch.Generator().manual_seed(5)
    noise = start((2, 3, 8, 8), grid, generator) / float(
        grid[0].sigma
    )  # theirs starts at 833 of 999 as if it were noise alone
    with torch.no_grad():
        found = {"ddpm": ddpm, "ddim": ddim}[sampler](denoiser, noise, grid, generator)
    found = (found / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert float(abs(found - wanted).max()) < 1e-4
    assert float(wanted.std()) > 0.05

"""Pipelines of pictures in diffusers' layout: the same pictures from the same seeds; files go both ways; what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

diffusers = pytest.importorskip("diffusers", reason="diffusers, of the core group, is not installed")
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword"
)  # inside theirs

from diffusers.utils.torch_utils import randn_tensor  # noqa: E402

import intermodal  # noqa: E402
from intermodal.core.drawing import Drawing  # noqa: E402
from intermodal.core.errors import CheckpointError, ConfigError  # noqa: E402
from intermodal.data.processors import signed_pixels  # noqa: E402
from intermodal.diffusion.settings import ScheduleConfig, grid_of  # noqa: E402
from intermodal.hub.load import load  # noqa: E402
from intermodal.hub.save import export  # noqa: E402
from intermodal.hub.weights import DIFFUSERS  # noqa: E402
from intermodal.methods.image_generation.ddim import DDIM, DDIMConfig  # noqa: E402
from intermodal.methods.image_generation.ddpm import DDPM, DDPMConfig  # noqa: E402
from intermodal.nn.unet import UNetConfig  # noqa: E402

NETWORK = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "sample_size": 8,
}
SEEDS = [5, 6, 7]


def network(**changes):
    """Return diffusers' U-Net with weights that are neither zero nor one."""
    torch.manual_seed(0)
    model = diffusers.UNet2DModel(**NETWORK | changes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def pipeline(name="DDPM", scheduler="DDPM", unet=None, **options):
    made = getattr(diffusers, f"{scheduler}Scheduler")(**options)
    found = getattr(diffusers, f"{name}Pipeline")(unet or network(), made)
    found.set_progress_bar_config(disable=True)
    return found


def generators():
    return [torch.Generator().manual_seed(seed) for seed in SEEDS]


def drawn(model, drawing):
    """Return pictures as the network leaves them, ``(B, C, H, W)``."""
    grid, noise = grid_of(model.schedule, drawing), generators()
    with torch.no_grad():
        return model.sampled(model.noise(noise, grid, drawing), [""] * len(SEEDS), grid, drawing, noise=noise)


def same_pictures(model, theirs, drawing, tolerance=1e-4, **call):
    wanted = theirs(len(SEEDS), generators(), num_inference_steps=drawing.steps, output_type="pt", **call).images
    found = (drawn(model, drawing) / 2 + 0.5).clamp(0, 1)
    assert float(wanted.std()) > 0.05
    assert float((found - wanted).abs().max()) < tolerance


def widened(draw):
    return lambda shape, dtype=None, **given: draw(shape, dtype=torch.float32, **given).to(dtype)


DDPMS = {
    "plain": {},
    "google/ddpm-cifar10-32": {"variance_type": "fixed_large"},
    "small log": {"variance_type": "fixed_small_log", "clip_sample": False},
    "v": {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2"},
    "x0": {"prediction_type": "sample", "beta_schedule": "scaled_linear", "beta_start": 0.001, "beta_end": 0.015},
    "sigmoid": {"beta_schedule": "sigmoid", "num_train_timesteps": 300},
    "table": {"trained_betas": np.linspace(0.001, 0.4, 40).tolist(), "num_train_timesteps": 40},
    "learnt": {"variance_type": "learned_range"},
    "offset": {"steps_offset": 1, "variance_type": "fixed_small"},
    "noise alone": {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
}


def in_double(theirs, ours, monkeypatch):
    """Give a pipeline our table in double precision, and noise that is drawn in single."""
    theirs.scheduler.alphas_cumprod = ours.schedule.alpha_bar.clone()
    one = torch.ones((), dtype=torch.float64)
    to_one = theirs.scheduler.config.get("set_alpha_to_one", True)
    theirs.scheduler.final_alpha_cumprod = one if to_one else ours.schedule.alpha_bar[0]
    for kind in ("ddpm", "ddim"):
        for module in (f"pipelines.{kind}.pipeline_{kind}", f"schedulers.scheduling_{kind}"):
            monkeypatch.setattr(f"diffusers.{module}.randn_tensor", widened(randn_tensor))


@pytest.mark.parametrize("name", DDPMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_pictures_are_those_of_ddpm(name, dtype, tmp_path, monkeypatch):
    options = DDPMS[name]
    theirs = pipeline(unet=network(out_channels=6 if name == "learnt" else 3).to(dtype), **options)
    theirs.save_pretrained(tmp_path)
    ours = intermodal.load(tmp_path)
    assert type(ours) is DDPM and not ours.training
    assert ours.drawing.steps == options.get("num_train_timesteps", 1000)
    assert ours.drawing.sampler == "ddpm" and ours.drawing.clip == options.get("clip_sample", True)
    steps = 40 if name == "table" else 10
    tolerance = 1e-4
    if dtype == torch.float64:
        in_double(theirs, ours, monkeypatch)
        tolerance = 1e-9
    if name == "noise alone":
        assert float(ours.schedule.level(999.0).alpha) == 0
        tolerance = max(tolerance, 1e-8)  # theirs adds noise of a variance of 1e-20 in the end
    same_pictures(ours, theirs, ours.drawing.replace(steps=steps), tolerance)


DDIMS = {
    "plain": ({}, {}),
    "eta": ({}, {"eta": 0.7}),
    "clipped noise": ({}, {"eta": 0.3, "use_clipped_model_output": True}),
    "stable-diffusion": (
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
        | {"set_alpha_to_one": False, "clip_sample": False},
        {},
    ),
    "v": ({"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}, {}),
    "x0": ({"prediction_type": "sample"}, {"eta": 1.0}),
}


@pytest.mark.parametrize("name", DDIMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_pictures_are_those_of_ddim(name, dtype, tmp_path, monkeypatch):
    options, call = DDIMS[name]
    theirs = pipeline("DDIM", "DDIM", network().to(dtype), **options)
    theirs.save_pretrained(tmp_path)
    ours = intermodal.load(tmp_path)
    assert type(ours) is DDIM and ours.network.conv_in.weight.dtype == dtype
    assert (ours.drawing.steps, ours.drawing.sampler, ours.drawing.eta) == (50, "ddim", 0)
    drawing = ours.drawing.replace(
        steps=10, eta=call.get("eta", 0.0), keep_noise=not call.get("use_clipped_model_output", False)
    )
    if dtype == torch.float64:
        in_double(theirs, ours, monkeypatch)
    same_pictures(ours, theirs, drawing, 1e-4 if dtype == torch.float32 else 1e-9, **call)


def test_a_chain_of_all_steps_and_the_same_bytes(tmp_path):
    theirs = pipeline(num_train_timesteps=100, beta_end=0.2, variance_type="fixed_large")
    theirs.save_pretrained(tmp_path)
    ours = intermodal.load(tmp_path)
    wanted = theirs(len(SEEDS), generators(), num_inference_steps=100).images
    found = ours.draw([None] * len(SEEDS), SEEDS)
    for one, other in zip(found, wanted, strict=True):
        gap = np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int))
        assert gap.max() <= 1 and (gap > 0).mean() < 0.02  # half a value may be rounded either way


def test_other_schedulers_in_a_pipeline(tmp_path):
    theirs = pipeline("DDPM", "DDIM", clip_sample=False)
    theirs.save_pretrained(tmp_path / "ddim")
    ours = load(tmp_path / "ddim")
    assert type(ours) is DDPM and ours.drawing.sampler == "ddim"
    same_pictures(ours, theirs, ours.drawing.replace(steps=10))
    theirs = pipeline("DDPM", "DPMSolverMultistep", use_karras_sigmas=True)
    theirs.save_pretrained(tmp_path / "dpm")
    ours = load(tmp_path / "dpm")
    same_pictures(ours, theirs, ours.drawing.replace(steps=10), 1e-3)
    pipeline("DDIM", "DDPM", variance_type="fixed_large").save_pretrained(tmp_path / "as-ddim")
    assert load(tmp_path / "as-ddim").drawing.sampler == "ddim"


def test_the_layout_of_the_first_published_pipelines(tmp_path):
    """All files in one folder, the attention's layers under their old names, old options in the scheduler's file."""
    theirs = pipeline(variance_type="fixed_large")
    theirs.save_pretrained(tmp_path / "new")
    old = tmp_path / "old"
    old.mkdir()
    for part in ("unet/config.json", "scheduler/scheduler_config.json", "model_index.json"):
        shutil.copy(tmp_path / "new" / part, old)
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for key, tensor in load_file(tmp_path / "new" / "unet" / DIFFUSERS).items():
        for new, was in names.items():
            key = key.replace(f".{new}.", f".{was}.")
        tensors[key] = tensor
    assert any("proj_attn" in key for key in tensors)
    save_file(tensors, old / DIFFUSERS, metadata={"format": "pt"})
    (old / "scheduler_config.json").write_text(
        json.dumps(
            {
                **{
                    "_class_name": "DDPMScheduler",
                    "_diffusers_version": "0.1.1",
                    "beta_end": 0.02,
                    "beta_start": 0.0001,
                },
                **{"beta_schedule": "linear", "clip_sample": True, "num_train_timesteps": 1000, "trained_betas": None},
                **{
                    "variance_type": "fixed_large",
                    "timestep_values": None,
                    "tensor_format": "pt",
                    "predict_epsilon": True,
                },
            }
        )
    )
    ours = load(old)
    assert ours.config == load(tmp_path / "new").config
    same_pictures(ours, theirs, ours.drawing.replace(steps=5))


def test_a_loaded_model_is_ours(tmp_path):
    pipeline("DDIM", "DDIM").save_pretrained(tmp_path / "published")
    ours = load(tmp_path / "published")
    assert ours.shape == (3, 8, 8)
    ours.save(tmp_path / "saved")
    again = intermodal.load(tmp_path / "saved")
    assert again.config == ours.config
    few = ours.drawing.replace(steps=3)
    for one, other in zip(ours.draw([None], [1], few), again.draw([None], [1], few), strict=True):
        assert one.tobytes() == other.tobytes()
    ours.train()
    batch = {"image": torch.rand(2, 3, 8, 8) * 2 - 1, "seed": torch.arange(2)}
    ours.loss(batch).total.backward()
    assert all(p.grad is not None for p in ours.parameters())
    alone = load(tmp_path / "published", processors={})
    assert alone.processors == {}
    wide = load(tmp_path / "published", processors={"image": signed_pixels(12, "crop")})
    assert wide.draw([None], [0], few)[0].size == (12, 12)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "learnt", "table", "odd sizes"])
def test_a_model_of_ours_loads_in_diffusers(name, tmp_path):
    torch.manual_seed(0)
    small = UNetConfig(channels=(8, 16), blocks=1, attention=(1,), groups=4, head_width=8, dropout=0.1)
    cls, made = (DDIM, DDIMConfig) if name == "ddim" else (DDPM, DDPMConfig)
    drawing = Drawing(steps=20, sampler="ddim" if name == "ddim" else "ddpm", spacing="leading")
    schedule, config = ScheduleConfig(), {}
    match name:
        case "learnt":
            small, config = small.replace(out_channels=6), {"learns_variance": True}
        case "table":
            betas = tuple(np.linspace(0.001, 0.3, 60).tolist())
            schedule = ScheduleConfig(name="table", steps=60, betas=betas)
        case "odd sizes":
            schedule, config = ScheduleConfig(name="scaled_linear", steps=500), {"variance": "large", "predicts": "x0"}
            small = small.replace(channels=(12, 8), head_width=4, attention=(0,), up_attention=(1, 0), groups=2)
            small = small.replace(resample="block", scale_shift=True, mid_norm_groups=4, eps=1e-6, time_width=24)
    model = cls(made(network=small, schedule=schedule, drawing=drawing, **config), {"image": signed_pixels(8, "crop")})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.eval()
    export(model, tmp_path, layout="diffusers")
    theirs = diffusers.DiffusionPipeline.from_pretrained(tmp_path)
    theirs.set_progress_bar_config(disable=True)
    assert type(theirs).__name__ == ("DDIMPipeline" if name == "ddim" else "DDPMPipeline")
    call = {"use_clipped_model_output": True} if name == "ddim" else {}
    same_pictures(model, theirs, drawing, **call)
    again = load(tmp_path)
    assert again.schedule.alpha_bar.tolist() == pytest.approx(model.schedule.alpha_bar.tolist(), rel=1e-12)
    kept = {"steps": drawing.steps, "keep_noise": drawing.keep_noise}
    assert again.drawing.replace(**kept) == drawing
    export(again, tmp_path / "again", layout="diffusers")
    for file in ("unet/config.json", "scheduler/scheduler_config.json", "model_index.json"):
        assert (tmp_path / file).read_text() == (tmp_path / "again" / file).read_text()


def test_a_published_folder_goes_out_as_it_came(tmp_path):
    theirs = pipeline(prediction_type="v_prediction", variance_type="fixed_large", rescale_betas_zero_snr=True)
    theirs.save_pretrained(tmp_path / "in")
    export(load(tmp_path / "in"), tmp_path / "out", layout="diffusers")
    before, after = (load_file(tmp_path / place / "unet" / DIFFUSERS) for place in ("in", "out"))
    assert set(before) == set(after) and all(torch.equal(before[key], after[key]) for key in before)
    again = diffusers.DDPMPipeline.from_pretrained(tmp_path / "out")
    for part in ("unet", "scheduler"):
        told = {k: v for k, v in dict(getattr(theirs, part).config).items() if not k.startswith("_")}
        found = dict(getattr(again, part).config)
        plain = [json.loads(json.dumps({k: values[k] for k in told})) for values in (told, found)]
        assert plain[0] == plain[1]


def ours(**changes):
    small = UNetConfig(channels=(8,), blocks=1, attention=(), groups=4, head_width=8)
    return DDPM(DDPMConfig(network=small).replace(**changes), {"image": signed_pixels(8, "crop")})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schedule__name": "flow", "predicts": "v"}, "a chain of steps"),
        ({"predicts": "flow"}, "eps, x0 or v"),
        ({"drawing__sampler": "heun"}, "the sampler ddpm or ddim"),
        ({"drawing__spacing": "karras"}, "leading, trailing or linspace"),
        ({"drawing__end": "least"}, "ends clean"),
        ({"network__mid_norm_groups": 0}, "cannot hold this network: it has no mid_norm_groups=0"),
        ({"network__out_channels": 6, "learns_variance": True, "drawing__sampler": "ddim"}, "may learn no variance"),
    ],
)
def test_what_diffusers_cannot_hold_is_refused_in_words(changes, words, tmp_path):
    with pytest.raises(CheckpointError, match=words):
        export(ours(**changes), tmp_path / "out", layout="diffusers")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("part", "changes", "words"),
    [
        ("unet", {"in_channels": 1, "out_channels": 1}, "missing|another shape"),
        ("unet", {"sample_size": None}, "sample_size=None is no size of pictures"),
        ("unet", {"sample_size": [8, 0]}, "is no size of pictures"),
        ("unet", {"_class_name": "UNet2DConditionModel"}, "expected the configuration of UNet2DModel"),
        ("unet", {"time_embedding_type": "fourier"}, "fourier"),
        ("unet", {"block_out_channels": [8, 32]}, "another shape"),
        ("unet", {"num_class_embeds": 5}, "missing"),
        ("scheduler", {"_class_name": "PNDMScheduler"}, "'PNDMScheduler' is not supported; DDPMScheduler"),
        ("scheduler", {"prediction_type": "velocity"}, "prediction_type='velocity' is not supported; epsilon"),
        ("scheduler", {"variance_type": "fixed_large_log"}, "variance_type='fixed_large_log'"),
        ("scheduler", {"variance_type": "learned_range"}, "give 6, found 3 and 3"),
        ("scheduler", {"beta_schedule": "laplace"}, "beta_schedule='laplace'"),
        ("scheduler", {"thresholding": True}, "thresholding=True is not supported"),
        ("scheduler", {"clip_sample_range": 2.0}, "clip_sample_range of 2.0"),
        ("scheduler", {"trained_betas": [0.1, 0.2]}, "2 trained_betas for 1000 steps"),
        ("scheduler", {"trained_betas": [0.1] * 999 + [3.0]}, "fall strictly"),
        ("scheduler", {"beta_end": 7}, "found 7.0"),
        ("scheduler", {"num_train_timesteps": 0}, "at least 1 step"),
        ("scheduler", {"num_train_timesteps": "many"}, "scheduler_config"),
        ("scheduler", {"rescale_betas_zero_snr": True}, "zero terminal SNR"),
        ("scheduler", {"timestep_spacing": "karras"}, "timestep_spacing='karras'"),
        ("scheduler", {"predict_epsilon": False}, "predict_epsilon=False"),
        ("scheduler", {"use_new_thing": True}, "the option use_new_thing=True is not supported"),
    ],
)
def test_pipelines_that_a_model_cannot_be_are_refused_in_words(part, changes, words, tmp_path):
    pipeline().save_pretrained(tmp_path)
    file = tmp_path / part / ("config.json" if part == "unet" else "scheduler_config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(CheckpointError, match=words):
        load(tmp_path)


def test_grey_pictures_and_classes_are_refused_in_words(tmp_path):
    pipeline(unet=network(in_channels=1, out_channels=1)).save_pretrained(tmp_path / "grey")
    with pytest.raises(CheckpointError, match="must take 3 channels and give 3, found 1 and 1"):
        load(tmp_path / "grey")
    pipeline(unet=network(num_class_embeds=4)).save_pretrained(tmp_path / "classes")
    with pytest.raises(CheckpointError, match="no class"):
        load(tmp_path / "classes")


def test_damaged_folders(tmp_path):
    pipeline().save_pretrained(tmp_path / "whole")

    def damaged(change):
        shutil.rmtree(tmp_path / "broken", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "broken")
        change(tmp_path / "broken")
        with pytest.raises(CheckpointError) as caught:
            load(tmp_path / "broken")
        return str(caught.value)

    assert "holds no scheduler_config.json" in damaged(lambda f: shutil.rmtree(f / "scheduler"))
    assert "holds no config.json" in damaged(lambda f: shutil.rmtree(f / "unet"))
    assert "is missing" in damaged(lambda f: (f / "unet" / DIFFUSERS).unlink())
    assert "cut short" in damaged(lambda f: (f / "scheduler" / "scheduler_config.json").write_text('{"beta'))
    assert "found list" in damaged(lambda f: (f / "scheduler" / "scheduler_config.json").write_text("[]"))
    assert "cut short" in damaged(lambda f: (f / "model_index.json").write_text("{"))
    weights = (tmp_path / "whole" / "unet" / DIFFUSERS).read_bytes()
    assert DIFFUSERS in damaged(lambda f: (f / "unet" / DIFFUSERS).write_bytes(weights[: len(weights) // 2]))
    other = json.dumps({"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "AutoencoderKL"]})
    text = damaged(lambda f: (f / "model_index.json").write_text(other))
    assert "'StableDiffusionPipeline' of vae" in text and "DDPMPipeline and DDIMPipeline are supported" in text
    pickled = damaged(lambda f: (f / "unet" / DIFFUSERS).rename(f / "unet" / "diffusion_pytorch_model.bin"))
    assert "pickle" in pickled


def test_a_unet_alone_does_not_say_what_noise_it_knows(tmp_path):
    pipeline().save_pretrained(tmp_path)
    with pytest.raises(
        CheckpointError, match="a U-Net alone, which does not say on what noise it was trained"
    ) as caught:
        load(tmp_path / "unet")
    assert str(tmp_path) in str(caught.value)


def test_more_steps_than_the_chain_has(tmp_path):
    pipeline(num_train_timesteps=20).save_pretrained(tmp_path)
    model = load(tmp_path)
    with pytest.raises(ConfigError, match="trained with 20 steps"):
        model.generate(1, steps=21)

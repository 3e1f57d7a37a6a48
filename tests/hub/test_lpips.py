"""Published LPIPS networks: files in both layouts, with random weights, beside torchmetrics and the paper's equation."""

import functools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from intermodal.core.errors import CheckpointError, DataError
from intermodal.hub.lpips import MEAN, SCALE, SHIFT, STD, key_map, read_lpips


def torchvision_features(name):
    """torchvision's ``features`` of vgg16 (configuration D) and alexnet, written out from their published definitions."""
    layers, before = [], 3
    if name == "vgg":
        for width in [64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0]:
            if width:
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(inplace=True)]
                before = width
            else:
                layers.append(nn.MaxPool2d(2, 2))
        return nn.Sequential(*layers)
    for width, kernel, stride, padding, pooled in [
        (64, 11, 4, 2, True),
        (192, 5, 1, 2, True),
        (384, 3, 1, 1, False),
        (256, 3, 1, 1, False),
        (256, 3, 1, 1, True),
    ]:
        layers += [nn.Conv2d(before, width, kernel, stride, padding), nn.ReLU(inplace=True)]
        layers += [nn.MaxPool2d(3, 2)] if pooled else []
        before = width
    return nn.Sequential(*layers)


@functools.cache
def published(name):
    """torchmetrics' module with random weights, in float64."""
    module = pytest.importorskip("torchmetrics.functional.image.lpips")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_get_tv_model_features", lambda net, pretrained=False: torchvision_features(name))
        torch.manual_seed(0)
        theirs = module._LPIPS(pretrained=False, net=name, pnet_rand=True, use_dropout=True).double().eval()
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            if key.startswith("lin"):
                parameter.abs_()
            elif key.endswith("bias"):
                parameter.normal_(std=0.1)
            else:
                nn.init.kaiming_normal_(parameter)
    return theirs


def state(name, *, sliced):
    """A state dict as the package publishes it; or torchvision's keys, with a classifier, and the channels' weights."""
    theirs = published(name).state_dict()
    linear = {k: v for k, v in theirs.items() if k.startswith("lin") and not k.startswith("lins")}
    if not sliced:
        network = {f"features.{k.split('.', 1)[1]}": v for k, v in net(theirs).items()}
        return network | {"classifier.0.weight": torch.ones(2, 2), "classifier.0.bias": torch.ones(2)}, linear
    doubles = {f"lins.{k[3]}{k[4:]}": v.clone() for k, v in linear.items()}
    scaling = {"scaling_layer.shift": torch.tensor(SHIFT), "scaling_layer.scale": torch.tensor(SCALE)}
    scaling = {k: v.view(1, 3, 1, 1) for k, v in scaling.items()}
    network = {f"net.{k}": v for k, v in net(theirs).items()}
    return network | linear | doubles | scaling, None


def net(theirs):
    """Their network's tensors, under the package's names without ``net.`` (torchmetrics' are the same)."""
    return {k.removeprefix("net."): v for k, v in theirs.items() if k.startswith("net.")}


def written(folder, name, *, sliced) -> list[Path]:
    files = []
    for i, tensors in enumerate(state(name, sliced=sliced)):
        if tensors is not None:
            files.append(folder / f"{name}{i}.safetensors")
            save_file({k: v.contiguous() for k, v in tensors.items()}, files[-1])
    return files[::-1]  # the channels' weights first


@pytest.mark.parametrize(
    ("name", "size", "sliced"),
    [("alex", (63, 70), True), ("alex", (96, 67), False), ("vgg", (33, 47), True), ("vgg", (16, 19), False)],
)
def test_is_torchmetrics_to_the_last_digits(tmp_path, name, size, sliced):
    theirs = published(name)
    theirs.scaling_layer.shift.copy_(torch.tensor(SHIFT, dtype=torch.float64).view(1, 3, 1, 1))
    theirs.scaling_layer.scale.copy_(torch.tensor(SCALE, dtype=torch.float64).view(1, 3, 1, 1))
    ours = read_lpips(*written(tmp_path, name, sliced=sliced))
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.rand(2, 3, *size, generator=generator, dtype=torch.float64) for _ in range(2))
    x.requires_grad_(), y.requires_grad_()
    found, wanted = ours(x, y), theirs(x, y, normalize=True)[:, 0, 0, 0]
    torch.testing.assert_close(found, wanted, atol=0, rtol=1e-10)
    weight = torch.tensor([1.0, -2.0], dtype=torch.float64)
    for mine, reference in zip(
        torch.autograd.grad(found @ weight, (x, y)), torch.autograd.grad(wanted @ weight, (x, y)), strict=True
    ):
        assert (mine - reference).abs().max() < 1e-10 * reference.abs().max()


def test_is_the_papers_equation(tmp_path):
    """Equation 1 with the package's first epsilon, 1e-10 on the root: the same but where vectors vanish."""
    theirs = published("alex")
    ours = read_lpips(*written(tmp_path, "alex", sliced=True))
    generator = torch.Generator().manual_seed(2)
    x, y = (torch.rand(1, 3, 65, 80, generator=generator, dtype=torch.float64) for _ in range(2))
    shift, scale = (torch.tensor(c, dtype=torch.float64).view(3, 1, 1) for c in (SHIFT, SCALE))
    total = 0.0
    maps = [((2 * z - 1) - shift) / scale for z in (x, y)]
    for layer in range(5):
        maps = [getattr(theirs.net, f"slice{layer + 1}")(m) for m in maps]
        unit = [m / (m.square().sum(1, keepdim=True).sqrt() + 1e-10) for m in maps]
        weight = theirs.lins[layer].model[1].weight[0, :, 0, 0]
        total += F.conv2d((unit[0] - unit[1]) ** 2, weight.view(1, -1, 1, 1)).mean().item()
    assert ours(x, y).item() == pytest.approx(total, rel=1e-6)


def test_the_scaling_layer_is_imagenets_normalisation():
    shift, scale = torch.tensor(SHIFT), torch.tensor(SCALE)
    torch.testing.assert_close(torch.tensor(MEAN), (1 + shift) / 2)
    torch.testing.assert_close(torch.tensor(STD), scale / 2)


def test_half_precision_files_are_widened_and_names_kept_twice_are_taken_once(tmp_path):
    tensors, _ = state("alex", sliced=True)
    half = {k: v.half() for k, v in tensors.items() if not k.startswith("lin")}
    half |= {
        k: v.half() for k, v in tensors.items() if k.startswith("lins.")
    }  # as saved where equal tensors are dropped
    save_file(half, tmp_path / "half.safetensors")
    ours = read_lpips(tmp_path / "half.safetensors")
    assert {t.dtype for t in ours.state_dict().values()} == {torch.float32}
    assert not any(p.requires_grad for p in ours.parameters()) and not ours.training
    wanted = tensors["lin2.model.1.weight"].half().float().flatten()
    torch.testing.assert_close(ours.weights[2], wanted, atol=0, rtol=0)


@pytest.mark.parametrize("sliced", [True, False])
def test_the_map_is_undone(sliced):
    network, linear = state("alex", sliced=sliced)
    keys = key_map("AlexNet", sliced=sliced)
    published_keys = {k: v for k, v in (network | (linear or {})).items() if k.startswith(("net.", "features.", "lin"))}
    published_keys = {k: v for k, v in published_keys.items() if not k.startswith("lins.")}
    back = keys.to_published(keys.to_ours(published_keys))
    assert back.keys() == published_keys.keys()
    assert all(torch.equal(back[k], v) for k, v in published_keys.items())


def test_bad_files_are_said_in_words(tmp_path):
    linear, network = written(tmp_path, "alex", sliced=False)
    with pytest.raises(CheckpointError, match=r"backbone="):
        read_lpips(linear)
    with pytest.raises(CheckpointError, match=r"lin0\.model\.1\.weight"):
        read_lpips(network)
    with pytest.raises(CheckpointError, match="both hold"):
        read_lpips(linear, linear)
    with pytest.raises(CheckpointError, match="missing"):
        read_lpips(tmp_path / "absent.safetensors")
    pickle = tmp_path / "alex.pth"
    pickle.write_bytes(b"")
    with pytest.raises(CheckpointError, match="weights_only=True"):
        read_lpips(pickle)

    def refused(tensors, match):
        save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "bad.safetensors")
        with pytest.raises(CheckpointError, match=match):
            read_lpips(tmp_path / "bad.safetensors")

    whole, _ = state("alex", sliced=True)
    refused({"something": torch.ones(2)}, "no LPIPS network")
    refused(whole | {"net.slice2.3.squeeze.weight": torch.ones(2)}, "SqueezeNet")
    refused(whole | {"extra": torch.ones(2)}, r"left over: extra")
    refused({k: v for k, v in whole.items() if k != "net.slice5.10.bias"}, r"missing: net\.slice5\.10\.bias")
    refused(whole | {"net.slice1.0.weight": torch.ones(64, 3, 7, 7)}, "7")
    refused(whole | {"scaling_layer.shift": torch.zeros(1, 3, 1, 1)}, "scales pictures otherwise")
    refused(whole | {"net.slice2.3.weight": torch.ones(192, 64, 3, 3)}, "shape")
    refused(whole | {k: -v for k, v in whole.items() if k.startswith("lin")}, "negative")


def test_pictures_that_the_last_stage_does_not_see(tmp_path):
    ours = read_lpips(*written(tmp_path, "alex", sliced=True))
    smallest = ours.network.config.smallest
    picture = torch.rand(1, 3, smallest, smallest)
    assert torch.isfinite(ours(picture, 1 - picture)).all()
    with pytest.raises(DataError, match=f"at least {smallest} x {smallest}"):
        ours(picture[..., 1:], picture[..., 1:])

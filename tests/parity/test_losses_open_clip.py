"""The contrastive losses against open_clip's, values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from intermodal.losses.contrastive import info_nce, sigmoid_loss

pytestmark = pytest.mark.vision


def features(batch, dtype, *scalars):
    generator = torch.Generator().manual_seed(batch)
    found = [torch.randn(batch, 24, generator=generator, dtype=torch.float64) for _ in range(2)]
    found = [F.normalize(x, dim=1).to(dtype) for x in found]
    return [x.requires_grad_() for x in (*found, *(torch.tensor(s, dtype=dtype) for s in scalars))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tile", [16, None])
@pytest.mark.parametrize("batch", [2, 50])
@pytest.mark.parametrize(
    ("ours", "theirs", "scalars"),
    [
        (info_nce, "ClipLoss", (1 / 0.07,)),
        (info_nce, "ClipLoss", (100.0,)),
        (sigmoid_loss, "SigLipLoss", (10.0, -10.0)),
        (sigmoid_loss, "SigLipLoss", (100.0, -12.5)),
    ],
)
def test_loss_and_gradients(agree, ours, theirs, scalars, batch, tile, dtype):
    reference = getattr(pytest.importorskip("open_clip.loss"), theirs)()
    results = []
    for loss in (lambda *a: ours(*a, tile=tile), reference):
        arguments = features(batch, dtype, *scalars)
        value = loss(*arguments)
        value.backward()
        names = ("image", "text", "logit_scale", "logit_bias")
        results.append({"loss": value.detach(), **{n: a.grad for n, a in zip(names, arguments, strict=False)}})
    agree(*results, f"{theirs} {batch}")

"""What the comparisons with reference implementations share."""

import importlib.util
import os
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")

# The CPU wheel of torchvision lacks two operators, and its mere presence then breaks `import transformers`.
# Their schemas, defined first and kept alive, cure both.
_SCHEMAS = []
if importlib.util.find_spec("torchvision") is not None:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _SCHEMAS.append(library)

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


@pytest.fixture
def randomise() -> Callable[[nn.Module, int], None]:
    """Give every parameter and statistic of a module values that are neither zero nor one."""

    def fill(module: nn.Module, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
                if not tensor.is_floating_point() or tensor.isinf().any():
                    continue  # position indices, a causal mask
                noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                if name.endswith("running_var"):
                    value = 0.5 + noise.abs()
                elif tensor.dim() == 1 and name.endswith("weight"):
                    value = 1 + 0.3 * noise  # of a normalisation
                elif name.startswith("logit_scale"):
                    value = 1.5 + 0 * noise
                elif tensor.dim() < 2:
                    value = 0.3 * noise
                else:
                    value = noise * (1.5 / tensor[0].numel() ** 0.5)
                tensor.copy_(value)

    return fill


@pytest.fixture
def texts() -> Callable[..., Tensor]:
    """Make token ids of different lengths: a start token, words, an end token, padding."""

    def make(count: int, length: int, *, bos: int, eos: int, pad: int) -> Tensor:
        generator = torch.Generator().manual_seed(count + length)
        out = torch.full((count, length), pad)
        for row in range(count):
            used = length if row == 0 else int(torch.randint(3, length + 1, (1,), generator=generator))
            out[row, 0] = bos
            out[row, 1 : used - 1] = torch.randint(20, 58, (used - 2,), generator=generator)
            out[row, used - 1] = eos
        return out

    return make


@pytest.fixture
def agree(record_property: Callable[[str, object], None]) -> Callable[..., float]:
    """Compare named tensors, each on its own scale, within their type's tolerance; return the worst."""

    def compare(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], what: str) -> float:
        assert sorted(ours) == sorted(theirs)
        largest = max(float(t.abs().max()) for t in theirs.values())
        errors = {}
        for name, wanted in theirs.items():
            found = ours[name]
            assert found.dtype == wanted.dtype, name
            assert found.shape == wanted.shape, name
            scale = float(wanted.abs().max())
            if scale < 1e-3 * largest:  # rounding noise, as the gradient of a key's bias is, which vanishes exactly
                scale = largest
            errors[name] = float((found - wanted).abs().max()) / scale
        worst = max(errors, key=errors.__getitem__)
        dtype = next(iter(theirs.values())).dtype
        record_property(what, errors[worst])
        print(f"{what} {dtype}: max error {errors[worst]:.1e} of the scale, at {worst}")
        assert errors[worst] < TOLERANCE[dtype], (what, worst, errors[worst])
        return errors[worst]

    return compare

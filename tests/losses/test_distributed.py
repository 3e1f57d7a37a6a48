"""Two and three gloo processes under DistributedDataParallel against one process with the whole batch."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from intermodal.losses.chunked import encode_in_chunks
from intermodal.losses.contrastive import info_nce, sigmoid_loss
from intermodal.losses.distributed import (
    all_gather_with_grad,
    all_reduce_sum,
    rank_and_world,
    stack_over_ranks,
)
from processes import together

BATCH, DIM = 12, 5
pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this torch has no distributed package")


class Pair(nn.Module):
    """Two linear towers, with the temperature and the bias as parameters."""

    def __init__(self, kind, log_scale=2.0, chunk_size=None, tile=5):
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.kind, self.chunk_size, self.tile = kind, chunk_size, tile
        self.image, self.text = nn.Linear(8, DIM).double(), nn.Linear(6, DIM, bias=False).double()
        self.log_scale = nn.Parameter(torch.tensor(log_scale, dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor(-3.0, dtype=torch.float64), requires_grad=kind == "sigmoid")
        with torch.no_grad():
            for p in (*self.image.parameters(), *self.text.parameters()):
                p.copy_(torch.randn(p.shape, dtype=torch.float64, generator=generator))

    def forward(self, image, text):
        embedded = []
        for tower, x in ((self.image, image), (self.text, text)):
            y = encode_in_chunks(tower, x, chunk_size=self.chunk_size) if self.chunk_size else tower(x)
            embedded.append(F.normalize(y, dim=1))
        if self.kind == "sigmoid":
            return sigmoid_loss(*embedded, self.log_scale.exp(), self.bias, tile=self.tile)
        return info_nce(*embedded, self.log_scale.exp(), tile=self.tile)


CASES = {  # the loss, the logarithm of the scale, rows in a chunk, the tile (None: one tile holds all)
    "info_nce": ("info_nce", 2.0, None),
    "info_nce, scale 100": ("info_nce", 4.605170185988092, None),
    "info_nce in chunks": ("info_nce", 2.0, 3),
    "info_nce, one tile": ("info_nce", 2.0, None, None),
    "sigmoid": ("sigmoid", 2.0, None),
    "sigmoid, one tile": ("sigmoid", 2.0, None, None),
}


def data():
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(BATCH, n, dtype=torch.float64, generator=generator) for n in (8, 6)]


def run(model, image, text):
    loss = model(image, text)
    (loss * 1.5).backward()  # as gradient accumulation or a loss scaler would
    grads = {name.removeprefix("module."): p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **grads}


def mixed_data(world):
    """Rank 0 holds pictures so long that it needs running maxima, while the other ranks do not."""
    image, text = (F.normalize(x[:, :6], dim=1) for x in data())
    image[: BATCH // world] *= 50
    return image, text, torch.tensor(5.0, dtype=torch.float64)


def share(world, rank, *tensors):
    """Return a rank's rows of each tensor."""
    own = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    return [x[own].clone() for x in tensors]


def work(rank, world, folder):
    found = {}
    for name, settings in CASES.items():
        found[name] = run(DistributedDataParallel(Pair(*settings)), *share(world, rank, *data()))
    image, text, scale = mixed_data(world)
    args = [x.requires_grad_() for x in (*share(world, rank, image, text), scale)]
    loss = info_nce(*args, tile=5)
    found["mixed"] = (loss.detach(), *torch.autograd.grad(loss, args))
    found["local"] = info_nce(*share(world, rank, image, text), scale.detach(), gather=False)
    with pytest.raises(ValueError, match=r"same shape, found rank 0 \[3, 2\], rank 1 \[2, 2\]"):
        all_gather_with_grad(torch.zeros(2 if rank == 1 else 3, 2))
    x = torch.full((2, 3), float(rank), requires_grad=True)
    gathered = all_gather_with_grad(x)
    (gathered * (rank + 1)).sum().backward()
    found["gather"] = (gathered.detach(), x.grad)
    torch.save(found, folder / f"{rank}.pt")


@pytest.mark.parametrize("world", [2, 3])
def test_averaged_gradients_are_those_of_one_process(world, tmp_path):
    together(work, world, tmp_path)
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world)]
    for name, (kind, log_scale, *_) in CASES.items():
        expected = run(Pair(kind, log_scale), *data())
        assert set(expected) == set(results[0][name])
        for result in results:
            assert torch.equal(result[name]["loss"], results[0][name]["loss"])
            for key, value in expected.items():
                assert (result[name][key] - value).abs().max() < 1e-12, (name, key)

    image, text, scale = args = [x.requires_grad_() for x in mixed_data(world)]
    logits, truth = scale * image @ text.T, torch.arange(BATCH)
    loss = (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2
    by_image, by_text, by_scale = torch.autograd.grad(loss, args)
    losses, images, texts, scales = zip(*(result["mixed"] for result in results), strict=True)
    assert (torch.stack(losses) - loss).abs().max() < 1e-12
    assert (torch.cat(images) / world - by_image).abs().max() < 1e-12
    assert (torch.cat(texts) / world - by_text).abs().max() < 1e-12
    assert (torch.stack(scales).mean() - by_scale).abs() < 1e-12

    for rank, result in enumerate(results):
        assert torch.equal(result["local"], info_nce(*share(world, rank, image, text), scale).detach())
        gathered, grad = result["gather"]
        assert torch.equal(gathered, torch.arange(world).repeat_interleave(2)[:, None].expand(-1, 3).float())
        assert torch.equal(grad, torch.full((2, 3), world * (world + 1) / 2))


def test_without_torch_distributed_all_is_the_identity():
    x = torch.randn(3, 2)
    assert all_gather_with_grad(x) is x
    assert all_reduce_sum(x) is x
    assert stack_over_ranks(x).shape == (1, 3, 2)
    assert rank_and_world() == (0, 1)

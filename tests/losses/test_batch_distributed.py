"""Losses of a labelled batch and of two views, on two and three gloo processes, against one process."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from intermodal.losses.nt_xent import nt_xent
from intermodal.losses.pair import batch_pair_loss
from intermodal.losses.supcon import supcon
from intermodal.losses.triplet import batch_triplet_loss
from intermodal.losses.vicreg import vicreg
from processes import together

BATCH = 12
pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this torch has no distributed package")


def terms(x, y, t, c):
    invariance, variance, covariance = vicreg(x, y)
    return 25 * invariance + 25 * variance + 3 * covariance


CASES = {  # of two views' embeddings, the temperature and the labels
    "supcon": lambda x, y, t, c: supcon(x, c, t, tile=5),
    "supcon, small temperature": lambda x, y, t, c: supcon(x, c, t / 20, tile=5),
    "supcon in": lambda x, y, t, c: supcon(x, c, t, variant="in"),
    "supcon, one class": lambda x, y, t, c: supcon(x, c * 0, t),
    "nt_xent": lambda x, y, t, c: nt_xent(x, y, t, tile=5),
    "pair": lambda x, y, t, c: batch_pair_loss(x, c, neg_margin=3.0, tile=5),
    "pair, cosine, squared": lambda x, y, t, c: batch_pair_loss(
        x, c, distance="cosine", squared=True, reduction="mean"
    ),
    "triplet all": lambda x, y, t, c: batch_triplet_loss(x, c, mining="all", margin=1.0, tile=5),
    "triplet all, mean": lambda x, y, t, c: batch_triplet_loss(x, c, mining="all", reduction="mean", soft=True),
    "triplet semihard": lambda x, y, t, c: batch_triplet_loss(x, c, mining="semihard", margin=1.0, distance="cosine"),
    "triplet hard": lambda x, y, t, c: batch_triplet_loss(x, c, mining="hard", tile=5),
    "vicreg": terms,
}


class Encoder(nn.Module):
    """A linear encoder of both views, with a temperature to learn."""

    def __init__(self, name):
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.loss, self.linear = CASES[name], nn.Linear(8, 5).double()
        self.temperature = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        with torch.no_grad():
            for p in self.linear.parameters():
                p.copy_(torch.randn(p.shape, dtype=torch.float64, generator=generator))

    def forward(self, x, y, labels):
        return self.loss(self.linear(x), self.linear(y), self.temperature, labels)


def data():
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.randn(BATCH, 8, dtype=torch.float64, generator=generator) for _ in range(2))
    return x, y, torch.tensor([0, 1, 2, 0, 1, 3, 0, 0, 1, 4, 2, 2])  # 3 and 4 have no positive


def run(model, *inputs):
    loss = model(*inputs)
    (loss * 1.5).backward()
    grads = {n.removeprefix("module."): p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **grads}


def work(rank, world, folder):
    own, found = slice(rank * BATCH // world, (rank + 1) * BATCH // world), {}
    share = [x[own].clone() for x in data()]
    for name in CASES:
        model = DistributedDataParallel(Encoder(name), find_unused_parameters=True)
        found[name] = run(model, *share)
    x, _, labels = share
    found["local"] = supcon(x, labels, 0.3, gather=False)
    uneven = torch.zeros(2 + rank, 3)
    for loss in (lambda: supcon(uneven, torch.arange(2 + rank)), lambda: vicreg(uneven, uneven)):
        with pytest.raises(ValueError, match=r"same shape, found rank 0 \[2, 3\], rank 1 \[3, 3\]"):
            loss()
    torch.save(found, folder / f"{rank}.pt")


@pytest.mark.parametrize("world", [2, 3])
def test_averaged_gradients_are_those_of_one_process(world, tmp_path):
    together(work, world, tmp_path)
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world)]
    for name in CASES:
        expected = run(Encoder(name), *data())
        assert expected["loss"] > 0 or name == "supcon, one class"
        for result in results:
            assert torch.equal(result[name]["loss"], results[0][name]["loss"])
            for key, value in expected.items():
                assert (result[name][key] - value).abs().max() < 1e-12, (name, key)
    x, _, labels = data()
    for rank, result in enumerate(results):
        own = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
        assert torch.equal(result["local"], supcon(x[own], labels[own], 0.3))

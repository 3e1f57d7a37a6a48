"""Draw the pictures of the page on diffusion: ``python docs/figures_diffusion.py`` (a minute, nothing is trained).

The order of the samplers, guidance on a mixture of Gaussians, and the graphical models of DDPM and DDIM.
"""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch
from torch import Tensor

from intermodal.diffusion.continuous import VPCosine
from intermodal.diffusion.grids import Grid, make_grid
from intermodal.diffusion.guidance import ClassifierFree
from intermodal.diffusion.mixtures import Mixture
from intermodal.diffusion.samplers import ddim, dpm_solver, dpm_solver_singlestep, heun
from intermodal.diffusion.schedules import CLEAN, DiscreteSchedule

IMAGES = Path(__file__).parent / "images"
HIGH, LOW = 20.0, 0.02


def three_bumps(width: float = 1.0) -> Mixture:
    """Return a mixture in the plane: one class of one component, one of two; wide ones overlap."""
    mean = torch.tensor([[1.5, 0.0], [-1.0, 1.0], [0.0, -1.2]], dtype=torch.float64)
    covariance = torch.tensor([[[0.2, 0.1], [0.1, 0.15]], [[0.1, 0.0], [0.0, 0.3]], [[0.25, -0.1], [-0.1, 0.2]]])
    weight = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    return Mixture(mean, width**2 * covariance, weight, torch.tensor([0, 1, 1]))


def even(schedule: VPCosine, steps: int) -> Grid:
    """Return levels even in log-SNR, from much noise to little."""
    ratios = torch.exp(torch.linspace(math.log(HIGH), math.log(LOW), steps + 1, dtype=torch.float64))
    return tuple(schedule.at_ratio(r) for r in ratios)


def sampler_order(path: Path) -> None:
    """Draw the error of each solver of the probability-flow equation over the evaluations it takes."""
    mixture, schedule = three_bumps(), VPCosine()
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x * schedule.at_ratio(HIGH).sigma
    truth = heun(mixture, x, even(schedule, 16384))
    solvers = {
        "DDIM = Euler": (1, ddim),
        "Heun": (2, heun),
        "DPM-Solver++ (2S)": (2, lambda d, x, g: dpm_solver_singlestep(d, x, g, schedule)),
        "DPM-Solver++ (2M)": (1, dpm_solver),
        "DPM-Solver++ (3M)": (1, lambda d, x, g: dpm_solver(d, x, g, order=3)),
    }
    figure, axes = plt.subplots(figsize=(6.4, 4.2))
    for name, (evaluations, sample) in solvers.items():
        counts = [8, 16, 32, 64, 128, 256, 512]
        errors = [
            float((sample(mixture, x, even(schedule, n // evaluations)) - truth).norm(dim=1).mean()) for n in counts
        ]
        axes.loglog(counts, errors, "o-", label=name)
    for order, start in ((1, 0.35), (2, 0.25), (3, 0.05)):
        axes.loglog([8, 512], [start, start / 64**order], "k:", linewidth=1)
        axes.annotate(
            f"order {order}", (512, start / 64**order), textcoords="offset points", xytext=(4, -3), fontsize=8
        )
    axes.set_xlabel("evaluations of the denoiser")
    axes.set_ylabel("distance from the exact solution")
    axes.set_xlim(7, 900)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def guided(mixture: Mixture, scale: float, interval: tuple[float, float] = (0.0, math.inf)) -> Tensor:
    """Return 1,500 samples of class 1, guided."""
    grid = make_grid(DiscreteSchedule.linear(), 50)
    x = torch.randn(1500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    denoiser = ClassifierFree(mixture, scale, torch.tensor([-1]), interval=interval)
    return ddim(denoiser, x, grid, cond=torch.ones(1500, dtype=torch.long))


def guidance(path: Path) -> None:
    """Draw samples of a class at four scales, and fidelity against diversity over the scale."""
    mixture = three_bumps(1.8)
    classes = torch.ones(1500, dtype=torch.long)
    figure, axes = plt.subplots(1, 5, figsize=(15, 3.4), gridspec_kw={"width_ratios": [1, 1, 1, 1, 1.4]})
    span = torch.linspace(-4, 4, 120, dtype=torch.float64)
    plane = torch.stack(torch.meshgrid(span, span, indexing="xy"), -1).view(-1, 2)
    everything = mixture.log_prob(plane).exp().view(120, 120)
    for place, scale in zip(axes, (0.0, 1.0, 2.0, 6.0), strict=False):
        points = guided(mixture, scale)
        place.contour(span, span, everything, levels=6, colors="0.75", linewidths=0.7)
        place.plot(*points.T, ".", markersize=2, alpha=0.5)
        place.set_title(f"scale {scale:g}", fontsize=10)
        place.set_xlim(-4, 4)
        place.set_ylim(-4, 4)
        place.set_xticks([])
        place.set_yticks([])
    scales = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
    for name, interval in (("at all levels", (0.0, math.inf)), ("where 0.3 < sigma / alpha < 3", (0.3, 3.0))):
        made = [guided(mixture, s, interval) for s in scales]
        fidelity = [float(mixture.log_class(x, CLEAN, classes).exp().mean()) for x in made]
        diversity = [float(x.T.cov().logdet() / 2) for x in made]
        axes[4].plot(diversity, fidelity, "o-", markersize=4, label=name)
        if name == "at all levels":
            for s, d, f in zip(scales, diversity, fidelity, strict=True):
                if s in (0, 1, 2, 4, 8):
                    axes[4].annotate(f"{s:g}", (d, f), textcoords="offset points", xytext=(4, -10), fontsize=8)
    axes[4].set_xlabel("diversity: log of the area that samples cover")
    axes[4].set_ylabel("fidelity: mean p(class | sample)")
    axes[4].legend(frameon=False, fontsize=8, loc="lower left")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def node(axes: Axes, x: float, y: float, text: str, shaded: bool = False) -> None:
    """Draw a variable."""
    axes.add_patch(Circle((x, y), 0.34, facecolor="0.85" if shaded else "white", edgecolor="black", zorder=3))
    axes.text(x, y, text, ha="center", va="center", fontsize=12, zorder=4)


def arrow(axes: Axes, a: tuple[float, float], b: tuple[float, float], *, bend: float = 0.0, colour: str = "C0") -> None:
    """Draw a dependence, from cause to effect."""
    axes.add_patch(
        FancyArrowPatch(
            a,
            b,
            connectionstyle=f"arc3,rad={bend}",
            arrowstyle="-|>",
            mutation_scale=14,
            color=colour,
            shrinkA=18,
            shrinkB=18,
        )
    )


def graphical_models(path: Path) -> None:
    """Draw what depends on what: forward (q, fixed) and reverse (p, learnt), for DDPM and for DDIM."""
    figure, both = plt.subplots(2, 1, figsize=(9, 5.6))
    names = ["$x_0$", "$x_1$", "$x_2$", "$x_3$"]
    for axes in both:
        axes.set_xlim(-0.8, 7.4)
        axes.set_ylim(-1.2, 1.6)
        axes.set_aspect("equal")
        axes.set_axis_off()
        for i, name in enumerate(names):
            node(axes, 2.2 * i, 0, name, shaded=i == 0)
        axes.text(0, -0.55, "data", ha="center", fontsize=9)
        axes.text(6.6, -0.55, "noise", ha="center", fontsize=9)
    for i in range(3):
        arrow(both[0], (2.2 * i, 0.1), (2.2 * i + 2.2, 0.1), bend=-0.35)
        arrow(both[0], (2.2 * i + 2.2, -0.1), (2.2 * i, -0.1), bend=-0.35, colour="C1")
        arrow(both[1], (2.2 * i + 2.2, -0.1), (2.2 * i, -0.1), bend=-0.35, colour="C1")
    both[0].text(1.1, 0.75, r"$q(x_t\,|\,x_{t-1})$", ha="center", color="C0")
    both[0].text(1.1, -0.95, r"$p_\theta(x_{t-1}\,|\,x_t)$", ha="center", color="C1")
    both[0].set_title("DDPM: the forward process q is a Markov chain from data to noise", fontsize=10)
    for i in (1, 2):  # q(x_(t-1) | x_t, x_0): every noisy variable has two parents, the next noisier one and the data
        arrow(both[1], (2.2 * i + 2.2, 0.05), (2.2 * i, 0.05), bend=0.3)
        arrow(both[1], (0, 0.1), (2.2 * i, 0.1), bend=-0.42)
    arrow(both[1], (0, 0.1), (6.6, 0.1), bend=-0.3)
    both[1].text(5.1, 1.3, r"$q(x_T\,|\,x_0)\prod_{t}\,q(x_{t-1}\,|\,x_t, x_0)$", ha="center", color="C0")
    both[1].text(1.1, -0.95, r"$p_\theta(x_{t-1}\,|\,x_t)$", ha="center", color="C1")
    both[1].set_title(
        "DDIM: q is not Markovian, with the same marginals; generation is sequential all the same", fontsize=10
    )
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    """Draw all."""
    torch.set_num_threads(1)
    graphical_models(IMAGES / "diffusion-graph.png")
    sampler_order(IMAGES / "sampler-order.png")
    guidance(IMAGES / "guidance-mixture.png")


if __name__ == "__main__":
    main()

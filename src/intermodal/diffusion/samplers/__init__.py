"""Samplers: plain functions over a denoiser, from noise at a grid's first level to samples at its last."""

from intermodal.diffusion.samplers.ancestral import ddpm, ddpm_step
from intermodal.diffusion.samplers.common import Noise, Step, Watch, start
from intermodal.diffusion.samplers.ddim import ddim, ddim_inversion, ddim_step, euler_ancestral, slerp
from intermodal.diffusion.samplers.dpm_solver import dpm_solver, dpm_solver_singlestep, dpm_solver_step
from intermodal.diffusion.samplers.ode import euler, heun

__all__ = [
    "Noise",
    "Step",
    "Watch",
    "ddim",
    "ddim_inversion",
    "ddim_step",
    "ddpm",
    "ddpm_step",
    "dpm_solver",
    "dpm_solver_singlestep",
    "dpm_solver_step",
    "euler",
    "euler_ancestral",
    "heun",
    "slerp",
    "start",
]

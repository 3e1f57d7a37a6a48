"""Diffusion in small parts that compose: schedules, predictions, processes, denoisers, guidance, samplers.

Nothing here knows about pictures. A sample is a tensor ``(B, ...)``: a picture, a latent, an embedding, a chunk of actions.

- :mod:`~intermodal.diffusion.schedules`: how much signal and noise there is at each time; discrete chains.
- :mod:`~intermodal.diffusion.continuous`: schedules in closed form, flow matching among them.
- :mod:`~intermodal.diffusion.predictions`: what a network may predict, and how each follows from the others.
- :mod:`~intermodal.diffusion.process`: the forward process q, its posterior, and what a step back is.
- :mod:`~intermodal.diffusion.objectives`: what a network is trained on.
- :mod:`~intermodal.diffusion.bound`: the variational bound, term by term.
- :mod:`~intermodal.diffusion.denoiser`: the protocol that samplers speak to, and the wrapper that makes a network one.
- :mod:`~intermodal.diffusion.guidance`: wrappers that steer a denoiser.
- :mod:`~intermodal.diffusion.grids`: which noise levels a sampler visits.
- :mod:`~intermodal.diffusion.samplers`: from noise to data, and back.
- :mod:`~intermodal.diffusion.mixtures`: a distribution whose denoiser is known exactly, to judge all of it on.
"""

"""VQGAN's first stage in diffusers' published layout: VQModel's folder, whose networks are those of AutoencoderKL.

A published model has no discriminator, and its codebook follows its loss. What diffusers calls beta is there, with its
``legacy`` always set, the weight of the codebook's term and not of the commitment, as in the code that the authors released.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from intermodal.core.errors import CheckpointError, ConfigError
from intermodal.hub.autoencoder_kl import SCALING, network_rules, read_network, write_network
from intermodal.hub.keymap import KeyMap, rename
from intermodal.methods.image_tokenizers.vqgan import VQGAN, VQGANConfig
from intermodal.nn.autoencoder import AutoencoderConfig
from intermodal.nn.quantizers import VectorQuantizerConfig

CLASS = "VQModel"
BETA = 0.25
CODEBOOK = "quantize.embedding.weight"
_OWN = ("counts", "started")
"""What our quantizer keeps beside the codebook; a published file has none of it."""


def read_config(data: Mapping[str, Any], where: Path | str) -> VQGANConfig:
    """Return our configuration of a VQModel's ``config.json``.

    ``lookup_from_codebook`` and ``force_upcast`` say how diffusers is to be called, and change nothing here: codes are
    always looked up, vectors always quantized in single precision at least.

    Raises:
        CheckpointError: if it describes something that this model does not have, such as the spatial norm.
    """
    inner = data.get("latent_channels", 3)
    dim = inner if data.get("vq_embed_dim") is None else data["vq_embed_dim"]
    try:
        return VQGANConfig(
            network=AutoencoderConfig(**read_network(data, where), latent_channels=dim, inner_channels=inner),
            quantizer=VectorQuantizerConfig(
                codes=data.get("num_vq_embeddings", 256),
                dim=dim,
                update="loss",
                commitment=1.0,
                codebook=BETA,
                initial="random",
            ),
            discriminator=None,
            scaling_factor=float(data.get("scaling_factor", SCALING)),
        )
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from error


def write_config(model: VQGAN) -> dict[str, Any]:
    """Return the data of a ``config.json`` from which diffusers builds the same encoder, codebook and decoder.

    Raises:
        CheckpointError: if VQModel cannot hold this model; it says why.
    """
    network, quantizer = model.config.network, model.config.quantizer
    lacking = {
        "one codebook (no residual levels, no finite scalars)": isinstance(quantizer, VectorQuantizerConfig),
        "codes of any length (cosine=False)": not getattr(quantizer, "cosine", False),
        "quant_conv and post_quant_conv": network.quant_conv and network.post_quant_conv,
    }
    if wanted := [name for name, holds in lacking.items() if not holds]:
        raise CheckpointError(f"diffusers' {CLASS} cannot hold this model: it needs {', '.join(wanted)}.")
    size = model.picture.size if model.processors else (32, 32)
    return {
        "_class_name": CLASS,
        **write_network(network),
        "latent_channels": network.inner,
        "vq_embed_dim": network.latent_channels,
        "num_vq_embeddings": model.codebook_size,
        "norm_type": "group",
        "sample_size": size[0] if size[0] == size[1] else list(size),
        "scaling_factor": model.config.scaling_factor,
    }


def key_map() -> KeyMap:
    """Return the key map of diffusers' VQModel; :func:`with_counts` and :func:`without_counts` fit it to our state."""
    own = (rename(f"quantize.{name}", f"quantizer.{name}") for name in _OWN)
    return KeyMap(*network_rules(), rename(CODEBOOK, "quantizer.codebook"), *own)


def with_counts(tensors: Mapping[str, Tensor], where: Path | str) -> dict[str, Tensor]:
    """Return a published file's tensors with what our quantizer counts in training: every code once, and that it has begun.

    Raises:
        CheckpointError: if there is no codebook.
    """
    if CODEBOOK not in tensors:
        raise CheckpointError(f"{where} holds no codebook: {CODEBOOK} is missing.")
    counts_K = torch.ones(len(tensors[CODEBOOK]))
    return {**tensors, "quantize.counts": counts_K, "quantize.started": torch.tensor(True)}


def without_counts(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what a VQModel's file holds of our model's state: neither counts, nor averages, nor the discriminator."""
    dropped = ("discriminator.", "quantizer.sums")
    published = key_map().to_published({k: t for k, t in ours.items() if not k.startswith(dropped)})
    return {k: t for k, t in published.items() if k not in [f"quantize.{name}" for name in _OWN]}

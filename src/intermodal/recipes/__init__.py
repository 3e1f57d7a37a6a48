"""The recipes: each a function that returns a frozen configuration; its docstring states command, time and score."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from intermodal.core.config import suggestion
from intermodal.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from intermodal.recipes.base import Recipe

RECIPES: dict[str, str] = {
    "clip": "intermodal.recipes.clip:clip",
    "clip-small": "intermodal.recipes.clip:clip_small",
    "clip-photos": "intermodal.recipes.clip:clip_photos",
    "siglip": "intermodal.recipes.clip:siglip",
    "coca": "intermodal.recipes.coca:coca",
    "coca-flickr": "intermodal.recipes.coca:coca_flickr",
    "clipcap": "intermodal.recipes.captioners:clipcap",
    "clipcap-frozen": "intermodal.recipes.captioners:clipcap_frozen",
    "clipcap-flickr": "intermodal.recipes.captioners:clipcap_flickr",
    "decap": "intermodal.recipes.captioners:decap",
    "capdec": "intermodal.recipes.captioners:capdec",
    "decap-flickr": "intermodal.recipes.captioners:decap_flickr",
    "clip-guided": "intermodal.recipes.captioners:clip_guided",
    "clip-guided-flickr": "intermodal.recipes.captioners:clip_guided_flickr",
    "experts": "intermodal.recipes.experts:experts",
    "experts-flickr": "intermodal.recipes.experts:experts_flickr",
    "llava": "intermodal.recipes.llava:llava",
    "llava-text": "intermodal.recipes.llava:llava_text",
    "llava-flickr": "intermodal.recipes.llava:llava_flickr",
    "trocr": "intermodal.recipes.trocr:trocr",
    "trocr-ctc": "intermodal.recipes.trocr:trocr_ctc",
    "simclr": "intermodal.recipes.self_supervised:simclr",
    "vicreg": "intermodal.recipes.self_supervised:vicreg",
    "e-ssl": "intermodal.recipes.self_supervised:e_ssl",
    "siamese": "intermodal.recipes.self_supervised:siamese",
    "supcon": "intermodal.recipes.self_supervised:supcon",
    "supervised": "intermodal.recipes.self_supervised:supervised",
    "triplet": "intermodal.recipes.self_supervised:triplet",
    "ebm": "intermodal.recipes.ebm:ebm",
    "ebm-2d": "intermodal.recipes.ebm:ebm_2d",
    "ebm-samples": "intermodal.recipes.ebm:ebm_samples",
    "nce": "intermodal.recipes.nce:nce",
    "nce-density": "intermodal.recipes.nce:nce_density",
    "vqgan": "intermodal.recipes.vqgan:vqgan",
    "vqgan-prior": "intermodal.recipes.vqgan:vqgan_prior",
    "word2vec": "intermodal.recipes.word2vec:word2vec",
    "word2vec-cbow": "intermodal.recipes.word2vec:word2vec_cbow",
    "vae": "intermodal.recipes.vae:vae",
    "vae-map": "intermodal.recipes.vae:vae_map",
    "binding": "intermodal.recipes.binding:binding",
    "binding-sound": "intermodal.recipes.binding:binding_sound",
    "bert": "intermodal.recipes.bert:bert",
    "simcse": "intermodal.recipes.bert:simcse",
    "simcse-pairs": "intermodal.recipes.bert:simcse_pairs",
    "vqvae": "intermodal.recipes.vqvae:vqvae",
    "vqvae-residual": "intermodal.recipes.vqvae:vqvae_residual",
    "vqvae-fsq": "intermodal.recipes.vqvae:vqvae_fsq",
    "elbo": "intermodal.recipes.elbo:elbo",
    "patches": "intermodal.recipes.patches:patches",
    "dvae": "intermodal.recipes.dvae:dvae",
    "dalle": "intermodal.recipes.dalle:dalle",
    "ddpm": "intermodal.recipes.diffusion:ddpm",
    "ddim": "intermodal.recipes.diffusion:ddim",
    "cfg": "intermodal.recipes.diffusion:cfg",
    "classifier-guidance": "intermodal.recipes.classifier_guidance:classifier_guidance",
    "hmm": "intermodal.recipes.hmm:hmm",
    "hmm-digits": "intermodal.recipes.hmm:hmm_digits",
    "hybrid": "intermodal.recipes.hybrid:hybrid",
    "hybrid-dnn": "intermodal.recipes.hybrid:hybrid_dnn",
    "hybrid-tdnn": "intermodal.recipes.hybrid:hybrid_tdnn",
    "hybrid-lstm": "intermodal.recipes.hybrid:hybrid_lstm",
    "hybrid-digits": "intermodal.recipes.hybrid:hybrid_digits",
    "t2i-gan": "intermodal.recipes.t2i_gan:t2i_gan",
    "ctc": "intermodal.recipes.ctc:ctc",
    "ctc-cnn": "intermodal.recipes.ctc:ctc_cnn",
    "ctc-lstm": "intermodal.recipes.ctc:ctc_lstm",
    "ctc-conformer": "intermodal.recipes.ctc:ctc_conformer",
    "ctc-streaming": "intermodal.recipes.ctc:ctc_streaming",
    "ctc-digits": "intermodal.recipes.ctc:ctc_digits",
    "lm-fusion": "intermodal.recipes.lm_fusion:lm_fusion",
    "language": "intermodal.recipes.language:language",
    "language-llama": "intermodal.recipes.language:language_llama",
    "mel": "intermodal.recipes.mel:mel",
    "vit": "intermodal.recipes.vision:vit",
    "deit": "intermodal.recipes.vision:deit",
    "vit-digits": "intermodal.recipes.vision:vit_digits",
    "swin": "intermodal.recipes.vision:swin",
    "swin-v2": "intermodal.recipes.vision:swin_v2",
    "swin-digits": "intermodal.recipes.vision:swin_digits",
    "wav2vec2": "intermodal.recipes.wav2vec2:wav2vec2",
    "wav2vec2-ctc": "intermodal.recipes.wav2vec2:wav2vec2_ctc",
    "wav2vec2-ctc-random": "intermodal.recipes.wav2vec2:wav2vec2_ctc_random",
}
"""Each recipe's name and the import path of its function."""


def recipe_function(name: str) -> Callable[[], Recipe]:
    """Import the function behind a name.

    Raises:
        ConfigError: if there is no such recipe; the nearest name is suggested.
    """
    if name not in RECIPES:
        raise ConfigError(f"There is no recipe {name!r}{suggestion(name, RECIPES)}")
    module, _, function = RECIPES[name].partition(":")
    return getattr(importlib.import_module(module), function)


def get_recipe(name: str) -> Recipe:
    """Return the recipe of this name, with its default values."""
    return recipe_function(name)()

"""Write our models in published layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, get_args

from intermodal.core.capabilities import HasWords
from intermodal.core.checkpoint import WEIGHTS, write_tensors
from intermodal.core.errors import CheckpointError
from intermodal.core.files import atomic_folder
from intermodal.data.processors import ImageProcessor, TextProcessor
from intermodal.data.sentences import SentenceProcessor
from intermodal.hub import autoencoder_kl, bert, clip, ddpm, language, llava, trocr, vision, vqmodel
from intermodal.hub.processors import IMAGE_FILE, write_image_processor, write_text_processor
from intermodal.hub.weights import CONFIG, DIFFUSERS
from intermodal.hub.word2vec_format import write_word2vec
from intermodal.methods.base import Method
from intermodal.methods.captioning.language import LanguageDecoder
from intermodal.methods.contrastive.bert import BERT
from intermodal.methods.contrastive.clip import CLIP
from intermodal.methods.image_generation.ddpm import DDPM
from intermodal.methods.image_tokenizers.vae import VAE
from intermodal.methods.image_tokenizers.vqgan import VQGAN
from intermodal.methods.vision_language.llava import LLaVA
from intermodal.methods.vision_language.swin import Swin
from intermodal.methods.vision_language.trocr import TrOCR
from intermodal.methods.vision_language.vit import ViT

Layout = Literal["transformers", "diffusers", "word2vec", "word2vec-text"]


def export(model: Method, path: str | Path, layout: Layout = "transformers") -> None:
    """Write a model so that another library loads it, in one step: the folder is there in full or not at all.

    Args:
        model: a CLIP whose architecture transformers' CLIPModel or SiglipModel has, a BERT, a VAE whose latent is a map, a
            VQGAN, a DDPM or DDIM without texts, a language decoder (GPT-2 or Llama), a ViT or Swin that tells classes, a
            LLaVA that sees through a ViT, or a TrOCR with a ViT or DeiT.
        path: the folder to write; one that is there is replaced.
        layout: ``word2vec`` and ``word2vec-text``: one file in word2vec's binary or text format, of a model with word
            vectors. ``transformers``: ``config.json``, ``model.safetensors``, and for the processors that the
            model has ``preprocessor_config.json``, ``tokenizer.json``, ``tokenizer_config.json`` and
            ``special_tokens_map.json``. ``diffusers``: ``config.json`` and ``diffusion_pytorch_model.safetensors``; a
            VAE's width of the likelihood and a VQGAN's discriminator have no place there and are left out. A DDPM or DDIM
            is a pipeline of two such folders (:func:`intermodal.hub.ddpm.write`).

    Raises:
        CheckpointError: if the layout, the method or its architecture has no counterpart; it says why.
        IntermodalError: if the disk is full or writing is not permitted.
    """
    if layout not in get_args(Layout):
        raise CheckpointError(f"A model is exported in the layout {' or '.join(get_args(Layout))}, not {layout!r}.")
    if layout == "diffusers":
        return _export_diffusers(model, path)
    if layout != "transformers":
        if not isinstance(model, HasWords):
            raise CheckpointError(f"The method {model.id!r} has no word vectors to be written in word2vec's format.")
        return write_word2vec(model, path, "binary" if layout == "word2vec" else "text")
    if isinstance(model, BERT):
        return _export_bert(model, path)
    if isinstance(model, LanguageDecoder):
        return _export_language(model, path)
    if isinstance(model, ViT | Swin):
        return _export_classifier(model, path)
    if isinstance(model, LLaVA):
        return _export_llava(model, path)
    if isinstance(model, TrOCR):
        return _export_trocr(model, path)
    if not isinstance(model, CLIP):
        raise CheckpointError(f"The method {model.id!r} has no published layout to be exported in.")
    kind, _ = clip.model_type(model.config)
    config = clip.write_config(model.config)
    config["dtype"] = str(model.logit_scale.dtype).removeprefix("torch.")
    tensors = clip.key_map(kind).to_published({k: v.detach() for k, v in model.state_dict().items()})
    image, text = model.processors.get("image"), model.processors.get("text")
    pictures = write_image_processor(image, kind) if isinstance(image, ImageProcessor) else None
    with atomic_folder(path) as folder:
        write_tensors(folder / WEIGHTS, tensors, metadata={"format": "pt"})
        _write_json(folder / CONFIG, config)
        if pictures is not None:
            _write_json(folder / IMAGE_FILE, pictures)
        if isinstance(text, TextProcessor):
            write_text_processor(text, folder, sees_padding=kind == "siglip")


def _export_bert(model: BERT, path: str | Path) -> None:
    """Write a BERT with the heads that it has; one with none of them is written as BertModel."""
    weights = {k: v.detach() for k, v in model.state_dict().items()}
    config = bert.write_config(model.config)
    config["dtype"] = str(weights["encoder.norm.weight"].dtype).removeprefix("torch.")
    keys = bert.key_map(encoder_alone=not (model.config.mlm or model.config.nsp))
    text = model.processors.get("text")
    with atomic_folder(path) as folder:
        write_tensors(folder / WEIGHTS, keys.to_published(weights), metadata={"format": "pt"})
        _write_json(folder / CONFIG, config)
        if isinstance(text, TextProcessor):
            bert.write_tokenizer(text, folder)


def _export_language(model: LanguageDecoder, path: str | Path) -> None:
    """Write a language decoder as GPT2LMHeadModel or LlamaForCausalLM."""
    config, keys = language.write_config(model)
    weights = {k: v.detach() for k, v in model.state_dict().items()}
    config["dtype"] = str(weights["network.token_embedding.weight"].dtype).removeprefix("torch.")
    with atomic_folder(path) as folder:
        write_tensors(folder / WEIGHTS, keys.to_published(weights), metadata={"format": "pt"})
        _write_json(folder / CONFIG, config)
        if "text" in model.processors:
            language.write_tokenizer(model.text, folder)


def _export_classifier(model: ViT | Swin, path: str | Path) -> None:
    """Write a ViT, DeiT, Swin or Swin v2 with its head and the names of its classes."""
    config = vision.write_config(model)
    config["dtype"] = str(model.head.weight.dtype).removeprefix("torch.")
    tensors = vision.key_map(model).to_published({k: v.detach() for k, v in model.state_dict().items()})
    image = model.processors.get("image")
    pictures = write_image_processor(image, vision.kind_of(model)) if isinstance(image, ImageProcessor) else None
    with atomic_folder(path) as folder:
        write_tensors(folder / WEIGHTS, tensors, metadata={"format": "pt"})
        _write_json(folder / CONFIG, config)
        if pictures is not None:
            _write_json(folder / IMAGE_FILE, pictures)


def _export_llava(model: LLaVA, path: str | Path) -> None:
    """Write a LLaVA with a ViT as LlavaForConditionalGeneration, its processors as a LlavaProcessor with a chat template."""
    config = llava.write_config(model)
    config["dtype"] = str(next(model.parameters()).dtype).removeprefix("torch.")
    tensors = llava.key_map(model.config).to_published({k: v.detach() for k, v in model.state_dict().items()})
    with atomic_folder(path) as folder:
        write_tensors(folder / WEIGHTS, tensors, metadata={"format": "pt"})
        files = llava.write_processors(model, folder) if {"image", "chat"} <= set(model.processors) else {}
        for name, data in {CONFIG: config, **files}.items():
            _write_json(folder / name, data)


def _export_trocr(model: TrOCR, path: str | Path) -> None:
    """Write a TrOCR with a ViT or DeiT as VisionEncoderDecoderModel; its tokenizer gives texts an end, as labels have it."""
    config, tensors = trocr.write_config(model), trocr.write_tensors(model)
    config["dtype"] = str(next(model.parameters()).dtype).removeprefix("torch.")
    image, text = model.processors.get("image"), model.processors.get("text")
    kind = config["encoder"]["model_type"]
    pictures = write_image_processor(image, kind) if isinstance(image, ImageProcessor) else None
    with atomic_folder(path) as folder:
        write_tensors(folder / WEIGHTS, tensors, metadata={"format": "pt"})
        _write_json(folder / CONFIG, config)
        _write_json(folder / language.GENERATION, trocr.write_generation(config))
        if pictures is not None:
            _write_json(folder / IMAGE_FILE, pictures)
        if isinstance(text, SentenceProcessor):
            language.write_tokenizer(text, folder, labels=True)


def _export_diffusers(model: Method, path: str | Path) -> None:
    """Write a VAE as AutoencoderKL, the autoencoder of a VQGAN as VQModel, a DDPM or DDIM as a pipeline."""
    if isinstance(model, DDPM):
        return _export_pipeline(model, path)
    weights = {k: v.detach() for k, v in model.state_dict().items()}
    if isinstance(model, VAE):
        config = autoencoder_kl.write_config(model)
        own = {k: v for k, v in weights.items() if k not in autoencoder_kl.OWN}
        tensors = autoencoder_kl.key_map().to_published(own)
    elif isinstance(model, VQGAN):
        config, tensors = vqmodel.write_config(model), vqmodel.without_counts(weights)
    else:
        raise CheckpointError(f"The method {model.id!r} has no layout of diffusers to be exported in.")
    with atomic_folder(path) as folder:
        write_tensors(folder / DIFFUSERS, tensors, metadata={"format": "pt"})
        _write_json(folder / CONFIG, config)


def _export_pipeline(model: DDPM, path: str | Path) -> None:
    files, tensors = ddpm.write(model)
    with atomic_folder(path) as folder:
        for name, data in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            _write_json(folder / name, data)
        write_tensors(folder / "unet" / DIFFUSERS, tensors, metadata={"format": "pt"})


def _write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

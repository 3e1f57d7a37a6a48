"""wav2vec 2.0 and HuBERT in transformers' published layout: ``config.json``, ``model.safetensors``, ``vocab.json``.

``Wav2Vec2ForPreTraining`` becomes the method ``wav2vec2``, ``Wav2Vec2ForCTC`` and ``HubertForCTC`` the method ``ctc``;
what the weights hold decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from intermodal.core.errors import CheckpointError
from intermodal.core.files import read_json
from intermodal.data.processors import Processor
from intermodal.data.transcripts import BLANK, SPACE, AudioProcessor, Case, CharacterProcessor
from intermodal.hub.keymap import KeyMap, Rule, fuse, rename, reshape
from intermodal.hub.weights import build, read_weights
from intermodal.methods.base import Method
from intermodal.methods.speech.ctc import CTC, CTCConfig
from intermodal.methods.speech.wav2vec2 import Wav2Vec2, Wav2Vec2Config
from intermodal.nn.transformer import Activation
from intermodal.nn.wav2vec2 import Wav2Vec2EncoderConfig
from intermodal.nn.wav2vec2_targets import GumbelConfig
from intermodal.nn.wave_encoder import WaveEncoderConfig

KINDS = ("wav2vec2", "hubert")
AUDIO_FILE = "preprocessor_config.json"
VOCABULARY, SETTINGS, ADDED = "vocab.json", "tokenizer_config.json", "added_tokens.json"
_ACTIVATIONS: dict[str, Activation] = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
_WEIGHT_NORM = (("weight_g", "parametrizations.weight.original0"), ("weight_v", "parametrizations.weight.original1"))
_PRETRAINING = "project_hid.weight"
_CTC = "lm_head.weight"


def read(folder: Path, data: Mapping[str, Any], processors: Mapping[str, Processor] | None) -> Method:
    """Return the model of a published folder.

    Raises:
        CheckpointError: if a file is missing or damaged, or it says something that this network does not have.
    """
    tensors = current_names(read_weights(folder), data["model_type"], folder)
    if _CTC in tensors:
        return _read_ctc(folder, data, tensors, processors)
    config = read_pretraining(data, tensors)
    if processors is None:
        processors = {"audio": read_audio_processor(folder)}
    tensors = with_temperature(tensors, config)
    return build(lambda: Wav2Vec2(config, processors), tensors, pretraining_map(config), folder)


def _read_ctc(
    folder: Path, data: Mapping[str, Any], tensors: Mapping[str, Tensor], processors: Mapping[str, Processor] | None
) -> Method:
    size, blank = tensors[_CTC].shape[0], data.get("pad_token_id", 0) or 0
    if not 0 <= blank < size:
        raise CheckpointError(f"{folder} says that its blank (pad_token_id) is {blank}, of {size} symbols.")
    if processors is None:
        processors = {"audio": read_audio_processor(folder), "text": read_symbols(folder, size, blank)}
    elif not processors:
        symbols = (BLANK, *(f"<{i}>" for i in range(size) if i != blank))
        processors = {"audio": AudioProcessor(), "text": CharacterProcessor(symbols=symbols, case="keep")}
    encoder = WaveEncoderConfig(network=read_encoder(data, tensors))
    config = CTCConfig(features=None, encoder=encoder, augment=None)
    return build(lambda: CTC(config, processors), tensors, ctc_map(blank, size), folder)


def read_symbols(folder: Path, size: int, blank: int) -> CharacterProcessor:
    """Return the symbols of ``vocab.json``, the blank first and the others in order.

    Raises:
        CheckpointError: if the file is missing, is of several languages, or lacks a symbol.
    """
    if not (folder / VOCABULARY).exists():
        raise CheckpointError(
            f"{folder} lacks {VOCABULARY}, which says what the model writes. Add it, or load with processors={{}} to "
            "have the network alone."
        )
    vocabulary = read_json(folder / VOCABULARY, "vocabulary")
    if not all(isinstance(number, int) for number in vocabulary.values()):
        raise CheckpointError(
            f"{folder / VOCABULARY} is of several languages, which is not supported: keep one of them."
        )
    settings = read_json(folder / SETTINGS, "tokenizer settings") if (folder / SETTINGS).exists() else {}
    added = read_json(folder / ADDED, "added tokens") if (folder / ADDED).exists() else {}
    names = {number: token for token, number in {**added, **vocabulary}.items()}
    missing = [str(i) for i in range(size) if i not in names]
    if missing:
        raise CheckpointError(
            f"{folder / VOCABULARY} has no symbol for {', '.join(missing[:8])}; the model writes {size} symbols."
        )
    delimiter = settings.get("word_delimiter_token", "|")
    delimiter = delimiter["content"] if isinstance(delimiter, dict) else delimiter
    ordered = [SPACE if names[i] == delimiter else names[i] for i in permutation(blank, size)]
    letters = "".join(name for name in ordered[1:] if len(name) == 1)
    case: Case = "keep"
    if letters.upper() != letters.lower() and letters in (letters.upper(), letters.lower()):
        case = "upper" if letters == letters.upper() else "lower"
    return CharacterProcessor(symbols=(BLANK, *ordered[1:]), case=case)


def ctc_map(blank: int, size: int) -> KeyMap:
    """Return the key map of Wav2Vec2ForCTC and HubertForCTC (:func:`current_names`); the blank is our first symbol."""
    order = torch.tensor(permutation(blank, size))
    back = order.argsort()

    def rows(published: str, ours: str) -> Rule:
        return Rule((published,), (ours,), lambda ts: [ts[0][order]], lambda ts: [ts[0][back.to(ts[0].device)]])

    return KeyMap(
        *encoder_rules("encoder.network"), rows("lm_head.weight", "out.weight"), rows("lm_head.bias", "out.bias")
    )


def read_encoder(data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Wav2Vec2EncoderConfig:
    """Return the encoder that a ``config.json`` describes; what it leaves out is what transformers fills in.

    Raises:
        CheckpointError: if it describes something that this encoder does not have.
    """
    for name, wanted in (("add_adapter", False), ("adapter_attn_dim", None), ("conv_pos_batch_norm", False)):
        if data.get(name, wanted) != wanted:
            raise CheckpointError(f"A wav2vec 2.0 with {name}={data[name]!r} is not supported: {wanted!r} is.")
    norm = data.get("feat_extract_norm", "group")
    if norm not in ("group", "layer"):
        raise CheckpointError(f"feat_extract_norm is 'group' or 'layer', found {norm!r}.")
    return Wav2Vec2EncoderConfig(
        conv_channels=tuple(data.get("conv_dim", (512,) * 7)),
        conv_kernels=tuple(data.get("conv_kernel", (10, 3, 3, 3, 3, 2, 2))),
        conv_strides=tuple(data.get("conv_stride", (5, 2, 2, 2, 2, 2, 2))),
        conv_bias=bool(data.get("conv_bias", False)),
        conv_norm=norm,
        width=data.get("hidden_size", 768),
        depth=data.get("num_hidden_layers", 12),
        heads=data.get("num_attention_heads", 12),
        mlp_width=data.get("intermediate_size", 3072),
        pre_norm=bool(data.get("do_stable_layer_norm", False)),
        project_norm=bool(data.get("feat_proj_layer_norm", True)),
        position_kernel=data.get("num_conv_pos_embeddings", 128),
        position_groups=data.get("num_conv_pos_embedding_groups", 16),
        activation=_activation(data.get("hidden_act", "gelu")),
        conv_activation=_activation(data.get("feat_extract_activation", "gelu")),
        norm_eps=float(data.get("layer_norm_eps", 1e-5)),
        dropout=float(data.get("hidden_dropout", 0.1)),
        attention_dropout=float(data.get("attention_dropout", 0.1)),
        mask_embedding=any(key.endswith("masked_spec_embed") for key in tensors),
    )


def _activation(name: str) -> Activation:
    if name not in _ACTIVATIONS:
        raise CheckpointError(f"The activation {name!r} is not supported; {', '.join(_ACTIVATIONS)} are.")
    return _ACTIVATIONS[name]


def read_pretraining(data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Wav2Vec2Config:
    """Return the configuration of a Wav2Vec2ForPreTraining.

    Raises:
        CheckpointError: as :func:`read_encoder`.
    """
    return Wav2Vec2Config(
        encoder=read_encoder(data, tensors),
        quantizer=GumbelConfig(
            groups=data.get("num_codevector_groups", 2),
            codes=data.get("num_codevectors_per_group", 320),
            dim=data.get("codevector_dim", 256),
        ),
        space=data.get("proj_codevector_dim", 256),
        negatives=data.get("num_negatives", 100),
        temperature=float(data.get("contrastive_logits_temperature", 0.1)),
        diversity_weight=float(data.get("diversity_loss_weight", 0.1)),
    )


def current_names(published: Mapping[str, Tensor], kind: str, where: Path) -> dict[str, Tensor]:
    """Return a folder's tensors under today's names, without the network's first part.

    The positional convolution's ``weight_g`` and ``weight_v`` of earlier releases become those of torch's parametrizations.

    Raises:
        CheckpointError: if the weights have no head that is known.
    """
    if not {_PRETRAINING, _CTC} & set(published):
        raise CheckpointError(
            f"{where} holds the encoder alone, or one with another head than pre-training's ({_PRETRAINING}) or CTC's "
            f"({_CTC}): it says neither what is told apart nor what is written."
        )
    out = {}
    for key, tensor in published.items():
        name = key.removeprefix(f"{kind}.")
        for old, new in _WEIGHT_NORM:
            if name.endswith(f"pos_conv_embed.conv.{old}"):
                name = name.removesuffix(old) + new
        out[name] = tensor
    return out


def encoder_rules(name: str = "encoder") -> list[Rule]:
    """Return the rules of the encoder, which is called ``name`` here."""
    theirs, ours = "encoder.layers.{i}", f"{name}.transformer.blocks.{{i}}"
    return [
        rename("feature_extractor.conv_layers.{i}.conv.{p}", name + ".convolutions.{i}.conv.{p}"),
        rename("feature_extractor.conv_layers.{i}.layer_norm.{p}", name + ".convolutions.{i}.norm.{p}"),
        rename("feature_projection.layer_norm.{p}", name + ".feature_norm.{p}"),
        rename("feature_projection.projection.{p}", name + ".project.{p}"),
        rename("masked_spec_embed", name + ".mask_embedding"),
        rename("encoder.pos_conv_embed.conv.bias", name + ".position.bias"),
        rename("encoder.pos_conv_embed.conv.parametrizations.weight.original0", name + ".position.gain"),
        rename("encoder.pos_conv_embed.conv.parametrizations.weight.original1", name + ".position.direction"),
        rename("encoder.layer_norm.{p}", name + ".norm.{p}"),
        fuse(theirs + ".attention.{q,k,v}_proj.{p}", ours + ".attention.qkv.{p}"),
        rename(theirs + ".attention.out_proj.{p}", ours + ".attention.out.{p}"),
        rename(theirs + ".layer_norm.{p}", ours + ".norm1.{p}"),
        rename(theirs + ".feed_forward.intermediate_dense.{p}", ours + ".mlp.fc1.{p}"),
        rename(theirs + ".feed_forward.output_dense.{p}", ours + ".mlp.fc2.{p}"),
        rename(theirs + ".final_layer_norm.{p}", ours + ".norm2.{p}"),
    ]


def pretraining_map(config: Wav2Vec2Config) -> KeyMap:
    """Return the key map of Wav2Vec2ForPreTraining (:func:`current_names`); ``gumbel``, which it has not, is added to it."""
    groups, codes = config.quantizer.groups, config.quantizer.codes
    return KeyMap(
        *encoder_rules(),
        reshape("quantizer.codevectors", "quantizer.codebook", (1, groups * codes, -1), (groups, codes, -1)),
        rename("quantizer.weight_proj.{p}", "quantizer.logits.{p}"),
        rename("project_hid.{p}", "project_context.{p}"),
        rename("project_q.{p}", "project_target.{p}"),
        rename("gumbel", "gumbel"),
    )


def with_temperature(tensors: Mapping[str, Tensor], config: Wav2Vec2Config) -> dict[str, Tensor]:
    """Return the tensors with the quantiser's temperature, which transformers keeps in no file."""
    return {**tensors, "gumbel": torch.tensor(config.gumbel[1])}


def read_audio_processor(folder: Path) -> AudioProcessor:
    """Return the processor that ``preprocessor_config.json`` describes.

    Raises:
        CheckpointError: if the file is missing or says something that we do not do.
    """
    if not (folder / AUDIO_FILE).exists():
        raise CheckpointError(
            f"{folder} lacks {AUDIO_FILE}, which says what rate the model hears. Add it, or load with processors={{}} to "
            "have the network alone."
        )
    data = read_json(folder / AUDIO_FILE, "audio processor")
    if data.get("feature_size", 1) != 1:
        raise CheckpointError(f"{folder / AUDIO_FILE} describes features, not waveforms (feature_size is not 1).")
    return AudioProcessor(rate=int(data.get("sampling_rate", 16_000)), normalize=bool(data.get("do_normalize", True)))


def permutation(blank: int, size: int) -> Sequence[int]:
    """Return the order of the published symbols in which the blank is the first, as ours has it."""
    return [blank, *(i for i in range(size) if i != blank)]

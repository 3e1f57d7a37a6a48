"""Whisper in transformers' published layout: settings in JSON, ``model.safetensors``, a tokenizer.

What the tokens mean that are no text is said by ``generation_config.json``, or by their names in the tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from intermodal.core.errors import CheckpointError
from intermodal.core.files import read_json
from intermodal.data.processors import Processor
from intermodal.data.token_processor import TokenProcessor
from intermodal.data.transcripts import AudioProcessor
from intermodal.hub.keymap import KeyMap, Rule, fuse, rename
from intermodal.hub.processors import read_byte_level, refuse_larger
from intermodal.hub.weights import build, read_weights
from intermodal.methods.speech.whisper import Whisper, WhisperConfig
from intermodal.methods.speech.whisper_decoding import WhisperDecoding
from intermodal.methods.speech.whisper_tokens import WhisperTokens
from intermodal.nn.speech_features import FeatureConfig
from intermodal.nn.transformer import Activation
from intermodal.nn.whisper import WhisperNetworkConfig

KIND = "whisper"
GENERATION, AUDIO_FILE = "generation_config.json", "preprocessor_config.json"
_ACTIVATIONS: dict[str, Activation] = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
_TIED = "proj_out.weight"
_EMBEDDING = "model.decoder.embed_tokens.weight"
TIMES = 1501
"""Tokens of times in every published vocabulary, 0.00 to 30.00 s; they are its last."""


def read(folder: Path, data: Mapping[str, Any], processors: Mapping[str, Processor] | None) -> Whisper:
    """Return the model of a published folder.

    Raises:
        CheckpointError: if a file is missing or damaged, or it says something that this network does not have.
    """
    generation = read_json(folder / GENERATION, "generation settings") if (folder / GENERATION).exists() else {}
    tokenizer = read_byte_level(folder) if processors is None else None
    config = read_config(data, generation, tokenizer)
    if processors is None:
        _check_features(folder, config)
        assert tokenizer is not None
        refuse_larger(tokenizer.get_vocab_size(), config.network.vocab_size, folder)
        processors = {
            "audio": AudioProcessor(rate=config.features.rate),
            "text": TokenProcessor(tokenizer, start=" "),
        }
    tensors = untied(read_weights(folder), folder)
    return build(lambda: Whisper(config, processors), tensors, key_map(), folder)


def read_config(data: Mapping[str, Any], generation: Mapping[str, Any], tokenizer: Tokenizer | None) -> WhisperConfig:
    """Return our configuration of a ``config.json`` and a ``generation_config.json``; what is left out is transformers' own.

    Raises:
        CheckpointError: if it describes something that this network does not have, or does not say what a token means.
    """
    activation = data.get("activation_function", "gelu")
    if activation not in _ACTIVATIONS:
        raise CheckpointError(f"The activation {activation!r} is not supported; {', '.join(_ACTIVATIONS)} are.")
    if data.get("tie_word_embeddings", True) is not True:
        raise CheckpointError("A Whisper whose last matrix is not the token embedding is not supported.")
    network = WhisperNetworkConfig(
        bins=data.get("num_mel_bins", 80),
        vocab_size=data.get("vocab_size", 51865),
        width=data.get("d_model", 384),
        encoder_depth=data.get("encoder_layers", 4),
        decoder_depth=data.get("decoder_layers", 4),
        encoder_heads=data.get("encoder_attention_heads", 6),
        decoder_heads=data.get("decoder_attention_heads", 6),
        encoder_mlp=data.get("encoder_ffn_dim", 1536),
        decoder_mlp=data.get("decoder_ffn_dim", 1536),
        source_positions=data.get("max_source_positions", 1500),
        target_positions=data.get("max_target_positions", 448),
        activation=_ACTIVATIONS[activation],
        dropout=float(data.get("dropout", 0.0)),
        attention_dropout=float(data.get("attention_dropout", 0.0)),
    )
    return WhisperConfig(
        network=network,
        tokens=_tokens(
            {**data, **{k: v for k, v in generation.items() if v is not None}}, tokenizer, network.vocab_size
        ),
        decoding=WhisperDecoding(most_tokens=generation.get("max_new_tokens")),
        features=FeatureConfig.whisper(bins=network.bins),
        alignment_heads=tuple((int(b), int(h)) for b, h in generation.get("alignment_heads") or ()),
        median=int(data.get("median_filter_width", 7)),
    )


def _tokens(said: Mapping[str, Any], tokenizer: Tokenizer | None, size: int) -> WhisperTokens:
    def named(name: str, *otherwise: int | None) -> int | None:
        found = tokenizer.token_to_id(name) if tokenizer is not None else None
        return next((n for n in (found, *otherwise) if n is not None), None)

    no_timestamps = said.get("no_timestamps_token_id")
    if no_timestamps is None:
        no_timestamps = named("<|notimestamps|>", size - TIMES - 1 if size > TIMES else None)
    end = said.get("eos_token_id", 50256)
    end = end[0] if isinstance(end, list) else end
    if no_timestamps is None or end is None:
        raise CheckpointError(
            f"Neither {GENERATION} (no_timestamps_token_id, eos_token_id) nor the tokenizer (<|notimestamps|>) says which "
            "tokens are times and which ends a text."
        )
    tasks = said.get("task_to_id") or {}
    languages = {code.strip("<|>"): number for code, number in (said.get("lang_to_id") or {}).items()}
    several = bool(languages) and said.get("is_multilingual", True) is not False
    return WhisperTokens(
        start=said.get("decoder_start_token_id", 50257),
        end=end,
        no_timestamps=no_timestamps,
        previous=said.get("prev_sot_token_id") or named("<|startofprev|>", no_timestamps - 2) or 0,
        no_speech=named("<|nospeech|>", named("<|nocaptions|>", no_timestamps - 1)),
        transcribe=tasks.get("transcribe", named("<|transcribe|>")) if several else None,
        translate=tasks.get("translate", named("<|translate|>")) if several else None,
        languages=tuple(languages.items()) if several else (),
        suppress=tuple(said.get("suppress_tokens") or ()),
        suppress_first=tuple(said.get("begin_suppress_tokens") or ()),
        latest_start=said.get("max_initial_timestamp_index"),
    )


def _check_features(folder: Path, config: WhisperConfig) -> None:
    """Refuse features that are not Whisper's own."""
    if not (folder / AUDIO_FILE).exists():
        raise CheckpointError(
            f"{folder} lacks {AUDIO_FILE}, which says what the encoder reads. Add it, or load with processors={{}} to have "
            "the network alone."
        )
    said = read_json(folder / AUDIO_FILE, "audio processor")
    own = {"feature_size": config.network.bins, "sampling_rate": 16_000, "hop_length": 160, "n_fft": 400}
    for name, wanted in own.items():
        if said.get(name, wanted) != wanted:
            raise CheckpointError(
                f"{folder / AUDIO_FILE} says {name}={said[name]!r}; the model and Whisper's features take {wanted!r}."
            )


def untied(published: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    """Return the tensors without the stored copy of the token embedding.

    Raises:
        CheckpointError: if it is no copy.
    """
    out = dict(published)
    stored = out.pop(_TIED, None)
    if stored is not None and _EMBEDDING in out and not torch.equal(stored, out[_EMBEDDING]):
        raise CheckpointError(f"{where} stores {_TIED} with other values than {_EMBEDDING}: a last matrix of its own.")
    return out


def key_map() -> KeyMap:
    """Return the key map of WhisperForConditionalGeneration; keys have no bias there, and one of zero here."""
    rules = [
        rename("model.encoder.conv1.{p}", "network.encoder.conv1.{p}"),
        rename("model.encoder.conv2.{p}", "network.encoder.conv2.{p}"),
        rename("model.encoder.embed_positions.weight", "network.encoder.position_embedding"),
        rename("model.encoder.layer_norm.{p}", "network.encoder.norm.{p}"),
        rename(_EMBEDDING, "network.decoder.token_embedding.weight"),
        rename("model.decoder.embed_positions.weight", "network.decoder.position_embedding"),
        rename("model.decoder.layer_norm.{p}", "network.decoder.norm.{p}"),
    ]
    for part, blocks in (("encoder", "transformer.blocks"), ("decoder", "blocks")):
        theirs, ours = f"model.{part}.layers.{{i}}", f"network.{part}.{blocks}.{{i}}"
        rules += [
            *_self_attention(f"{theirs}.self_attn", f"{ours}.attention"),
            rename(theirs + ".self_attn_layer_norm.{p}", ours + ".norm1.{p}"),
            rename(theirs + ".fc1.{p}", ours + ".mlp.fc1.{p}"),
            rename(theirs + ".fc2.{p}", ours + ".mlp.fc2.{p}"),
            rename(theirs + ".final_layer_norm.{p}", ours + ".norm2.{p}"),
        ]
    theirs, ours = "model.decoder.layers.{i}.encoder_attn", "network.decoder.blocks.{i}"
    rules += [
        rename(theirs + ".q_proj.{p}", ours + ".cross.q.{p}"),
        fuse(theirs + ".{k,v}_proj.weight", ours + ".cross.kv.weight"),
        _without_key_bias((theirs + ".v_proj.bias",), ours + ".cross.kv.bias", 2),
        rename(theirs + ".out_proj.{p}", ours + ".cross.out.{p}"),
        rename("model.decoder.layers.{i}.encoder_attn_layer_norm.{p}", ours + ".cross_norm.{p}"),
    ]
    return KeyMap(*rules)


def _self_attention(theirs: str, ours: str) -> list[Rule]:
    return [
        fuse(theirs + ".{q,k,v}_proj.weight", ours + ".qkv.weight"),
        _without_key_bias((theirs + ".q_proj.bias", theirs + ".v_proj.bias"), ours + ".qkv.bias", 3),
        rename(theirs + ".out_proj.{p}", ours + ".out.{p}"),
    ]


def _without_key_bias(theirs: tuple[str, ...], ours: str, parts: int) -> Rule:
    """Return the rule of biases of which that of the keys, the last but one of ``parts``, is not published.

    It adds the same to all scores of a query, so that no weight of the attention depends on it.
    """

    def to_ours(tensors: Any) -> list[Tensor]:
        *before, value = tensors
        return [torch.cat([*before, torch.zeros_like(value), value])]

    def to_published(tensors: Any) -> list[Tensor]:
        *before, _, value = tensors[0].chunk(parts)
        return [*before, value]

    return Rule(theirs, (ours,), to_ours, to_published)

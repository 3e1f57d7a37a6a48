"""BERT in transformers' published layout: ``config.json``, ``model.safetensors``, ``vocab.txt`` or ``tokenizer.json``.

A folder may hold the encoder alone (with or without its pooler) or any of the heads of pre-training; what its weights
hold decides. Old names (``LayerNorm.gamma``) and stored copies of the tied decoder are read too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from intermodal.core.errors import CheckpointError
from intermodal.core.files import read_json
from intermodal.data.clip_tokenizer import read_tokenizer
from intermodal.data.processors import LabelProcessor, Processor, TextProcessor
from intermodal.data.text_processors import TextPairProcessor
from intermodal.data.tokenizers import MASK, SEP, load_wordpiece
from intermodal.hub.keymap import KeyMap, fuse, rename
from intermodal.methods.contrastive.bert import RELATIONS, BERTConfig
from intermodal.nn.bert import EncoderConfig
from intermodal.nn.transformer import Activation

VOCABULARY, TOKENIZER = "vocab.txt", "tokenizer.json"
SETTINGS, SPECIAL = "tokenizer_config.json", "special_tokens_map.json"
POOLING = Path("1_Pooling") / "config.json"
MODULES = "modules.json"
SPECIAL_NAMES = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

_ACTIVATIONS: dict[str, Activation] = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
_HEADS = {"mlm": "cls.predictions.", "nsp": "cls.seq_relationship."}
_DECODER = "cls.predictions.decoder."
_EMBEDDING = "bert.embeddings.word_embeddings.weight"


def read_config(data: Mapping[str, Any]) -> EncoderConfig:
    """Return the encoder that a ``config.json`` describes; what it leaves out is what transformers fills in.

    Raises:
        CheckpointError: if it describes something that this encoder does not have.
    """
    for name, wanted in (
        ("is_decoder", False),
        ("add_cross_attention", False),
        ("tie_word_embeddings", True),
        ("position_embedding_type", "absolute"),
    ):
        if data.get(name, wanted) != wanted:
            raise CheckpointError(f"A BERT with {name}={data[name]!r} is not supported: {wanted!r} is.")
    activation = data.get("hidden_act", "gelu")
    if activation not in _ACTIVATIONS:
        raise CheckpointError(f"The activation {activation!r} is not supported; {', '.join(_ACTIVATIONS)} are.")
    pad = data.get("pad_token_id", 0)
    return EncoderConfig(
        vocab_size=data.get("vocab_size", 30522),
        context_length=data.get("max_position_embeddings", 512),
        width=data.get("hidden_size", 768),
        depth=data.get("num_hidden_layers", 12),
        heads=data.get("num_attention_heads", 12),
        mlp_width=data.get("intermediate_size", 3072),
        segments=data.get("type_vocab_size", 2),
        pad_id=0 if pad is None else pad,
        activation=_ACTIVATIONS[activation],
        norm_eps=float(data.get("layer_norm_eps", 1e-12)),
        dropout=float(data.get("hidden_dropout_prob", 0.1)),
        attention_dropout=float(data.get("attention_probs_dropout_prob", 0.1)),
    )


def write_config(config: BERTConfig) -> dict[str, Any]:
    """Return the data of a ``config.json`` from which transformers builds the same model."""
    encoder = config.encoder
    heads = {(True, True): "BertForPreTraining", (True, False): "BertForMaskedLM"}
    heads |= {(False, True): "BertForNextSentencePrediction", (False, False): "BertModel"}
    names = {ours: theirs for theirs, ours in reversed(_ACTIVATIONS.items())}
    return {
        "architectures": [heads[config.mlm, config.nsp]],
        "model_type": "bert",
        "vocab_size": encoder.vocab_size,
        "max_position_embeddings": encoder.context_length,
        "hidden_size": encoder.width,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.heads,
        "intermediate_size": encoder.hidden,
        "type_vocab_size": encoder.segments,
        "pad_token_id": encoder.pad_id,
        "hidden_act": names[encoder.activation],
        "layer_norm_eps": encoder.norm_eps,
        "hidden_dropout_prob": encoder.dropout,
        "attention_probs_dropout_prob": encoder.attention_dropout,
    }


def key_map(encoder_alone: bool = False) -> KeyMap:
    """Return the key map of transformers' BertForPreTraining, or of BertModel, whose names lack the first part."""
    start = "" if encoder_alone else "bert."
    theirs, ours = start + "encoder.layer.{i}", "encoder.transformer.blocks.{i}"
    return KeyMap(
        rename(start + "embeddings.word_embeddings.weight", "encoder.token_embedding.weight"),
        rename(start + "embeddings.position_embeddings.weight", "encoder.position_embedding"),
        rename(start + "embeddings.token_type_embeddings.weight", "encoder.segment_embedding"),
        rename(start + "embeddings.LayerNorm.{p}", "encoder.norm.{p}"),
        fuse(theirs + ".attention.self.{query,key,value}.{p}", ours + ".attention.qkv.{p}"),
        rename(theirs + ".attention.output.dense.{p}", ours + ".attention.out.{p}"),
        rename(theirs + ".attention.output.LayerNorm.{p}", ours + ".norm1.{p}"),
        rename(theirs + ".intermediate.dense.{p}", ours + ".mlp.fc1.{p}"),
        rename(theirs + ".output.dense.{p}", ours + ".mlp.fc2.{p}"),
        rename(theirs + ".output.LayerNorm.{p}", ours + ".norm2.{p}"),
        rename(start + "pooler.dense.{p}", "pooler.linear.{p}"),
        rename("cls.predictions.transform.dense.{p}", "mlm.linear.{p}"),
        rename("cls.predictions.transform.LayerNorm.{p}", "mlm.norm.{p}"),
        rename("cls.predictions.bias", "mlm.bias"),
        rename("cls.seq_relationship.{p}", "nsp.{p}"),
        ignored=(start + "embeddings.position_ids",),
    )


def current_names(published: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    """Return a folder's tensors under the names of BertForPreTraining as it is published today.

    ``gamma`` and ``beta`` of the first releases become ``weight`` and ``bias``, an encoder's names get their first part,
    and the stored copies of the tied decoder are checked and left out.

    Raises:
        CheckpointError: if the stored decoder is not the embedding, or its bias not the head's.
    """
    out: dict[str, Tensor] = {}
    for key, tensor in published.items():
        name = key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        out[name if name.startswith(("bert.", "cls.")) else f"bert.{name}"] = tensor
    for copy, original in (("weight", _EMBEDDING), ("bias", "cls.predictions.bias")):
        stored = out.pop(_DECODER + copy, None)
        if stored is None:
            continue
        if not torch.equal(out.setdefault(original, stored), stored):
            raise CheckpointError(
                f"{where} stores {_DECODER}{copy} with other values than {original}: a decoder that is not tied is "
                "not supported."
            )
    return out


def config_of(data: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path) -> BERTConfig:
    """Return our configuration of a ``config.json``'s data and of what the weights (:func:`current_names`) hold.

    A model of sentence-transformers embeds as its ``1_Pooling`` says, any other by the mean over its tokens.

    Raises:
        CheckpointError: as :func:`read_config`, and for a way of pooling that we do not have.
    """
    return BERTConfig(
        encoder=read_config(data),
        pooler=any(k.startswith("bert.pooler.") for k in tensors),
        mlm=any(k.startswith(_HEADS["mlm"]) for k in tensors),
        nsp=any(k.startswith(_HEADS["nsp"]) for k in tensors),
        pool=_pooling(folder),
    )


def _pooling(folder: Path) -> Any:
    if (folder / MODULES).exists():
        kinds = [str(m.get("type", "")).rpartition(".")[2] for m in read_json(folder / MODULES, "list of modules")]
        unknown = set(kinds) - {"Transformer", "Pooling", "Normalize"}
        if unknown:
            raise CheckpointError(
                f"{folder} has a module {sorted(unknown)[0]!r} after its BERT, which is not supported."
            )
    if not (folder / POOLING).exists():
        return "mean"
    settings = read_json(folder / POOLING, "pooling")
    chosen = [k for k, v in settings.items() if k.startswith("pooling_mode_") and v is True]
    names = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
    if len(chosen) != 1 or chosen[0] not in names:
        raise CheckpointError(f"{folder / POOLING} pools by {chosen}; one of {', '.join(names)} is supported.")
    return names[chosen[0]]


def read_processors(folder: Path, config: BERTConfig) -> tuple[BERTConfig, dict[str, Processor]]:
    """Read the WordPiece tokenizer, and let the configuration state the ids that it uses.

    Raises:
        CheckpointError: if the files are missing or damaged, lack a special token, or have more ids than the model.
    """
    settings: dict[str, Any] = {}
    for file in (SPECIAL, SETTINGS):
        settings |= read_json(folder / file, "tokenizer configuration") if (folder / file).exists() else {}
    encoder = config.encoder
    if (folder / TOKENIZER).exists():
        tokenizer = read_tokenizer(folder / TOKENIZER)
    elif (folder / VOCABULARY).exists():
        tokenizer = load_wordpiece(
            folder / VOCABULARY,
            lower=settings.get("do_lower_case", True),
            strip_accents=settings.get("strip_accents"),
            split_chinese=settings.get("tokenize_chinese_chars", True),
        )
    else:
        raise CheckpointError(
            f"{folder} lacks {VOCABULARY} and {TOKENIZER}, one of which says how text is cut. Add one, or load with "
            "processors={} to have the network alone."
        )
    if tokenizer.get_vocab_size() > encoder.vocab_size:
        raise CheckpointError(
            f"The tokenizer in {folder} has {tokenizer.get_vocab_size()} ids, the model only {encoder.vocab_size}."
        )
    ids = {}
    for name, usual in (("cls_token", "[CLS]"), ("sep_token", SEP), ("mask_token", MASK), ("pad_token", "[PAD]")):
        token = settings.get(name) or usual
        token = token["content"] if isinstance(token, Mapping) else token
        if (found := tokenizer.token_to_id(token)) is None:
            raise CheckpointError(f"The tokenizer in {folder} has no {name} {token!r}.")
        ids[name] = found
    length = min(encoder.context_length, int(settings.get("model_max_length") or encoder.context_length))
    processors = make_processors(tokenizer, length, sep_id=ids["sep_token"], pad_id=ids["pad_token"], pairs=config.nsp)
    special = (ids["cls_token"], ids["sep_token"])
    config = config.replace(encoder__pad_id=ids["pad_token"], mask_id=ids["mask_token"], special_ids=special)
    return config, processors


def make_processors(
    tokenizer: Tokenizer, length: int, *, sep_id: int, pad_id: int, pairs: bool
) -> dict[str, Processor]:
    """Return ``text``, and where next sentences are predicted ``pair`` and ``relation``."""
    texts = TextProcessor(tokenizer, context_length=length, eos_id=sep_id, pad_id=pad_id, lower=False)
    if not pairs:
        return {"text": texts}
    both = TextPairProcessor(tokenizer, context_length=length, eos_id=sep_id, pad_id=pad_id, lower=False)
    return {"text": texts, "pair": both, "relation": LabelProcessor(names=RELATIONS)}


def write_tokenizer(processor: TextProcessor, folder: Path) -> None:
    """Write the tokenizer's files as transformers reads them."""
    tokenizer = processor.tokenizer
    tokenizer.save(str(folder / TOKENIZER))
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    (folder / VOCABULARY).write_text("".join(f"{token}\n" for token, _ in vocabulary), encoding="utf-8")
    normaliser = json.loads(tokenizer.to_str())["normalizer"] or {}
    tokens = {name: f"[{name.removesuffix('_token').upper()}]" for name in SPECIAL_NAMES}
    settings = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": normaliser.get("lowercase", False),
        "strip_accents": normaliser.get("strip_accents"),
        "tokenize_chinese_chars": normaliser.get("handle_chinese_chars", True),
        "model_max_length": processor.context_length,
        **tokens,
    }
    for name, data in ((SETTINGS, settings), (SPECIAL, tokens)):
        (folder / name).write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

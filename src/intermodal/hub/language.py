"""Language decoders in transformers' published layout, with their tokenizers: GPT-2 and Llama.

Weights are safetensors, in one file or in shards. The tokenizer is ``tokenizer.json``, or of GPT-2 ``vocab.json`` and
``merges.txt``; which of its tokens begin and end a text is said by its settings and by ``config.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers import processors as framing

from intermodal.core.errors import CheckpointError
from intermodal.core.files import read_json
from intermodal.data.processors import Processor
from intermodal.data.sentences import SentenceProcessor
from intermodal.hub import gpt2, llama
from intermodal.hub.keymap import KeyMap
from intermodal.hub.processors import lowering, read_byte_level, refuse_larger
from intermodal.hub.weights import build, read_weights
from intermodal.methods.captioning.language import LanguageConfig, LanguageDecoder
from intermodal.nn.causal import CausalConfig

KINDS = (gpt2.KIND, llama.KIND)
TOKENIZER = "tokenizer.json"
SETTINGS, SPECIAL, GENERATION = "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"
OURS = "network."


def read(folder: Path, data: Mapping[str, Any], processors: Mapping[str, Processor] | None) -> LanguageDecoder:
    """Return the decoder of a published folder.

    Raises:
        CheckpointError: if a file is missing or damaged, or it says something that this network does not have.
    """
    network, keys = read_network(data)
    tensors = read_weights(folder)
    if data["model_type"] == gpt2.KIND:
        tensors = gpt2.current_names(tensors, folder, network.outputs is None)
    ends: tuple[int, ...] = ()
    if processors is None:
        text, ends = read_text(folder, data, network.context_length)
        refuse_larger(text.vocab_size, network.vocab_size, folder)
        processors = {"text": text}
    config = LanguageConfig(network=network, ends=ends)
    return build(lambda: LanguageDecoder(config, processors), tensors, keys, folder)


def read_network(data: Mapping[str, Any]) -> tuple[CausalConfig, KeyMap]:
    """Return the configuration of a ``config.json``'s data, and the key map of its weights."""
    if data.get("model_type") == llama.KIND:
        network = llama.read_config(data)
        return network, llama.key_map(network, OURS)
    network = gpt2.read_config(data)
    return network, gpt2.key_map(OURS, tied=network.outputs is None)


def read_text(folder: Path, data: Mapping[str, Any], length: int) -> tuple[SentenceProcessor, tuple[int, ...]]:
    """Return the processor of a published tokenizer, and every token that ends a text.

    Args:
        folder: with the tokenizer's files.
        data: of ``config.json``, whose ids of special tokens hold where the tokenizer's settings name none.
        length: the most tokens that the model reads.

    Raises:
        CheckpointError: if a file is missing or damaged, or nothing says which token ends a text.
    """
    tokenizer = read_byte_level(folder)
    settings: dict[str, Any] = {}
    for file in (SPECIAL, SETTINGS):
        settings |= read_json(folder / file, "tokenizer configuration") if (folder / file).exists() else {}
    generation = read_json(folder / GENERATION, "generation settings") if (folder / GENERATION).exists() else {}
    named = {name: _id(tokenizer, settings.get(name), folder) for name in ("bos_token", "eos_token", "pad_token")}
    said = [data.get("eos_token_id"), generation.get("eos_token_id")]
    stated = [t for entry in said if entry is not None for t in (entry if isinstance(entry, list) else [entry])]
    ends = tuple(dict.fromkeys(t for t in (named["eos_token"], *stated) if t is not None))
    if not ends:
        raise CheckpointError(f"Nothing in {folder} says which token ends a text: {SETTINGS} or config.json should.")
    pad = named["pad_token"] if named["pad_token"] is not None else data.get("pad_token_id")
    begins = tokenizer.encode("a").ids[0]
    text = SentenceProcessor(
        tokenizer,
        context_length=min(length, int(settings.get("model_max_length") or length)),
        eos_id=ends[0],
        pad_id=ends[0] if pad is None or pad < 0 else pad,
        bos_id=begins if begins == named["bos_token"] else None,
    )
    return text, ends[1:]


def _id(tokenizer: Tokenizer, token: Any, folder: Path) -> int | None:
    name = token.get("content") if isinstance(token, Mapping) else token
    if name is None:
        return None
    found = tokenizer.token_to_id(name)
    if found is None:
        raise CheckpointError(f"The tokenizer in {folder} has no {name!r}, which its settings name.")
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False)])
    return int(found)


def write_config(model: LanguageDecoder) -> tuple[dict[str, Any], KeyMap]:
    """Return the data of a ``config.json`` of GPT-2 or Llama, and the key map of the weights.

    Raises:
        CheckpointError: if neither has the network's parts.
    """
    network = model.config.network
    if network.rotary is None:
        data, keys = gpt2.write_config(network), gpt2.key_map(OURS, tied=network.outputs is None)
    else:
        data, keys = llama.write_config(network), llama.key_map(network, OURS)
    if "text" in model.processors:
        text = model.text
        ends = model.ends
        first = text.eos_id if text.bos_id is None else text.bos_id
        data |= {"bos_token_id": first, "eos_token_id": ends[0] if len(ends) == 1 else list(ends)}
        data["pad_token_id"] = text.pad_id
    return data, keys


def write_tokenizer(text: SentenceProcessor, folder: Path, *, labels: bool = False) -> None:
    """Write the tokenizer's files as transformers reads them: a text gets its beginning and no end, to be gone on from.

    With ``labels`` it gets its end and no beginning: what a decoder beside an encoder is to write.
    """
    tokenizer = lowering(text)
    if labels:
        end = tokenizer.id_to_token(text.eos_id)
        tokenizer.post_processor = framing.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, text.eos_id)])
    elif text.bos_id is not None:
        begin = tokenizer.id_to_token(text.bos_id)
        tokenizer.post_processor = framing.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, text.bos_id)]
        )
    tokenizer.save(str(folder / TOKENIZER))
    tokens = {"eos_token": tokenizer.id_to_token(text.eos_id), "pad_token": tokenizer.id_to_token(text.pad_id)}
    if text.bos_id is not None:
        tokens["bos_token"] = tokenizer.id_to_token(text.bos_id)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": text.context_length, **tokens}
    for name, content in ((SETTINGS, settings), (SPECIAL, tokens)):
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

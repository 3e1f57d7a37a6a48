"""Small GPT-2s and Llamas of transformers with random weights, and the tokenizers that are published with them."""

from __future__ import annotations

import pytest
import torch

transformers = pytest.importorskip("transformers")

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers  # noqa: E402

TEXTS = ["The old man went to the sea.", "A red square and a blue one, naïve café!", "It rains; nobody is here."] * 3
WORDS = 300
PAD = 299
GPT2 = {
    "small": {"n_embd": 24, "n_layer": 3, "n_head": 4},
    "inner": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 40, "activation_function": "gelu"},
    "untied": {"n_embd": 16, "n_layer": 1, "n_head": 1, "layer_norm_epsilon": 1e-3, "tie_word_embeddings": False},
}
SCALED = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
LLAMA = {
    "plain": {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4},
    "grouped": {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2},
    "3.1": {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 12,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, **SCALED},
    },
    "linear": {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "attention_bias": True,
        "mlp_bias": True,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0},
    },
}


def published_tokenizer(kind: str) -> transformers.PreTrainedTokenizerFast:
    """Return a byte-level BPE that frames as GPT-2's (not at all) or as Llama 3's (with a beginning)."""
    begin, end = ("<|endoftext|>",) * 2 if kind == "gpt2" else ("<|begin|>", "<|end|>")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = list(dict.fromkeys([begin, end]))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if kind == "llama":
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
        )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=begin, eos_token=end)


def reference(kind: str, name: str):
    tokenizer = published_tokenizer(kind)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    if kind == "gpt2":
        config = transformers.GPT2Config(vocab_size=WORDS, n_positions=40, **GPT2[name], **ids)
        cls = transformers.GPT2LMHeadModel
    else:
        sizes = {"intermediate_size": 36, "max_position_embeddings": 40, **LLAMA[name]}
        config, cls = transformers.LlamaConfig(vocab_size=WORDS, **sizes, **ids), transformers.LlamaForCausalLM
    torch.manual_seed(len(name))
    model = cls(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return model, tokenizer

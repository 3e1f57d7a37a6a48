"""CLIP's published tokenizer: lower-cased byte pairs whose words end in ``</w>`` (Radford et al. 2021)."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from intermodal.core.errors import CheckpointError
from intermodal.core.files import read_json
from intermodal.data.tokenizers import BOS, EOS

END_OF_WORD = "</w>"

_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def load_clip_tokenizer(folder: str | Path) -> Tokenizer:
    """Read CLIP's tokenizer from a folder: ``tokenizer.json``, or ``vocab.json`` and ``merges.txt``.

    It lower-cases, splits into letters, single digits and punctuation, merges within words, frames the ids
    with ``<|startoftext|>`` and ``<|endoftext|>``, and decodes with a space after each word.

    Raises:
        CheckpointError: if the files are missing (they are named) or damaged.
    """
    folder = Path(folder)
    if (folder / "tokenizer.json").exists():
        return read_tokenizer(folder / "tokenizer.json")
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    for file in (vocab, merges):
        if not file.exists():
            raise CheckpointError(
                f"{folder} lacks {file.name}: CLIP's tokenizer is tokenizer.json, or vocab.json and merges.txt."
            )
    lines = merges.read_text(encoding="utf-8").splitlines()
    pairs = [tuple(line.split()) for line in lines if line.strip() and not line.startswith("#version")]
    if any(len(pair) != 2 for pair in pairs):
        raise CheckpointError(f"{merges} should hold two symbols on each line: was it cut short?")
    return build_clip_tokenizer(read_json(vocab, "vocabulary"), [(a, b) for a, b in pairs])


def build_clip_tokenizer(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """Build CLIP's tokenizer of a vocabulary and its merges, best first.

    Raises:
        CheckpointError: if the vocabulary lacks a special token, or a merge uses a symbol that is not in it.
    """
    for token in (BOS, EOS):
        if token not in vocab:
            raise CheckpointError(f"The vocabulary lacks {token}: it is not CLIP's.")
    try:
        model = models.BPE(vocab=vocab, merges=merges, unk_token=EOS, end_of_word_suffix=END_OF_WORD)
    except Exception as error:
        raise CheckpointError(f"The vocabulary and the merges do not fit ({error}).") from error
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (BOS, EOS)])
    tokenizer.post_processor = processors.RobertaProcessing(
        (EOS, vocab[EOS]), (BOS, vocab[BOS]), trim_offsets=False, add_prefix_space=False
    )
    return _with_spaces(tokenizer)


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a ``tokenizer.json``.

    Raises:
        CheckpointError: if it is damaged.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise CheckpointError(f"The tokenizer {path} cannot be read ({error}).") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return _with_spaces(tokenizer)


def is_clip_bpe(tokenizer: Tokenizer) -> bool:
    """Say whether a tokenizer is a BPE whose words end in ``</w>``, as CLIP's do."""
    return json.loads(tokenizer.to_str())["model"].get("end_of_word_suffix") == END_OF_WORD


def _with_spaces(tokenizer: Tokenizer) -> Tokenizer:
    """Let a CLIP tokenizer decode the end of a word as a space."""
    if is_clip_bpe(tokenizer):
        tokenizer.decoder = decoders.Sequence(
            [decoders.ByteLevel(), decoders.Replace(END_OF_WORD, " "), decoders.Replace(Regex(" $"), "")]
        )
    return tokenizer

"""Text tokenizers, through the ``tokenizers`` package: a byte-level BPE trained on the texts at hand."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from intermodal.core.errors import DataError

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
WORD = r"[\w'’-]+"
SPACE = "▁"


def train_bpe(texts: Iterable[str], vocab_size: int, min_frequency: int = 2) -> Tokenizer:
    """Train a byte-level BPE (Sennrich 2016) that frames every text with CLIP's start and end tokens.

    Every byte is in the alphabet, so no text is out of vocabulary.

    Args:
        texts: the training texts, lower-cased by the caller if the model is to be.
        vocab_size: at most this many ids, at least 258 (256 bytes and two special tokens).
        min_frequency: a pair is merged only if it occurs this often.

    Raises:
        DataError: if there is no text at all, or ``vocab_size`` is too small.
    """
    if vocab_size < 258:
        raise DataError(f"A byte-level vocabulary needs at least 258 entries, found {vocab_size}.")
    texts = list(texts)
    if not any(t.strip() for t in texts):
        raise DataError("There is no text to train a tokenizer on.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    _frame(tokenizer)
    return tokenizer


def train_words(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Build a tokenizer of whole words that leaves unknown words out, framed by CLIP's start and end tokens.

    Where the training texts are few, the pieces into which a subword tokenizer cuts an unknown word are seen too seldom
    to mean anything, and disturb a text's vector more than they add to it. It is a BPE without merges whose vocabulary is
    looked up whole, so that every reader of ``tokenizer.json`` gives the same ids.

    Args:
        texts: the training texts, lower-cased by the caller if the model is to be.
        vocab_size: the most frequent words are kept, with two special tokens at most this many ids.

    Raises:
        DataError: if no text holds a word.
    """
    counts = Counter(word for text in texts for word in re.findall(WORD, text))
    if not counts:
        raise DataError("There is no word in the texts to train a tokenizer on.")
    words = sorted(counts, key=lambda word: (-counts[word], word))[: max(vocab_size - 2, 1)]
    vocab = {token: i for i, token in enumerate([BOS, EOS, *(f"{SPACE}{word}" for word in words)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD), "removed", invert=True),
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=False),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(replacement=SPACE)
    tokenizer.add_special_tokens([BOS, EOS])
    _frame(tokenizer)
    return tokenizer


def _frame(tokenizer: Tokenizer) -> None:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}",
        special_tokens=[(t, tokenizer.token_to_id(t)) for t in (BOS, EOS)],
    )


def special_ids(tokenizer: Tokenizer) -> tuple[int, int]:
    """Return the ids of the start and the end token of a tokenizer that :func:`train_bpe` made."""
    ids = [tokenizer.token_to_id(token) for token in (BOS, EOS)]
    if ids[0] is None or ids[1] is None:
        raise DataError(f"The tokenizer lacks {BOS} or {EOS}.")
    return ids[0], ids[1]

"""Text tokenizers, through the ``tokenizers`` package: byte-level BPE, whole words, WordPiece."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from intermodal.core.errors import DataError

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
WORD = r"[\w'’-]+"
SPACE = "▁"
PAD, UNK, CLS, SEP, MASK = WORDPIECE_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""BERT's special tokens, in the order of their ids where we train the vocabulary."""
UNKNOWN = "<unk>"
WORD_OR_MARK = r"\w+(?:['’]\w+)*|[^\w\s]"


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


def train_word_level(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Build a tokenizer of whole words and punctuation marks for language models: every place of a text counts.

    A word outside of the vocabulary is :data:`UNKNOWN`, which is predicted like any other. Texts are framed by
    :data:`BOS` and :data:`EOS`.

    Args:
        texts: the training texts, lower-cased by the caller if the model is to be.
        vocab_size: the most frequent words are kept, with three special tokens at most this many ids.

    Raises:
        DataError: if no text holds a word, or all are the same word: there is then nothing to predict.
    """
    counts = Counter(word for text in texts for word in re.findall(WORD_OR_MARK, text))
    if len(counts) < 2:
        found = f"only {next(iter(counts))!r}" if counts else "no word"
        raise DataError(f"A language model needs at least two different words; the texts hold {found}.")
    words = sorted(counts, key=lambda word: (-counts[word], word))[: max(vocab_size - 3, 1)]
    vocab = {token: i for i, token in enumerate([BOS, EOS, UNKNOWN, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocab, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD_OR_MARK), "removed", invert=True)
    tokenizer.add_special_tokens([BOS, EOS])
    _frame(tokenizer)
    return tokenizer


def train_characters(texts: Iterable[str], least: int = 1) -> Tokenizer:
    """Build a tokenizer of single characters, spaces among them, framed by :data:`BOS` and :data:`EOS`.

    A character that the training texts do not hold is :data:`UNKNOWN`.

    Args:
        texts: the training texts.
        least: a character is kept if it occurs so often.

    Raises:
        DataError: if there is no character.
    """
    counts = Counter(character for text in texts for character in text)
    kept = sorted(character for character, count in counts.items() if count >= least)
    if not kept:
        raise DataError("There is no text to take characters from.")
    vocab = {token: i for i, token in enumerate([BOS, EOS, UNKNOWN, *kept])}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocab, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([BOS, EOS, UNKNOWN])
    _frame(tokenizer)
    return tokenizer


def train_wordpiece(texts: Iterable[str], vocab_size: int, *, lower: bool = True, min_frequency: int = 2) -> Tokenizer:
    """Train a WordPiece vocabulary (Wu et al. 2016, section 4.1) that frames texts and pairs of texts as BERT does.

    Args:
        texts: the training texts.
        vocab_size: at most this many ids: the five special tokens, characters alone and inside a word (in at most half of
            the ids, the most frequent first; a word with another one is unknown), and pieces.
        lower: lower-case and strip accents.
        min_frequency: a piece is kept only if it occurs this often.

    Raises:
        DataError: if there is no text at all, or ``vocab_size`` is too small.
    """
    texts = list(texts)
    rule = normalizers.BertNormalizer(lowercase=lower)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(rule.normalize_str(text))
    for space in [c for c in counts if c.isspace()]:
        del counts[space]
    if not counts:
        raise DataError("There is no text to train a tokenizer on.")
    most = (vocab_size - len(WORDPIECE_SPECIAL)) // 4  # so that half of the vocabulary is left for pieces
    if most < 1:
        raise DataError(f"A WordPiece vocabulary needs at least {len(WORDPIECE_SPECIAL) + 4} ids, found {vocab_size}.")
    ordered = sorted(counts, key=lambda c: (-counts[c], c))
    characters, rare = sorted(ordered[:most]), {ord(c): " " for c in ordered[most:]}
    if rare:
        texts = [rule.normalize_str(text).translate(rare) for text in texts]
    # The trainer numbers characters in an order that changes from run to run, unless it is given them all.
    given = [*WORDPIECE_SPECIAL, *characters, *(f"##{c}" for c in characters)]
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNK))
    tokenizer.normalizer, tokenizer.pre_tokenizer = rule, pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=given, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    learnt = Tokenizer(models.WordPiece(vocab=tokenizer.get_vocab(), unk_token=UNK))
    return _finish_wordpiece(learnt, lower=lower, strip_accents=None, split_chinese=True)


def load_wordpiece(
    path: Path, *, lower: bool = True, strip_accents: bool | None = None, split_chinese: bool = True
) -> Tokenizer:
    """Read a published ``vocab.txt``, one token a line, and cut text as transformers' BertTokenizerFast does.

    Args:
        path: the file; it must hold BERT's five special tokens.
        lower: lower-case.
        strip_accents: remove accents; None for exactly when ``lower``.
        split_chinese: put white space around each Chinese character.

    Raises:
        DataError: if the file cannot be read as UTF-8, or lacks a special token.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The vocabulary {path} cannot be read ({error}).") from error
    if lines and not lines[-1]:
        lines.pop()
    vocab = {token.rstrip("\r"): number for number, token in enumerate(lines)}
    missing = [token for token in WORDPIECE_SPECIAL if token not in vocab]
    if missing:
        raise DataError(f"The vocabulary {path} lacks {', '.join(missing)}: a BERT vocabulary has one token a line.")
    tokenizer = Tokenizer(models.WordPiece(vocab=vocab, unk_token=UNK))
    return _finish_wordpiece(tokenizer, lower=lower, strip_accents=strip_accents, split_chinese=split_chinese)


def _finish_wordpiece(
    tokenizer: Tokenizer, *, lower: bool, strip_accents: bool | None, split_chinese: bool
) -> Tokenizer:
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=split_chinese, strip_accents=strip_accents, lowercase=lower
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(list(WORDPIECE_SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (CLS, SEP)],
    )
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

"""Processors of speech: recordings -> waveforms at a model's rate, transcripts <-> symbols.

Both give tensors of varying length; the loader pads them and adds their lengths (``Processor.varying``).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.fields import Field
from intermodal.data.audio import read_audio
from intermodal.data.processors import Processor, read_tokenizer

AUDIO = Field((), "audio", "a recording")
TRANSCRIPT = Field((), "str", "what is said in it")
BLANK = "<blank>"
"""CTC's symbol for nothing new; always number 0."""
SPACE = " "
WORD_START = "▁"
"""How a BPE unit that begins a word begins (SentencePiece's mark)."""
FILE = "transcript-tokenizer.json"
Case = Literal["upper", "lower", "keep"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioProcessor(Config, Processor):
    """Recordings -> mono float32 ``(T,)`` at the model's rate, of varying length.

    Attributes:
        rate: samples a second.
        normalize: bring each recording to mean 0 and variance 1, as wav2vec 2.0's published models ask for (the variance
            gets 1e-7 added).
    """

    rate: int = 16_000
    normalize: bool = False

    raw = AUDIO
    varying = True

    def encode(self, value: Any) -> Tensor:
        """Return a recording (path, bytes, struct or Waveform) as float32 ``(T,)``.

        Raises:
            DataError: if it cannot be read.
        """
        samples = torch.from_numpy(read_audio(value, self.rate).samples)
        if self.normalize:
            samples = (samples - samples.mean()) / torch.sqrt(samples.var(unbiased=False) + 1e-7)
        return samples

    def batch(self, values: Sequence[Any], device: str | torch.device = "cpu") -> tuple[Tensor, Tensor]:
        """Return recordings as one batch ``(B, T)``, padded with zeros, and their lengths ``(B,)``, on a device."""
        return padded([self.encode(value) for value in values], device)

    def to_folder(self, folder: Path) -> dict[str, Any]:
        """Return the configuration; there are no assets."""
        del folder
        return self.to_dict()


def padded(waves: Sequence[Tensor], device: str | torch.device = "cpu") -> tuple[Tensor, Tensor]:
    """Return waveforms ``(T,)`` as one batch ``(B, T)``, padded with zeros, and their lengths ``(B,)``, on a device."""
    lengths_B = torch.tensor([len(wave) for wave in waves], device=device)
    return nn.utils.rnn.pad_sequence(list(waves), batch_first=True).to(device), lengths_B


def normalise(text: str, case: Case) -> str:
    """Return a transcript with single spaces, in one case."""
    text = " ".join(text.split())
    return text.upper() if case == "upper" else text.lower() if case == "lower" else text


@dataclasses.dataclass(frozen=True, kw_only=True)
class CharacterProcessor(Config, Processor):
    """Transcripts <-> characters, int64 ``(U,)`` of varying length; number 0 is CTC's blank.

    Attributes:
        symbols: the alphabet, :data:`BLANK` first; the space between words is one of them.
        case: to which transcripts are brought first.
    """

    symbols: tuple[str, ...]
    case: Case = "upper"

    raw = TRANSCRIPT
    varying = True

    def __post_init__(self) -> None:
        if not self.symbols or self.symbols[0] != BLANK or len(set(self.symbols)) != len(self.symbols):
            raise ConfigError(f"An alphabet holds each symbol once, {BLANK} first; found {self.symbols[:5]} ...")

    @property
    def delimiter(self) -> str:
        """What separates words."""
        return SPACE

    @staticmethod
    def of(texts: Iterable[str], case: Case = "upper") -> CharacterProcessor:
        """Return the processor of all characters of some transcripts.

        Raises:
            DataError: if there is none.
        """
        letters = sorted({c for text in texts for c in normalise(text, case)} - {SPACE})
        if not letters:
            raise DataError("There is no letter in the transcripts: nothing to learn.")
        return CharacterProcessor(symbols=(BLANK, SPACE, *letters), case=case)

    def encode(self, value: Any) -> Tensor:
        """Return a transcript's characters.

        Raises:
            DataError: if one is not in the alphabet; all that are not are named.
        """
        text = normalise(str(value), self.case)
        number = {symbol: i for i, symbol in enumerate(self.symbols)}
        strange = [c for c in dict.fromkeys(text) if c not in number]
        if strange:
            raise DataError(
                f"The transcript {text[:60]!r} has letters that this model does not know: "
                f"{', '.join(repr(c) for c in strange)}. It knows {''.join(self.symbols[2:])!r}."
            )
        return torch.tensor([number[c] for c in text], dtype=torch.int64)

    def decode(self, numbers: Sequence[int]) -> str:
        """Return the text of symbols, blanks left out."""
        return normalise("".join(self.symbols[i] for i in numbers if i), "keep")

    def to_folder(self, folder: Path) -> dict[str, Any]:
        """Return the configuration; there are no assets."""
        del folder
        return self.to_dict()


class PieceProcessor(Processor):
    """Transcripts <-> BPE units, int64 ``(U,)`` of varying length; a unit that begins a word begins with :data:`WORD_START`.

    Args:
        tokenizer: a BPE with a Metaspace pre-tokenizer, :data:`BLANK` as number 0.
        case: to which transcripts are brought first.
    """

    raw = TRANSCRIPT
    varying = True

    def __init__(self, tokenizer: Tokenizer, *, case: Case = "upper") -> None:
        self.tokenizer, self.case = tokenizer, case
        if tokenizer.token_to_id(BLANK) != 0:
            raise ConfigError(f"A tokenizer for CTC has {BLANK} as its number 0.")

    @property
    def symbols(self) -> tuple[str, ...]:
        """The units, in order."""
        return tuple(str(self.tokenizer.id_to_token(i)) for i in range(self.tokenizer.get_vocab_size()))

    @property
    def delimiter(self) -> str:
        """What begins a word."""
        return WORD_START

    @staticmethod
    def of(texts: Iterable[str], size: int, case: Case = "upper") -> PieceProcessor:
        """Train a BPE of at most ``size`` units on transcripts.

        Raises:
            DataError: if there is no letter, or the letters alone are more than ``size``.
        """
        texts = [normalise(text, case) for text in texts]
        letters = Counter(c for text in texts for c in text if c != SPACE)
        if not letters:
            raise DataError("There is no letter in the transcripts: nothing to learn.")
        if len(letters) + 2 > size:
            raise DataError(f"The transcripts have {len(letters)} letters: a vocabulary of {size} units is too small.")
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=WORD_START)
        tokenizer.decoder = decoders.Metaspace(replacement=WORD_START)
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=[BLANK],
            initial_alphabet=[WORD_START, *sorted(letters)],
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return PieceProcessor(tokenizer, case=case)

    def encode(self, value: Any) -> Tensor:
        """Return a transcript's units.

        Raises:
            DataError: if a letter is in none of them.
        """
        text = normalise(str(value), self.case)
        known = self.tokenizer.get_vocab()
        strange = [c for c in dict.fromkeys(text) if c != SPACE and c not in known]
        if strange:
            raise DataError(
                f"The transcript {text[:60]!r} has letters that this model does not know: "
                f"{', '.join(repr(c) for c in strange)}."
            )
        return torch.tensor(self.tokenizer.encode(text).ids, dtype=torch.int64)

    def decode(self, numbers: Sequence[int]) -> str:
        """Return the text of units, blanks left out."""
        joined = "".join(str(self.tokenizer.id_to_token(i)) for i in numbers if i)
        return normalise(joined.replace(WORD_START, SPACE), "keep")

    def to_folder(self, folder: Path) -> dict[str, Any]:
        """Write ``transcript-tokenizer.json`` and return the other settings."""
        self.tokenizer.save(str(folder / FILE))
        return {"kind": "pieces", "case": self.case}

    @classmethod
    def restore(cls, data: dict[str, Any], folder: Path) -> Self:
        """Read ``transcript-tokenizer.json`` and the settings back.

        Raises:
            CheckpointError: if the file is missing or damaged.
        """
        return cls(read_tokenizer(folder / FILE), case=data["case"])


TranscriptProcessor = CharacterProcessor | PieceProcessor
"""Either of the two: both have ``symbols`` (blank first), ``delimiter``, ``encode`` and ``decode``."""

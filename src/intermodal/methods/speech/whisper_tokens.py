"""What Whisper's tokens mean that are no text, and which of them may come next (Radford et al. 2022, section 2.3).

Shapes: B sequences, N tokens that were written, V tokens that are known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError

NEVER = float("-inf")


@dataclass(frozen=True, kw_only=True)
class WhisperTokens(Config):
    """The numbers of the tokens that are no text; those of text are below ``end``.

    Attributes:
        start, end: of a transcript.
        no_timestamps: says that no times are wanted; times are the numbers above it, 0.00 s first, in steps of 0.02 s.
        previous: begins what was said before.
        no_speech: says that nobody speaks; None if the model has none.
        transcribe, translate: the tasks; None for a model of one language.
        languages: of each ISO 639-1 code its token; empty for a model of one language.
        suppress: tokens that are never written.
        suppress_first: tokens that are not written first.
        latest_start: the last time, in steps, at which the first segment may begin; None for any.

    Raises:
        ConfigError: if a language's code occurs twice.
    """

    start: int
    end: int
    no_timestamps: int
    previous: int
    no_speech: int | None = None
    transcribe: int | None = None
    translate: int | None = None
    languages: tuple[tuple[str, int], ...] = ()
    suppress: tuple[int, ...] = ()
    suppress_first: tuple[int, ...] = ()
    latest_start: int | None = 50

    def __post_init__(self) -> None:
        if len(dict(self.languages)) != len(self.languages):
            raise ConfigError("Whisper: a language's code may occur once only.")

    @property
    def zero(self) -> int:
        """The token of the time 0.00 s."""
        return self.no_timestamps + 1

    def prompt(self, language: str | None, task: str, *, timestamps: bool) -> list[int]:
        """Return the tokens that a transcript begins with.

        Raises:
            ConfigError: if the model does not know the language or the task.
        """
        tokens = [self.start]
        if not self.languages:
            if task != "transcribe" or language not in (None, "en"):
                raise ConfigError(
                    f"This model knows one language and one task, not {language or 'English'!r} and {task!r}."
                )
        else:
            known = dict(self.languages)
            number = self.transcribe if task == "transcribe" else self.translate
            if language not in known or number is None:
                raise ConfigError(
                    f"This model does not know the language {language!r} or the task {task!r}; it knows "
                    f"{', '.join(known)}."
                )
            tokens += [known[language], number]
        return tokens if timestamps else [*tokens, self.no_timestamps]


# --8<-- [start:rules]
def rule(tokens: WhisperTokens, *, timestamps: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what forbids tokens by those that were written before, as :class:`RuledStepper` takes it.

    Times come in pairs (the end of a segment, the start of the next), never fall, and a segment takes some time; the first
    token is a time. Where all times together are likelier than any other token, a time is written.
    """

    def allowed(logits_BV: Tensor, made_BN: Tensor) -> Tensor:
        logits_BV = logits_BV.clone()
        if tokens.suppress:
            logits_BV[:, list(tokens.suppress)] = NEVER
        if not made_BN.shape[1] and tokens.suppress_first:
            logits_BV[:, list(tokens.suppress_first)] = NEVER
        if not timestamps:
            return logits_BV
        zero, number_V = tokens.zero, torch.arange(logits_BV.shape[1], device=logits_BV.device)
        logits_BV[:, tokens.no_timestamps] = NEVER
        if not made_BN.shape[1]:
            logits_BV[:, :zero] = NEVER
            if tokens.latest_start is not None:
                logits_BV[:, zero + tokens.latest_start + 1 :] = NEVER
        else:
            is_time_BN = made_BN >= zero
            last_B = is_time_BN[:, -1]
            before_B = is_time_BN[:, -2] if made_BN.shape[1] > 1 else torch.ones_like(last_B)
            closes_B = last_B & ~before_B  # one time after text: a second may repeat it, or the end comes
            highest_B = torch.where(is_time_BN, made_BN, zero - 1).amax(1)
            least_B = torch.where(closes_B, highest_B, highest_B + 1)
            too_early_BV = (number_V >= zero) & (number_V < least_B.unsqueeze(1))
            never_BV = too_early_BV | ((number_V >= zero) & (last_B & before_B).unsqueeze(1))
            never_BV |= (number_V < tokens.end) & closes_B.unsqueeze(1)
            logits_BV = logits_BV.masked_fill(never_BV, NEVER)
        log_prob_BV = logits_BV.float().log_softmax(-1)
        time_B = log_prob_BV[:, zero:].logsumexp(-1) > log_prob_BV[:, :zero].amax(-1)
        return logits_BV.masked_fill((number_V < zero) & time_B.unsqueeze(1), NEVER)

    return allowed


# --8<-- [end:rules]

"""How a text about a picture is written, and what comes out: plain data that every captioner shares."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError

MOST_BEAM = 64
"""The widest beam that may be asked for."""
MOST_LENGTH = 1024
"""The longest caption that may be asked for, in tokens."""


@dataclass(frozen=True, kw_only=True)
class Captioning(Config):
    """How captions are written; as it stands, greedily: the most probable token follows each time.

    Attributes:
        beam: hypotheses that are kept; 1 for none but one. A beam searches, so it goes with temperature 0 alone.
        length_penalty: of a beam: 0 ranks hypotheses by log-probability, 1 by its mean over the tokens.
        temperature: 0 takes the most probable token; above it, tokens are drawn, from logits divided by it.
        top_k: draw from so many of the most probable tokens only; None for all.
        top_p: draw from the fewest most probable tokens that together have this probability; None for all.
        most: tokens of a caption at most, its end included; what does not end by then is cut. None for what the model holds.
        seed: of drawing; the first picture's, the next has the next, so that no caption depends on the pictures around it.

    Raises:
        ConfigError: if a number is out of range, or a beam is asked to draw.
    """

    beam: int = 1
    length_penalty: float = 1.0
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    most: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.beam <= MOST_BEAM:
            raise ConfigError(f"A beam is 1 to {MOST_BEAM} wide, found {self.beam}.")
        if not math.isfinite(self.length_penalty):
            raise ConfigError(f"length_penalty must be a finite number, found {self.length_penalty}.")
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise ConfigError(f"The temperature must be finite and at least 0, found {self.temperature}.")
        if self.beam > 1 and self.temperature > 0:
            raise ConfigError("A beam searches and draws nothing: set beam to 1, or temperature to 0.")
        if self.temperature == 0 and (self.top_k is not None or self.top_p is not None):
            raise ConfigError("top_k and top_p choose among what is drawn: set temperature above 0 with them.")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k must be at least 1, found {self.top_k}.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be above 0 and at most 1, found {self.top_p}.")
        if self.most is not None and not 1 <= self.most <= MOST_LENGTH:
            raise ConfigError(f"A caption has 1 to {MOST_LENGTH} tokens, found {self.most}.")
        if not 0 <= self.seed < 2**63 - 2**32:
            raise ConfigError(f"A seed is at least 0 and below 2^63 - 2^32, found {self.seed}.")


@dataclass(frozen=True)
class Caption:
    """What was written about one picture.

    Attributes:
        text: the caption.
        log_prob: natural log-probability of its tokens, the end included; None where the model does not say.
        tokens: how many there are, the end included.
        ended: it came to its end by itself, and was not cut.
    """

    text: str
    log_prob: float | None = None
    tokens: int = 0
    ended: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return dataclasses.asdict(self)

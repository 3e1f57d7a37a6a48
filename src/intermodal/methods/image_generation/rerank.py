"""Drawing more than is asked for, and keeping what a model of pictures and texts finds nearest to the text.

Ramesh et al. 2021, section 2.6: DALL-E draws 512 candidates and a CLIP chooses. It serves any generator.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from intermodal.core.capabilities import Embeds
from intermodal.core.errors import ConfigError, DataError


# --8<-- [start:rerank]
def best(pictures: Sequence[Image.Image], prompt: str, count: int, judge: object) -> tuple[list[int], np.ndarray]:
    """Return which pictures show a text best, the best first, and the cosine of every picture with the text.

    Args:
        pictures: N of them; of those that are equally similar the first come first.
        prompt: the text.
        count: how many to keep, at most N.
        judge: a model that embeds pictures and texts, such as a CLIP that the pictures were not drawn with.

    Raises:
        ConfigError: if the judge cannot.
        DataError: if there are not so many.
    """
    check_judge(judge)
    assert isinstance(judge, Embeds)
    if not 1 <= count <= len(pictures):
        raise DataError(f"The best {count} of {len(pictures)} pictures cannot be chosen.")
    cosine_N = judge.embed("image", list(pictures)) @ judge.embed("text", [prompt])[0]
    return np.argsort(-cosine_N, kind="stable")[:count].tolist(), cosine_N


# --8<-- [end:rerank]


def check_judge(judge: object) -> None:
    """Raise a ConfigError if a model does not embed both pictures and texts."""
    if not isinstance(judge, Embeds) or not {"image", "text"} <= set(judge.modalities):
        raise ConfigError(
            f"{type(judge).__name__} cannot choose among pictures: name a clip, which knows texts as well."
        )

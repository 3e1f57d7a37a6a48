"""What the tokenizers with a codebook say about its health."""

from __future__ import annotations

USED, PERPLEXITY = 0.1, 0.02
"""Below these shares of the codes that a batch could hold, occurring or by perplexity, a codebook has collapsed."""


def collapsed(used: float, perplexity: float, codes: int, places: int, advice: str) -> list[str]:
    """Return a warning in words if pictures show a codebook of which hardly anything is used; else nothing.

    Args:
        used: the share of the codes that occurs.
        perplexity: how many codes of equal frequency the pictures' are worth.
        codes: K.
        places: how many codes the pictures hold; fewer than K cannot all occur.
        advice: what to do, a sentence; may be empty.
    """
    possible = min(codes, places)
    if used * codes >= USED * possible and perplexity >= max(PERPLEXITY * possible, min(2, possible)):
        return []
    return [
        f"The codebook has collapsed: at {places:,} places {used * codes:,.0f} of {codes:,} codes occur, worth "
        f"{perplexity:.1f} of equal frequency. {advice}".rstrip()
    ]

"""What a model makes of a prompt: whether it reads all of it, and knows its words."""

from __future__ import annotations

from intermodal.core.drawing import MOST_PROMPT
from intermodal.core.errors import DataError
from intermodal.data.processors import TextProcessor
from intermodal.data.tokenizers import UNK, UNKNOWN

_MOST_NAMED = 8


def checked(prompt: str | None, what: str = "prompt") -> str | None:
    """Return a prompt that is a text.

    Raises:
        DataError: if it is empty, too long, or holds bytes that are no text.
    """
    if prompt is None:
        return None
    if not prompt.strip():
        raise DataError(f"The {what} is empty: leave it out for nothing in particular.")
    if len(prompt) > MOST_PROMPT:
        raise DataError(f"A {what} has at most {MOST_PROMPT:,} characters, found {len(prompt):,}.")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"The {what} holds bytes that are no text: {prompt[:40]!r}.") from error
    return prompt


def unheard(model: object, prompt: str | None) -> list[str]:
    """Return sentences about what a model will not hear of a prompt: words it does not know, and what comes too late.

    Args:
        model: any method; only one whose texts are cut into tokens has anything to say.
        prompt: None for none.

    Raises:
        DataError: if the model knows nothing of it.
    """
    processor = getattr(model, "processors", {}).get("text")
    if not prompt or not isinstance(processor, TextProcessor):
        return []
    words = (prompt.lower() if processor.lower else prompt).split()
    nothing = processor.tokenizer.encode("").ids
    unknown = [word for word in dict.fromkeys(words) if _is_unknown(processor, word, nothing)]
    if words and len(unknown) == len(set(words)):
        raise DataError(
            f"The model knows none of the words {_named(unknown)}: say it in words that it was trained with."
        )
    found = [f"The model does not know {_named(unknown)}."] if unknown else []
    encoded = processor.tokenizer.encode(" ".join(words))
    if len(encoded.ids) > processor.context_length:
        kept = processor.context_length - 1  # the last is the mark of the end
        read = len(" ".join(words)[: max((end for _, end in encoded.offsets[:kept]), default=0)].split())
        found.append(f"The model reads the first {read} of the prompt's {len(words)} words, no more.")
    return found


def _is_unknown(processor: TextProcessor, word: str, nothing: list[int]) -> bool:
    encoded = processor.tokenizer.encode(word)
    inner = [token for token in encoded.ids if token not in nothing]
    marks = {processor.tokenizer.token_to_id(mark) for mark in (UNK, UNKNOWN)}
    return all(token in marks for token in inner)


def _named(words: list[str]) -> str:
    shown = ", ".join(repr(word[:40]) for word in words[:_MOST_NAMED])
    return shown if len(words) <= _MOST_NAMED else f"{shown} and {len(words) - _MOST_NAMED} more"

"""A chat about pictures as plain data: what was asked, with which pictures, and what was answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from intermodal.core.errors import DataError

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Turn:
    """A question and its answer.

    Attributes:
        question: what is asked; may be empty where a picture stands for it.
        answer: what is answered; None where that is still to come.
        pictures: PIL images that are shown with the question, before its words.
    """

    question: str
    answer: str | None = None
    pictures: tuple[Image.Image, ...] = ()


Chat = Sequence[Turn]


def check_chat(chat: Chat) -> None:
    """Check a chat that is to be answered.

    Raises:
        DataError: if it holds no turn, an earlier question has no answer, the last one has, or nothing is asked.
    """
    if not chat:
        raise DataError("There is nothing to answer: ask a question.")
    if any(turn.answer is None for turn in chat[:-1]) or chat[-1].answer is not None:
        raise DataError("In a chat every question but the last has its answer, and the last has none.")
    if not chat[-1].question.strip() and not chat[-1].pictures:
        raise DataError("There is nothing to answer: the question is empty.")

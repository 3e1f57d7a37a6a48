"""Chats <-> tokens: questions and answers in a fixed frame, each picture as so many tokens in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from tokenizers import AddedToken, Tokenizer
from torch import Tensor

from intermodal.core.chat import Chat, Turn
from intermodal.core.config import Config
from intermodal.core.errors import DataError
from intermodal.core.fields import Field
from intermodal.data.chat_template import answers_in, rendered
from intermodal.data.sentences import SentenceProcessor

PICTURE = "<image>"
"""How the token that stands for a picture is called."""
READ, WRITTEN = 1, 2
"""In the second row of an encoded chat: a token that is read, and one that the model is to write; 0 is padding."""


@dataclass(frozen=True, kw_only=True)
class ChatFormat(Config):
    """The frame of a chat; the default is that of LLaVA 1.5 (Vicuna's, version 1.1).

    Attributes:
        system: stands before the first question.
        before: a question.
        picture: for each picture of a question, before its words.
        after: a question, before its answer.
        answer: stands before an answer's words and is written with them; the end of a text follows them.
        template: a published chat template (:mod:`intermodal.data.chat_template`) in the place of all others; None: none.
    """

    system: str = ""
    before: str = "USER: "
    picture: str = f"{PICTURE}\n"
    after: str = " ASSISTANT:"
    answer: str = " "
    template: str | None = None

    def asked(self, turn: Turn, first: bool) -> str:
        """Return a question in its frame, up to where its answer begins."""
        shown = self.picture * len(turn.pictures)
        return f"{self.system if first else ''}{self.before}{shown}{turn.question}{self.after}"

    def text(self, chat: Chat) -> str:
        """Return a whole chat without pictures as one text: what a decoder or tokenizer may learn beforehand."""
        turns = (Turn(turn.question, turn.answer) for turn in chat)
        return " ".join(self.asked(turn, i == 0) + self.answer + (turn.answer or "") for i, turn in enumerate(turns))


FORMAT = ChatFormat()


class ChatProcessor(SentenceProcessor):
    """Chats <-> ``(2, L)`` int64: token ids, and which of them are read or written (:data:`READ`, :data:`WRITTEN`).

    Args:
        tokenizer: it knows :data:`PICTURE` as one token.
        context_length: L.
        eos_id: ends an answer.
        pad_id: fills up.
        image_id: the token of a picture; a picture is ``patches`` of them.
        patches: tokens of a picture.
        form: the frame.
        bos_id: begins a chat; None where nothing does.
        lower: lower-case and strip the text first.
    """

    raw = Field((), "chat", "questions and answers")

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        context_length: int,
        eos_id: int,
        pad_id: int,
        image_id: int,
        patches: int,
        form: ChatFormat = FORMAT,
        bos_id: int | None = None,
        lower: bool = False,
    ) -> None:
        super().__init__(
            tokenizer, context_length=context_length, eos_id=eos_id, pad_id=pad_id, bos_id=bos_id, lower=lower
        )
        self.image_id, self.patches, self.form = image_id, patches, form

    def turn(self, turn: Turn, first: bool) -> tuple[list[int], list[int]]:
        """Return the ids of a turn and what each is, up to where its answer begins, or to its end if it is answered.

        Raises:
            DataError: if a text holds the token of a picture.
        """
        _refuse_marks(turn)
        asked = self._plain(self.form.asked(turn, first))
        answered = "" if turn.answer is None else self._plain(self.form.answer + turn.answer, keep=True)
        found = self.tokenizer.encode(asked + answered, add_special_tokens=False)
        ids, kinds = [], []
        for token, (start, _) in zip(found.ids, found.offsets, strict=True):
            count = self.patches if token == self.image_id else 1
            ids += [token] * count
            kinds += [WRITTEN if turn.answer is not None and start >= len(asked) else READ] * count
        return (ids, kinds) if turn.answer is None else ([*ids, self.eos_id], [*kinds, WRITTEN])

    def _plain(self, text: str, *, keep: bool = False) -> str:
        if not self.lower:
            return text
        return (" " if keep and text[:1].isspace() else "") + " ".join(text.lower().split())

    def chat(self, chat: Chat) -> tuple[list[int], list[int]]:
        """Return the ids of a chat, with its beginning, and what each is; the last answer may be to come.

        Raises:
            DataError: if a text holds the token of a picture, or the model's chat template does not take the chat.
        """
        if self.form.template is not None:
            return self._templated(chat, self.form.template)
        ids, kinds = ([], []) if self.bos_id is None else ([self.bos_id], [READ])
        for number, turn in enumerate(chat):
            more, told = self.turn(turn, number == 0)
            ids, kinds = ids + more, kinds + told
        return ids, kinds

    def _templated(self, chat: Chat, template: str) -> tuple[list[int], list[int]]:
        """Return :meth:`chat` by a template. Of a chat that is to be answered nothing counts as written."""
        for turn in chat:
            _refuse_marks(turn)
        named = {"bos_token": self.bos_id, "eos_token": self.eos_id, "pad_token": self.pad_id}
        tokens = {name: str(self.tokenizer.id_to_token(i)) for name, i in named.items() if i is not None}
        text = rendered(template, chat, tokens)
        answered = chat[-1].answer is not None
        spans = answers_in(template, chat, tokens) if answered else []
        found = self.tokenizer.encode(text.lower() if self.lower else text, add_special_tokens=False)
        ids, kinds = ([], []) if self.bos_id is None else ([self.bos_id], [READ])
        if self.bos_id is not None and text.startswith(tokens["bos_token"]):
            ids, kinds = [], []
        for token, (start, end) in zip(found.ids, found.offsets, strict=True):
            count = self.patches if token == self.image_id else 1
            ids += [token] * count
            kinds += [WRITTEN if any(start < last and first < end for first, last in spans) else READ] * count
        if answered and ids[-1] != self.eos_id:
            ids, kinds = [*ids, self.eos_id], [*kinds, WRITTEN]
        return ids, kinds

    def encode(self, value: Any) -> Tensor:
        """Return the ids of one chat and what each is, int64 ``(2, L)``; a long one is cut.

        Raises:
            DataError: if a picture would be cut.
        """
        ids, kinds = self.chat(value)
        if self.image_id in ids[self.context_length :]:
            raise DataError(
                f"A chat's pictures do not fit into {self.context_length} tokens: show fewer, or allow more."
            )
        out = torch.full((2, self.context_length), self.pad_id, dtype=torch.int64)
        out[1] = 0
        count = min(len(ids), self.context_length)
        out[0, :count] = torch.tensor(ids[:count])
        out[1, :count] = torch.tensor(kinds[:count])
        return out

    def to_folder(self, folder: Path) -> dict[str, Any]:
        """Write ``tokenizer.json`` and return the other settings."""
        own = {"image_id": self.image_id, "patches": self.patches, "form": self.form.to_dict()}
        return {**super().to_folder(folder), "kind": "chat", **own}

    @classmethod
    def restore(cls, data: dict[str, Any], folder: Path) -> Self:
        """Read ``tokenizer.json`` and the settings back.

        Raises:
            CheckpointError: if the file is missing or damaged.
        """
        sentence = SentenceProcessor.restore(data, folder)
        form = ChatFormat.from_dict(data["form"])
        return cls.over(sentence, sentence.context_length, data["patches"], data["image_id"], form)

    @classmethod
    def over(cls, text: SentenceProcessor, length: int, patches: int, image_id: int, form: ChatFormat = FORMAT) -> Self:
        """Return the processor of chats in a language decoder's tokens, of at most ``length``."""
        return cls(
            text.tokenizer,
            context_length=length,
            eos_id=text.eos_id,
            pad_id=text.pad_id,
            bos_id=text.bos_id,
            lower=text.lower,
            image_id=image_id,
            patches=patches,
            form=form,
        )

    def _settings(self) -> tuple[Any, ...]:
        return (*super()._settings(), self.image_id, self.patches, self.form)


def _refuse_marks(turn: Turn) -> None:
    if PICTURE in f"{turn.question}{turn.answer}":
        raise DataError(f"{PICTURE} stands for a picture and may not be part of a text: show the picture instead.")


def with_picture_token(tokenizer: Tokenizer) -> tuple[Tokenizer, int]:
    """Return a copy of a tokenizer that knows :data:`PICTURE` as one token, and its id."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.add_special_tokens([AddedToken(PICTURE, special=True, normalized=False)])
    return copy, copy.get_vocab()[PICTURE]


def pictures_of(chats: Sequence[Chat]) -> list[Any]:
    """Return the pictures of chats, in the order in which they are shown."""
    return [picture for chat in chats for turn in chat for picture in turn.pictures]

"""Answering in a chat about pictures: whole, or as it is written, with a memory of what was read before.

It is no method and has no card. Shapes: B chats, N pictures, P places of a picture, L tokens, E the decoder's width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from intermodal.core.captioning import Caption, Captioning
from intermodal.core.chat import Chat, Turn, check_chat
from intermodal.core.errors import ConfigError
from intermodal.core.progress import Progress
from intermodal.data.chat import ChatProcessor, pictures_of
from intermodal.decode.generate import stream
from intermodal.decode.prompts import refuse_longer, side_by_side
from intermodal.decode.sampling import Sampling
from intermodal.decode.stepper import TransformerStepper
from intermodal.methods.captioning.captioner import Captioner
from intermodal.methods.captioning.language import LanguageDecoder
from intermodal.methods.vision_language.chat_memory import ChatMemory
from intermodal.methods.writer import GREEDY

BATCH = 32
"""Chats that are answered at a time; beams count."""
MOST = 256
"""Tokens of an answer, where nobody says how many: an answer that never ends is cut."""


class Chatting(Captioner):
    """Base of what chats about pictures: a subclass has a decoder that reads them, :meth:`see` and :meth:`mixed`."""

    language: LanguageDecoder

    def see(self, image_NCHW: Tensor) -> Tensor:
        """Return prepared pictures as the decoder reads them, ``(N, P, E)``."""
        raise NotImplementedError

    def mixed(self, ids_BL: Tensor, seen_NPE: Tensor | None) -> Tensor:
        """Return the vectors of chats, ``(B, L, E)``, pictures in the places of theirs."""
        raise NotImplementedError

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a picture's places."""
        raise NotImplementedError

    @property
    def describe(self) -> str:
        """What is asked where a caption is wanted."""
        raise NotImplementedError

    @property
    def chats(self) -> ChatProcessor:
        """The processor of chats.

        Raises:
            ConfigError: if there is none.
        """
        processor = self.processors.get("chat")
        if not isinstance(processor, ChatProcessor):
            raise ConfigError("This model has no tokenizer: load it with one to ask questions.")
        return processor

    def prompt(self, chats: Sequence[Chat]) -> tuple[Tensor, Tensor | None]:
        """Return what is read before the last answers, ``(B, L, E)``, and how much of each is nothing.

        Raises:
            DataError: if a chat cannot be answered, or a picture cannot be read.
        """
        for chat in chats:
            check_chat(chat)
        shown = pictures_of(chats)
        seen = self.see(self.pictures(shown)) if shown else None
        rows, first = [], 0
        for chat in chats:
            count = len(pictures_of([chat]))
            ids = torch.tensor([self.chats.chat(chat)[0]], device=self.device)
            part = seen[first : first + count] if seen is not None and count else None
            rows.append(self.mixed(ids, part)[0])
            first += count
        prompt, padding_B = side_by_side(rows)
        return prompt, None if padding_B is None else padding_B.to(self.device)

    @torch.no_grad()
    def answer(
        self, chats: Sequence[Chat], settings: Captioning | None = None, *, watch: Progress | None = None
    ) -> list[Caption]:
        """Return the answer to the last question of each chat.

        Args:
            chats: turns with any number of pictures, also none; all but the last turn with their answers.
            settings: beam, temperature, length and so on; greedy by default, at most 256 tokens.
            watch: told how far it is.

        Raises:
            DataError: if a chat cannot be answered, or is longer than the decoder's context.
        """
        settings = settings or GREEDY
        made = list[Caption]()
        with self.evaluating():
            size = max(1, BATCH // settings.beam)
            for first in range(0, len(chats), size):
                prompt, padding_B = self.prompt(chats[first : first + size])
                stepper = TransformerStepper(self.language.network, padding_B=padding_B)
                made += self.written(
                    stepper, prompt, settings.replace(seed=settings.seed + first, most=settings.most or MOST)
                )
                if watch is not None:
                    watch("answering", len(made) / len(chats))
        return made

    def memory(self) -> ChatMemory:
        """Return the memory of a chat that has not begun, for :meth:`answering`."""
        return ChatMemory(self.language.network)

    def answering(
        self, chat: Chat, settings: Captioning | None = None, memory: ChatMemory | None = None
    ) -> Iterator[str]:
        """Yield the answer to the last question in pieces as they are written; with a beam, whole.

        Args:
            chat: all turns.
            settings: as of :meth:`answer`.
            memory: of this chat, from :meth:`memory`: what was read for an earlier question is not read again. A beam
                does without.

        Raises:
            DataError: as :meth:`answer`.
        """
        settings = settings or GREEDY
        if settings.beam > 1:
            yield self.answer([chat], settings)[0].text
            return
        pieces = self._pieces(chat, settings, self.memory() if memory is None else memory)
        while True:
            with self.evaluating():  # while it computes alone: between two pieces nothing has changed
                text = next(pieces, None)
            if text is None:
                return
            yield text

    @torch.no_grad()
    def _pieces(self, chat: Chat, settings: Captioning, memory: ChatMemory) -> Iterator[str]:
        check_chat(chat)
        network, ids, shown = self.language.network, self.chats.chat(chat)[0], pictures_of([chat])
        refuse_longer(len(ids), network.config.context_length)
        kept, known = memory.common(ids, shown, self.chats.image_id)
        seen = self.see(self.pictures(shown[known:])) if shown[known:] else None
        prompt = self.mixed(torch.tensor([ids[kept:]], device=self.device), seen)
        steps = stream(
            TransformerStepper(network, begun=memory.cache),
            prompt,
            settings.most or MOST,
            sampling=Sampling(temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p),
            generator=torch.Generator().manual_seed(settings.seed),
            end=self.language.ends,
        )
        first = True
        for piece in self.language.pieces(memory.noting(steps)):
            text = piece.lstrip() if first else piece
            first = first and not text
            if text:
                yield text

    @property
    def room(self) -> int:
        """The most tokens of an answer, its end included."""
        return self.language.config.network.context_length

    @property
    def end(self) -> int:
        """The token that ends an answer."""
        return self.chats.eos_id

    def words(self, tokens_N: Tensor) -> str:
        """Return the text of token ids."""
        return self.chats.decode_each([tokens_N], self.language.config.ends)[0].strip()

    @torch.no_grad()
    def looks(self, chat: Chat) -> tuple[list[str], np.ndarray]:
        """Return the words of the answer to a chat that shows one picture, and how each looks at its places.

        Returns:
            the words, and float32 ``(words, P)``: the decoder's attention from where each word is decided, the mean over
            blocks and heads.
        """
        ids, _ = self.chats.chat(chat)
        text = self.answer([chat])[0].text
        prompt, _ = self.prompt([chat])
        said = self.chats.tokenizer.encode(self.chats.form.answer + text, add_special_tokens=False).ids
        read = torch.cat([prompt, self.language.network.embed(torch.tensor([said], device=self.device))], 1)
        mean_LL = torch.stack([block[0].mean(0) for block in self.language.network.attention(read)]).mean(0)
        place_P = [i for i, token in enumerate(ids) if token == self.chats.image_id]
        looks = mean_LL[len(ids) - 1 : -1][:, place_P]
        return [self.chats.tokenizer.decode([token]).strip() for token in said], looks.float().cpu().numpy()

    def looks_of(
        self, images: Sequence[Image.Image], question: str | None = None
    ) -> tuple[list[tuple[Any, list[str], np.ndarray]], tuple[int, int]]:
        """Return for each picture the words of the answer to a question (what it is) and where each looks, and the grid."""
        grid = self.grid
        rows = []
        for image in images:
            words, looks = self.looks([Turn(self.describe if question is None else question, None, (image,))])
            rows.append((image, words, looks[:, -grid[0] * grid[1] :]))
        return rows, grid

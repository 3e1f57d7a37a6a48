"""The language decoder: a causal transformer that writes sentences, and what captioners, readers and chats go on from.

It is no method of multimodal learning but a part of several (ClipCap, DeCap, TrOCR, LLaVA): it is trained, saved and
loaded like one, and a published GPT-2 or Llama is one. What goes on from it takes its ``network`` and its processor
``text``, and may put vectors of its own in the place of a prompt (:meth:`LanguageDecoder.write`).

Shapes: B sentences, L tokens, P places of a prompt, D width, V tokens that there are, N tokens of a batch that are
predicted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.fields import Field
from intermodal.core.registry import MethodCard
from intermodal.data.processors import Processor
from intermodal.data.sentences import SentenceProcessor
from intermodal.decode.beam import beam_search
from intermodal.decode.generate import GREEDY, Token, generate, stream
from intermodal.decode.prompts import side_by_side
from intermodal.decode.sampling import Sampling
from intermodal.decode.stepper import Rule, TransformerStepper
from intermodal.methods.base import Batch, Losses, Method, check_generation
from intermodal.nn.causal import CausalConfig, CausalTransformer

PART = MethodCard(
    id="language",
    title="Language decoder: GPT-2 or Llama, which captioners, readers and chats go on from",
    paper="Radford et al. 2019; Touvron et al. 2023",
    cls="LanguageDecoder",
    capabilities=("generate",),
    recipes=("language", "language-llama"),
    reference="transformers GPT2LMHeadModel, LlamaForCausalLM",
)

GROUPS = 4
"""In so many groups by length the sentences of a batch are read."""
SENTENCE = Field((), "str", "a sentence")
MOST = 40
"""New tokens, where nobody says how many."""
SAMPLED = Sampling(temperature=0.8, top_p=0.95)
"""How :meth:`LanguageDecoder.generate` draws texts."""


@dataclass(frozen=True, kw_only=True)
class LanguageConfig(Config):
    """What a language decoder is made of.

    Attributes:
        network: the transformer.
        ends: further tokens that end a text, beside the processor's ``eos_id`` (a chat model's end of a turn).
    """

    network: CausalConfig
    ends: tuple[int, ...] = ()


class LanguageDecoder(Method):
    """Predicts each token of a sentence from those before it; see the module's text.

    Args:
        config: the network.
        processors: ``text``, a :class:`~intermodal.data.sentences.SentenceProcessor`; none for the network alone.

    Raises:
        ConfigError: if the tokenizer has more tokens than the network.
    """

    id = "language"
    generates = "text"
    config: LanguageConfig

    def __init__(self, config: LanguageConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        if "text" in processors and self.text.vocab_size > config.network.vocab_size:
            raise ConfigError(
                f"The tokenizer has {self.text.vocab_size} tokens, the network only {config.network.vocab_size}."
            )
        self.network = CausalTransformer(config.network)
        self.needs = {"text": SENTENCE}

    @property
    def text(self) -> SentenceProcessor:
        """The processor of sentences.

        Raises:
            ConfigError: if there is none.
        """
        processor = self.processors.get("text")
        if not isinstance(processor, SentenceProcessor):
            raise ConfigError("This language decoder has no tokenizer: load it with one to read and write text.")
        return processor

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end a text."""
        return tuple(dict.fromkeys((self.text.eos_id, *self.config.ends)))

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return the mean of ``-log p(token | those before it)`` over all tokens but the first, ends included, in nats."""
        logits_NV, target_N = self.predicted(batch["text"])
        total = F.cross_entropy(logits_NV.float(), target_N)
        return Losses(total, {"bits": total.detach() / math.log(2)})

    def predicted(self, tokens_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits ``(N, V)`` and the N tokens that they predict, of encoded sentences, short ones first.

        Sentences of about one length are read together, so that less of what is read is padding.
        """
        real_BL = self.text.real(tokens_BL)
        order_B = real_BL.sum(1).argsort(stable=True)
        hidden, targets = [], []
        for rows in order_B.split(max(math.ceil(len(order_B) / GROUPS), 1)):
            longest = int(real_BL[rows].sum(1).max())
            part_BL, kept_BL = tokens_BL[rows, :longest], real_BL[rows, 1:longest]
            hidden.append(self.network.hidden(part_BL[:, :-1])[kept_BL])
            targets.append(part_BL[:, 1:][kept_BL])
        return self.network.logits(torch.cat(hidden)), torch.cat(targets)

    # --8<-- [end:loss]

    def log_probabilities(self, tokens_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``(N,)`` log probabilities of encoded sentences' tokens, log normalisers, and which are likeliest."""
        logits_NV, target_N = self.predicted(tokens_BL)
        normaliser_N = logits_NV.float().logsumexp(1)
        chosen_N = logits_NV.gather(1, target_N.unsqueeze(1)).squeeze(1).float() - normaliser_N
        return chosen_N, normaliser_N, logits_NV.argmax(1) == target_N

    @torch.no_grad()
    def write(
        self,
        prompts: Sequence[str | Tensor],
        most: int = MOST,
        *,
        sampling: Sampling = GREEDY,
        seed: int = 0,
        beams: int = 1,
        length_penalty: float = 1.0,
        rule: Rule | None = None,
    ) -> list[str]:
        """Return what follows each prompt, without it.

        Args:
            prompts: texts, or vectors ``(P, D)`` that stand in the place of tokens (all texts, or all vectors).
            most: so many tokens at most.
            sampling: how each is chosen; the most probable by default.
            seed: of what is drawn; text i depends on ``seed + i`` alone.
            beams: more than 1 searches with so many, and does not sample.
            length_penalty: of the beams.
            rule: what may come next (:mod:`intermodal.decode.rules`).

        Raises:
            DataError: if there is no prompt, one is empty or longer than the context.
        """
        prompt, stepper = self._prompted(prompts)
        if beams > 1:
            found = beam_search(
                stepper, prompt, most, beams=beams, end=self.ends, length_penalty=length_penalty, rule=rule
            )
            return self.text.decode_each([row[0].tokens for row in found], self.ends)
        drawn = [torch.Generator().manual_seed(seed + i) for i in range(len(prompt))]
        made_BN = generate(stepper, prompt, most, sampling=sampling, generator=drawn, end=self.ends, rule=rule)
        return self.text.decode_each(made_BN, self.ends)

    def stream(
        self,
        prompt: str | Tensor,
        most: int = MOST,
        *,
        sampling: Sampling = GREEDY,
        seed: int = 0,
        rule: Rule | None = None,
    ) -> Iterator[str]:
        """Yield what follows a prompt in pieces as they are written; together they are what :meth:`write` returns."""
        start, stepper = self._prompted([prompt])
        drawn = torch.Generator().manual_seed(seed)
        yield from self.pieces(
            stream(stepper, start, most, sampling=sampling, generator=drawn, end=self.ends, rule=rule)
        )

    def pieces(self, steps: Iterable[Token]) -> Iterator[str]:
        """Yield the text of one sequence's tokens, as soon as there is more of it."""
        made: list[Tensor] = []
        written = text = ""
        for step in steps:
            made.append(step.token_B)
            text = self.text.decode_each([torch.cat(made)], self.ends)[0]
            if len(text) > len(written) and not text.endswith("\ufffd"):  # half a character waits for its other half
                yield text[len(written) :]
                written = text
        if len(text) > len(written):
            yield text[len(written) :]

    def _prompted(self, prompts: Sequence[str | Tensor]) -> tuple[Tensor, TransformerStepper]:
        rows = [p if isinstance(p, Tensor) else self.text.prompt(p) for p in prompts]
        prompt, padding_B = side_by_side(rows)
        padding_B = None if padding_B is None else padding_B.to(self.device)
        return prompt.to(self.device), TransformerStepper(self.network, padding_B=padding_B)

    def generate(self, count: int, *, prompt: str | None = None, seed: int = 0, steps: int | None = None) -> list[Any]:
        """Return texts that begin with a prompt.

        Args:
            count: how many, at least 1.
            prompt: what they begin with; None or an empty text for nothing.
            seed: of the first; the next has the next.
            steps: at most so many further tokens; 40 by default.

        Raises:
            DataError: if ``count`` or ``steps`` is below 1, or the prompt is longer than the context.
        """
        check_generation(count, steps)
        prompt = prompt or ""
        made = self.write([prompt] * count, MOST if steps is None else steps, sampling=SAMPLED, seed=seed)
        return [prompt + text if prompt else text.strip() for text in made]

    def health(self) -> list[str]:
        """Return no warning: what a language model learns shows in its loss."""
        return []

    def train_flops(self, batch_size: int) -> float:
        """Return 0: the work of a step depends on how many tokens its sentences hold."""
        del batch_size
        return 0.0


def check_language(found: Method, path: str) -> LanguageDecoder:
    """Return a loaded model as a language decoder.

    Raises:
        DataError: if it is none.
    """
    if not isinstance(found, LanguageDecoder):
        raise DataError(f"{path} holds the method {found.id!r}, which is no language decoder: give a GPT-2 or a Llama.")
    return found

"""DALL-E: one transformer writes a text and then the codes of a picture that shows it (Ramesh et al. 2021).

A tokenizer, trained before and frozen, turns a picture into codes. Text and codes are one sequence, and a causal transformer
learns ``p(text, codes)``, a token at a time. To draw, it is given the text and goes on with codes, which are decoded. Some
texts are not told in training, so that it knows pictures of nothing in particular as well, and what the text changes can be
exaggerated (classifier-free guidance; Crowson 2021, CogView).

Shapes: B pictures, C, H, W channels, height and width in pixels; T places of a text, V tokens of texts; L codes of a
picture, K codes of the codebook, P of them given; D width of the transformer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from intermodal.core.errors import ConfigError, DataError
from intermodal.core.fields import SEED
from intermodal.core.registry import MethodCard
from intermodal.data.processors import Processor, TextProcessor
from intermodal.decode.generate import generate
from intermodal.decode.sampling import Sampling
from intermodal.decode.stepper import GuidedStepper, Stepper, TransformerStepper
from intermodal.losses.distributed import all_reduce_sum, rank_and_world
from intermodal.methods.base import Batch, Losses, check_generation, generator_of
from intermodal.methods.image_generation.rerank import best, check_judge
from intermodal.methods.image_generation.text import TEXT, check_seeds, checked_prompts
from intermodal.methods.image_tokenizers.over_codes import OverCodes, OverCodesConfig, codebook_of
from intermodal.methods.image_tokenizers.tokenizer import IMAGE, ImageTokenizer, evaluating
from intermodal.nn.causal import CausalConfig
from intermodal.nn.text_codes import TextCodesTransformer, joint_sizes

CARD = MethodCard(
    id="dalle",
    title="DALL-E: one transformer over text and the codes of a picture, reranked by CLIP",
    paper="Ramesh et al. 2021",
    cls="DALLE",
    capabilities=("reconstruct", "generate", "complete"),
    recipes=("dalle",),
    reference="transformers GPT2LMHeadModel; exact",
)

ANY = Sampling()
CANDIDATES = 8
"""So many pictures are drawn for each that is kept, where a judge chooses."""
PROBE = 16
"""Training samples that are kept to look at the model's health."""


@dataclass(frozen=True, kw_only=True)
class DALLEConfig(OverCodesConfig):
    """What a DALL-E is made of.

    Attributes:
        network: the transformer; ``vocab_size``, ``outputs`` and ``context_length`` follow from texts and codes, and
            :meth:`DALLE.over` sets them.
        text_weight: of the texts' cross entropy in the loss; the codes' has the rest (the paper's 1/8 and 7/8).
        untold: the share of the training pictures whose text is not told.
        sampling: how a code is chosen when pictures are drawn.
        guidance: how strongly the text is followed when pictures are drawn: 1 as trained, more to exaggerate.

    Raises:
        ConfigError: if a number is out of range.
    """

    network: CausalConfig
    text_weight: float = 0.125
    untold: float = 0.1
    sampling: Sampling = ANY
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.text_weight < 1 or not 0 <= self.untold <= 1:
            raise ConfigError(
                f"DALL-E: text_weight must be from 0 to below 1 and untold in 0..1, found {self.text_weight} and "
                f"{self.untold}."
            )
        if not math.isfinite(self.guidance):
            raise ConfigError(f"A guidance scale must be a finite number, found {self.guidance}.")


class DALLE(OverCodes):
    """A frozen tokenizer and a transformer over texts and its codes; see the module's text.

    Args:
        config: both.
        processors: ``image``, that of the tokenizer, and ``text``, whose texts end with its ``eos_id``.

    Raises:
        ConfigError: if the tokenizer's latent is not of codes, or the transformer's sizes are not those of texts and codes.
    """

    id = "dalle"
    takes_prompt = True
    config: DALLEConfig

    def __init__(self, config: DALLEConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        wanted = self.sizes(self.tokenizer, self.text)
        found = {name: getattr(config.network, name) for name in wanted}
        if found != wanted:
            raise ConfigError(f"DALL-E: these texts and codes need a network of {wanted}, found {found}.")
        self.network = TextCodesTransformer(config.network, codes=self.codebook_size, grid=self.latent_shape())
        self.needs = {"image": IMAGE, "text": TEXT, "seed": SEED}
        self._seen: tuple[Tensor, Tensor] | None = None

    @classmethod
    def over(cls, tokenizer: ImageTokenizer, text: TextProcessor, network: CausalConfig, **settings: object) -> DALLE:
        """Return an untrained DALL-E over the codes of a trained tokenizer, whose weights are copied.

        Args:
            tokenizer: whose latent is of codes.
            text: the texts' processor.
            network: width, depth and so on of the transformer; what follows from texts and codes is set.
            settings: the other attributes of :class:`DALLEConfig`.

        Raises:
            ConfigError: if the tokenizer's latent is of real numbers.
        """
        config = DALLEConfig(
            tokenizer=tokenizer.config,
            method=tokenizer.id,
            network=network.replace(**cls.sizes(tokenizer, text)),
            **settings,  # type: ignore[arg-type]
        )
        model = cls(config, {"image": tokenizer.processors["image"], "text": text})
        model.tokenizer.load_state_dict(tokenizer.state_dict())
        return model

    @staticmethod
    def sizes(tokenizer: ImageTokenizer, text: TextProcessor) -> dict[str, int]:
        """Return the sizes of a network over texts and a tokenizer's codes.

        Raises:
            ConfigError: if its latent is of real numbers.
        """
        return joint_sizes(
            codes=codebook_of(tokenizer),
            words=text.vocab_size,
            text_length=text.context_length,
            grid=tokenizer.latent_shape(),
        )

    @property
    def text(self) -> TextProcessor:
        """The processor of texts."""
        processor = self.processors["text"]
        assert isinstance(processor, TextProcessor)
        return processor

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return the weighted sum of the mean cross entropies of the texts' tokens and of the codes, in nats.

        A text that is not told, and what stands behind the end of a text, is not to be predicted. ``text_bits`` and ``bits``
        are those of one text and of one picture's codes.
        """
        config, text_BT, codes_BL = self.config, batch["text"], self.codes(batch["image"])
        told_B = torch.ones(len(text_BT), dtype=torch.bool, device=text_BT.device)
        if self.training:
            drawn_B = torch.rand(len(text_BT), generator=generator_of(batch)).to(text_BT.device)
            told_B = drawn_B >= config.untold
            self._seen = text_BT[:PROBE], codes_BL[:PROBE]
        text_BT = torch.where(told_B.unsqueeze(1), text_BT, self.tokens_of([""]))

        word_logits_BTV, code_logits_BLK = self.network.both_logits(self.sequence(text_BT), codes_BL)
        nats_BT = F.cross_entropy(word_logits_BTV.float().transpose(1, 2), text_BT[:, 1:], reduction="none")
        counts_BT = told_B.unsqueeze(1) & ~self.ended(text_BT)[:, 1:]
        words = all_reduce_sum(counts_BT.sum()) / rank_and_world()[1]
        text = (nats_BT * counts_BT).sum() / words.clamp(min=1)
        image = F.cross_entropy(code_logits_BLK.float().flatten(0, 1), codes_BL.flatten())
        total = config.text_weight * text + (1 - config.text_weight) * image
        # --8<-- [end:loss]
        parts = {
            "bits": image.detach() * self.length / math.log(2),
            "text_bits": (nats_BT.detach() * counts_BT).sum() / told_B.sum().clamp(min=1) / math.log(2),
            "right": (code_logits_BLK.detach().argmax(-1) == codes_BL).float().mean(),
        }
        return Losses(total, parts)

    def tokens_of(self, texts: Sequence[str]) -> Tensor:
        """Return the token ids ``(B, T)`` of texts, on the model's device; of nothing, those of an empty text."""
        return self.text(texts).to(self.device)

    def ended(self, text_BT: Tensor) -> Tensor:
        """Return what stands behind the first end of each text, bool ``(B, T)``."""
        end_BT = text_BT == self.text.eos_id
        return end_BT.cumsum(1) - end_BT.long() > 0

    def sequence(self, text_BT: Tensor) -> Tensor:
        """Return token ids of texts as the transformer reads them, ``(B, T)``."""
        return self.network.sequence(text_BT, self.ended(text_BT))

    def logits(self, codes_BL: Tensor, text_BT: Tensor | None = None) -> Tensor:
        """Return logits ``(B, L, K)`` of every code given the text and the codes before it.

        Args:
            codes_BL: of pictures.
            text_BT: token ids of their texts; None tells none.
        """
        text_BT = self.tokens_of([""]).expand(len(codes_BL), -1) if text_BT is None else text_BT
        return self.network.both_logits(self.sequence(text_BT), codes_BL)[1]

    def text_bits(self, text_BT: Tensor) -> Tensor:
        """Return ``-log2`` of the probability of texts with these token ids, ``(B,)``, given that they begin as texts do."""
        x_BTD = self.network.hidden(self.sequence(text_BT)[:, :-1])
        return (self.bits_of(text_BT[:, 1:], self.network.word_logits(x_BTD)) * ~self.ended(text_BT)[:, 1:]).sum(1)

    def rate(self, image_BCHW: Tensor) -> Tensor:
        """Return ``-log2 p(codes)`` of each prepared picture, ``(B,)``, no text being told."""
        codes_BL = self.codes(image_BCHW)
        return self.bits_of(codes_BL, self.logits(codes_BL)).sum(1)

    # The capability: new pictures.

    def generate(
        self,
        count: int,
        *,
        prompt: str | None = None,
        seed: int = 0,
        steps: int | None = None,
        rerank: object = None,
        candidates: int = CANDIDATES,
    ) -> list[Image.Image]:
        """Return pictures of one prompt, as PIL images.

        Args:
            count: how many, at least 1.
            prompt: what they are to show; None or an empty text for nothing in particular.
            seed: of the first; the next has the next.
            steps: has no meaning here: a picture takes as many steps as it has codes.
            rerank: a model that embeds pictures and texts (a CLIP), which chooses among candidates; None for no choice.
            candidates: how many are drawn for each that is kept, at least 1.

        Raises:
            DataError: if ``count`` or ``steps`` is below 1, the prompt is too long, or there is no prompt to choose by.
            ConfigError: if ``rerank`` does not embed pictures and texts.
        """
        check_generation(count, steps)
        if rerank is None:
            return self.candidates(count, prompt, seed)
        check_judge(rerank)
        if not prompt or candidates < 1:
            raise DataError(
                "Pictures are chosen among candidates, at least 1 for each, by how well they show a prompt."
            )
        drawn = self.candidates(candidates * count, prompt, seed)
        return [drawn[i] for i in best(drawn, prompt, count, rerank)[0]]

    def candidates(self, count: int, prompt: str | None = None, seed: int = 0, **settings: Any) -> list[Image.Image]:
        """Return pictures of one prompt with the seeds ``seed``, ``seed + 1`` and so on; :meth:`drawn` says the rest.

        Args:
            count: how many, at least 1.
            prompt: what they are to show; None for nothing in particular.
            seed: of the first.
            settings: ``sampling`` and ``guidance`` of :meth:`drawn`.
        """
        check_generation(count)
        return self.drawn([prompt] * count, [seed + i for i in range(count)], **settings)

    def complete(
        self,
        images: Sequence[Image.Image],
        keep: float = 0.5,
        *,
        prompt: str | Sequence[str | None] | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> list[Image.Image]:
        """Return pictures whose upper part is that of given ones, as the tokenizer knows it, and whose lower part is drawn.

        Args:
            images: PIL images of any size.
            keep: the share of the rows of codes that is kept, 0 to 1, to the nearest row; their codes stay exactly.
            prompt: what the whole is to show: one text for all, one for each, or None.
            seed: of the first picture; the next has the next.
            settings: ``sampling`` and ``guidance`` of :meth:`drawn`.

        Raises:
            DataError: if ``keep`` is not from 0 to 1, a prompt is too long, or there are not as many as pictures.
        """
        if not 0 <= keep <= 1:
            raise DataError(f"Of a picture a share from 0 to 1 can be kept, found {keep}.")
        prompts = [prompt] * len(images) if prompt is None or isinstance(prompt, str) else prompt
        if len(prompts) != len(images):
            raise DataError(f"{len(images)} pictures need one prompt or as many, found {len(prompts)}.")
        height, seeds = self.latent_shape()[0], [seed + i for i in range(len(images))]
        rows = math.floor(keep * height + 0.5)
        given_BP = torch.from_numpy(self.encode(images))[:, :rows].flatten(1)
        return self.drawn(prompts, seeds, given_BP=given_BP, **settings)

    def drawn(
        self,
        prompts: Sequence[str | None],
        seeds: Sequence[int],
        *,
        given_BP: Tensor | None = None,
        sampling: Sampling | None = None,
        guidance: float | None = None,
    ) -> list[Image.Image]:
        """Return one picture for each prompt and seed, as PIL images.

        Args:
            prompts: what each is to show; None for nothing in particular.
            seeds: as many, at least 0. A picture does not depend on those drawn with it, but for rounding.
            given_BP: the codes that each picture begins with, P from 0 to L; None for none.
            sampling: how codes are chosen; the model's own way by default.
            guidance: how strongly texts are followed; as the model's configuration says by default.

        Raises:
            DataError: if a prompt is too long, there are not as many seeds as prompts, or one is negative.
            ConfigError: if ``guidance`` is not finite.
        """
        texts, config = checked_prompts(prompts, takes=True), self.config
        config = config if guidance is None else config.replace(guidance=guidance)
        chosen = sampling or config.sampling
        check_seeds(seeds, texts)
        codes_BP = torch.empty(len(texts), 0, dtype=torch.int64) if given_BP is None else given_BP
        found: list[Image.Image] = []
        for first in range(0, len(texts), self.chunk):
            part = slice(first, first + self.chunk)
            noise = [torch.Generator().manual_seed(seed) for seed in seeds[part]]
            begun_BP, text_BT = codes_BP[part].to(self.device), self.tokens_of(texts[part])
            found += self.pictures(self.continued(begun_BP, text_BT, noise, sampling=chosen, guidance=config.guidance))
        return found

    # --8<-- [start:draw]
    @torch.no_grad()
    def continued(
        self,
        codes_BP: Tensor,
        text_BT: Tensor,
        noise: Sequence[torch.Generator],
        *,
        sampling: Sampling | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """Return the codes ``(B, L)`` of pictures that begin with the codes given ``(B, P)``, P from 0 to L.

        Args:
            codes_BP: on the model's device.
            text_BT: token ids of the pictures' texts.
            noise: of each picture, on the CPU.
            sampling: how codes are chosen; the model's own way by default.
            guidance: how strongly texts are followed; other than 1 it costs twice as much.
        """
        left = self.length - codes_BP.shape[1]
        if not left:
            return codes_BP
        nothing_BT = self.tokens_of([""]).expand_as(text_BT)
        prompt_BP, without_BP = (torch.cat([self.sequence(text), codes_BP], 1) for text in (text_BT, nothing_BT))
        with evaluating(self):
            plain = TransformerStepper(self.network, self.network.code_logits)  # words are no codes: none can be drawn
            stepper: Stepper[Any] = plain if guidance == 1 else GuidedStepper(plain, without_BP, guidance)
            chosen = sampling or self.config.sampling
            made_BL = generate(stepper, prompt_BP, left, sampling=chosen, generator=noise)
        return torch.cat([codes_BP, made_BL], 1)

    # --8<-- [end:draw]

    @torch.no_grad()
    def health(self) -> list[str]:
        """Warn of texts that change nothing, and of codes that are few or that the model never expects."""
        if self._seen is None:
            return []
        text_BT, codes_BL = self._seen
        with evaluating(self):
            told_BLK, untold_BLK = self.logits(codes_BL, text_BT), self.logits(codes_BL)
        told, untold = (float(self.bits_of(codes_BL, x).sum(1).mean()) for x in (told_BLK, untold_BLK))
        warnings = []
        if told > 0.995 * untold and len(text_BT.unique(dim=0)) > 1:
            warnings.append(
                f"The texts say nothing to it: codes cost {told:.1f} bits a picture with their text and {untold:.1f} "
                "without, so it draws the same for every prompt. Train longer, or look whether texts and pictures belong "
                "together."
            )
        shares = told_BLK.float().softmax(-1).mean((0, 1)), codes_BL.flatten().bincount() / codes_BL.numel()
        expected, occurring = (float(torch.special.entr(share_K).sum().exp()) for share_K in shares)
        if expected < 0.25 * occurring:
            warnings.append(
                f"It expects about {expected:.0f} codes where about {occurring:.0f} occur: most codes are never drawn. Its "
                "learning rate may be too high."
            )
        return warnings

    def train_flops(self, batch_size: int) -> float:
        """Return the transformer's operations of one step: forward once, backward twice as many; the tokenizer's not."""
        return 3.0 * batch_size * self.network.flops()

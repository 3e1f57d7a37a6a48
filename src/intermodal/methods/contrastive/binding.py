"""Binding: every modality is paired with pictures alone, and so with every other (ImageBind, Girdhar et al. 2023).

Each modality M has a tower of its own and is trained with InfoNCE against the pictures, with a temperature of its own
(Girdhar 2023, equation 1, in both directions): L = sum over M of (L_I,M + L_M,I) / 2. Two modalities that were never seen
together meet in the pictures' space: their alignment *emerges*. Here the modalities are texts, line drawings and sounds.
Of sounds there are few that differ (spoken words) and each has pictures of its own, so those of one word are all positives.

Beside the joint space there is a cross-modal block: a text's tokens attend to the picture's and a binary classifier says
whether the two belong together, trained on the hardest pairs of the batch (ALBEF, Li et al. 2021, section 3.2). It is
slower than a dot product and sees more; its attention says where in the picture a word was looked for.

Shapes: B batch, C channels, H height, W width, L text length, S picture tokens, D embedding, A attention heads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.fields import SEED, Field
from intermodal.core.registry import MethodCard
from intermodal.data.processors import Processor
from intermodal.data.spoken import KEY, SOUNDING
from intermodal.data.transcripts import AUDIO, AudioProcessor
from intermodal.losses.contrastive import info_nce
from intermodal.methods.base import Batch, Losses, Method, generator_of
from intermodal.nn.cross import CrossBlock
from intermodal.nn.resnet import STRIDE, ModifiedResNet, ResNetConfig
from intermodal.nn.sound import SoundConfig, SoundTower
from intermodal.nn.text import TextConfig, TextTransformer
from intermodal.nn.vit import VisionTransformer, ViTConfig

CARD = MethodCard(
    id="binding",
    title="Binding: modalities that meet in the pictures' space, and a cross-modal attention block",
    paper="Girdhar et al. 2023 (ImageBind); Li et al. 2021 (ALBEF's matching)",
    cls="Binding",
    capabilities=("embed",),
    recipes=("binding", "binding-sound"),
    reference="exact: InfoNCE pair by pair, the matching loss and the attention maps in float64",
)

MAX_LOGIT_SCALE = math.log(100.0)
PICTURES = ("image", "sketch")
"""Modalities whose tower takes pictures."""


@dataclass(frozen=True, kw_only=True)
class BindingConfig(Config):
    """What a binding model is made of.

    Attributes:
        image: the tower of the pictures, to which all else is bound.
        text: the tower of texts.
        sketch: the tower of line drawings; None for none.
        sound: the tower of sounds; None for none.
        embed_dim: D, the size of the joint space.
        init_logit_scale: each modality's learnt scale at the start, before the logarithm.
        cross_heads: A, of the cross-modal block.
        match_weight: of the matching loss beside the contrastive ones; 0 leaves the block untrained and out.
        candidates: how many other pictures (and texts) of the batch a hard negative is drawn among.
    """

    image: ViTConfig | ResNetConfig
    text: TextConfig
    sketch: ViTConfig | ResNetConfig | None = None
    sound: SoundConfig | None = None
    embed_dim: int = 256
    init_logit_scale: float = 1 / 0.07
    cross_heads: int = 4
    match_weight: float = 0.5
    candidates: int = 16

    def __post_init__(self) -> None:
        if self.match_weight < 0 or self.candidates < 1:
            raise ConfigError(
                f"Binding: match_weight must not be negative and candidates at least 1, found {self.match_weight} and "
                f"{self.candidates}."
            )


class Binding(Method):
    """Towers around the pictures' space, and a block that looks closer; see the module's text.

    Args:
        config: the architecture.
        processors: ``image``, ``text`` and, with their towers, ``sketch``, and ``audio``, ``audio_image`` and ``audio_key``.
    """

    id = "binding"
    contrasts_batch = True
    config: BindingConfig

    def __init__(self, config: BindingConfig, processors: Mapping[str, Processor]) -> None:
        super().__init__(config, processors)
        configs: dict[str, Any] = {
            "image": config.image,
            "text": config.text,
            "sketch": config.sketch,
            "audio": config.sound,
        }
        self.modalities: tuple[str, ...] = tuple(name for name, tower in configs.items() if tower is not None)
        self.needs = {
            "image": Field((), "image", "a picture"),
            "text": Field((), "str", "a text that describes the picture"),
            **({"sketch": Field((), "image", "a line drawing of the picture")} if config.sketch is not None else {}),
            **({"audio": AUDIO, "audio_image": SOUNDING, "audio_key": KEY} if config.sound is not None else {}),
            **({"seed": SEED} if config.match_weight or config.sound is not None else {}),
        }
        self.towers = nn.ModuleDict({name: _tower(configs[name]) for name in self.modalities})
        self.projections = nn.ModuleDict(
            {name: nn.Linear(configs[name].output_dim, config.embed_dim, bias=False) for name in self.modalities}
        )
        for name, projection in self.projections.items():
            nn.init.normal_(cast(nn.Linear, projection).weight, std=configs[name].output_dim ** -0.5)
        scale = math.log(config.init_logit_scale)
        self.logit_scales = nn.ParameterDict({m: nn.Parameter(torch.tensor(scale)) for m in self.modalities[1:]})
        if config.match_weight:
            self.cross = CrossBlock(config.text.width, config.cross_heads, _token_width(config.image))
            self.match_head = nn.Linear(config.text.width, 1)
        self._seen: dict[str, Tensor] = {}

    def encode(self, modality: str, prepared: Tensor, *sound: Any) -> tuple[Tensor, Tensor]:
        """Return unit vectors ``(B, D)`` and tokens ``(B, S, C)`` of prepared inputs of one modality.

        Sounds come with what else their tower takes: their lengths, and a generator where a part of them is to be hidden.
        """
        tower = self.towers[modality]
        pooled, tokens = tower(prepared, *sound)
        if isinstance(tower, VisionTransformer) and tower.config.pool == "cls":
            tokens = tokens[:, 1:]
        return F.normalize(self.projections[modality](pooled), dim=-1), tokens

    # --8<-- [start:loss]
    def loss(self, batch: Batch) -> Losses:
        """Return the loss of prepared ``image`` ``(B, C, H, W)`` and ``text`` ``(B, L)``, and ``sketch`` like ``image``.

        InfoNCE of every modality against the pictures, over the global batch, and the matching loss over this process's
        own pairs. With sounds also of ``audio`` ``(B, T)``, ``audio_length`` and ``audio_key`` ``(B,)`` against
        ``audio_image``, likewise over this process's own.
        """
        image, patches = self.encode("image", batch["image"])
        parts: dict[str, Tensor] = {}
        total = image.new_zeros(())
        if self.config.sound is not None:
            total = total + self._sounds(batch, parts)
        for modality in [m for m in self.modalities[1:] if m != "audio"]:
            vectors, tokens = self.encode(modality, batch[modality])
            scale = self.logit_scales[modality].clamp(max=MAX_LOGIT_SCALE).exp()
            bound = info_nce(image, vectors, scale)
            total = total + bound
            parts |= {f"{modality}_loss": bound.detach(), f"{modality}_scale": scale.detach()}
            if modality == "text" and self.config.match_weight and len(image) > 1:
                match, right = self._match(image, patches, vectors, tokens, scale, batch)
                total = total + self.config.match_weight * match
                parts |= {"match_loss": match.detach(), "match_accuracy": right}
        self._seen = parts
        return Losses(total, parts)

    def _sounds(self, batch: Batch, parts: dict[str, Tensor]) -> Tensor:
        """Return the loss of sounds against their pictures, and note it: all pictures of a sound's key are right."""
        pictures, _ = self.encode("image", batch["audio_image"])
        hiding = generator_of(batch) if self.training else None
        sounds, _ = self.encode("audio", batch["audio"], batch["audio_length"], hiding)
        scale = self.logit_scales["audio"].clamp(max=MAX_LOGIT_SCALE).exp()
        bound = shared_info_nce(pictures, sounds, scale, batch["audio_key"])
        parts |= {"audio_loss": bound.detach(), "audio_scale": scale.detach()}
        return bound

    def _match(  # noqa: PLR0917 (two encoded sides, their scale and where randomness comes from)
        self, image: Tensor, patches: Tensor, text: Tensor, words: Tensor, scale: Tensor, batch: Batch
    ) -> tuple[Tensor, Tensor]:
        """Return the binary cross entropy over true pairs and one hard negative either way, and its accuracy."""
        generator, count = generator_of(batch), len(image)
        with torch.no_grad():
            wrong_image = hard_negatives(text, image, scale, self.config.candidates, generator)
            wrong_text = hard_negatives(image, text, scale, self.config.candidates, generator)
        tokens = batch["text"]
        logits = torch.cat(
            [
                self.match(words, tokens, patches),
                self.match(words, tokens, patches[wrong_image]),
                self.match(words[wrong_text], tokens[wrong_text], patches),
            ]
        )
        target = torch.cat([torch.ones(count), torch.zeros(2 * count)]).to(logits)
        loss = F.binary_cross_entropy_with_logits(logits.float(), target.float())
        return loss, ((logits.detach() > 0) == (target > 0)).float().mean()

    def match(self, words_BLD: Tensor, tokens_BL: Tensor, patches_BSC: Tensor) -> Tensor:
        """Return a logit ``(B,)`` of each text and picture belonging together: the mean over the text's own tokens."""
        read_BLD = self.cross(words_BLD, patches_BSC)
        own_BL1 = (tokens_BL != self.config.text.pad_id).unsqueeze(-1).to(read_BLD.dtype)
        return self.match_head((read_BLD * own_BL1).sum(1) / own_BL1.sum(1).clamp(min=1))[:, 0]

    # --8<-- [end:loss]

    def health(self) -> list[str]:
        """Warn of a modality whose temperature has reached its bound."""
        return [
            f"The temperature of {modality} has reached its bound (scale 100): its pairs are fitted almost exactly."
            for modality in self.modalities[1:]
            if float(self._seen.get(f"{modality}_scale", 0.0)) > 99.0
        ]

    @torch.inference_mode()
    def embed(self, modality: str, inputs: Sequence[Any]) -> np.ndarray:
        """Return float32 unit vectors ``(len(inputs), D)``.

        ``image`` and ``sketch`` take PIL images, ``text`` strings, ``audio`` recordings (paths, bytes, Waveforms).
        """
        if modality not in self.modalities:
            raise DataError(f"This model embeds {', '.join(self.modalities)}, not {modality!r}.")
        if not inputs:
            return np.zeros((0, self.config.embed_dim), np.float32)
        if modality == "audio":
            heard = cast(AudioProcessor, self.processors["audio"]).batch(inputs, self.device)
            return self._in_eval(lambda: self.encode("audio", *heard)[0]).numpy()
        return self._in_eval(lambda: self.encode(modality, self._prepared(modality, inputs))[0]).numpy()

    @torch.inference_mode()
    def match_scores(self, images: Sequence[Image.Image], texts: Sequence[str]) -> np.ndarray:
        """Return logits ``(len(images), len(texts))`` of each pair by the cross-modal block.

        Raises:
            ConfigError: if the model has no block.
        """
        self._check_block()

        def scores() -> Tensor:
            tokens = self._prepared("text", texts)
            words = self.towers["text"](tokens)[1]
            patches = self.encode("image", self._prepared("image", images))[1]
            rows = [self.match(words, tokens, patch.expand(len(tokens), -1, -1)) for patch in patches]
            return torch.stack(rows)

        return self._in_eval(scores).numpy()

    @torch.inference_mode()
    def attention_map(self, image: Image.Image, text: str) -> tuple[list[str], np.ndarray]:
        """Return a text's tokens and where in the picture each looks: ``(tokens, rows, columns)``, the mean over heads.

        Each map sums to one over the picture.

        Raises:
            ConfigError: if the model has no block.
        """
        self._check_block()

        def weights() -> Tensor:
            words = self.towers["text"](tokens)[1]
            patches = self.encode("image", self._prepared("image", [image]))[1]
            return self.cross.weights(words, patches)[0].mean(0)

        tokens = self._prepared("text", [text])
        own = (tokens[0] != self.config.text.pad_id).nonzero()[:, 0]
        decode: Any = self.processors["text"]
        names = [decode.tokenizer.decode([int(t)], skip_special_tokens=False) for t in tokens[0, own]]
        maps_LS = self._in_eval(weights)[own.cpu()]
        rows, columns = _grid(self.config.image)
        return names, maps_LS.reshape(len(own), rows, columns).numpy()

    def _check_block(self) -> None:
        if not self.config.match_weight:
            raise ConfigError("This model was trained without its cross-modal block (match_weight 0).")

    def _prepared(self, modality: str, inputs: Sequence[Any]) -> Tensor:
        return self.processors[modality](inputs).to(self.device)

    def _in_eval(self, function: Any) -> Tensor:
        with self.evaluating():
            out: Tensor = function()
        return out.float().cpu()

    def train_flops(self, batch_size: int) -> float:
        """Return the operations of one step of all towers; the block's are left out (a few per cent)."""
        sketch = self.config.sketch.flops() if self.config.sketch is not None else 0
        return 3.0 * batch_size * (self.config.image.flops() + self.config.text.flops() + sketch)


def shared_info_nce(image_BD: Tensor, other_BD: Tensor, scale: Tensor, key_B: Tensor) -> Tensor:
    """Return InfoNCE where all rows of one key belong together, the mean of both directions.

    The target of a row is evenly shared among the rows of its key: with different keys it is InfoNCE itself (Girdhar 2023,
    equation 1; the shared target is UniCL's, Yang et al. 2022, equation 2).

    Args:
        image_BD: unit vectors.
        other_BD: unit vectors.
        scale: inverse temperature.
        key_B: int64.
    """
    target_BB = (key_B[:, None] == key_B[None, :]).float()
    target_BB = target_BB / target_BB.sum(1, keepdim=True)  # symmetric: rows of one key have the same sum
    logits_BB = scale.float() * image_BD.float() @ other_BD.float().T
    return (F.cross_entropy(logits_BB, target_BB) + F.cross_entropy(logits_BB.T, target_BB)) / 2


def hard_negatives(
    query_BD: Tensor, others_BD: Tensor, scale: Tensor, candidates: int, generator: torch.Generator
) -> Tensor:
    """Return for each query another row of ``others``, drawn by how alike they are.

    Among ``candidates`` rows other than its own, drawn at random, one is taken with probability proportional to
    ``exp(scale * cosine)`` (Li et al. 2021, section 3.2, there over the whole batch: here memory is B x candidates).

    Args:
        query_BD: unit vectors.
        others_BD: unit vectors; row i is the one that belongs to query i and is never returned. B is at least 2.
        scale: inverse temperature.
        candidates: how many rows each query looks at.
        generator: on the CPU.

    Returns:
        int64 ``(B,)``.
    """
    count = len(query_BD)
    steps = torch.randint(1, count, (count, min(candidates, count - 1)), generator=generator).to(query_BD.device)
    rows_BN = (torch.arange(count, device=query_BD.device)[:, None] + steps) % count
    logits_BN = scale.float() * torch.einsum("bd,bnd->bn", query_BD.float(), others_BD[rows_BN].float())
    noise = torch.rand(logits_BN.shape, generator=generator).to(logits_BN).clamp(1e-20, 1 - 1e-7)
    chosen_B = (logits_BN - (-noise.log()).log()).argmax(1)  # the Gumbel-max trick draws from the softmax
    return rows_BN.gather(1, chosen_B[:, None])[:, 0]


def _tower(config: ViTConfig | ResNetConfig | TextConfig | SoundConfig) -> nn.Module:
    if isinstance(config, SoundConfig):
        return SoundTower(config)
    if isinstance(config, TextConfig):
        return TextTransformer(config)
    return VisionTransformer(config) if isinstance(config, ViTConfig) else ModifiedResNet(config)


def _token_width(config: ViTConfig | ResNetConfig) -> int:
    return config.width if isinstance(config, ViTConfig) else config.features


def _grid(config: ViTConfig | ResNetConfig) -> tuple[int, int]:
    """Return rows and columns of the picture's tokens."""
    if isinstance(config, ViTConfig):
        return config.grid
    return config.size[0] // STRIDE, config.size[1] // STRIDE

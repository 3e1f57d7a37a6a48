"""What wav2vec 2.0 is trained to tell apart: quantised frames, masks and negatives (Baevski et al. 2020, sections 2 and 3).

Shapes:

    B recordings   U frames   C channels of the feature encoder   G groups   V codes of a group   N masked frames of the
    batch K negatives of each   E size of the space in which they are compared
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class GumbelConfig(Config):
    """What a :class:`GumbelQuantizer` is built from; the defaults are those of wav2vec 2.0 base.

    Attributes:
        groups: G codebooks, one code of each for a frame.
        codes: V of each.
        dim: of all G codes' vectors together, a multiple of ``groups``.

    Raises:
        ConfigError: if a number is below 1 or ``dim`` is no multiple of ``groups``.
    """

    groups: int = 2
    codes: int = 320
    dim: int = 256

    def __post_init__(self) -> None:
        if min(self.groups, self.codes, self.dim) < 1 or self.dim % self.groups:
            raise ConfigError(
                f"Gumbel quantiser: dim ({self.dim}) must be a multiple of groups ({self.groups}), and all at least 1."
            )


@dataclass(frozen=True)
class Chosen:
    """What a Gumbel quantiser chose.

    Attributes:
        vectors: ``(N, dim)``, the codes' vectors of each group side by side.
        codes: int64 ``(N, G)``.
        mean: ``(G, V)``, how probable each code is on average: softmax of the logits without noise in training, how often
            it was chosen otherwise.
    """

    vectors: Tensor
    codes: Tensor
    mean: Tensor


class GumbelQuantizer(nn.Module):
    """Chooses one code of each group by its logits (section 2, "Quantization module"; Jang et al. 2017).

    In training Gumbel noise is added and the nearest code taken, with the gradient of ``softmax((logits + noise) /
    temperature)``; otherwise the code of the largest logit.

    Args:
        config: the codebooks.
        input_dim: C, of the vectors that are quantised.
    """

    def __init__(self, config: GumbelConfig, input_dim: int) -> None:
        super().__init__()
        self.config = config
        self.logits = nn.Linear(input_dim, config.groups * config.codes)
        self.codebook = nn.Parameter(torch.empty(config.groups, config.codes, config.dim // config.groups))
        nn.init.normal_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)
        nn.init.uniform_(self.codebook)

    # --8<-- [start:quantize]
    def forward(self, z_NC: Tensor, temperature: float | Tensor, generator: torch.Generator | None = None) -> Chosen:
        """Quantise vectors.

        Args:
            z_NC: float (N, C).
            temperature: above 0; of the relaxation in training.
            generator: of the noise, on the CPU; in training only, None for torch's own.
        """
        logits_NGV = self.logits(z_NC).unflatten(-1, (self.config.groups, self.config.codes))
        logits_NGV = logits_NGV.to(torch.promote_types(logits_NGV.dtype, torch.float32))
        if self.training:
            noise_NGV = torch.empty(logits_NGV.shape, dtype=logits_NGV.dtype).exponential_(generator=generator)
            soft_NGV = ((logits_NGV - noise_NGV.log().to(logits_NGV.device)) / temperature).softmax(-1)
            code_NG = soft_NGV.argmax(-1)
            hard_NGV = F.one_hot(code_NG, self.config.codes).to(soft_NGV.dtype)
            weight_NGV, mean_GV = hard_NGV + (soft_NGV - soft_NGV.detach()), logits_NGV.softmax(-1).mean(0)
        else:
            code_NG = logits_NGV.argmax(-1)
            weight_NGV = F.one_hot(code_NG, self.config.codes).to(logits_NGV.dtype)
            mean_GV = weight_NGV.mean(0)
        codebook_GVE = self.codebook.to(weight_NGV.dtype)
        vectors_NGE = torch.einsum("ngv,gve->nge", weight_NGV, codebook_GVE)
        return Chosen(vectors_NGE.flatten(1).to(z_NC.dtype), code_NG, mean_GV)

    # --8<-- [end:quantize]


def perplexity(mean_GV: Tensor) -> Tensor:
    """Return how many codes of equal frequency each group's are worth, ``exp(H)``, shape (G,)."""
    return torch.exp(-torch.xlogy(mean_GV, mean_GV).sum(-1))


def diversity_loss(mean_GV: Tensor, kind: Literal["perplexity", "entropy"] = "perplexity") -> Tensor:
    """Return what a codebook loses by choosing few codes, a scalar.

    Args:
        mean_GV: the mean probability of each code.
        kind: ``entropy`` is ``- H / (G V)`` summed over groups, as the paper has it (equation 4); ``perplexity`` is
            ``(G V - sum exp(H)) / (G V)``, 0 for equal use, as its published code and transformers have it.
    """
    if kind == "entropy":
        return torch.xlogy(mean_GV, mean_GV).sum() / mean_GV.numel()
    return 1 - perplexity(mean_GV).sum() / mean_GV.numel()


# --8<-- [start:contrastive]
def contrastive_logits(  # noqa: PLR0917 - one call, in equation 3
    context_NE: Tensor, target_NE: Tensor, code_NG: Tensor, negative_NK: Tensor, count_B: list[int], temperature: float
) -> Tensor:
    """Return the logits of equation 3, ``sim(c_t, q) / kappa``, of the true target and its negatives.

    The cosines of all pairs of an utterance's masked frames are one matrix product; negatives are looked up in it.

    Args:
        context_NE: what the transformer says of each masked frame, the utterances one after the other.
        target_NE: the quantised target of each.
        code_NG: the codes that the targets are made of; a negative with the target's own codes does not count.
        negative_NK: int64, which masked frames of the whole batch are each one's negatives, all of its own utterance.
        count_B: how many masked frames each utterance has.
        temperature: kappa.

    Returns:
        float (N, 1 + K); the target first, ``-inf`` for negatives that do not count.
    """
    context_NE = F.normalize(context_NE.to(torch.promote_types(context_NE.dtype, torch.float32)), dim=-1)
    target_NE = F.normalize(target_NE.to(context_NE.dtype), dim=-1)
    rows, start = [], 0
    for count in count_B:
        own = slice(start, start + count)
        cosine_nn = context_NE[own] @ target_NE[own].T
        rows.append(torch.cat([cosine_nn.diagonal().unsqueeze(1), cosine_nn.gather(1, negative_NK[own] - start)], 1))
        start += count
    same_NK = (code_NG[negative_NK] == code_NG.unsqueeze(1)).all(-1)
    logits = torch.cat(rows) / temperature
    return torch.cat([logits[:, :1], logits[:, 1:].masked_fill(same_NK, float("-inf"))], 1)


# --8<-- [end:contrastive]


def draw_spans(frames_B: list[int], share: float, length: int, generator: torch.Generator, *, least: int = 2) -> Tensor:
    """Return which frames to mask, bool ``(B, U)``: spans that begin at random frames and may overlap (section 3.1).

    Args:
        frames_B: how many frames each recording has; U is the most.
        share: of the frames, if no spans overlapped: ``share * frames / length`` spans begin, rounded at random.
        length: of a span; a shorter recording has shorter ones.
        generator: of the random numbers, on the CPU.
        least: spans at least, where there is room for as many.
    """
    mask_BU = torch.zeros(len(frames_B), max(frames_B), dtype=torch.bool)
    for row, frames in enumerate(frames_B):
        span = max(1, min(length, frames // 2))
        places = max(frames - span + 1, 1)
        count = int(share * frames / span + torch.rand((), generator=generator).item())
        start_n = torch.randperm(places, generator=generator)[: min(max(count, least), places)]
        mask_BU[row, (start_n.unsqueeze(1) + torch.arange(span)).clamp(max=frames - 1)] = True
    return mask_BU


def draw_negatives(count_B: list[int], negatives: int, generator: torch.Generator) -> Tensor:
    """Return for each masked frame which others of its utterance are its negatives, int64 ``(N, K)``, equally likely.

    Args:
        count_B: how many masked frames each utterance has; none, or at least 2.
        negatives: K.
        generator: of the random numbers, on the CPU.
    """
    rows, start = [torch.empty(0, negatives, dtype=torch.int64)], 0
    for count in count_B:
        if count:
            drawn_nK = torch.randint(0, count - 1, (count, negatives), generator=generator)
            rows.append(drawn_nK + (drawn_nK >= torch.arange(count).unsqueeze(1)) + start)
        start += count
    return torch.cat(rows)

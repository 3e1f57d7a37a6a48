"""When each word was spoken, by where Whisper's decoder attended while it wrote it.

The cross-attention of some heads follows the sound. Their weights, normalised over the tokens, smoothed by a median
filter and averaged, are a picture of tokens by time; the cheapest monotonic path through it (dynamic time warping, Sakoe
& Chiba 1978) says when each token begins. The procedure is that of the published code's word-level timestamps, which the
paper does not describe.

Shapes: L tokens, S positions of the encoder (20 ms each), H heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from intermodal.methods.speech.whisper_tokens import WhisperTokens
from intermodal.nn.whisper import WhisperNetwork


def attention_map(weights_HLS: Tensor, median: int) -> Tensor:
    """Return the picture (L, S) in which the path is sought.

    Args:
        weights_HLS: attention of the heads that follow the sound, each row summing to one at most.
        median: odd, of the filter over time.
    """
    mean, std = weights_HLS.mean(-2, keepdim=True), weights_HLS.std(-2, keepdim=True, unbiased=False)
    even_HLS = (weights_HLS - mean) / std
    half = median // 2
    if even_HLS.shape[-1] > half:
        padded = F.pad(even_HLS, (half, half), mode="reflect")
        even_HLS = padded.unfold(-1, median, 1).sort(-1).values[..., half]
    return even_HLS.mean(0)


def warp(cost_LS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the cheapest monotonic path through a table of costs: rows and columns of its places, first to last.

    A path goes to the next row, the next column, or both; ties go to the next column. One row of the table is computed at a
    time, along its antidiagonals.
    """
    rows, columns = cost_LS.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    came = np.zeros((rows + 1, columns + 1), np.int8)
    total[0, 0] = 0
    for diagonal in range(2, rows + columns + 1):
        i = np.arange(max(1, diagonal - columns), min(rows, diagonal - 1) + 1)
        j = diagonal - i
        both, down, right = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
        came[i, j] = np.where((both < down) & (both < right), 0, np.where((down < both) & (down < right), 1, 2))
        total[i, j] = cost_LS[i - 1, j - 1] + np.choose(came[i, j], [both, down, right])
    came[0, :], came[:, 0] = 2, 1
    i, j, path = rows, columns, []
    while i > 0 or j > 0:
        path.append((i - 1, j - 1))
        step = came[i, j]
        i, j = i - (step != 2), j - (step != 1)
    back = np.array(path[::-1])
    return back[:, 0], back[:, 1]


def token_times(weights_HLS: Tensor, median: int) -> np.ndarray:
    """Return the position, of 20 ms each, at which each token begins, int64 (L,)."""
    picture = attention_map(weights_HLS, median)
    row, column = warp(-picture.double().cpu().numpy())
    return column[np.diff(row, prepend=-1) > 0]


@torch.no_grad()
def word_times(  # noqa: PLR0917 - one call
    network: WhisperNetwork,
    mel_1NM: Tensor,
    prompt: Sequence[int],
    spoken: Sequence[int],
    tokens: WhisperTokens,
    heads: Sequence[tuple[int, int]],
    text: Callable[[Sequence[int]], str],
    *,
    positions: int,
    median: int,
) -> list[tuple[str, float, float, float]]:
    """Return each word of some text with its start and end, in positions of 20 ms, and its mean probability.

    Args:
        network: Whisper's.
        mel_1NM: the window that the text was heard in.
        prompt: what the transcript begins with.
        spoken: the text's tokens.
        tokens: what they mean.
        heads: block and head of the attentions that follow the sound.
        text: the text of tokens.
        positions: of the encoder, which sound fills.
        median: of the filter.
    """
    if not spoken:
        return []
    plain = [t for t in prompt if t != tokens.no_timestamps]
    written = torch.tensor([[*plain, tokens.no_timestamps, *spoken, tokens.end]], device=mel_1NM.device)
    sound_1SD = network.encoder(mel_1NM)
    weights_HLS, logits_LV = attended(network, sound_1SD, written, heads)
    first = len(plain)
    starts = token_times(weights_HLS[:, first:-1, :positions], median)
    asked_L1 = torch.tensor(spoken, device=logits_LV.device).unsqueeze(1)
    sure_L = logits_LV[first : first + len(spoken)].float().softmax(-1).gather(1, asked_L1)
    out = []
    for begin, end, word in split_words(spoken, text):
        out.append((word, float(starts[begin]), float(starts[end]), float(sure_L[begin:end].mean())))
    return out


def attended(
    network: WhisperNetwork, sound_1SD: Tensor, tokens_1L: Tensor, heads: Sequence[tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    """Return where some heads attended while tokens were read, (H, L, S), and the logits after each token, (L, V)."""
    decoder, chosen = network.decoder, {}
    x_1LD = decoder.token_embedding(tokens_1L) + decoder.position_embedding[: tokens_1L.shape[1]]
    for number, block in enumerate(decoder.layers):
        asked_1LD = x_1LD + block.attention(block.norm1(x_1LD))
        if any(b == number for b, _ in heads):
            chosen[number] = block.cross.weights(block.cross_norm(asked_1LD), sound_1SD)[0]
        x_1LD = block(x_1LD, sound_1SD)
    return torch.stack([chosen[b][h] for b, h in heads]), decoder.logits(decoder.norm(x_1LD))[0]


def split_words(spoken: Sequence[int], text: Callable[[Sequence[int]], str]) -> list[tuple[int, int, str]]:
    """Return the words of tokens: first token, the one behind its last, and its text.

    A token that begins with a space begins a word; tokens that only together are a character stay together.
    """
    out: list[tuple[int, int, str]] = []
    begin = 0
    for end in range(1, len(spoken) + 1):
        piece = text(spoken[begin:end])
        if "\ufffd" in piece and end < len(spoken):
            continue
        if piece.startswith(" ") or not out:
            out.append((begin, end, piece))
        else:
            out[-1] = (out[-1][0], end, out[-1][2] + piece)
        begin = end
    return [(a, b, word.strip()) for a, b, word in out if word.strip()]

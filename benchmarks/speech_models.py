"""wav2vec 2.0 and Whisper beside transformers: same random weights, same sound, one run.

wav2vec 2.0 of the base model's size hears 10 s forward, a padded batch with its mask, and does a step of pre-training with
given masks and negatives (forward and backward, without dropout); HuBERT of that size emits CTC's log-probabilities; Whisper
of the tiny model's size writes 64 tokens of 30 s greedily, the encoder's pass included. Beside each stands a mean that all
contenders must share.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import harness
from intermodal.decode.generate import generate
from intermodal.decode.sampling import Sampling
from intermodal.hub.load import load
from intermodal.methods.speech.ctc import CTC
from intermodal.methods.speech.wav2vec2 import Wav2Vec2
from intermodal.methods.speech.whisper import Whisper
from intermodal.methods.speech.whisper_decoding import WhisperStepper
from intermodal.nn.wav2vec2 import frames_up_to

TRANSFORMERS = "pip install transformers==5.23.0"
SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
SMALL_WHISPER = {"d_model": 96, "encoder_layers": 1, "decoder_layers": 1}
START = [50258, 50259, 50359, 50363]
RATE = 16_000


@cache
def wav2vec2(large: bool, quick: bool) -> tuple[Any, Wav2Vec2]:
    """Return transformers' model with random weights, in evaluation mode, and ours with the same."""
    import transformers

    layout = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True} if large else {}
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(**layout, **(SMALL if quick else {}), attn_implementation="sdpa")
    theirs = transformers.Wav2Vec2ForPreTraining(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = load(folder, processors={})
    assert isinstance(ours, Wav2Vec2)
    for layer in ours.encoder.convolutions:
        layer.padded = True  # as transformers, which normalises over padding
    return theirs, ours


def sound(seconds: tuple[float, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noise (B, T), zero behind each recording's end, and lengths (B,)."""
    length = torch.tensor([round(s * RATE) for s in seconds])
    wave = torch.randn(len(seconds), int(length.max()), generator=torch.Generator().manual_seed(0))
    return wave * frames_up_to(length, wave.shape[1]), length


def hearing(large: bool, seconds: tuple[float, ...], quick: bool) -> list[harness.Contender]:
    """Return contenders that turn recordings into frames."""
    padded = len(set(seconds)) > 1

    def make_ours() -> harness.Step:
        (_, ours), (wave, length) = wav2vec2(large, quick), sound(seconds)

        def step() -> float:
            with torch.inference_mode():
                hidden, frames = ours.encoder(wave, length)
                return float(hidden[frames_up_to(frames, hidden.shape[1])].abs().double().mean())

        return step

    def make_theirs() -> harness.Step:
        (theirs, ours), (wave, length) = wav2vec2(large, quick), sound(seconds)
        mask = frames_up_to(length, wave.shape[1]).long() if padded else None
        own = frames_up_to(ours.encoder.frames(length), int(ours.encoder.frames(length).max()))

        def step() -> float:
            with torch.inference_mode():
                hidden = theirs.wav2vec2(wave, attention_mask=mask).last_hidden_state
                return float(hidden[own].abs().double().mean())

        return step

    return [
        harness.Contender("intermodal", make_ours),
        harness.Contender("transformers", make_theirs, TRANSFORMERS),
    ]


@cache
def hubert(quick: bool) -> tuple[Any, CTC]:
    """Return transformers' HuBERT with CTC's last layer and random weights, in evaluation mode, and ours with the same."""
    import transformers

    torch.manual_seed(0)
    config = transformers.HubertConfig(**(SMALL if quick else {}), attn_implementation="sdpa", pad_token_id=0)
    theirs = transformers.HubertForCTC(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = load(folder, processors={})
    assert isinstance(ours, CTC)
    return theirs, ours


def emitting(seconds: float, quick: bool) -> list[harness.Contender]:
    """Return contenders that turn one recording into each frame's log-probabilities of letters."""

    def make_ours() -> harness.Step:
        (_, ours), (wave, length) = hubert(quick), sound((seconds,))

        def step() -> float:
            with torch.inference_mode():
                return float(ours.emit(wave, length)[0].double().mean())

        return step

    def make_theirs() -> harness.Step:
        (theirs, _), (wave, _) = hubert(quick), sound((seconds,))

        def step() -> float:
            with torch.inference_mode():
                return float(theirs(wave).logits.log_softmax(-1).double().mean())

        return step

    return [
        harness.Contender("intermodal", make_ours),
        harness.Contender("transformers", make_theirs, TRANSFORMERS),
    ]


def learning(seconds: tuple[float, ...], quick: bool) -> list[harness.Contender]:
    """Return contenders that do a step of pre-training: loss, and gradients of all parameters."""

    def drawn(frames: int) -> tuple[torch.Tensor, torch.Tensor]:
        from transformers.models.wav2vec2 import modeling_wav2vec2 as module

        np.random.seed(0)
        shape = (len(seconds), frames)
        mask = module._compute_mask_indices(shape, 0.65, 10)
        return torch.from_numpy(mask), torch.from_numpy(module._sample_negative_indices(shape, 100, mask)).long()

    def make_ours() -> harness.Step:
        (_, ours), (wave, length) = wav2vec2(False, quick), sound(seconds)
        mask, negatives = drawn(int(ours.encoder.frames(length).max()))
        numbers = (mask.flatten().cumsum(0) - 1)[negatives[mask]]

        def step() -> float:
            ours.zero_grad()
            loss = ours.contrast(wave, None, mask, numbers).total
            loss.backward()
            return float(loss.detach())

        return step

    def make_theirs() -> harness.Step:
        (theirs, ours), (wave, length) = wav2vec2(False, quick), sound(seconds)
        mask, negatives = drawn(int(ours.encoder.frames(length).max()))

        def step() -> float:
            theirs.zero_grad()
            loss = theirs(wave, mask_time_indices=mask, sampled_negative_indices=negatives).loss / mask.sum()
            loss.backward()
            return float(loss.detach())

        return step

    return [
        harness.Contender("intermodal", make_ours),
        harness.Contender("transformers", make_theirs, TRANSFORMERS),
    ]


@cache
def whisper(quick: bool) -> tuple[Any, Whisper]:
    """Return transformers' Whisper with random weights so large that tokens differ, and ours with the same."""
    import transformers

    torch.manual_seed(0)
    config = transformers.WhisperConfig(**(SMALL_WHISPER if quick else {}), eos_token_id=50257, pad_token_id=50257)
    theirs = transformers.WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.03)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        (Path(folder) / "generation_config.json").unlink(missing_ok=True)
        ours = load(folder, processors={})
    assert isinstance(ours, Whisper)
    return theirs, ours


def writing(batch: int, tokens: int, quick: bool) -> list[harness.Contender]:
    """Return contenders that write tokens of log-mel frames, greedily and without an end."""
    mel = torch.randn(batch, 80, 3000, generator=torch.Generator().manual_seed(0))
    prompt = torch.tensor([START] * batch)

    def make_ours() -> harness.Step:
        _, ours = whisper(quick)
        frames = mel.transpose(1, 2).contiguous()

        def step() -> float:
            with torch.inference_mode():
                stepper = WhisperStepper(ours.network.decoder, ours.network.encoder(frames))
                greedy, generator = Sampling(temperature=0), torch.Generator().manual_seed(0)
                return float(generate(stepper, prompt, tokens, sampling=greedy, generator=generator).double().mean())

        return step

    def make_theirs() -> harness.Step:
        import transformers

        theirs, _ = whisper(quick)
        plain = transformers.GenerationConfig(
            max_new_tokens=tokens, do_sample=False, decoder_start_token_id=START[0], pad_token_id=0, eos_token_id=None
        )

        def step() -> float:
            with torch.inference_mode():
                made = transformers.GenerationMixin.generate(
                    theirs, mel, generation_config=plain, decoder_input_ids=prompt
                )
            return float(made[:, len(START) :].double().mean())

        return step

    return [
        harness.Contender("intermodal", make_ours),
        harness.Contender("transformers", make_theirs, TRANSFORMERS),
    ]


def cases(quick: bool) -> list[harness.Case]:
    """Return hearing, learning and writing."""
    if quick:
        return [
            harness.Case("a tiny wav2vec 2.0, 1 s", hearing(False, (1.0,), True), 1),
            harness.Case("a tiny HuBERT, 1 s", emitting(1.0, True), 1),
            harness.Case("pre-training of it, 2 x 1 s", learning((1.0, 1.0), True), 1),
            harness.Case("a tiny Whisper, 8 tokens", writing(1, 8, True), 1),
        ]
    hear: Callable[..., list[harness.Contender]] = hearing
    return [
        harness.Case("wav2vec 2.0 base hears 10 s", hear(False, (10.0,), False), 3),
        harness.Case(
            "wav2vec 2.0 base, layer norms, hears 10, 7, 5 and 3 s", hear(True, (10.0, 7.0, 5.0, 3.0), False), 3
        ),
        harness.Case("HuBERT base with CTC emits 10 s", emitting(10.0, False), 3),
        harness.Case("wav2vec 2.0 base, a step of pre-training on 2 x 5 s", learning((5.0, 5.0), False), 3),
        harness.Case("Whisper tiny writes 64 tokens of 30 s", writing(1, 64, False), 3),
        harness.Case("Whisper tiny writes 64 tokens of 4 x 30 s", writing(4, 64, False), 3),
    ]

"""How Whisper's tokens become text with times: rules, fallbacks, and windows that follow one another (section 4.5).

Shapes: B recordings, T frames of 10 ms, M mel bins, L tokens, N tokens that were written, V tokens that are known.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError
from intermodal.decode.beam import beam_search
from intermodal.decode.generate import generate_scored
from intermodal.decode.sampling import Sampling
from intermodal.decode.stepper import RuledStepper
from intermodal.methods.speech.whisper_tokens import WhisperTokens, rule
from intermodal.nn.cross import Written
from intermodal.nn.whisper import WhisperDecoder, WhisperNetwork

FRAMES_PER_STEP = 2
"""Frames of sound for one step of time that the tokens can say: 10 ms and 20 ms."""
CALM = 0.5
"""What was decoded at a temperature below this is told to the next window."""


@dataclass(frozen=True, kw_only=True)
class WhisperDecoding(Config):
    """How Whisper decodes, beside what a person asks for; the defaults are the paper's (section 4.5).

    Attributes:
        timestamps: write times, by which long recordings are cut; without them windows follow one another blindly.
        temperatures: tried in turn while the result looks wrong; the first is 0 (greedy, or beams).
        compression_ratio: text that zlib shortens by more than this looks wrong: it repeats itself. None never does.
        log_prob: a mean log-probability of the tokens below this looks wrong. None never does.
        no_speech: where it does, and the probability that nobody speaks is above this, nothing is written. None always
            writes.
        condition: each window is told the text before it.
        most_tokens: of one window; None for as many as there is room for.

    Raises:
        ConfigError: if there is no temperature or one is negative.
    """

    timestamps: bool = True
    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    compression_ratio: float | None = 2.4
    log_prob: float | None = -1.0
    no_speech: float | None = 0.6
    condition: bool = True
    most_tokens: int | None = None

    def __post_init__(self) -> None:
        if not self.temperatures or min(self.temperatures) < 0:
            raise ConfigError("Whisper: there must be a temperature, and none below 0.")


class WhisperStepper:
    """The decoder over given sound, which keeps keys and values of what it has written and of what it hears.

    Args:
        decoder: the network.
        sound_BSD: what the encoder made of the sound.
        no_speech: where in the prompt the transcript starts, and the token that says that nobody speaks; the probability is
            kept in :attr:`silence_B` when the prompt is read.
    """

    def __init__(self, decoder: WhisperDecoder, sound_BSD: Tensor, no_speech: tuple[int, int] | None = None) -> None:
        self.decoder, self.sound_BSD, self.no_speech = decoder, sound_BSD, no_speech
        self.silence_B = torch.zeros(len(sound_BSD))

    @property
    def context_length(self) -> int:
        """The most tokens of a window."""
        return self.decoder.config.target_positions

    def start(self, length: int) -> Written:
        """Return the memory of a text that has not begun."""
        return self.decoder.start(self.sound_BSD, length)

    def step(self, state: Written, tokens_BL: Tensor) -> tuple[Tensor, Written]:
        """Read tokens; see :meth:`~intermodal.decode.stepper.Stepper.step`."""
        first = state.cache.length == 0
        hidden_BLD = self.decoder.hidden(tokens_BL, state)
        if first and self.no_speech is not None:
            place, token = self.no_speech
            self.silence_B = self.decoder.logits(hidden_BLD[:, place]).float().softmax(-1)[:, token].cpu()
        return self.decoder.logits(hidden_BLD[:, -1]), state

    def reorder(self, state: Written, rows_N: Tensor) -> Written:
        """Choose among the sequences; see :meth:`~intermodal.decode.stepper.Stepper.reorder`."""
        state.reorder(rows_N)
        return state


@dataclass(frozen=True)
class Window:
    """What was written of one window.

    Attributes:
        tokens: without prompt and end.
        log_prob: mean natural log-probability of the tokens, end included.
        silence: probability that nobody speaks.
        temperature: at which they were chosen.
        skipped: nobody speaks, so that nothing is to be written.
    """

    tokens: list[int]
    log_prob: float
    silence: float
    temperature: float
    skipped: bool = False


@dataclass(frozen=True)
class Piece:
    """A segment of a transcript in tokens.

    Attributes:
        start, end: in seconds from the start of the recording.
        tokens: times included.
        log_prob, silence: of the window that it is from.
        window: seconds at which that begins.
    """

    start: float
    end: float
    tokens: list[int]
    log_prob: float = 0.0
    silence: float = 0.0
    window: float = 0.0


@dataclass
class Recording:
    """A recording on its way to a transcript.

    Attributes:
        mel_TM: its log-mel frames.
        prompt: the tokens that a transcript of it begins with.
        told: tokens of text that are told to the first window.
        seek: the frame at which the next window begins.
        pieces: what is written so far.
        calm: whether the last window was decoded at a low temperature.
    """

    mel_TM: Tensor
    prompt: list[int]
    told: list[int] = field(default_factory=list)
    seek: int = 0
    pieces: list[Piece] = field(default_factory=list)
    calm: bool = True

    @property
    def done(self) -> bool:
        """Whether all of it was heard."""
        return self.seek >= len(self.mel_TM)


def decode_window(
    network: WhisperNetwork,
    sound_BSD: Tensor,
    prompt_BP: Tensor,
    tokens: WhisperTokens,
    decoding: WhisperDecoding,
    *,
    beams: int = 1,
    text: Callable[[Sequence[int]], str] | None = None,
    seed: int = 0,
) -> list[Window]:
    """Write what is said in one window of each recording; what looks wrong is tried again at the next temperature.

    Args:
        network: Whisper's.
        sound_BSD: what the encoder made of the windows.
        prompt_BP: int64 prompts of one length.
        tokens: what they mean.
        decoding: temperatures and thresholds.
        beams: at temperature 0.
        text: the text of tokens, of which the compression ratio is taken; None takes none.
        seed: of what is drawn at higher temperatures.
    """
    room = network.config.target_positions - prompt_BP.shape[1]
    most = room if decoding.most_tokens is None else min(room, decoding.most_tokens)
    place = int((prompt_BP[0] == tokens.start).nonzero().flatten()[-1])
    no_speech = None if tokens.no_speech is None else (place, tokens.no_speech)
    windows: list[Window | None] = [None] * len(prompt_BP)
    left = list(range(len(prompt_BP)))
    for temperature in decoding.temperatures:
        sound, prompt = sound_BSD[left], prompt_BP[left]
        stepper = WhisperStepper(network.decoder, sound, no_speech)
        ruled = RuledStepper(stepper, rule(tokens, timestamps=decoding.timestamps))
        if temperature == 0 and beams > 1:
            found = [b[0] for b in beam_search(ruled, prompt, most, beams=beams, end=tokens.end)]
            written = [(b.tokens.tolist(), b.log_prob / len(b.tokens)) for b in found]
        else:
            generators = [torch.Generator().manual_seed(seed * 1009 + row) for row in left]
            made_BN, score_BN = generate_scored(
                ruled, prompt, most, sampling=Sampling(temperature=temperature), generator=generators, end=tokens.end
            )
            written = [_until(row, score, tokens.end) for row, score in zip(made_BN, score_BN, strict=True)]
        again = []
        for row, (made, log_prob), silence in zip(left, written, stepper.silence_B.tolist(), strict=True):
            text_alone = made[:-1] if made and made[-1] == tokens.end else made
            wrong, skipped = _judged(text_alone, log_prob, silence, tokens, decoding, text)
            windows[row] = Window(text_alone, log_prob, silence, temperature, skipped)
            if wrong:
                again.append(row)
        left = again
        if not left:
            break
    return [w for w in windows if w is not None]


def _until(made_N: Tensor, score_N: Tensor, end: int) -> tuple[list[int], float]:
    """Return the tokens of one sequence, its end included, and their mean log-probability."""
    tokens = made_N.tolist()
    count = tokens.index(end) + 1 if end in tokens else len(tokens)
    return tokens[:count], float(score_N[:count].mean())


def _judged(  # noqa: PLR0917 - one call, from above
    made: list[int],
    log_prob: float,
    silence: float,
    tokens: WhisperTokens,
    decoding: WhisperDecoding,
    text: Callable[[Sequence[int]], str] | None,
) -> tuple[bool, bool]:
    """Return whether what was written looks wrong, and whether nobody speaks."""
    unsure = decoding.log_prob is not None and log_prob < decoding.log_prob
    repeats = False
    if decoding.compression_ratio is not None and text is not None:
        data = text([t for t in made if t < tokens.end]).strip().encode()
        repeats = len(data) > decoding.compression_ratio * len(zlib.compress(data))
    if unsure and decoding.no_speech is not None and silence > decoding.no_speech:
        return False, True
    return unsure or repeats, False


def cut(window: Window, offset: float, frames: int, tokens: WhisperTokens, hop: float) -> tuple[list[Piece], int]:
    """Cut what was written of a window into segments at its pairs of times, and say how many frames to go on.

    Args:
        window: what was written.
        offset: seconds at which it begins.
        frames: of sound in it.
        tokens: what they mean.
        hop: seconds of a frame.
    """
    made, zero, step = window.tokens, tokens.zero, FRAMES_PER_STEP * hop
    is_time = [t >= zero for t in made]
    alone = is_time[-2:] == [False, True]
    cuts = [i + 1 for i in range(len(made) - 1) if is_time[i] and is_time[i + 1]]
    about = {"log_prob": window.log_prob, "silence": window.silence, "window": offset}
    if not cuts:
        times = [t for t in made if t >= zero]
        last = times[-1] - zero if times and times[-1] != zero else frames // FRAMES_PER_STEP
        return [Piece(offset, offset + last * step, made, **about)], frames
    if alone:
        cuts.append(len(made))
    else:
        cuts[-1] += 1  # the time that opens what is not finished stays with the last segment, to tell it from one alone
    pieces, begin = [], 0
    for number, stop in enumerate(cuts):
        part = made[begin:stop]
        closes = part[-1] if number < len(cuts) - 1 or alone else part[-2]
        pieces.append(Piece(offset + (part[0] - zero) * step, offset + (closes - zero) * step, part, **about))
        begin = stop
    return pieces, frames if alone else (made[begin - 2] - zero) * FRAMES_PER_STEP


def transcribe(
    network: WhisperNetwork,
    recordings: Sequence[Recording],
    tokens: WhisperTokens,
    decoding: WhisperDecoding,
    *,
    beams: int = 1,
    text: Callable[[Sequence[int]], str] | None = None,
    hop: float = 0.01,
    watch: Callable[[float], None] | None = None,
) -> None:
    """Hear recordings of any length window by window, and write into each what is said.

    A window begins where the last finished segment ended, so that no word is cut (section 4.5). Recordings of which the
    prompts are equally long are decoded together.
    """
    most = network.config.frames
    total = sum(len(r.mel_TM) for r in recordings) or 1
    while going := [r for r in recordings if not r.done]:
        parts = [r.mel_TM[r.seek : r.seek + most] for r in going]
        sound_BSD = network.encoder(torch.stack([F.pad(p, (0, 0, 0, most - len(p))) for p in parts]))
        prompts = [_prompt(r, tokens, decoding, network.config.target_positions) for r in going]
        for length in sorted({len(p) for p in prompts}):
            rows = [i for i, p in enumerate(prompts) if len(p) == length]
            windows = decode_window(
                network,
                sound_BSD[rows],
                torch.tensor([prompts[i] for i in rows], device=sound_BSD.device),
                tokens,
                decoding,
                beams=beams,
                text=text,
                seed=going[rows[0]].seek,
            )
            for i, window in zip(rows, windows, strict=True):
                _write(going[i], window, len(parts[i]), tokens, hop)
        if watch is not None:
            watch(min(sum(min(r.seek, len(r.mel_TM)) for r in recordings) / total, 1.0))


def _write(recording: Recording, window: Window, frames: int, tokens: WhisperTokens, hop: float) -> None:
    recording.calm = window.temperature < CALM
    if window.skipped:
        recording.seek += frames
        return
    pieces, moved = cut(window, recording.seek * hop, frames, tokens, hop)
    recording.pieces += pieces
    recording.seek += moved if moved > 0 else frames


def _prompt(recording: Recording, tokens: WhisperTokens, decoding: WhisperDecoding, positions: int) -> list[int]:
    """Return the prompt of a recording's next window: what was said before, as far as there is room, and its own start."""
    before: list[int] = [] if recording.pieces else list(recording.told)
    if decoding.condition and recording.calm and recording.pieces:
        before = list(recording.told)
        for piece in recording.pieces:
            doubled = len(piece.tokens) > 2 and piece.tokens[-2] >= tokens.zero
            before += piece.tokens[:-1] if doubled else piece.tokens
    kept = before[-(positions // 2 - 1) :]
    return [tokens.previous, *kept, *recording.prompt] if kept else list(recording.prompt)

"""Sound from files: mono float32 at the rate that is asked for, whole or block by block, with errors that name the file.

libsndfile (through ``soundfile``) reads WAV, FLAC, OGG, MP3 and others; ``soxr`` changes the rate. Channels are averaged.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from intermodal.core.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    import soundfile

SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au", ".sph", ".w64", ".caf"})
"""How files of sound are called."""
RATES = (1_000, 768_000)
"""The lowest and highest rate that is taken, in samples a second."""
SILENT = 1e-4
"""A recording whose loudest sample is below this (-80 dB of full scale) is silent."""
CLIPPED = 0.999
"""A sample at this share of full scale or above counts as clipped."""
CLIPPED_SHARE = 1e-3
"""A recording with more than this share of clipped samples is said to be clipped."""


@dataclass(frozen=True, eq=False)
class Waveform:
    """A mono recording in memory.

    Attributes:
        samples: float32 ``(T,)``; full scale is -1..1.
        rate: samples a second.
        name: how errors call it.
    """

    samples: np.ndarray
    rate: int
    name: str = "the recording"

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.samples) / self.rate


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says.

    Attributes:
        rate: samples a second.
        channels: how many.
        frames: samples of each channel.
        format: such as ``WAV, PCM_16``.
    """

    rate: int
    channels: int
    frames: int
    format: str

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.frames / self.rate


def _soundfile() -> Any:
    try:
        import soundfile
    except ImportError as error:
        raise MissingExtraError("soundfile", "speech") from error
    return soundfile


def _soxr() -> Any:
    try:
        import soxr
    except ImportError as error:
        raise MissingExtraError("soxr", "speech") from error
    return soxr


def _unpacked(value: Any, name: str) -> tuple[Any, str]:
    """Return what ``datasets``' struct of ``bytes`` and ``path`` holds, and how errors call it; all else as it is."""
    if isinstance(value, dict):
        name = name or str(value.get("path") or "")
        value = value.get("bytes") or value.get("path")
    return value, name or _name_of(value)


def audio_info(value: Any, name: str = "") -> AudioInfo:
    """Return what a file's header says, without reading its samples.

    Args:
        value: a path, encoded bytes, or ``datasets``' struct of them.
        name: how errors call it.

    Raises:
        DataError: if it is missing or no sound.
    """
    value, name = _unpacked(value, name)
    if not isinstance(value, (str, Path, bytes)):
        raise DataError(f"{name} holds no sound (found {type(value).__name__}).")
    with _open(value, name) as file:
        return AudioInfo(file.samplerate, file.channels, file.frames, f"{file.format}, {file.subtype}")


def read_audio(value: Any, rate: int | None = None, name: str = "") -> Waveform:
    """Read a whole recording.

    Args:
        value: a path, encoded bytes, a :class:`Waveform`, or ``datasets``' struct of ``bytes`` and ``path``.
        rate: to resample to; None keeps the recording's own.
        name: how errors call it; the path by default.

    Raises:
        DataError: if it is missing, no sound, empty, cut short, or holds a sample that is not a finite number.
        MissingExtraError: without soundfile or soxr.
    """
    value, name = _unpacked(value, name)
    if isinstance(value, Waveform):
        samples, own = np.ascontiguousarray(value.samples, np.float32), value.rate
        if samples.ndim != 1:
            raise DataError(f"{name} must be mono, one row of samples; found the shape {samples.shape}.")
    elif isinstance(value, (str, Path, bytes)):
        with _open(value, name) as file:
            own, stated = file.samplerate, file.frames
            samples = _mono(_decoded(file, -1, name))
        if len(samples) < stated and file.format != "MP3":
            raise DataError(f"{name} is cut short: it says that it has {stated:,} samples, and holds {len(samples):,}.")
    else:
        raise DataError(f"{name} holds no sound (found {type(value).__name__}).")
    _check(samples, own, name)
    if rate is not None and rate != own:
        samples = resample(samples, own, rate)
        own = rate
    return Waveform(samples, own, name)


def resample(samples: np.ndarray, rate: float, to: float) -> np.ndarray:
    """Return float32 samples ``(T,)`` at another rate, band-limited (soxr, high quality).

    Raises:
        MissingExtraError: without soxr.
    """
    if rate == to:
        return samples
    return np.ascontiguousarray(_soxr().resample(samples, rate, to, quality="HQ"), np.float32)


def audio_blocks(value: Any, rate: int, seconds: float = 30.0, name: str = "") -> Iterator[np.ndarray]:
    """Yield a recording in blocks of equal length (the last may be shorter), never held whole: for very long files.

    The blocks together equal ``read_audio(value, rate).samples``.

    Args:
        value: as for :func:`read_audio`.
        rate: samples a second of what is yielded.
        seconds: of each block.
        name: how errors call it.

    Raises:
        DataError: as :func:`read_audio`, when the spoilt place is reached.
    """
    size = max(1, round(seconds * rate))
    value, name = _unpacked(value, name)
    if not isinstance(value, (str, Path, bytes)):
        samples = read_audio(value, rate, name).samples
        yield from (samples[at : at + size] for at in range(0, len(samples), size))
        return
    waiting: list[np.ndarray] = []
    held = 0
    for piece in _pieces(value, rate, name):
        waiting.append(piece)
        held += len(piece)
        if held >= size:
            joined = np.concatenate(waiting)
            whole = held - held % size
            yield from (joined[at : at + size] for at in range(0, whole, size))
            waiting, held = [joined[whole:]], held - whole
    if held:
        yield np.concatenate(waiting)


def _pieces(value: str | Path | bytes, rate: int, name: str) -> Iterator[np.ndarray]:
    """Yield a file's samples at a rate, as they are decoded."""
    with _open(value, name) as file:
        own, read = file.samplerate, 0
        stream = None if own == rate else _soxr().ResampleStream(own, rate, 1, dtype="float32", quality="HQ")
        while True:
            samples = _mono(_decoded(file, 10 * own, name))
            if not len(samples):
                break
            read += len(samples)
            _check(samples, own, name)
            yield samples if stream is None else stream.resample_chunk(samples)
        if not read:
            raise DataError(f"{name} holds no sample.")
        if read < file.frames and file.format != "MP3":
            raise DataError(f"{name} is cut short: it says that it has {file.frames:,} samples, and holds {read:,}.")
        if stream is not None:
            yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def notes_on(samples: np.ndarray, rate: int, wanted: int | None = None) -> tuple[str, ...]:
    """Return what is odd about a recording, in words: too short, silent, clipped, of a lower rate than the model's.

    Args:
        samples: float32 ``(T,)``.
        rate: of the file that they came from.
        wanted: the model's rate.
    """
    notes = []
    loudest = float(np.abs(samples).max()) if len(samples) else 0.0
    if len(samples) < 0.02 * rate:
        notes.append(f"It is {len(samples)} samples long, shorter than one frame: too short for a word.")
    if loudest < SILENT:
        notes.append("It is silent.")
    elif np.mean(np.abs(samples) >= CLIPPED) > CLIPPED_SHARE:
        notes.append("It is clipped: the loudest samples are cut off at full scale.")
    if wanted is not None and rate < wanted:
        notes.append(
            f"It has {rate:,} samples a second; the model was trained on {wanted:,} and misses the higher ones."
        )
    return tuple(notes)


def _open(value: str | Path | bytes, name: str) -> soundfile.SoundFile:
    module = _soundfile()
    if not isinstance(value, bytes):
        path = Path(value)
        if not path.exists():
            raise DataError(f"{name} does not exist.")
        if path.is_dir():
            raise DataError(f"{name} is a folder, not a recording.")
        if not path.stat().st_size:
            raise DataError(f"{name} is an empty file.")
    try:
        file = module.SoundFile(io.BytesIO(value) if isinstance(value, bytes) else str(value))
    except (module.LibsndfileError, OSError, TypeError, ValueError) as error:
        reason = str(getattr(error, "error_string", "") or error).strip().rstrip(".")
        raise DataError(f"{name} cannot be read as sound ({reason}).") from error
    if not RATES[0] <= file.samplerate <= RATES[1]:
        file.close()
        raise DataError(
            f"{name} says that it has {file.samplerate} samples a second: {RATES[0]} to {RATES[1]} are taken."
        )
    return file


def _decoded(file: Any, frames: int, name: str) -> np.ndarray:
    try:
        return file.read(frames, dtype="float32", always_2d=True)
    except (_soundfile().LibsndfileError, OSError, RuntimeError, MemoryError) as error:
        raise DataError(f"{name} is damaged ({str(error).strip().rstrip('.')}).") from error


def _mono(samples: np.ndarray) -> np.ndarray:
    """Return the mean over the channels of ``(T, C)``."""
    if samples.shape[1] == 1:
        return samples[:, 0]
    return samples.mean(1, dtype=np.float32)


def _check(samples: np.ndarray, rate: int, name: str) -> None:
    if not len(samples):
        raise DataError(f"{name} holds no sample.")
    if not RATES[0] <= rate <= RATES[1]:
        raise DataError(f"{name} has {rate} samples a second: {RATES[0]} to {RATES[1]} are taken.")
    if not np.isfinite(samples).all():
        place = int(np.argmin(np.isfinite(samples)))
        raise DataError(f"{name} holds a sample that is not a finite number (at {place / rate:.2f} s): it is refused.")


def _name_of(value: Any) -> str:
    if isinstance(value, Waveform):
        return value.name
    return str(value) if isinstance(value, (str, Path)) else "the recording"

"""``intermodal features``: what a recogniser hears of a recording, as numbers and as a picture of every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from intermodal.cli.common import UsageError, errors, output, parse, print_json, progress, refuse_existing

if TYPE_CHECKING:
    import numpy as np

    from intermodal.cli.common import Report
    from intermodal.nn.speech_features import FeatureConfig

MOST_DRAWN = 120.0
"""Seconds of sound that a picture shows, from the start."""
BLOCK = 30.0
"""Seconds of sound that are held at a time."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Compute the features of a recording: log-mel bands, cepstra or the log spectrum; write and draw them.

    Attributes:
        recording: a file of sound.
        kind: log_mel, mfcc or spectrum.
        like: whose numbers: ours, kaldi's, librosa's or whisper's.
        rate: resample to so many samples a second first; the recording's own by default (16000 for whisper).
        bins: mel filters.
        coefficients: of the cepstrum.
        deltas: orders of slopes behind each frame, 0 to 2.
        cmvn: normalisation over the whole recording (utterance), over a sliding window, or none.
        output: write the features here: .npy for the matrix (frames x features), .npz with the rate and settings beside it.
        plot: draw every step, from wave to cepstra, into this PNG.
        json: print what they are as JSON.
        overwrite: replace what is there.
    """

    recording: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RECORDING")]]
    kind: Literal["log_mel", "mfcc", "spectrum"] = "log_mel"
    like: Literal["ours", "kaldi", "librosa", "whisper"] = "ours"
    rate: int | None = None
    bins: int | None = None
    coefficients: int | None = None
    deltas: int | None = None
    cmvn: Literal["none", "utterance", "sliding"] = "none"
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o", "--out"], metavar="PATH")] = None
    plot: Annotated[Path | None, tyro.conf.arg(metavar="PNG")] = None
    json: bool = False
    overwrite: bool = False


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "features")
    if arguments.output is not None and arguments.output.suffix not in (".npy", ".npz"):
        raise UsageError(f"{arguments.output} should end in .npy or .npz.")
    if arguments.plot is not None and arguments.plot.suffix.lower() != ".png":
        raise UsageError(f"{arguments.plot} should end in .png.")
    for path in (arguments.output, arguments.plot):
        if path is not None:
            refuse_existing(path, arguments.overwrite)
    from intermodal.core.files import atomic_file
    from intermodal.data.audio import audio_blocks, audio_info, notes_on

    info = audio_info(arguments.recording)
    config = configured(arguments, info.rate)
    with progress() as report:
        matrix = computed(arguments.recording, config, info.seconds, report)
        notes = notes_on(next(audio_blocks(arguments.recording, info.rate, BLOCK)), info.rate, arguments.rate)
        if arguments.output is not None:
            with atomic_file(arguments.output) as temporary:
                write(temporary, matrix, config, arguments.output.suffix)
        if arguments.plot is not None:
            report("drawing", 0.5)
            with atomic_file(arguments.plot) as temporary:
                draw(arguments.recording, config, info.seconds).save(temporary, "PNG")
    about = {
        "recording": str(arguments.recording),
        "seconds": info.seconds,
        "rate": info.rate,
        "channels": info.channels,
        "format": info.format,
        "kind": config.kind,
        "frames": len(matrix),
        "features": matrix.shape[1],
        "hop_seconds": config.hop_samples / config.rate,
        "window_seconds": config.window_samples / config.rate,
        "transform": config.points,
        "computed_at": config.rate,
        "lowest": float(matrix.min()) if matrix.size else None,
        "highest": float(matrix.max()) if matrix.size else None,
        "notes": list(notes),
        "config": config.to_dict(),
    }
    if arguments.json:
        print_json(about)
        return 0
    say(about, arguments)
    return 0


def configured(arguments: Arguments, rate: int) -> FeatureConfig:
    """Return the features that a person asks for, of a recording of ``rate`` samples a second.

    Raises:
        ConfigError: if they cannot be.
    """
    from intermodal.core.errors import ConfigError
    from intermodal.nn.speech_features import FeatureConfig

    named = {"bins": arguments.bins, "coefficients": arguments.coefficients, "deltas": arguments.deltas}
    changes: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    changes["cmvn"] = arguments.cmvn
    rate = arguments.rate or (16000 if arguments.like == "whisper" else rate)
    if not 1000 <= rate <= 768_000:
        raise ConfigError(f"A rate is 1,000 to 768,000 samples a second, found {rate:,}.")
    if arguments.like == "kaldi":
        return FeatureConfig.kaldi(rate=rate, kind=arguments.kind, **changes)
    if arguments.like == "librosa":
        return FeatureConfig.librosa(rate=rate, kind=arguments.kind, **changes)
    if arguments.like == "whisper":
        if (
            arguments.kind != "log_mel"
            or rate != 16000
            or changes.keys() - {"bins", "cmvn"}
            or arguments.cmvn != "none"
        ):
            raise ConfigError(
                "Whisper hears log-mel bands at 16,000 samples a second: with --like whisper only --bins counts."
            )
        return FeatureConfig.whisper(bins=arguments.bins or 80)
    # A window of 25 ms has no room for more bands than this at low rates.
    changes.setdefault("bins", 80 if rate >= 16000 else max(8, rate // 200))
    changes.setdefault("coefficients", min(13, changes["bins"]))
    return FeatureConfig(rate=rate, kind=arguments.kind, **changes)


def computed(recording: Path, config: FeatureConfig, seconds: float, report: Report) -> np.ndarray:
    """Return the features ``(N, F)`` of a file, block by block where they can be had while sound arrives."""
    import numpy as np
    import torch

    from intermodal.data.audio import audio_blocks, read_audio
    from intermodal.nn.speech_features import SpeechFeatures

    report("computing features", 0.0)
    module = SpeechFeatures(config)
    with torch.inference_mode():
        if config.whole is None:
            stream, parts, done = module.stream(), [], 0
            for block in audio_blocks(recording, config.rate, BLOCK):
                parts.append(stream.feed(torch.from_numpy(block)[None])[0].numpy())
                done += len(block)
                report("computing features", min(done / config.rate / max(seconds, 1e-9), 1.0))
            return np.concatenate([*parts, stream.finish()[0].numpy()])
        samples = torch.from_numpy(read_audio(recording, config.rate).samples)
        if config.log == "whisper":  # it hears 30 s, zeros behind what is shorter
            samples = torch.nn.functional.pad(samples, (0, max(30 * config.rate - len(samples), 0)))
        return module(samples[None])[0][0].numpy()


def write(path: Path, matrix: np.ndarray, config: FeatureConfig, suffix: str) -> None:
    """Write features as a NumPy file."""
    import numpy as np

    with path.open("wb") as file:
        if suffix == ".npy":
            np.save(file, matrix)
        else:
            hop = config.hop_samples / config.rate
            np.savez(file, features=matrix, hop_seconds=hop, rate=config.rate, config=config.to_json())


def draw(recording: Path, config: FeatureConfig, seconds: float) -> Any:
    """Return the picture of every step; of a long recording, of its beginning."""
    from intermodal.data.audio import Waveform, audio_blocks
    from intermodal.evaluate.feature_pictures import draw_features

    samples = next(audio_blocks(recording, config.rate, MOST_DRAWN))
    rest = f" (the first {MOST_DRAWN:g} of {seconds:,.0f} s)" if seconds > MOST_DRAWN + 1 else f", {seconds:.2f} s"
    return draw_features(Waveform(samples, config.rate), config, f"{recording.name}{rest}")


def say(about: dict[str, Any], arguments: Arguments) -> None:
    """Print what the features are."""
    out = output()
    channels = {1: "mono", 2: "stereo"}.get(about["channels"], f"{about['channels']} channels")
    at = "" if about["rate"] == about["computed_at"] else f", resampled to {about['computed_at']:,}"
    out.print(
        f"{about['recording']}: {about['seconds']:.2f} s, {about['rate']:,} samples a second{at}, {channels}, "
        f"{about['format']}.",
        markup=False,
    )
    names = {"log_mel": "log-mel bands", "mfcc": "cepstral coefficients (MFCC)", "spectrum": "log spectrum"}
    out.print(
        f"{about['frames']:,} frames of {about['features']} features: {names[about['kind']]}, one frame every "
        f"{1000 * about['hop_seconds']:g} ms from windows of {1000 * about['window_seconds']:g} ms, a transform of "
        f"{about['transform']} points.",
        markup=False,
    )
    if about["lowest"] is not None:
        out.print(f"Values from {about['lowest']:.2f} to {about['highest']:.2f}.", markup=False)
    for note in about["notes"]:
        errors().print(f"note: {note}", markup=False)
    for path, what in ((arguments.output, "the features"), (arguments.plot, "every step, from wave to cepstra")):
        if path is not None:
            out.print(f"{path}: {what}.", markup=False)

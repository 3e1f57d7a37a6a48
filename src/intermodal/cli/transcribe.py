"""``intermodal transcribe``: writes down what is said in recordings, as text, subtitles, tables or JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from intermodal.cli.common import (
    Model,
    OnDevice,
    OptionalPath,
    OptionalText,
    UsageError,
    errors,
    open_session,
    parse,
    progress,
    refuse_existing,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from intermodal.core.transcript import Transcribing, Transcript
    from intermodal.index.session import Session

STDIN = Path("-")
STANDARD_INPUT = "standard input"


@dataclass(frozen=True, kw_only=True)
class Arguments(OnDevice):
    """Write down what is said in a recording, in many, or in all of a folder.

    Attributes:
        model: a run, a checkpoint, a published folder or a hub id.
        inputs: recordings, folders of them, or - for one that arrives on the standard input.
        beam: how many hypotheses the search keeps; 1 is greedy. 50 where a language model or the like is given.
        lm: an n-gram language model: ARPA (also .gz) or the library's binary.
        lm_weight: of the language model beside the sound; the model's own by default.
        word_bonus: added for each word; the model's own by default.
        lexicon: a file with the words that may occur, one a line.
        hot_words: words or phrases to favour.
        hot_weight: how strongly, in natural log units a word.
        n_best: print so many of the best transcripts, with the scores of sound and language apart.
        token_prune: symbols of a frame below this log-probability are not tried.
        beam_prune: hypotheses so far below the best are dropped.
        language: what is spoken (en, de ...), for models that know several languages; they find it out by themselves.
        task: transcribe, or translate into English where the model can.
        times: print each word with start, end and confidence.
        format: text, srt, vtt, json, tsv (a row a recording) or ctm (a line a word, with times).
        output: write into this file, or into this folder, a file for each recording.
        stream: transcribe while the sound arrives; on the standard input, 16-bit mono at the model's rate, bare or as WAV.
        block: with --stream, hear so many seconds at a time.
        overwrite: replace what is there.
    """

    model: Model
    inputs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE|FOLDER|-...")]]
    beam: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    lm: OptionalPath = None
    lm_weight: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    word_bonus: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    lexicon: OptionalPath = None
    hot_words: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORD...")] = ()
    hot_weight: float = 10.0
    n_best: int = 1
    token_prune: float = -5.0
    beam_prune: float = -10.0
    language: OptionalText = None
    task: Literal["transcribe", "translate"] = "transcribe"
    times: bool = False
    format: Literal["text", "srt", "vtt", "json", "tsv", "ctm"] = "text"
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o", "--out"], metavar="PATH")] = None
    stream: bool = False
    block: float = 0.2
    overwrite: bool = False


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "transcribe")
    _check(arguments)
    if arguments.output is not None and not _into_folder(arguments.output):
        refuse_existing(arguments.output, arguments.overwrite)
    from intermodal.core.errors import DataError
    from intermodal.index.listening import find_recordings, settings_of, transcribe_each, transcribes

    settings = settings_of(_given(arguments))
    files = [] if arguments.inputs == (STDIN,) else find_recordings(arguments.inputs)
    _check_count(arguments, len(files) or 1)
    with ExitStack() as stack:
        report = stack.enter_context(progress())
        session = open_session(arguments.model, arguments.device, report)
        model = transcribes(session.model, "To transcribe")
        if arguments.stream:
            stack.close()  # no bar over the words that appear
            return _stream(arguments, session, settings, files)
        values: list[Any] = [path for path, _ in files] or [_standard_input()]
        names = [name for _, name in files] or [STANDARD_INPUT]
        what = "transcribing" if len(names) == 1 else f"transcribing {len(names):,} recordings"
        report(what, 0.0)
        writer = _Writer(arguments, names)
        failed: list[DataError] = []
        found = transcribe_each(model, values, settings, lambda _, share: report(what, share))
        for name, transcript in zip(names, found, strict=True):
            if isinstance(transcript, DataError):
                failed.append(transcript)
            else:
                writer.add(name, transcript)
        if len(failed) == len(names):
            raise (
                failed[0]
                if len(failed) == 1
                else DataError(f"None of the {len(failed)} recordings can be transcribed; the first: {failed[0]}")
            )
    writer.close()
    for error in failed:
        errors().print(f"skipped: {error}", markup=False)
    if failed:
        raise DataError(f"{len(failed)} of {len(names)} recordings could not be transcribed; the others are.")
    return 0


def _check(arguments: Arguments) -> None:
    if not arguments.inputs:
        raise UsageError("Say what to transcribe: recordings, folders of them, or - for the standard input.")
    if STDIN in arguments.inputs and len(arguments.inputs) > 1:
        raise UsageError("The standard input (-) is transcribed by itself, without other recordings.")
    if not arguments.block > 0:
        raise UsageError(f"--block must be above 0 seconds, found {arguments.block:g}.")
    if (arguments.times or arguments.n_best > 1) and arguments.format not in ("text", "json"):
        raise UsageError(f"--times and --n-best go with --format text or json, found {arguments.format}.")


def _check_count(arguments: Arguments, count: int) -> None:
    """Refuse several recordings where there is room for one."""
    if arguments.stream and count > 1:
        raise UsageError(f"--stream hears one recording, found {count}.")
    one = arguments.output is None or not _into_folder(arguments.output)
    if arguments.format in ("srt", "vtt") and one and count > 1:
        raise UsageError(f"{arguments.format.upper()} holds one recording, found {count}: give a folder with --out.")


def _given(arguments: Arguments) -> dict[str, Any]:
    names = ("beam", "lm", "lm_weight", "word_bonus", "lexicon", "hot_words", "hot_weight", "n_best", "token_prune")
    return {name: getattr(arguments, name) for name in (*names, "beam_prune", "language", "task")}


def _into_folder(output: Path) -> bool:
    return output.is_dir() or not output.suffix


def _standard_input() -> Any:
    from intermodal.data.audio import read_audio

    return read_audio(sys.stdin.buffer.read(), name=STANDARD_INPUT)


class _Writer:
    """Writes transcripts as they come: to the standard output, into a folder, or all into one file at the end."""

    def __init__(self, arguments: Arguments, names: Sequence[str]) -> None:
        from intermodal.data.subtitles import SUFFIXES

        self.arguments, self.held = arguments, list[tuple[str, "Transcript"]]()
        self.folder = arguments.output if arguments.output is not None and _into_folder(arguments.output) else None
        self.one = len(names) == 1
        self.files: dict[str, Path] = {}
        if self.folder is not None:
            stems = [_stem(name) for name in names]
            for name, stem in zip(names, stems, strict=True):  # a.wav and a.mp3 do not overwrite each other's file
                kept = stem if stems.count(stem) == 1 else _within(name)
                self.files[name] = self.folder / (kept + SUFFIXES[arguments.format])
                if self.files[name].exists() and not arguments.overwrite:
                    refuse_existing(self.files[name], overwrite=False)

    def add(self, name: str, transcript: Transcript) -> None:
        """Write one transcript, or keep it for the end."""
        for note in transcript.notes:
            errors().print(f"{name}: {note}", markup=False)
        if self.folder is not None:
            self._save(self.files[name], [(name, transcript)])
        elif self.arguments.output is None and self.arguments.format in ("text", "ctm"):
            self._print([(name, transcript)])
        else:
            self.held.append((name, transcript))

    def close(self) -> None:
        """Write what was kept, and say where all is."""
        output = self.arguments.output
        if self.folder is not None:
            errors().print(f"{self.folder}: {len(self.files):,} {self.arguments.format} files.", markup=False)
        elif output is not None:
            self._save(output, self.held)
            errors().print(f"{output}: {len(self.held):,} recordings.", markup=False)
        elif self.held:
            self._print(self.held)

    def _save(self, path: Path, named: list[tuple[str, Transcript]]) -> None:
        from intermodal.core.files import write_text

        write_text(path, self._text(named, alone=len(named) == 1))

    def _print(self, named: list[tuple[str, Transcript]]) -> None:
        print(self._text(named, alone=self.one), end="", flush=True)

    def _text(self, named: list[tuple[str, Transcript]], *, alone: bool) -> str:
        from intermodal.data.subtitles import written

        kind, times = self.arguments.format, self.arguments.times
        if kind != "text":
            return written(named, kind, times=times)
        if self.arguments.n_best == 1 and (alone or not times):
            return written(named, "text", times=times) if alone else "".join(f"{n}\t{t.text}\n" for n, t in named)
        parts = []
        for name, transcript in named:
            head = "" if alone else f"{name}\n"
            parts.append(head + written([(name, transcript)], "text", times=times) + _alternatives(transcript))
        return "\n".join(parts)


def _stem(name: str) -> str:
    path = Path(_within(name))
    return path.with_suffix("").as_posix()


def _within(name: str) -> str:
    """Return a recording's name as one that stays within a folder."""
    return "/".join(part for part in Path(name).parts if part not in ("/", "..", ".")) or "recording"


def _alternatives(transcript: Transcript) -> str:
    """Return the n-best as a table: score, sound, language, bonus, text."""
    if not transcript.alternatives:
        return ""
    rows = "".join(
        f"{h.score:10.2f} {h.acoustic:10.2f} {h.language:10.2f} {h.bonus:8.2f}  {h.text}\n"
        for h in transcript.alternatives
    )
    return f"{'score':>10} {'acoustic':>10} {'language':>10} {'bonus':>8}\n{rows}"


def _stream(arguments: Arguments, session: Session, settings: Transcribing, files: Sequence[tuple[Path, str]]) -> int:
    """Transcribe one recording while it arrives: what is known so far on the error stream, the whole as a result."""
    from intermodal.data.audio import audio_blocks
    from intermodal.index.listening import live, streams

    model: Any = streams(session.model, "To transcribe while sound arrives")
    name = files[0][1] if files else STANDARD_INPUT
    rate = model.sample_rate
    blocks = audio_blocks(files[0][0], rate, arguments.block) if files else _arriving(rate, arguments.block)
    writer, console, said, slowest, worked = _Writer(arguments, [name]), errors(), "", 0.0, 0.0
    for partial in live(model, blocks, settings):
        worked += partial.took
        slowest = max(slowest, partial.took)
        if partial.done:
            writer.add(name, partial.transcript)
            arrived = partial.arrived
        elif partial.transcript.text != said:
            said = partial.transcript.text
            console.print(f"[{partial.arrived:7.2f} s] {said}", markup=False)
    writer.close()
    console.print(
        f"The model looks {model.latency:.2f} s ahead; {arguments.block:g} s of sound took it at most "
        f"{1000 * slowest:.0f} ms, {worked / max(arrived, 1e-9):.3f} s for each second in the mean.",
        markup=False,
    )
    return 0


def _arriving(rate: int, seconds: float) -> Iterator[np.ndarray]:
    """Yield samples from the standard input: 16-bit little-endian mono, bare or after a WAV's head."""
    import numpy as np

    source, size = sys.stdin.buffer, 2 * max(1, round(seconds * rate))
    rest = source.read(12)
    if rest[:4] == b"RIFF" and rest[8:12] == b"WAVE":
        _skip_head(source, rate)
        rest = b""
    while chunk := source.read(size):
        data = rest + chunk
        whole = len(data) - len(data) % 2
        rest = data[whole:]
        yield np.frombuffer(data[:whole], "<i2").astype(np.float32) / 32768
    if len(rest) > 1:
        yield np.frombuffer(rest[: len(rest) - len(rest) % 2], "<i2").astype(np.float32) / 32768


def _skip_head(source: Any, rate: int) -> None:
    """Read a WAV's head up to its samples.

    Raises:
        DataError: if they are not 16-bit mono at the rate.
    """
    import struct

    from intermodal.core.errors import DataError

    while len(head := source.read(8)) == 8:
        kind, size = head[:4], int.from_bytes(head[4:], "little")
        if kind == b"data":
            return
        body = source.read(size + size % 2)
        if kind == b"fmt " and len(body) >= 16:
            code, channels, own, _, _, bits = struct.unpack("<HHIIHH", body[:16])
            if (code, channels, own, bits) != (1, 1, rate, 16):
                raise DataError(
                    f"Streaming takes 16-bit mono at {rate} samples a second; the WAV on the standard input has {bits} "
                    f"bits, {channels} channels and {own} samples a second."
                )
    raise DataError("The WAV on the standard input ends before its samples.")

"""The routes that hear: ``/transcribe`` writes down what is said, ``/align`` finds where a known text is said."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, File, Form, UploadFile
from pydantic import BaseModel, Field

from intermodal.api.limits import MAX_RECORDINGS, MAX_SECONDS, MAX_TEXT
from intermodal.core.errors import DataError
from intermodal.core.transcript import MOST_BEAM, Alignment, Transcript
from intermodal.core.transcript import Word as Heard
from intermodal.data.audio import Waveform, audio_info, read_audio
from intermodal.data.subtitles import to_srt, to_vtt
from intermodal.index.listening import aligns, checked_text, settings_of, transcribes
from intermodal.index.session import Session


class SpokenWord(BaseModel):
    """A word or phone."""

    text: str
    start: float | None = Field(description="in seconds; null where the model does not say")
    end: float | None
    confidence: float | None = Field(description="0 to 1; null where the model does not say")


class Stretch(BaseModel):
    """A segment."""

    text: str
    start: float
    end: float


class Alternative(BaseModel):
    """One of the best transcripts; scores are natural logarithms."""

    text: str
    score: float = Field(description="acoustic, plus the language model's times its weight, plus the bonus")
    acoustic: float
    language: float
    bonus: float


class Transcribed(BaseModel):
    """What was said in one recording."""

    input: str
    text: str
    seconds: float
    words: list[SpokenWord]
    segments: list[Stretch]
    alternatives: list[Alternative] = Field(description="the n-best, where more than one was asked for")
    notes: list[str] = Field(description="what is odd about the recording: silence, clipping, a low rate")
    language: str | None
    subtitles: str | None = Field(description="as SRT or WebVTT, where that was asked for")


class Transcriptions(BaseModel):
    """The transcripts, in the order sent."""

    recordings: list[Transcribed]


class Aligned(BaseModel):
    """Where a known text is said."""

    words: list[SpokenWord]
    phones: list[SpokenWord] = Field(description="phones or characters; empty where the model has none")
    score: float = Field(description="log-probability a frame")
    seconds: float


Number = Annotated[float | None, Form()]


def given(  # noqa: PLR0917 - FastAPI calls it by name
    beam: Annotated[int | None, Form(ge=1, le=MOST_BEAM)] = None,
    lm_weight: Number = None,
    word_bonus: Number = None,
    hot_words: Annotated[list[Annotated[str, Field(max_length=MAX_TEXT)]], Form(max_length=256)] = [],  # noqa: B006
    hot_weight: Number = None,
    n_best: Annotated[int | None, Form(ge=1, le=100)] = None,
    language: Annotated[str | None, Form(max_length=16)] = None,
    task: Annotated[Literal["transcribe", "translate"] | None, Form()] = None,
) -> dict[str, Any]:
    """Return the settings that a request gives."""
    return {
        "beam": beam,
        "lm_weight": lm_weight,
        "word_bonus": word_bonus,
        "hot_words": tuple(hot_words) or None,
        "hot_weight": hot_weight,
        "n_best": n_best,
        "language": language,
        "task": task,
    }


def add_speech(app: FastAPI, session: Session, one_at_a_time: threading.Lock) -> None:
    """Add the routes to an application.

    Args:
        app: the application.
        session: the model.
        one_at_a_time: held while the model works.
    """

    @app.post("/transcribe")
    def transcribe(
        given: Annotated[dict[str, Any], Depends(given)],
        audio: Annotated[list[UploadFile], File(max_length=MAX_RECORDINGS)],
        lm: Annotated[UploadFile | None, File()] = None,
        lexicon: Annotated[UploadFile | None, File()] = None,
        subtitles: Annotated[Literal["srt", "vtt"] | None, Form()] = None,
    ) -> Transcriptions:
        model = transcribes(session.model, "To transcribe")
        recordings = _read(audio)
        with _kept(lm=lm, lexicon=lexicon) as files, one_at_a_time:
            found = model.transcribe(recordings, settings_of({**given, **files}))
        written = {"srt": to_srt, "vtt": to_vtt}[subtitles] if subtitles else None
        rows = zip(audio, found, strict=True)
        return Transcriptions(
            recordings=[
                _transcribed(file.filename or "", t, None if written is None else written(t)) for file, t in rows
            ]
        )

    @app.post("/align")
    def align(audio: Annotated[UploadFile, File()], text: Annotated[str, Form(max_length=MAX_TEXT)]) -> Aligned:
        model = aligns(session.model, "To align")
        recordings, words = _read([audio]), checked_text(text, MAX_TEXT)
        with one_at_a_time:
            found: Alignment = model.align(recordings[0], words)
        return Aligned(
            words=[_word(w) for w in found.words],
            phones=[_word(w) for w in found.phones],
            score=found.score,
            seconds=found.seconds,
        )


def _read(files: list[UploadFile]) -> list[Waveform]:
    """Return recordings that were sent.

    Raises:
        DataError: if one is no sound, or they are too long in all.
    """
    sent = [
        (file.file.read(), f"The recording {file.filename!r}" if file.filename else "The recording") for file in files
    ]
    seconds = sum(audio_info(data, name).seconds for data, name in sent)
    if seconds > MAX_SECONDS:
        raise DataError(
            f"A request takes {MAX_SECONDS:,.0f} s of sound at most, found {seconds:,.0f} s: send it in parts."
        )
    return [read_audio(data, name=name) for data, name in sent]


@contextmanager
def _kept(**files: UploadFile | None) -> Iterator[dict[str, Path]]:
    """Yield paths of files that were sent, while they are needed."""
    with ExitStack() as stack:
        folder, found = Path(stack.enter_context(TemporaryDirectory())), {}
        for name, file in files.items():
            if file is not None:
                # The ending tells how a language model is written; nothing else of the name is used.
                ending = "".join(Path(file.filename or "").suffixes[-2:])[:20]
                found[name] = folder / f"{name}{ending}"
                found[name].write_bytes(file.file.read())
        yield found


def _transcribed(name: str, transcript: Transcript, subtitles: str | None) -> Transcribed:
    return Transcribed(
        input=name,
        text=transcript.text,
        seconds=transcript.seconds,
        words=[_word(word) for word in transcript.words],
        segments=[Stretch(text=s.text, start=s.start, end=s.end) for s in transcript.segments],
        alternatives=[
            Alternative(text=h.text, score=h.score, acoustic=h.acoustic, language=h.language, bonus=h.bonus)
            for h in transcript.alternatives
        ],
        notes=list(transcript.notes),
        language=transcript.language,
        subtitles=subtitles,
    )


def _word(word: Heard) -> SpokenWord:
    return SpokenWord(text=word.text, start=word.start, end=word.end, confidence=word.confidence)

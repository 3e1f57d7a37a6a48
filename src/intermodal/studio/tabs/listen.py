"""Listen: a recording in; what was said, over its spectrogram, with and without a language model."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from intermodal.core.capabilities import Aligns, Emits
from intermodal.core.errors import IntermodalError
from intermodal.core.transcript import Emissions, Transcript, Word
from intermodal.data.audio import Waveform, read_audio
from intermodal.data.subtitles import to_srt, to_vtt
from intermodal.evaluate.speech_pictures import draw_utterance
from intermodal.index.listening import SEARCH_BEAM, checked_text, settings_of, transcribes
from intermodal.studio.look import download, note, wide_picture
from intermodal.studio.tab import Setting, Tab

HINT = "Drop a recording, or record something."
DRAWN = 30.0
"""Seconds that are drawn, from the beginning."""
PICTURE = 7.5
"""Inches across: less than in a report, so that its letters can be read on the narrower page."""
LONGEST = 900.0
"""Seconds that are listened to at most."""
MOST_TEXT = 10_000
ALTERNATIVES = 5
WITHOUT, WITH = "without a language model", "with the language model"


def build(setting: Setting) -> None:
    """Add the tab's components."""
    model: Any = transcribes(setting.session.model, "To listen")
    able = isinstance(model, Aligns)
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            audio = gr.Audio(label="A recording", type="filepath", sources=["upload", "microphone"], elem_id="im-audio")
            lm = gr.File(
                label="A language model: n-grams, .arpa or .arpa.gz",
                type="filepath",
                height=120,
                elem_id="im-lm",
            )
            said = gr.Textbox(
                value="",
                label="What is said, if you know it",
                info="Its words are found in the recording.",
                visible=able,
                elem_id="im-said",
            )
            with gr.Accordion("How it is searched", open=False):
                beam = gr.Slider(
                    1, 200, value=1, step=1, label="Beam", info="1: greedy. With a language model at least 50."
                )
                weight = gr.Number(
                    None, label="Weight of the language model", minimum=0, info="Empty: the model's own choice."
                )
                bonus = gr.Number(None, label="Bonus for each word", info="Empty: the model's own choice.")
                hot = gr.Textbox("", label="Words to favour", info="Separated by commas.")
            go = gr.Button("Transcribe", variant="primary")
        with gr.Column(scale=2, min_width=320):
            result = gr.HTML(note(HINT), elem_id="im-heard", elem_classes="im-html", padding=False)

    def listen(  # noqa: PLR0917 - gradio hands over what its components hold by position
        file: str | None,
        ngrams: str | None,
        text: str | None,
        width: float,
        scale: float | None,
        each: float | None,
        favoured: str | None,
    ) -> str:
        if file is None:
            return note(HINT)
        try:
            wave = read_audio(file, name="The recording")
            if wave.seconds > LONGEST:
                return note(
                    f"The recording is {wave.seconds:,.0f} s long; the page listens to {LONGEST:,.0f} s. Longer ones: "
                    "`intermodal transcribe`.",
                    bad=True,
                )
            words = tuple(word.strip() for word in (favoured or "").split(",") if word.strip())
            width = int(width) if width > 1 else SEARCH_BEAM if words else 1
            given: dict[str, Any] = {"beam": width, "hot_words": words or None, "word_bonus": each if ngrams else None}
            found = [(WITHOUT, model.transcribe([wave], settings_of({**given, "word_bonus": None}))[0])]
            if ngrams is not None:
                more = {"lm": Path(ngrams), "lm_weight": scale, "beam": max(width, SEARCH_BEAM), "n_best": ALTERNATIVES}
                found.append((WITH, model.transcribe([wave], settings_of({**given, **more}))[0]))
            rows = [("heard" if ngrams is None else name, transcript.words) for name, transcript in found]
            if able and text and text.strip():
                rows.append(("given", model.align(wave, checked_text(text, MOST_TEXT)).words))
            emissions = model.emissions(wave) if isinstance(model, Emits) else None
        except IntermodalError as error:
            return note(str(error), bad=True)
        return _page(wave, emissions, found, rows)

    inputs = [audio, lm, said, beam, weight, bonus, hot]
    for trigger in (audio.change, lm.change, said.submit, go.click):
        trigger(listen, inputs, result)


def _page(
    wave: Waveform,
    emissions: Emissions | None,
    found: Sequence[tuple[str, Transcript]],
    rows: Sequence[tuple[str, Sequence[Word]]],
) -> str:
    best = found[-1][1]
    heads = [name if len(found) > 1 else "" for name, _ in found]
    texts = "".join(_said(head, transcript) for head, (_, transcript) in zip(heads, found, strict=True))
    notes = "".join(f"<li>{html.escape(each)}</li>" for each in best.notes)
    picture = _drawn(wave, emissions, rows)
    more = f" The first {DRAWN:.0f} s are drawn." if wave.seconds > DRAWN else ""
    srt = download(to_srt(best).encode(), "transcript.srt", "Save as SRT", "application/x-subrip")
    vtt = download(to_vtt(best).encode(), "transcript.vtt", "Save as WebVTT", "text/vtt")
    return (
        f'<p class="im-caption" role="status">{wave.seconds:.2f} s, {wave.rate:,} samples a second.{more}</p>'
        f'<div class="im-transcripts">{texts}</div>'
        + (f'<ul class="im-notes">{notes}</ul>' if notes else "")
        + wide_picture(picture, f"spectrogram, posteriors and words: {best.text}")
        + _alternatives(best)
        + _times(best.words)
        + f'<div class="im-saves">{srt}{vtt}</div>'
    )


def _said(head: str, transcript: Transcript) -> str:
    """Return a transcript whose words are the paler the less sure the model is; a pointer sees their times."""
    words = " ".join(_word(word) for word in transcript.words) if transcript.words else html.escape(transcript.text)
    title = f"<h4>{html.escape(head)}</h4>" if head else ""
    return f'<section>{title}<p class="im-spoken">{words or "<i>nothing was heard</i>"}</p></section>'


def _word(word: Word) -> str:
    sure = 1.0 if word.confidence is None else min(max(word.confidence, 0.0), 1.0)
    seen = "" if word.start is None or word.end is None else f"{word.start:.2f} to {word.end:.2f} s"
    if word.confidence is not None:
        seen += f", {sure:.0%} sure"
    doubt = ' class="im-doubt"' if sure < 0.5 else ""
    return f'<span{doubt} title="{html.escape(seen.strip(", "))}">{html.escape(word.text)}</span>'


def _drawn(wave: Waveform, emissions: Emissions | None, rows: Sequence[tuple[str, Sequence[Word]]]) -> Image.Image:
    """Return the picture of the beginning."""
    if wave.seconds > DRAWN:
        wave = Waveform(wave.samples[: int(DRAWN * wave.rate)], wave.rate, wave.name)
        rows = [(name, [w for w in words if w.start is not None and w.start < DRAWN]) for name, words in rows]
        if emissions is not None:
            log_probs = emissions.log_probs[: int(DRAWN / emissions.frame_seconds)]
            emissions = Emissions(np.asarray(log_probs), emissions.symbols, emissions.blank, emissions.frame_seconds)
    named = [(name.replace(" ", "\n", 1), words) for name, words in rows]
    return draw_utterance(wave, emissions, named, width=PICTURE)


def _alternatives(transcript: Transcript) -> str:
    """Return the n-best with the scores of sound and language apart."""
    if len(transcript.alternatives) < 2:
        return ""
    rows = "".join(
        f"<tr><td>{html.escape(h.text) or '<i>nothing</i>'}</td><td>{h.score:.2f}</td><td>{h.acoustic:.2f}</td>"
        f"<td>{h.language:.2f}</td><td>{h.bonus:.2f}</td></tr>"
        for h in transcript.alternatives
    )
    head = (
        "<tr><th>the best with the language model</th><th>score</th><th>sound</th><th>language</th><th>bonus</th></tr>"
    )
    return f'<table class="im-table"><thead>{head}</thead><tbody>{rows}</tbody></table>'


def _times(words: Sequence[Word]) -> str:
    timed = [w for w in words if w.start is not None and w.end is not None]
    if not timed:
        return ""
    rows = "".join(
        f"<tr><td>{html.escape(w.text)}</td><td>{w.start:.2f}</td><td>{w.end:.2f}</td>"
        f"<td>{'' if w.confidence is None else f'{w.confidence:.0%}'}</td></tr>"
        for w in timed
    )
    head = "<tr><th>word</th><th>from (s)</th><th>to (s)</th><th>confidence</th></tr>"
    table = f'<table class="im-table"><thead>{head}</thead><tbody>{rows}</tbody></table>'
    return f"<details><summary>Word by word</summary>{table}</details>"


TAB = Tab(title="Listen", capability="transcribe", order=15, build=build)

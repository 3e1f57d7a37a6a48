"""Ask: pictures and questions about them in, answers out as they are written; what was said before is remembered.

So is what was read: of a further question only what is new is computed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import gradio as gr

from intermodal.core.chat import Turn
from intermodal.core.errors import IntermodalError
from intermodal.data.images import open_image
from intermodal.index.asking import answers
from intermodal.index.captioning import caption_settings
from intermodal.studio.look import dialogue, note
from intermodal.studio.tab import Setting, Tab

HINT = "Drop a picture and ask."
KEPT = 3600
"""Seconds for which a chat is remembered after its last question."""
Said = list[tuple[str, str, str | None]]
"""Questions and their answers, and the picture's file where one was shown with it."""


def build(setting: Setting) -> None:
    """Add the tab's components."""
    model = answers(setting.session.model, "To ask")
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            image = gr.Image(label="A picture", type="filepath", sources=["upload"], height=260)
            question = gr.Textbox(label="A question", placeholder="What is this?")
            more = gr.Checkbox(label="Further pictures join the chat", info="Else each picture begins a new one.")
            temperature = gr.Slider(0, 2, value=0, step=0.1, label="Temperature", info="Above 0, words are drawn.")
        with gr.Column(scale=2, min_width=280):
            with gr.Row():
                go = gr.Button("Ask", variant="primary")
                new = gr.Button("New chat")
            result = gr.HTML(note(HINT), elem_id="im-answers", elem_classes="im-html", padding=False)
    before = gr.State([], time_to_live=KEPT)
    memory = gr.State(None, time_to_live=KEPT)

    def ask(file: str | None, asked: str, heat: float, said: Said, kept: Any) -> Iterator[tuple[str, Said, Any]]:
        kept = kept or model.memory()
        if not asked.strip():
            yield note(HINT), said, kept
            return
        text, new_file = "", None if file in {f for _, _, f in said} else file
        try:
            told: list[tuple[str, str | None, str | None]] = [*said, (asked, None, new_file)]
            chat = [Turn(q, a, () if f is None else (open_image(f, "The picture"),)) for q, a, f in told]
            for piece in model.answering(chat, caption_settings({"temperature": float(heat)}), kept):
                text += piece
                yield shown_chat([*said, (asked, text, new_file)]), said, kept
        except IntermodalError as error:
            yield note(str(error), bad=True), said, kept
            return
        said = [*said, (asked, text.strip(), new_file)]
        yield shown_chat(said), said, kept

    def begin() -> tuple[str, Said, Any]:
        return note(HINT), [], None

    def another(joins: bool, said: Said, kept: Any) -> tuple[str, Said, Any]:
        return (shown_chat(said), said, kept) if joins and said else begin()

    given, told = [image, question, temperature, before, memory], [result, before, memory]
    go.click(ask, given, told)
    question.submit(ask, given, told)
    new.click(begin, None, told)
    image.upload(another, [more, before, memory], told)


def shown_chat(said: Said) -> str:
    """Return questions and answers as a list."""
    number = itertools.count(1)
    marks = ["" if file is None else f"[picture {next(number)}] " for _, _, file in said]
    rows = zip(said, marks, strict=True)
    return dialogue([(mark + asked, answer or "(nothing)") for (asked, answer, _), mark in rows], "The chat")


TAB = Tab(title="Ask", capability="answer", order=16, build=build)

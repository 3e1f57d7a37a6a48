"""Ask: a picture and questions about it in, answers out as they are written; what was said before is remembered."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr

from intermodal.core.chat import Turn
from intermodal.core.errors import IntermodalError
from intermodal.data.images import open_image
from intermodal.index.asking import answers
from intermodal.index.captioning import caption_settings
from intermodal.studio.look import note, passages
from intermodal.studio.tab import Setting, Tab

HINT = "Drop a picture and ask."
Said = list[tuple[str, str]]


def build(setting: Setting) -> None:
    """Add the tab's components."""
    model = answers(setting.session.model, "To ask")
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            image = gr.Image(label="A picture", type="filepath", sources=["upload"], height=260)
            question = gr.Textbox(label="A question", placeholder="What is this?")
            temperature = gr.Slider(0, 2, value=0, step=0.1, label="Temperature", info="Above 0, words are drawn.")
        with gr.Column(scale=2, min_width=280):
            with gr.Row():
                go = gr.Button("Ask", variant="primary")
                new = gr.Button("New chat")
            result = gr.HTML(note(HINT), elem_id="im-answers", elem_classes="im-html", padding=False)
    before = gr.State([])

    def ask(file: str | None, asked: str, heat: float, said: Said) -> Iterator[tuple[str, Said]]:
        if not asked.strip():
            yield note(HINT), said
            return
        text = ""
        try:
            shown = () if file is None else (open_image(file, "The picture"),)
            told = [*said, (asked, None)]
            chat = [Turn(q, a, () if i else shown) for i, (q, a) in enumerate(told)]
            for piece in model.answering(chat, caption_settings({"temperature": float(heat)})):
                text += piece
                yield shown_chat([*said, (asked, text)]), said
        except IntermodalError as error:
            yield note(str(error), bad=True), said
            return
        yield shown_chat([*said, (asked, text)]), [*said, (asked, text.strip())]

    def begin() -> tuple[str, Said]:
        return note(HINT), []

    given = [image, question, temperature, before]
    go.click(ask, given, [result, before])
    question.submit(ask, given, [result, before])
    new.click(begin, None, [result, before])
    image.upload(begin, None, [result, before])


def shown_chat(said: Said) -> str:
    """Return questions and answers as a list."""
    return passages([(answer or "(nothing)", None, asked) for asked, answer in said], "The chat")


TAB = Tab(title="Ask", capability="answer", order=16, build=build)

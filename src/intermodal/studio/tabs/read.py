"""Read: a picture of a page or a line in, its text and where each line stands out."""

from __future__ import annotations

import gradio as gr
from PIL import ImageDraw

from intermodal.core.errors import IntermodalError
from intermodal.data.images import open_image
from intermodal.index.reading import reading_settings, reads
from intermodal.studio.look import note, passages, wide_picture
from intermodal.studio.tab import Setting, Tab

HINT = "Drop a picture of a page, or of a line."
MARK = (200, 60, 40)


def build(setting: Setting) -> None:
    """Add the tab's components."""
    model = reads(setting.session.model, "To read")
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            image = gr.Image(label="A picture", type="filepath", sources=["upload"], height=260)
            whole = gr.Checkbox(False, label="It is one line", info="Else lines are looked for in it.")
            beam = gr.Slider(
                1, 16, value=model.reading.beam, step=1, label="Beam", info="1: the likeliest letter each time."
            )
        with gr.Column(scale=2, min_width=280):
            go = gr.Button("Read", variant="primary")
            result = gr.HTML(note(HINT), elem_id="im-read", elem_classes="im-html", padding=False)

    def read(file: str | None, one: bool, width: float) -> str:
        if file is None:
            return note(HINT)
        try:
            picture = open_image(file, "The picture")
            (lines,) = model.read([picture], reading_settings(model, {"beam": int(width)}), cut=not one)
        except IntermodalError as error:
            return note(str(error), bad=True)
        if not lines:
            return note("No line of text was found: the page is blank.")
        marked = picture.convert("RGB")
        pen = ImageDraw.Draw(marked)
        for line in lines:
            pen.rectangle((line.box[0], line.box[1], line.box[2] - 1, line.box[3] - 1), outline=MARK)
        said = [(line.text or "(nothing)", None, "" if line.ended else "cut: it did not end") for line in lines]
        count = "One line" if len(lines) == 1 else f"{len(lines)} lines"
        return wide_picture(marked, "The lines that were found") + passages(said, count)

    go.click(read, [image, whole, beam], result)
    image.upload(read, [image, whole, beam], result)


TAB = Tab(title="Read", capability="read", order=16, build=build)
"""What the page shows of it."""

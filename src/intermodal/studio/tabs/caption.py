"""Caption: a picture in, what it shows in words out."""

from __future__ import annotations

import gradio as gr

from intermodal.core.errors import IntermodalError
from intermodal.data.images import open_image
from intermodal.index.captioning import caption_settings, captions
from intermodal.studio.look import note, passages
from intermodal.studio.tab import Setting, Tab

HINT = "Drop a picture."


def build(setting: Setting) -> None:
    """Add the tab's components."""
    model = captions(setting.session.model, "To caption")
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            image = gr.Image(label="A picture", type="filepath", sources=["upload"], height=260)
            beam = gr.Slider(1, 16, value=1, step=1, label="Beam", info="1: the likeliest word each time.")
            temperature = gr.Slider(0, 2, value=0, step=0.1, label="Temperature", info="Above 0, words are drawn.")
            count = gr.Slider(1, 8, value=1, step=1, label="How many", info="Several only where words are drawn.")
            seed = gr.Number(value=0, precision=0, minimum=0, label="Seed", info="Same seed, same captions.")
        with gr.Column(scale=2, min_width=280):
            go = gr.Button("Caption", variant="primary")
            result = gr.HTML(note(HINT), elem_id="im-captions", elem_classes="im-html", padding=False)

    def write(file: str | None, width: float, heat: float, number: float, start: float | None) -> str:
        if file is None:
            return note(HINT)
        try:
            settings = caption_settings({"beam": int(width), "temperature": float(heat), "seed": int(start or 0)})
            picture = open_image(file, "The picture")
            made = model.caption([picture] * (int(number) if heat > 0 else 1), settings)
        except IntermodalError as error:
            return note(str(error), bad=True)
        said = [(one.text or "(nothing)", None, "" if one.ended else "cut: it did not end") for one in made]
        return passages(
            said, "One caption" if len(said) == 1 else f"{len(said)} captions, seeds from {int(start or 0)}"
        )

    given = [image, beam, temperature, count, seed]
    go.click(write, given, result)
    image.upload(write, given, result)


TAB = Tab(title="Caption", capability="caption", order=15, build=build)

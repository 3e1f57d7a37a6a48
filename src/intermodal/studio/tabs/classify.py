"""Classify: a picture and labels of a person's choice in, the labels' probabilities out."""

from __future__ import annotations

import gradio as gr

from intermodal.core.capabilities import labels_for
from intermodal.core.errors import IntermodalError
from intermodal.data.images import open_image
from intermodal.index.embedding import classifies
from intermodal.studio.look import bars, note
from intermodal.studio.tab import Setting, Tab

HINT = "Drop a picture, and name what it could be."
LABELS = "food, animal, vehicle, person, clothing, building, music, sport, flag, weather"


def build(setting: Setting) -> None:
    """Add the tab's components."""
    model = classifies(setting.session.model, "To classify")
    own = labels_for(model, ())
    info = "Names, with commas between them." + (f" None: all {len(own)} classes of the model." if own else "")
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            image = gr.Image(label="A picture", type="filepath", sources=["upload"], height=260)
        with gr.Column(scale=2, min_width=280):
            labels = gr.Textbox("" if own else LABELS, label="What it could be", info=info, lines=2)
            go = gr.Button("Classify", variant="primary")
            result = gr.HTML(note(HINT), elem_id="im-classes", elem_classes="im-html", padding=False)

    def classify(file: str | None, text: str) -> str:
        chosen = list(dict.fromkeys(name for part in text.split(",") if (name := part.strip())))
        names = labels_for(model, chosen)
        if file is None or not names:
            return note(HINT)
        try:
            shares = model.classify([open_image(file, "The picture")], names)[0]
        except IntermodalError as error:
            return note(str(error), bad=True)
        ranked = sorted(zip(names, shares.tolist(), strict=True), key=lambda pair: -pair[1])
        return bars(ranked[:12])

    go.click(classify, [image, labels], result)
    labels.submit(classify, [image, labels], result)
    image.upload(classify, [image, labels], result)


TAB = Tab(title="Classify", capability="classify", order=20, build=build)

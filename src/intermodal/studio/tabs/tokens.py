"""Tokens: a picture in; its tokens as a picture, what comes back, and how many bits they take out."""

from __future__ import annotations

import gradio as gr

from intermodal.core.errors import IntermodalError
from intermodal.data.images import open_image
from intermodal.data.token_pictures import enlarged
from intermodal.index.embedding import reconstructs
from intermodal.index.tokens import levels_of, show
from intermodal.studio.look import cards, note
from intermodal.studio.tab import Setting, Tab

HINT = "Drop a picture."
LEAST = 128
"""Small pictures are shown at this size, every pixel a square."""


def build(setting: Setting) -> None:
    """Add the tab's components."""
    model = setting.session.model
    able, most = reconstructs(model, "To turn pictures into tokens"), levels_of(setting.session.model)
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            image = gr.Image(label="A picture", type="filepath", sources=["upload"], height=260, elem_id="im-to-encode")
            levels = gr.Slider(
                1,
                max(most, 2),  # gradio takes no slider of one value
                value=most,
                step=1,
                label="Codes of each place",
                info="The first few alone are a coarser picture, for fewer bits.",
                visible=most > 1,
            )
        with gr.Column(scale=2, min_width=320):
            result = gr.HTML(note(HINT), elem_id="im-tokens", elem_classes="im-html", padding=False)

    def tokens(file: str | None, keep: float) -> str:
        if file is None:
            return note(HINT)
        try:
            shown = show(model, open_image(file, "The picture"), int(keep) if most > 1 else None)
        except IntermodalError as error:
            return note(str(error), bad=True)
        kind = "codes" if able.codebook_size is not None else "numbers"
        several = len(shown.tokens) > 1
        names = [f"{kind}, level {i}" if several else kind for i in range(1, len(shown.tokens) + 1)]
        words = ["the picture", "what comes back", *names]
        pictures = [shown.original, shown.returned, *shown.tokens]
        items = [(enlarged(p, LEAST), None, w, w) for p, w in zip(pictures, words, strict=True)]
        return cards(items, shown.in_words(able.codebook_size))

    image.change(tokens, [image, levels], result)
    levels.release(tokens, [image, levels], result)


TAB = Tab(title="Tokens", capability="reconstruct", order=25, build=build)

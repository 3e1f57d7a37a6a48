"""Generate: a seed, and where the model takes one a prompt, in; pictures or texts out."""

from __future__ import annotations

import gradio as gr

from intermodal.core.errors import IntermodalError
from intermodal.index.embedding import generates
from intermodal.studio.look import cards, note, passages
from intermodal.studio.tab import Setting, Tab

HINT = "Choose how many, and generate."
MOST = 32


def build(setting: Setting) -> None:
    """Add the tab's components."""
    model = generates(setting.session.model, "To generate")
    of_text = model.generates == "text"
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            about = "The words to go on from; may be empty." if of_text else "Where the model takes one; may be empty."
            prompt = gr.Textbox(label="Prompt", info=about, lines=2)
            count = gr.Slider(1, MOST, value=8, step=1, label="How many")
            steps = gr.Number(value=0, precision=0, minimum=0, label="Steps", info="0: the model's own choice.")
            seed = gr.Number(value=0, precision=0, minimum=0, label="Seed", info="Same seed, same samples.")
            go = gr.Button("Generate", variant="primary")
        with gr.Column(scale=3, min_width=320):
            result = gr.HTML(note(HINT), elem_id="im-generated", elem_classes="im-html", padding=False)

    def generate(text: str, number: float, length: float | None, start: float | None) -> str:
        words = text.strip() or None
        try:
            made = model.generate(int(number), prompt=words, seed=int(start or 0), steps=int(length or 0) or None)
        except IntermodalError as error:
            return note(str(error), bad=True)
        said = f"{len(made)} samples, seed {int(start or 0)}"
        if model.generates == "image":
            return cards([(picture, None, "", f"sample {i}") for i, picture in enumerate(made, 1)], said)
        texts = [", ".join(f"{x:.4g}" for x in item) if isinstance(item, tuple) else item for item in made]
        return passages([(item, None, "") for item in texts], said)

    go.click(generate, [prompt, count, steps, seed], result)
    prompt.submit(generate, [prompt, count, steps, seed], result)


TAB = Tab(title="Generate", capability="generate", order=30, build=build, unless="draw")

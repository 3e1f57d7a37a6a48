"""Words: a word in, the nearest ones out; or three words in, and the fourth that completes the analogy."""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr

from intermodal.core.errors import IntermodalError
from intermodal.index.words import NearWord
from intermodal.studio.look import note, ranked
from intermodal.studio.tab import Setting, Tab

HINT = "Type a word, or three words of an analogy."
K = 15
EXAMPLES = ("king", "water", "science", "france", "doctor")


def build(setting: Setting) -> None:
    """Add the tab's components."""
    index = setting.session.words
    known = [word for word in EXAMPLES if word in index.words] or list(index.words[100:105]) or list(index.words[:5])
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=260):
            word = gr.Textbox(
                label="Near a word",
                placeholder=known[0],
                max_lines=1,
                submit_btn="Find",
                elem_id="im-word",
            )
            with gr.Row(elem_classes="im-samples"):
                buttons = [gr.Button(example, size="sm", variant="secondary") for example in known]
            with gr.Row():
                a = gr.Textbox(label="As", placeholder="man", max_lines=1, min_width=90)
                b = gr.Textbox(label="is to", placeholder="king", max_lines=1, min_width=90)
                c = gr.Textbox(label="so is", placeholder="woman", max_lines=1, min_width=90)
            go = gr.Button("to ...", variant="primary")
        with gr.Column(scale=1, min_width=280):
            result = gr.HTML(note(HINT), elem_id="im-words", elem_classes="im-html", padding=False)

    def near(text: str) -> str:
        if not text.strip():
            return note(HINT)
        return _answer(lambda: index.near(text, K), f"Nearest to “{text.strip()}” of {len(index):,} words, by cosine.")

    def analogy(first: str, second: str, third: str) -> str:
        if not (first.strip() and second.strip() and third.strip()):
            return note("An analogy takes three words.")
        said = f"As “{first.strip()}” is to “{second.strip()}”, so is “{third.strip()}” to ... (3CosAdd, by cosine)."
        return _answer(lambda: index.analogy(first, second, third, K), said)

    word.submit(near, word, result)
    for button in buttons:
        button.click(lambda text: text, button, word, queue=False).then(near, word, result)
    go.click(analogy, [a, b, c], result)
    c.submit(analogy, [a, b, c], result)


def _answer(ask: Callable[[], list[NearWord]], said: str) -> str:
    try:
        found = ask()
    except IntermodalError as error:
        return note(str(error), bad=True)
    return ranked([(w.word, w.cosine) for w in found], said)


TAB = Tab(title="Words", capability="words", order=15, build=build)

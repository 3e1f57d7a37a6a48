"""Draw: a prompt in; pictures that form before one's eyes, and how they came about to look at afterwards."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import gradio as gr
from PIL import Image

from intermodal.core.drawing import Sampler
from intermodal.core.errors import IntermodalError
from intermodal.data.images import contact_sheet
from intermodal.data.picture_files import Origin, png_bytes
from intermodal.data.token_pictures import enlarged
from intermodal.data.trajectories import Moment, Trajectory
from intermodal.index.drawing import draws, live, seeds_from
from intermodal.index.prompts import checked, unheard
from intermodal.studio.look import bar, cards, download, note
from intermodal.studio.tab import Setting, Tab

HINT = "Say what is to be drawn, and draw."
HINT_NOTHING = "Draw. This model was trained without texts and takes no prompt."
MOST, STEPS, FEW = 16, 100, 3
LEAST, SIDE = 128, 160
"""Small pictures are shown at ``LEAST`` pixels, every pixel a square; moments are kept at ``SIDE`` at most."""
MOMENTS = 64
BECOMES, NOISY = "what it becomes", "with its noise"
NAMES = {
    "ddim": "DDIM",
    "ddpm": "DDPM, ancestral",
    "dpm": "DPM-Solver++",
    "dpm-sde": "DPM-Solver++ with noise",
    "euler": "Euler",
    "euler-a": "Euler, ancestral",
    "heun": "Heun",
}


@dataclass(frozen=True)
class Kept:
    """What is kept of the last drawing.

    Attributes:
        seeds: of its pictures.
        moments: in order, the finished pictures last.
        save: the link that saves the pictures.
    """

    seeds: tuple[int, ...] = ()
    moments: tuple[Moment, ...] = ()
    save: str = ""


def build(setting: Setting) -> None:
    """Add the tab's components."""
    model = draws(setting.session.model, "To draw")
    own, tell, guide = model.drawing, model.takes_prompt, model.guidable
    samplers = [(NAMES.get(name, name), name) for name in get_args(Sampler)]
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            prompt = gr.Textbox(label="Prompt", info="What is to be drawn; may be empty.", visible=tell)
            negative = gr.Textbox(own.negative, label="Not", info="What is to be avoided; may be empty.", visible=guide)
            with gr.Row():
                go = gr.Button("Draw", variant="primary", min_width=90)
                halt = gr.Button("Stop", interactive=False, min_width=90)
            steps = gr.Slider(1, max(STEPS, own.steps), value=own.steps, step=1, label="Steps")
            guidance = gr.Slider(
                0,
                max(15, own.guidance),
                value=own.guidance,
                step=0.1,
                label="Guidance",
                info="1: as trained. More: closer to the prompt.",
                visible=guide,
            )
            count = gr.Slider(1, MOST, value=4, step=1, label="How many")
            seed = gr.Number(value=0, precision=0, minimum=0, label="Seed", info="Same seed, same picture.")
            with gr.Accordion("How the steps are taken", open=False):
                sampler = gr.Dropdown(samplers, value=own.sampler, label="Sampler")
                eta = gr.Slider(
                    0,
                    1,
                    value=own.eta,
                    step=0.05,
                    label="Eta",
                    info="Noise that is added on the way.",
                    visible=own.sampler == "ddim",
                )
        with gr.Column(scale=2, min_width=320):
            hint = HINT if tell else HINT_NOTHING
            result = gr.HTML(note(hint), elem_id="im-drawn", elem_classes="im-html", padding=False)
            at = gr.Slider(1, 2, value=2, step=1, label="How it came about", elem_id="im-moment", visible=False)
            shown = gr.Radio(
                [BECOMES, NOISY], value=BECOMES, show_label=False, container=False, elem_id="im-shown", visible=False
            )
    kept = gr.State(Kept(), time_to_live=3600)
    stops: dict[str, threading.Event] = {}

    def draw(  # noqa: PLR0917 - gradio hands over what its components hold by position
        text: str,
        avoid: str,
        length: float,
        scale: float,
        number: float,
        how: Sampler,
        chance: float,
        start: float | None,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        hidden = (gr.Button(interactive=False), gr.Slider(visible=False), gr.Radio(visible=False))
        trajectory, stop = Trajectory(MOMENTS, MOST, SIDE), threading.Event()
        stops[_who(request)] = stop
        try:
            words = checked(text.strip() or None) if tell else None
            guided = {"guidance": scale, "negative": avoid.strip()} if guide else {}
            drawing = own.replace(steps=int(length), sampler=how, eta=chance, **guided)
            seeds, notes = seeds_from(int(start or 0), int(number)), unheard(model, words)
            yield note("Drawing."), Kept(), gr.Button(interactive=True), *hidden[1:]
            drawn: list[Image.Image] = []
            for moment, drawn in live(model, [words] * len(seeds), seeds, drawing, trajectory=trajectory, stop=stop):
                page = _grid(drawn, seeds, moment)
                yield page, gr.skip(), gr.skip(), gr.skip(), gr.skip()
        except IntermodalError as error:
            yield note(str(error), bad=True), Kept(), *hidden
            return
        finally:
            stops.pop(_who(request), None)
        if not drawn:
            yield note("Stopped before the first step."), Kept(), *hidden
            return
        moments, said, save = trajectory.moments, f"Stopped. {_words(moment)}", ""
        if moment.done == moment.steps:
            moments = trajectory.end(drawn)
            told = words or "Nothing in particular"
            said = " ".join([f"{told}: {drawing.steps} steps of {NAMES.get(how, how)}.", *notes])
            origin = Origin(model=setting.session.name, method=setting.session.model.id, prompt=words, drawing=drawing)
            sheet = drawn[0] if len(drawn) == 1 else contact_sheet(drawn)
            save = download(png_bytes(sheet, origin.facts(seeds)), "drawn.png", "Save as PNG, with its settings inside")
        several = len(moments) > 1
        slider = gr.Slider(maximum=max(len(moments), 2), value=len(moments), visible=several)
        found = Kept(tuple(seeds), tuple(moments), save)
        yield (
            _grid(drawn, seeds, moment, said) + save,
            found,
            hidden[0],
            slider,
            gr.Radio(value=BECOMES, visible=several),
        )

    def halt_drawing(request: gr.Request) -> None:
        if (stop := stops.get(_who(request))) is not None:
            stop.set()

    def look_back(found: Kept, place: float, which: str) -> str:
        if not found.moments:
            return note("There is nothing to look back at: draw again.")
        moment = found.moments[min(max(int(place), 1), len(found.moments)) - 1]
        pictures = moment.noisy if which == NOISY else moment.becoming
        return _grid(pictures, found.seeds, moment) + found.save

    inputs = [prompt, negative, steps, guidance, count, sampler, eta, seed]
    for trigger in (go.click, prompt.submit):
        trigger(draw, inputs, [result, kept, halt, at, shown], show_progress="hidden")
    halt.click(halt_drawing, queue=False, show_progress="hidden")
    for moved in (at.input, shown.input):
        moved(look_back, [kept, at, shown], result, show_progress="hidden", trigger_mode="always_last")
    sampler.change(lambda name: gr.Slider(visible=name == "ddim"), sampler, eta, show_progress="hidden")


def _who(request: gr.Request) -> str:
    return str(request.session_hash)


def _words(moment: Moment) -> str:
    if moment.done == moment.steps:
        return f"After {moment.steps} steps."
    return f"Before step {moment.done + 1} of {moment.steps}, {moment.noise:.0%} noise."


def _grid(pictures: Sequence[Image.Image], seeds: Sequence[int], moment: Moment, said: str = "") -> str:
    """Return pictures as cards under a bar that says which moment it is; without further words, these say it as well."""
    names = [f"seed {seed}" for seed in seeds[: len(pictures)]]
    items = [(enlarged(picture, LEAST), None, name, name) for picture, name in zip(pictures, names, strict=True)]
    return bar(moment.done / moment.steps) + cards(items, said or _words(moment), large=len(seeds) <= FEW)


TAB = Tab(title="Draw", capability="draw", order=29, build=build)

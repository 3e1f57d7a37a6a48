"""The routes that draw: ``/draw`` from a prompt, ``/interpolate`` between two pictures or two texts."""

from __future__ import annotations

import base64
import threading
from typing import Annotated, Any

from fastapi import Depends, FastAPI, File, Form, UploadFile
from PIL import Image
from pydantic import BaseModel, Field

from intermodal.api.limits import MAX_SAMPLES, MAX_STEPS, MAX_TEXT
from intermodal.api.uploads import opened
from intermodal.core.drawing import Drawing, Sampler, Spacing
from intermodal.core.errors import DataError
from intermodal.data.picture_files import Origin, png_bytes
from intermodal.index.drawing import draws, interpolates, seeds_from, settings
from intermodal.index.prompts import checked, unheard
from intermodal.index.session import Session

Count = Annotated[int, Form(ge=1, le=MAX_SAMPLES)]
Seed = Annotated[int, Form(ge=0, lt=2**63)]


class Drawn(BaseModel):
    """One picture."""

    image: str = Field(description="a PNG file in base64, which says in its text chunks how it came about")
    seed: int


class Drawings(BaseModel):
    """The pictures, and how they were drawn."""

    pictures: list[Drawn]
    settings: dict[str, Any] = Field(description="all settings, those that were not given too")
    notes: list[str] = Field(description="what the model does not make of the prompt: unknown words, what is too long")


class Between(BaseModel):
    """The pictures from one to the other."""

    images: list[str] = Field(description="PNG files in base64, the two ends included")
    settings: dict[str, Any] | None = Field(description="null for models that do not draw in steps")
    notes: list[str]


def given(  # noqa: PLR0917 - FastAPI calls it by name
    steps: Annotated[int | None, Form(ge=1, le=MAX_STEPS)] = None,
    guidance: Annotated[float | None, Form()] = None,
    sampler: Annotated[Sampler | None, Form()] = None,
    negative: Annotated[str | None, Form(max_length=MAX_TEXT)] = None,
    eta: Annotated[float | None, Form(ge=0, le=1)] = None,
    order: Annotated[int | None, Form(ge=1, le=3)] = None,
    spacing: Annotated[Spacing | None, Form()] = None,
    rescale: Annotated[float | None, Form(ge=0, le=1)] = None,
) -> dict[str, Any]:
    """Return the settings of a drawing that a request gives."""
    found = {
        "steps": steps,
        "guidance": guidance,
        "sampler": sampler,
        "negative": negative,
        "eta": eta,
        "order": order,
        "spacing": spacing,
        "rescale": rescale,
    }
    return {name: value for name, value in found.items() if value is not None}


Given = Annotated[dict[str, Any], Depends(given)]


def add_drawing(app: FastAPI, session: Session, one_at_a_time: threading.Lock) -> None:
    """Add the routes to an application.

    Args:
        app: the application.
        session: the model.
        one_at_a_time: held while the model works.
    """

    def origin(prompt: str | None, drawing: Drawing | None) -> Origin:
        return Origin(model=session.name, method=session.model.id, prompt=prompt, drawing=drawing)

    @app.post("/draw")
    def draw(
        given: Given,
        prompt: Annotated[str | None, Form(max_length=MAX_TEXT)] = None,
        count: Count = 1,
        seed: Seed = 0,
    ) -> Drawings:
        model = draws(session.model, "To draw")
        words, seeds, drawing = checked(prompt), seeds_from(seed, count), model.drawing.replace(**given)
        notes = unheard(model, words)
        with one_at_a_time:
            made = model.draw([words] * count, seeds, drawing)
        about = origin(words, drawing)
        return Drawings(
            pictures=[Drawn(image=_png(p, about, s), seed=s) for p, s in zip(made, seeds, strict=True)],
            settings=_plain(drawing),
            notes=notes,
        )

    @app.post("/interpolate")
    def interpolate(
        given: Given,
        text: Annotated[list[Annotated[str, Field(max_length=MAX_TEXT)]], Form(max_length=2)] = [],  # noqa: B006
        image: Annotated[list[UploadFile], File(max_length=2)] = [],  # noqa: B006 - FastAPI copies defaults
        count: Annotated[int, Form(ge=2, le=MAX_SAMPLES)] = 8,
        seed: Seed = 0,
    ) -> Between:
        model = interpolates(session.model, "To interpolate")
        if sorted((len(text), len(image))) != [0, 2]:
            raise DataError("Send two texts as `text` or two pictures as `image`, one of the two.")
        texts = [checked(each, "text") or "" for each in text]
        ends: list[Any] = [*texts] or opened(image)
        drawing = settings(session.model, given, "To interpolate with such settings")
        notes = [note for each in texts for note in unheard(model, each)]
        with one_at_a_time:
            made = model.interpolate(ends[0], ends[1], count, seed=seed, drawing=drawing)
        about = origin(" -> ".join(texts) or None, drawing)
        return Between(
            images=[_png(picture, about, seed) for picture in made],
            settings=None if drawing is None else _plain(drawing),
            notes=notes,
        )


def _png(picture: Image.Image, about: Origin, seed: int) -> str:
    return base64.b64encode(png_bytes(picture, about.facts([seed]))).decode()


def _plain(drawing: Drawing) -> dict[str, Any]:
    return {name: value for name, value in drawing.to_dict().items() if name != "type"}

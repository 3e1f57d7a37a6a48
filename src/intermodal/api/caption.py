"""The route that writes captions: ``/caption``."""

from __future__ import annotations

import threading
from typing import Annotated, Any

from fastapi import Depends, FastAPI, File, Form, UploadFile
from pydantic import BaseModel, Field

from intermodal.api.limits import MAX_INPUTS
from intermodal.api.uploads import names_of, opened
from intermodal.core.captioning import MOST_BEAM, MOST_LENGTH
from intermodal.index.captioning import caption_settings, captions
from intermodal.index.session import Session


class Captioned(BaseModel):
    """What was written about one picture."""

    input: str
    caption: str
    log_prob: float | None = Field(
        description="natural log-probability of its tokens; null where the model does not say"
    )
    ended: bool = Field(description="false if it was cut at the most tokens")


class CaptionsMade(BaseModel):
    """The captions, in the order sent."""

    pictures: list[Captioned]


def given(  # noqa: PLR0917 - FastAPI calls it by name
    beam: Annotated[int | None, Form(ge=1, le=MOST_BEAM)] = None,
    length_penalty: Annotated[float | None, Form()] = None,
    temperature: Annotated[float | None, Form(ge=0)] = None,
    top_k: Annotated[int | None, Form(ge=1)] = None,
    top_p: Annotated[float | None, Form(gt=0, le=1)] = None,
    length: Annotated[int | None, Form(ge=1, le=MOST_LENGTH)] = None,
    seed: Annotated[int | None, Form(ge=0)] = None,
) -> dict[str, Any]:
    """Return the settings that a request gives."""
    return {
        "beam": beam,
        "length_penalty": length_penalty,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "most": length,
        "seed": seed,
    }


def add_captioning(app: FastAPI, session: Session, one_at_a_time: threading.Lock) -> None:
    """Add the route to an application.

    Args:
        app: the application.
        session: the model.
        one_at_a_time: held while the model works.
    """

    @app.post("/caption")
    def caption(
        given: Annotated[dict[str, Any], Depends(given)],
        image: Annotated[list[UploadFile], File(max_length=MAX_INPUTS)],
    ) -> CaptionsMade:
        model, settings = captions(session.model, "To caption"), caption_settings(given)
        names, pictures = names_of(image), opened(image)
        with one_at_a_time:
            found = model.caption(pictures, settings)
        return CaptionsMade(
            pictures=[
                Captioned(input=name, caption=made.text, log_prob=made.log_prob, ended=made.ended)
                for name, made in zip(names, found, strict=True)
            ]
        )

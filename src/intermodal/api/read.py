"""The route that reads text in pictures: ``/read``."""

from __future__ import annotations

import threading
from typing import Annotated

from fastapi import FastAPI, File, Form, UploadFile
from pydantic import BaseModel, Field

from intermodal.api.limits import MAX_INPUTS
from intermodal.api.uploads import names_of, opened
from intermodal.core.captioning import MOST_BEAM, MOST_LENGTH
from intermodal.core.reading import text_of
from intermodal.index.reading import reading_settings, reads
from intermodal.index.session import Session


class LineRead(BaseModel):
    """A line of text in a picture."""

    text: str
    box: tuple[int, int, int, int] = Field(description="left, top, right and lower edge in pixels")
    log_prob: float | None = Field(
        description="natural log-probability of its tokens; null where the model does not say"
    )
    ended: bool = Field(description="false if it was cut at the most tokens")


class PageRead(BaseModel):
    """What was read in one picture; a blank page has no lines."""

    input: str
    text: str
    lines: list[LineRead]


class PagesRead(BaseModel):
    """The pictures, in the order sent."""

    pictures: list[PageRead]


def add_reading(app: FastAPI, session: Session, one_at_a_time: threading.Lock) -> None:
    """Add the route to an application.

    Args:
        app: the application.
        session: the model.
        one_at_a_time: held while the model works.
    """

    @app.post("/read")
    def read(
        image: Annotated[list[UploadFile], File(max_length=MAX_INPUTS)],
        whole: Annotated[bool, Form(description="each picture is one line")] = False,
        beam: Annotated[int | None, Form(ge=1, le=MOST_BEAM)] = None,
        length: Annotated[int | None, Form(ge=1, le=MOST_LENGTH)] = None,
    ) -> PagesRead:
        model = reads(session.model, "To read")
        settings = reading_settings(model, {"beam": beam, "most": length})
        names, pictures = names_of(image), opened(image)
        with one_at_a_time:
            pages = model.read(pictures, settings, cut=not whole)
        return PagesRead(
            pictures=[
                PageRead(input=name, text=text_of(lines), lines=[LineRead(**line.to_dict()) for line in lines])
                for name, lines in zip(names, pages, strict=True)
            ]
        )

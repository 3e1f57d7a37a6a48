"""The route that answers questions about pictures: ``/ask``, whole or, with ``stream``, as it is written."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, File, Form, UploadFile
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from intermodal.api.caption import given
from intermodal.api.limits import MAX_SAMPLES, MAX_TEXT
from intermodal.api.uploads import opened
from intermodal.core.chat import Turn
from intermodal.core.errors import DataError
from intermodal.index.asking import answers
from intermodal.index.captioning import caption_settings
from intermodal.index.session import Session


class Answered(BaseModel):
    """The answer to the last question."""

    question: str
    answer: str
    log_prob: float | None = Field(
        description="natural log-probability of its tokens; null where the model does not say"
    )
    ended: bool = Field(description="false if it was cut at the most tokens")


Texts = Annotated[list[Annotated[str, Field(max_length=MAX_TEXT)]], Form(max_length=MAX_SAMPLES)]
Counts = Annotated[
    list[Annotated[int, Field(ge=0)]],
    Form(max_length=MAX_SAMPLES, description="how many pictures each question shows; by default the first shows all"),
]


def add_asking(app: FastAPI, session: Session, one_at_a_time: threading.Lock) -> None:
    """Add the route to an application.

    Args:
        app: the application.
        session: the model.
        one_at_a_time: held while the model works.
    """

    @app.post("/ask", response_model=Answered)
    def ask(  # noqa: PLR0917 - the fields of a form
        given: Annotated[dict[str, Any], Depends(given)],
        question: Texts,
        answer: Texts = [],  # noqa: B006 - FastAPI copies it
        image: Annotated[list[UploadFile], File(max_length=MAX_SAMPLES)] = [],  # noqa: B006
        shown: Counts = [],  # noqa: B006
        stream: Annotated[bool, Form()] = False,
    ) -> Any:
        model, settings = answers(session.model, "To ask"), caption_settings(given)
        if len(answer) != len(question) - 1:
            raise DataError(
                f"A chat has an answer to each question but the last, found {len(question)} questions, "
                f"{len(answer)} answers."
            )
        counts = shown or [len(image), *[0] * (len(question) - 1)]
        if len(counts) != len(question) or sum(counts) != len(image):
            raise DataError(
                f"shown says how many pictures each question shows: {len(question)} numbers that make {len(image)} "
                f"together, found {counts}."
            )
        pictures, said = iter(opened(image)), [*answer, None]
        parts = zip(question, said, counts, strict=True)
        chat = [Turn(q, a, tuple(itertools.islice(pictures, count))) for q, a, count in parts]
        with one_at_a_time:
            if not stream:
                made = model.answer([chat], settings)[0]
                return Answered(question=question[-1], answer=made.text, log_prob=made.log_prob, ended=made.ended)
            pieces = model.answering(chat, settings)
            first = next(pieces, "")  # what cannot be answered is said before the answer begins

        def rest() -> Iterator[str]:
            yield first
            with one_at_a_time:
                yield from pieces

        return StreamingResponse(rest(), media_type="text/plain; charset=utf-8")

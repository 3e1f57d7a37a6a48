"""The HTTP application: a form with texts or pictures goes in, JSON comes out; errors are one sentence.

Requests are forms, so that a text and an uploaded picture are sent the same way::

    curl -F text="something cold to eat" -F k=5 http://127.0.0.1:8000/search
    curl -F image=@photo.jpg -F label=cat -F label=dog http://127.0.0.1:8000/classify
    curl -F prompt="the president" -F count=3 http://127.0.0.1:8000/generate
    curl -F prompt="a red heart" -F steps=25 -F guidance=4 http://127.0.0.1:8000/draw
    curl -F text="a red heart" -F text="a green frog" http://127.0.0.1:8000/interpolate
    curl -F image=@photo.jpg -F beam=4 http://127.0.0.1:8000/caption
    curl -F image=@photo.jpg -F question="what is this?" -F stream=true http://127.0.0.1:8000/ask
    curl -F image=@photo.jpg http://127.0.0.1:8000/encode
    curl -F tokens=@photos.imtok http://127.0.0.1:8000/decode
    curl -F analogy=man -F analogy=king -F analogy=woman http://127.0.0.1:8000/words
    curl -F audio=@a.wav -F beam=50 -F lm=@an4.arpa http://127.0.0.1:8000/transcribe
    curl -F audio=@a.wav -F text="GO TO THE SHED" http://127.0.0.1:8000/align
"""

from __future__ import annotations

import base64
import io
import threading
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from PIL import Image
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from intermodal.api.ask import add_asking
from intermodal.api.caption import add_captioning
from intermodal.api.draw import add_drawing
from intermodal.api.limits import MAX_BYTES, MAX_INPUTS, MAX_SAMPLES, MAX_STEPS, MAX_TEXT, LimitBody
from intermodal.api.read import add_reading
from intermodal.api.speech import add_speech
from intermodal.api.tokens import numbers_of, read_tokens, token_bytes
from intermodal.api.uploads import names_of, opened
from intermodal.core.capabilities import labels_for
from intermodal.core.errors import DataError, IntermodalError
from intermodal.core.version import __version__
from intermodal.index.embedding import classifies, embeds, generates, reconstructs
from intermodal.index.hits import SearchIndex
from intermodal.index.session import Session
from intermodal.index.tokens import decoded, kept
from intermodal.train.folder import Run

Texts = Annotated[list[Annotated[str, Field(max_length=MAX_TEXT)]], Form(max_length=MAX_INPUTS)]
Pictures = Annotated[list[UploadFile], File(max_length=MAX_INPUTS)]
FewPictures = Annotated[list[UploadFile], File(max_length=MAX_SAMPLES)]


class Health(BaseModel):
    """That the server answers."""

    status: str = "ok"


class Info(BaseModel):
    """What is served."""

    name: str
    method: str
    title: str
    capabilities: list[str]
    parameters: int
    searches: str = Field(description="the pictures that /search searches")
    metrics: dict[str, float] = Field(description="what the run's evaluation on its test split found")
    version: str


class Embedding(BaseModel):
    """One input's unit vector."""

    input: str
    vector: list[float]


class Embeddings(BaseModel):
    """The texts' vectors, then the pictures', in the order sent."""

    dim: int
    embeddings: list[Embedding]


class Found(BaseModel):
    """One picture that was found."""

    path: str
    score: float = Field(description="cosine of query and picture")
    caption: str


class SearchResult(BaseModel):
    """The closest pictures, best first."""

    hits: list[Found]


class Share(BaseModel):
    """A label and its probability."""

    label: str
    probability: float


class Classified(BaseModel):
    """A picture's labels, the most probable first."""

    input: str
    labels: list[Share]


class Classification(BaseModel):
    """Each picture's labels, in the order sent."""

    pictures: list[Classified]


class Generated(BaseModel):
    """What was generated: one of the lists is filled."""

    kind: str = Field(description="image, text or point")
    images: list[str] = Field(default_factory=list, description="PNG files in base64")
    texts: list[str] = Field(default_factory=list)
    points: list[list[float]] = Field(default_factory=list)


class Encoded(BaseModel):
    """One picture's tokens."""

    input: str
    bits: float = Field(description="what the tokens take")
    latent: list[Any] = Field(description="codes or numbers, nested as `shape` says")


class Tokens(BaseModel):
    """The pictures' tokens, in the order sent."""

    codebook: int | None = Field(description="how many codes there are; null for real numbers")
    shape: list[int]
    pictures: list[Encoded]
    file: str = Field(description="the same as a file of tokens, in base64: what /decode and `intermodal decode` take")


class Decoded(BaseModel):
    """The pictures that tokens stand for."""

    names: list[str] = Field(description="as the file of tokens has them; empty for bare latents")
    images: list[str] = Field(description="PNG files in base64")


class Word(BaseModel):
    """A word that was found."""

    word: str
    cosine: float
    rank: int = Field(description="its place by frequency, from 1")


class Words(BaseModel):
    """Words, best first."""

    words: list[Word]


def create_app(run: str | Path | Session, index: SearchIndex | None = None, *, max_bytes: int = MAX_BYTES) -> FastAPI:
    """Return the application that serves a model.

    Args:
        run: a run, a checkpoint, a published folder, a hub id, or an opened model.
        index: what /search searches; the model's held-out pictures by default.
        max_bytes: larger requests are refused.

    Raises:
        CheckpointError: if there is no such model or it is damaged.
    """
    session = run if isinstance(run, Session) else Session(run)
    app = FastAPI(title=f"intermodal: {session.name}", version=__version__)
    app.add_middleware(LimitBody, max_bytes=max_bytes)
    _add_errors(app)
    one_at_a_time = threading.Lock()

    @app.get("/health")
    def health() -> Health:
        return Health()

    @app.get("/info")
    def info() -> Info:
        judged = (session.path / "evaluation" / "test").is_dir()
        return Info(
            name=session.name,
            method=session.model.id,
            title=session.card.title,
            capabilities=list(session.capabilities),
            parameters=session.parameters,
            searches=index.name if index is not None else "held-out pictures",
            metrics=Run(session.path).evaluation("test").metrics if judged else {},
            version=__version__,
        )

    @app.post("/embed")
    def embed(text: Texts = [], image: Pictures = []) -> Embeddings:  # noqa: B006 - FastAPI copies defaults
        if not text and not image:
            raise DataError("Send at least one `text` or `image` to embed.")
        found: list[Embedding] = []
        with one_at_a_time:
            for modality, names, inputs in (
                ("text", text, text),
                ("image", names_of(image), opened(image)),
            ):
                if inputs:
                    vectors = embeds(session.model, modality, f"To embed a {modality}").embed(modality, inputs)
                    found += [Embedding(input=n, vector=v.tolist()) for n, v in zip(names, vectors, strict=True)]
        return Embeddings(dim=len(found[0].vector), embeddings=found)

    @app.post("/search")
    def search(
        text: Annotated[str | None, Form(max_length=MAX_TEXT)] = None,
        image: Annotated[UploadFile | None, File()] = None,
        k: Annotated[int, Form(ge=1, le=1000)] = 10,
    ) -> SearchResult:
        picture = None if image is None else opened([image])[0]
        with one_at_a_time:
            vector = session.query(text, picture)
            hits = (index or session.held_out()).search(vector, k)
        return SearchResult(hits=[Found(path=h.path, score=h.score, caption=h.caption) for h in hits])

    @app.post("/classify")
    def classify(
        image: Pictures,
        label: Texts = [],  # noqa: B006
        template: Texts = ["{}"],  # noqa: B006 - FastAPI copies defaults
    ) -> Classification:
        model = classifies(session.model, "To classify")
        pictures = opened(image)
        labels = labels_for(model, label)
        with one_at_a_time:
            shares = model.classify(pictures, labels, template)
        rows = [
            sorted(
                (Share(label=n, probability=s) for n, s in zip(labels, row.tolist(), strict=True)),
                key=_by_share,
            )
            for row in shares
        ]
        return Classification(
            pictures=[Classified(input=n, labels=r) for n, r in zip(names_of(image), rows, strict=True)]
        )

    @app.post("/generate")
    def generate(
        count: Annotated[int, Form(ge=1, le=MAX_SAMPLES)] = 1,
        prompt: Annotated[str | None, Form(max_length=MAX_TEXT)] = None,
        seed: Annotated[int, Form(ge=0, lt=2**63)] = 0,
        steps: Annotated[int | None, Form(ge=1, le=MAX_STEPS)] = None,
    ) -> Generated:
        model = generates(session.model, "To generate")
        with one_at_a_time:
            made = model.generate(count, prompt=prompt, seed=seed, steps=steps)
        if model.generates == "image":
            return Generated(kind="image", images=[_png(picture) for picture in made])
        if model.generates == "text":
            return Generated(kind="text", texts=made)
        return Generated(kind=model.generates, points=[list(item) for item in made])

    @app.post("/encode")
    def encode(image: FewPictures) -> Tokens:
        model = reconstructs(session.model, "To encode")
        pictures = opened(image)
        with one_at_a_time:
            latents, bits, made_by = model.encode(pictures), model.bits(pictures), session.tokenizer
        rows = zip(names_of(image), bits.tolist(), latents.tolist(), strict=True)
        return Tokens(
            codebook=made_by.codebook,
            shape=list(made_by.shape),
            pictures=[Encoded(input=name, bits=b, latent=latent) for name, b, latent in rows],
            file=base64.b64encode(token_bytes(made_by, latents, names_of(image), [p.size for p in pictures])).decode(),
        )

    @app.post("/decode")
    def decode(
        tokens: Annotated[UploadFile | None, File()] = None,
        latents: Annotated[str | None, Form()] = None,
        levels: Annotated[int | None, Form(ge=1)] = None,
    ) -> Decoded:
        if (tokens is None) == (latents is None):
            raise DataError("Send a file of tokens as `tokens`, or numbers in JSON as `latents`, one of the two.")
        names: list[str] = []
        with one_at_a_time:
            if tokens is not None:
                values, names = read_tokens(tokens.file.read(), session.tokenizer, MAX_SAMPLES)
            else:
                assert latents is not None
                values = numbers_of(latents, MAX_SAMPLES)
            made = list(decoded(session.model, kept(session.model, values, levels)))
        return Decoded(names=names, images=[_png(picture) for picture in made])

    @app.post("/words")
    def words(
        near: Annotated[str | None, Form(max_length=MAX_TEXT)] = None,
        analogy: Annotated[list[str], Form(max_length=3)] = [],  # noqa: B006 - FastAPI copies defaults
        k: Annotated[int, Form(ge=1, le=1000)] = 10,
    ) -> Words:
        with one_at_a_time:
            index = session.words
        if (near is None) == (not analogy):
            raise DataError("Send a word as `near`, or three as `analogy` (a is to b as c is to ...), one of the two.")
        if near is None and len(analogy) != 3:
            raise DataError(f"An analogy takes three words, found {len(analogy)}.")
        found = index.near(near, k) if near is not None else index.analogy(analogy[0], analogy[1], analogy[2], k)
        return Words(words=[Word(word=w.word, cosine=w.cosine, rank=w.rank) for w in found])

    add_captioning(app, session, one_at_a_time)
    add_asking(app, session, one_at_a_time)
    add_drawing(app, session, one_at_a_time)
    add_reading(app, session, one_at_a_time)
    add_speech(app, session, one_at_a_time)
    return app


def _png(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _by_share(share: Share) -> float:
    return -share.probability


def _add_errors(app: FastAPI) -> None:
    """Let every error be ``{"error": sentence}``."""

    async def ours(request: Request, error: Exception) -> JSONResponse:
        del request
        return JSONResponse({"error": str(error)}, status_code=422)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        del request
        assert isinstance(error, RequestValidationError)
        return JSONResponse({"error": " ".join(map(_in_words, error.errors()))}, status_code=422)

    async def refused(request: Request, error: Exception) -> JSONResponse:
        del request
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)

    app.add_exception_handler(IntermodalError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, refused)


def _in_words(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"] if part != "body")
    return f"{where}: {problem['msg']}."

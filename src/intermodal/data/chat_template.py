"""Chat templates as they are published with models: small programs in jinja's language that write a chat as one text.

They come from strangers, so they run in jinja's sandbox: no attribute that leads out of it, nothing but plain data to read.
Beside jinja's own, they may call what transformers gives them: ``raise_exception``, ``strftime_now``, a ``tojson`` that
escapes no HTML, ``break`` and ``continue``, and blocks named ``generation``, which change nothing here.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Mapping
from typing import Any

import jinja2
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from intermodal.core.chat import Chat, Turn
from intermodal.core.errors import DataError


class _Generation(Extension):
    """``{% generation %}...{% endgeneration %}``: marks what the model wrote; its body stands as it is."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own way

    def parse(self, parser: Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _json(value: Any, **settings: Any) -> str:
    return json.dumps(value, **{"ensure_ascii": False, **settings})


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    try:
        return environment.from_string(template)
    except jinja2.TemplateError as error:
        raise DataError(f"The chat template is no valid template ({error}).") from error


def messages_of(chat: Chat) -> list[dict[str, Any]]:
    """Return a chat as templates read it: of each turn a message by the user, pictures first, and one by the assistant."""
    found: list[dict[str, Any]] = []
    for turn in chat:
        asked = [{"type": "image"} for _ in turn.pictures] + [{"type": "text", "text": turn.question}]
        found.append({"role": "user", "content": asked})
        if turn.answer is not None:
            found.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
    return found


def rendered(template: str, chat: Chat, tokens: Mapping[str, str]) -> str:
    """Return a chat as a template writes it; where the last answer is to come, up to where it begins.

    Args:
        template: in jinja's language.
        chat: at least one turn.
        tokens: the special tokens by their names (``bos_token``, ``eos_token``).

    Raises:
        DataError: if the template is no valid one, or refuses the chat.
    """
    asks = chat[-1].answer is None
    try:
        return _compiled(template).render(messages=messages_of(chat), add_generation_prompt=asks, **tokens)
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise DataError(f"The model's chat template does not take this chat ({error}).") from error


def answers_in(template: str, chat: Chat, tokens: Mapping[str, str]) -> list[tuple[int, int]]:
    """Return from where to where in the rendered text each answer stands, with what closes it; for training.

    Raises:
        DataError: if the template writes earlier turns in another way once there are later ones.
    """
    text, spans = rendered(template, chat, tokens), []
    for number, turn in enumerate(chat):
        begun = rendered(template, [*chat[:number], Turn(turn.question, None, turn.pictures)], tokens)
        ended = rendered(template, chat[: number + 1], tokens)
        if not (ended.startswith(begun) and text.startswith(ended)):
            raise DataError(
                "The model's chat template does not write a chat turn after turn, so its answers cannot be told from the "
                "rest: train with one turn a chat, or with another ChatFormat."
            )
        spans.append((len(begun), len(ended)))
    return spans

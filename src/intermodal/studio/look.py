"""How the page looks: a calm theme with the system's own fonts, light and dark, and the cards of results."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from importlib import resources

import gradio as gr
from PIL import Image

THUMBNAIL = 320
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def theme() -> gr.themes.Base:
    """Return the theme; its fonts are on every system, so that nothing is fetched."""
    quiet = {"light": "*neutral_500", "dark": "*neutral_400"}  # at least 4.5 to 1 against the page
    return gr.themes.Soft(
        primary_hue="teal",
        secondary_hue="slate",
        neutral_hue="slate",
        radius_size="lg",
        font=FONTS,
        font_mono=MONO,
    ).set(
        body_text_color_subdued=quiet["light"],
        body_text_color_subdued_dark=quiet["dark"],
        input_placeholder_color=quiet["light"],
        input_placeholder_color_dark=quiet["dark"],
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_text_color=quiet["light"],
        block_label_text_color_dark=quiet["dark"],
        block_label_text_weight="500",
        block_title_background_fill="transparent",
        block_title_background_fill_dark="transparent",
        block_title_text_color=quiet["light"],
        block_title_text_color_dark=quiet["dark"],
        block_title_text_weight="500",
        block_title_padding="0",
        block_shadow="none",
        block_border_width="1px",
        button_secondary_shadow="none",
        checkbox_label_shadow="none",
        checkbox_border_color="*neutral_300",
        checkbox_border_width="1px",
    )


def style() -> str:
    """Return the page's own style sheet."""
    return (resources.files("intermodal.studio") / "style.css").read_text(encoding="utf-8")


def header(title: str, facts: Sequence[str], about: str) -> str:
    """Return the page's head: a title, a line of facts and a sentence."""
    chips = "".join(f"<li>{html.escape(fact)}</li>" for fact in facts)
    return (
        f'<header class="im-head"><p class="im-brand">intermodal studio</p><h1>{html.escape(title)}</h1>'
        f'<ul class="im-facts">{chips}</ul><p class="im-about">{html.escape(about)}</p></header>'
    )


def note(text: str, bad: bool = False) -> str:
    """Return a sentence that stands where results would."""
    kind, role = ("im-note im-bad", "alert") if bad else ("im-note", "status")
    return f'<p class="{kind}" role="{role}">{html.escape(text)}</p>'


def cards(items: Sequence[tuple[Image.Image, float | None, str, str]], caption: str, *, large: bool = False) -> str:
    """Return pictures as a grid of cards.

    Args:
        items: picture, score (its bar is full at 1; None for none), words under it, and what a pointer sees.
        caption: one line above the grid.
        large: for few pictures.
    """
    cells = "".join(_card(rank, *item) for rank, item in enumerate(items, 1))
    kind = "im-grid im-large" if large else "im-grid"
    return f'<p class="im-caption" role="status">{html.escape(caption)}</p><ol class="{kind}">{cells}</ol>'


def bar(share: float) -> str:
    """Return a bar that says how much is done, 0 to 1."""
    return f'<span class="im-bar im-done" aria-hidden="true"><i style="width:{share:.1%}"></i></span>'


def download(data: bytes, name: str, words: str, media: str = "image/png") -> str:
    """Return a link that saves a file, which is in the page itself.

    Args:
        data: the file's bytes.
        name: what it is to be called.
        words: what the link says.
        media: the file's media type.
    """
    source = f"data:{media};base64,{base64.b64encode(data).decode()}"
    return f'<p class="im-save"><a href="{source}" download="{html.escape(name)}">{html.escape(words)}</a></p>'


def wide_picture(picture: Image.Image, words: str) -> str:
    """Return a picture as wide as the page, with what it shows in words."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=88, method=4)
    source = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
    return f'<div class="im-wide"><img src="{source}" alt="{html.escape(words)}"></div>'


def passages(items: Sequence[tuple[str, float | None, str]], caption: str) -> str:
    """Return texts as a list.

    Args:
        items: text, score (its bar is full at 1; None for none), and where it stands.
        caption: one line above the list.
    """
    rows = "".join(
        f"<li><b>{rank}</b><p>{html.escape(text)}<small>{html.escape(place)}</small></p>{_score(score)}</li>"
        for rank, (text, score, place) in enumerate(items, 1)
    )
    return f'<p class="im-caption" role="status">{html.escape(caption)}</p><ol class="im-passages">{rows}</ol>'


def dialogue(items: Sequence[tuple[str, str]], caption: str) -> str:
    """Return questions, each above its answer, as a list.

    Args:
        items: question and answer.
        caption: one line above the list.
    """
    rows = "".join(
        f"<li><b>{number}</b><p><small>{html.escape(asked)}</small>{html.escape(answer)}</p></li>"
        for number, (asked, answer) in enumerate(items, 1)
    )
    return f'<p class="im-caption" role="status">{html.escape(caption)}</p><ol class="im-passages">{rows}</ol>'


def bars(items: Sequence[tuple[str, float]]) -> str:
    """Return names with their shares as bars."""
    rows = "".join(
        f'<li><span class="im-name">{html.escape(name)}</span>'
        f'<span class="im-bar"><i style="width:{share:.1%}"></i></span><b>{share:.1%}</b></li>'
        for name, share in items
    )
    return f'<ol class="im-bars">{rows}</ol>'


def ranked(items: Sequence[tuple[str, float]], caption: str) -> str:
    """Return names with a score each as bars; a bar is full at 1."""
    rows = "".join(
        f'<li><span class="im-name">{html.escape(name)}</span>'
        f'<span class="im-bar"><i style="width:{max(score, 0):.1%}"></i></span><b>{score:.3f}</b></li>'
        for name, score in items
    )
    return f'<p class="im-caption" role="status">{html.escape(caption)}</p><ol class="im-bars">{rows}</ol>'


def _card(rank: int, picture: Image.Image, score: float | None, words: str, hint: str) -> str:
    words, hint = html.escape(words), html.escape(hint)
    return (
        f'<li title="{hint}"><img src="{_data_uri(picture)}" alt="{words}">'
        f'<span class="im-words"><b>{rank}</b> {words}</span>'
        f"{_score(score)}</li>"
    )


def _score(score: float | None) -> str:
    if score is None:
        return ""
    return (
        f'<span class="im-score"><span class="im-bar"><i style="width:{max(score, 0):.1%}"></i></span>'
        f"<data value='{score:.4f}'>{score:.3f}</data></span>"
    )


def _data_uri(picture: Image.Image) -> str:
    small = picture.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    lossless = max(small.size) <= 128
    small.save(buffer, "WEBP", quality=82, lossless=lossless)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()

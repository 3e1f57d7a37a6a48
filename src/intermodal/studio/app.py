"""The page: a head that says which model it is, and a tab for each thing the model can do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Gradio asks its makers' servers for news when it is imported, unless it is told not to.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr

from intermodal.core.errors import ConfigError
from intermodal.core.progress import Progress, silent
from intermodal.index.session import Session
from intermodal.studio import look
from intermodal.studio.tab import Setting, tabs_for
from intermodal.train.folder import Run

MAX_UPLOAD = "32mb"


def create_studio(run: str | Path | Session, progress: Progress = silent, *, folders: bool = True) -> gr.Blocks:
    """Return the page of a model.

    Args:
        run: a run, a checkpoint, a published folder, a hub id, or an opened model.
        progress: told what takes time while the page is built.
        folders: let the page search folders of this machine by name; only where nobody else reaches it.

    Raises:
        CheckpointError: if there is no such model or it is damaged.
        ConfigError: if the model has no capability that a tab shows.
    """
    session = run if isinstance(run, Session) else Session(run)
    tabs = tabs_for(session.capabilities)
    if not tabs:
        able = ", ".join(session.capabilities) or "none"
        raise ConfigError(f"No tab of the page shows what {session.name} can do (its capabilities: {able}).")
    setting = Setting(session, folders, progress)
    with gr.Blocks(title=f"{session.name} · intermodal", analytics_enabled=False) as page:
        facts = [session.model.id, f"{session.parameters / 1e6:.2g} M parameters", *_figure(session)]
        gr.HTML(look.header(session.name, facts, _sentence(session)), padding=False, elem_classes="im-html")
        with gr.Tabs():
            for tab in tabs:
                with gr.Tab(tab.title):
                    tab.build(setting)
    return page


def serve(page: gr.Blocks, host: str = "127.0.0.1", port: int = 7860) -> str:
    """Serve the page in the background and return its address.

    Raises:
        OSError: if the port is taken.
    """
    with _no_proxy(host):
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            inbrowser=False,
            ssr_mode=False,
            footer_links=[],
            max_file_size=MAX_UPLOAD,
            theme=look.theme(),
            css=look.style(),
        )
    return address


@contextmanager
def _no_proxy(host: str) -> Iterator[None]:
    """Let gradio's look at its own page not go through a proxy that the environment names."""
    before = {name: os.environ.get(name) for name in ("NO_PROXY", "no_proxy")}
    for name, value in before.items():
        os.environ[name] = ",".join(filter(None, [value, host, "127.0.0.1", "localhost"]))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ.update({} if value is None else {name: value})


def _figure(session: Session) -> list[str]:
    """Return what the run's evaluation on its test split measured first, if it was judged."""
    if not (session.path / "evaluation" / "test").is_dir():
        return []
    metrics = Run(session.path).evaluation("test").metrics
    return [f"{name} {value:.3f} on its test split" for name, value in list(metrics.items())[:1]]


def _sentence(session: Session) -> str:
    if not _figure(session):
        return f"{session.card.title}. Not judged yet: `intermodal eval` does that."
    headline = Run(session.path).evaluation("test").headline
    return f"{session.card.title}." if headline is None else f"{headline.figure} {headline.sentence}"

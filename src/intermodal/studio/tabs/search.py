"""Search: words or a picture in, the closest pictures or texts out, among held-out ones or in a person's own."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

from intermodal.core.errors import DataError, IntermodalError
from intermodal.data.emoji import EmojiSource
from intermodal.data.images import open_image
from intermodal.index.held_out import source_of
from intermodal.index.hits import Hit, SearchIndex
from intermodal.index.session import Session
from intermodal.studio.look import cards, note, passages
from intermodal.studio.tab import Setting, Tab

HELD_OUT, OWN = "Held out", "My own"
EMOJI_SAMPLES = (
    "something cold to eat",
    "it flies",
    "feeling very sad",
    "an animal in the sea",
    "a red fruit",
)
SHOWN = 18
# On a phone the results are below the fold: bring them into view.
SHOW_RESULT = """() => {
  const result = document.getElementById("im-result");
  if (innerWidth < 640 && result.querySelector("li, .im-bad")) result.scrollIntoView({behavior: "smooth"});
}"""


def build(setting: Setting) -> None:
    """Add the tab's components."""
    session = setting.session
    modalities: tuple[str, ...] = session.modalities
    by_text, by_image = "text" in modalities, "image" in modalities
    things = "pictures" if by_image else "texts"
    hint = _hint(by_text, by_image)
    places, problem = _places(setting)
    in_folder = places[0] == OWN
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=300):
            text = gr.Textbox(
                show_label=False,
                placeholder=hint,
                visible=by_text,
                autofocus=by_text,
                max_lines=1,
                submit_btn="Search",
                elem_id="im-query",
            )
            with gr.Row(elem_classes="im-samples"):
                samples = _samples(setting) if by_text else ()
                buttons = [gr.Button(sample, size="sm", variant="secondary") for sample in samples]
            labels = [(f"{name} {things}", name) for name in places]
            place = gr.Radio(labels, value=places[0], label="Search in", visible=len(places) > 1)
            folder = gr.Textbox(
                label="Folder" if by_image else "Text file or folder",
                placeholder="/home/me/Pictures" if by_image else "/home/me/book.txt",
                info=f"Its {things} are indexed the first time; later only what is new is read.",
                visible=in_folder,
                max_lines=1,
                submit_btn="Open",
                elem_id="im-folder",
            )
            rebuild = gr.Checkbox(False, label="Replace an index that another model made", visible=in_folder)
        with gr.Column(scale=1, min_width=220, visible=by_image):
            image = gr.Image(
                label="Or drop a picture",
                type="filepath",
                sources=["upload"],
                height=190,
                elem_id="im-picture",
            )
    result = gr.HTML(
        note(problem or hint, bad=bool(problem)), elem_id="im-result", elem_classes="im-html", padding=False
    )
    last = gr.State(("", None))

    def find(
        query: tuple[str, str | None],
        place: str,
        folder: str,
        rebuild: bool,
        report: gr.Progress = gr.Progress(),  # noqa: B008 - gradio finds it there and fills it in
    ) -> str:
        words, file = query
        try:
            among, about = _index(session, place, folder, rebuild, report)
            if not words.strip() and file is None:
                return note(f"Ready to search {about}. {hint}")
            picture = open_image(file, "The picture") if file else None
            hits = among.search(session.query(None if file else words, picture), SHOWN)
            asked = "The picture" if file else f"“{words.strip()}”"
            return _grid(hits, f"{asked} among {about}, closest first; the score is the cosine.")
        except IntermodalError as error:
            return note(str(error), bad=True)

    where = [last, place, folder, rebuild]
    query_parts = [text, image, last]  # a new query takes the place of the one before, whichever kind it was
    queries = [text.submit(_by_words, text, query_parts, queue=False)]
    queries += [button.click(_by_words, button, query_parts, queue=False) for button in buttons]
    queries += [image.upload(lambda file: ("", file, ("", file)), image, query_parts, queue=False)]
    queries += [
        place.change(lambda choice: [gr.update(visible=choice == OWN)] * 2, place, [folder, rebuild], queue=False)
    ]
    for query in queries:
        query.then(find, where, result).then(None, js=SHOW_RESULT)
    folder.submit(find, where, result)


def _hint(by_text: bool, by_image: bool) -> str:
    if by_text and by_image:
        return "Type what you are looking for, or drop a picture."
    return "Type what you are looking for." if by_text else "Drop a picture."


def _by_words(words: str) -> tuple[str, None, tuple[str, None]]:
    return words, None, (words, None)


def _places(setting: Setting) -> tuple[list[str], str]:
    """Return where can be searched, and why what was held out cannot, if so."""
    places = [OWN] if setting.folders else []
    try:
        setting.session.held_out(setting.progress)
    except IntermodalError as error:
        return places or [HELD_OUT], str(error)
    return [HELD_OUT, *places], ""


def _samples(setting: Setting) -> Sequence[str]:
    """Return queries to begin with: for other data than the emoji set some of its own captions."""
    try:
        if isinstance(source_of(setting.session.path), EmojiSource):
            return EMOJI_SAMPLES
        index = setting.session.held_out()
    except IntermodalError:
        return ()
    rows = range(0, len(index), max(len(index) // 5, 1))
    captions = [index.caption(row) for row in list(rows)[:5]]
    return [caption for caption in captions if 0 < len(caption) < 60]


def _index(session: Session, place: str, folder: str, rebuild: bool, report: gr.Progress) -> tuple[SearchIndex, str]:
    """Return the index of a place, up to date, and what it is in words."""
    if place == HELD_OUT:
        index = session.held_out()
        things = "pictures" if "image" in session.modalities else "texts"
        return index, f"{len(index):,} {things} that the model has not seen"
    if not folder.strip():
        raise DataError("Say which file or folder: its path on this machine.")
    found, update = session.folder(folder.strip(), lambda what, share: report(share, desc=what), rebuild=rebuild)
    bad = len(update.unreadable) + update.known_unreadable
    return found, f"{len(found):,} {update.what} in {found.name}" + (f" ({bad} unreadable)" if bad else "")


def _grid(hits: Sequence[Hit], caption: str) -> str:
    if all(hit.picture is None for hit in hits):
        return passages([(hit.caption, hit.score, hit.path) for hit in hits], caption)
    return cards([(h.picture(), h.score, _words(h), h.path) for h in hits if h.picture is not None], caption)


def _words(hit: Hit) -> str:
    """Return what stands under a picture: the first part of its caption, else its file's name."""
    return hit.caption.partition(",")[0] or hit.path.rpartition("/")[2]


TAB = Tab(title="Search", capability="embed", order=10, build=build)

"""``intermodal words``: what is near a word, what is to one word as another is to a third, and a map of words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from intermodal.cli.common import (
    Model,
    OptionalPath,
    OptionalText,
    UsageError,
    open_session,
    output,
    parse,
    print_json,
    progress,
)

if TYPE_CHECKING:
    from intermodal.evaluate.result import Scatter


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Ask a model about words; without a question its most frequent words are listed.

    Attributes:
        model: a run, a checkpoint, or a file of word vectors in word2vec's format.
        near: the words nearest to this one (cosine).
        analogy: three words A B C: what is to C as B is to A (3CosAdd).
        map: write a map of frequent words (t-SNE): a .png or .html file.
        k: how many words to bring.
        json: print JSON.
    """

    model: Model
    near: OptionalText = None
    analogy: Annotated[tuple[str, str, str] | None, tyro.conf.arg(metavar="A B C")] = None
    map: OptionalPath = None
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10
    json: bool = False


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    arguments = parse(Arguments, argv, "words")
    if sum(asked is not None for asked in (arguments.near, arguments.analogy, arguments.map)) > 1:
        raise UsageError("Ask one thing at a time: --near, --analogy or --map.")
    if arguments.map is not None and arguments.map.suffix.lower() not in (".png", ".html"):
        raise UsageError(f"A map is written as .png or .html, not {arguments.map.suffix or 'without an ending'}.")
    with progress() as report:
        session = open_session(arguments.model, "cpu", report)
        from intermodal.index.words import NearWord

        index = session.words
        if arguments.map is not None:
            report("drawing the map", 0.0)
            from intermodal.evaluate.words_panels import map_of
            from intermodal.index.embedding import offering

            write_map(map_of(offering(session.model, "words", "A map of words")), arguments.map)
        elif arguments.analogy is not None:
            found = index.analogy(*arguments.analogy, arguments.k)
        elif arguments.near is not None:
            found = index.near(arguments.near, arguments.k)
        else:
            found = [NearWord(word, 1.0, i + 1) for i, word in enumerate(index.words[: arguments.k])]
    if arguments.map is not None:
        output().print(f"{arguments.map}: a map of frequent words.", markup=False)
    elif arguments.json:
        print_json([{"word": w.word, "cosine": w.cosine, "rank": w.rank} for w in found])
    elif arguments.near is None and arguments.analogy is None:
        output().print(f"{len(index):,} words of {index.unit_ND.shape[1]} dimensions; the most frequent:", markup=False)
        output().print(" ".join(w.word for w in found), markup=False)
    else:
        for w in found:
            output().print(f"{w.cosine:6.3f}  {w.word}", markup=False)
    return 0


def write_map(panel: Scatter, path: Path) -> None:
    """Write a map as a picture or as a page.

    Raises:
        IntermodalError: if the file cannot be written.
    """
    from intermodal.core.files import atomic_file, write_text

    if path.suffix.lower() == ".html":
        from intermodal.report.build import assemble
        from intermodal.report.html import el
        from intermodal.report.maps import scatter

        head = el("header", el("h1", panel.title), el("p", panel.about))
        write_text(path, assemble(panel.title, head, [("map", "The map", scatter(panel))]))
        return
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(16, 11), layout="constrained")
    groups = list(dict.fromkeys(panel.groups))
    colours = plt.get_cmap("tab10")
    for (x, y), name, group in zip(panel.points, panel.names, panel.groups, strict=True):
        axes.scatter(x, y, s=8, color=colours(groups.index(group) % 10))
        axes.annotate(name, (x, y), fontsize=7, xytext=(2, 2), textcoords="offset points")
    axes.set_axis_off()
    axes.set_title(panel.about, fontsize=8, wrap=True)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    plt.close(figure)

"""What a person sees of word vectors: scores, neighbours, analogies right and wrong, a map."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from intermodal.core.capabilities import HasWords
from intermodal.evaluate.result import Bars, Gallery, Item, Panel, Scatter, Table
from intermodal.evaluate.words_sets import AnalogyScore, PairScore
from intermodal.metrics.words import clusters, nearest, tsne, unit_rows

SKIPPED, MAPPED, GROUPS = 150, 400, 8
"""The map leaves out the most frequent words (they are grammar), shows the next ones, in so many groups."""
NEIGHBOURS = 8
SHOWN = 12
NAMES = {"wordsim353": "WordSim-353", "simlex999": "SimLex-999", "analogies": "Google analogies"}
QUERIES = ("king", "water", "science", "france", "computer", "red", "walk", "good", "doctor", "music", "war", "bird")


def score_table(
    metrics: Mapping[str, float], pairs: Mapping[str, PairScore], analogies: AnalogyScore | None, missing: list[str]
) -> Table:
    """Return the scores with their out-of-vocabulary rates, beside random vectors."""
    rows: list[list[str | float | None]] = []
    for name, score in pairs.items():
        chance = metrics[f"chance_{name}_rho"]
        rows.append(
            [f"{NAMES[name]}, Spearman's rho", _or_none(score.rho), _or_none(chance), score.unknown, score.pairs]
        )
    if analogies is not None:
        for key, what in (
            ("analogies", ""),
            ("analogies_semantic", ", semantic"),
            ("analogies_syntactic", ", syntactic"),
        ):
            rows.append(
                [
                    f"{NAMES['analogies']}{what}, accuracy",
                    _or_none(metrics[key]),
                    _or_none(metrics[f"chance_{key}"]),
                    analogies.unknown if key == "analogies" else None,
                    analogies.asked if key == "analogies" else None,
                ]
            )
    rows.append(["loss on held-out text", _or_none(metrics["loss"]), metrics["chance_loss"], None, None])
    about = (
        "Random vectors of the same words stand beside (for the loss: tables that know nothing). Questions with a word "
        "outside the vocabulary are left out; their share is the last but one column."
    )
    if missing:
        about += (
            f" Not judged, because the file is neither in INTERMODAL_DATA, the cache nor gensim's package: "
            f"{', '.join(missing)}."
        )
    return Table("Scores", about, ["test", "this model", "random vectors", "out of vocabulary", "questions"], rows)


def neighbour_gallery(model: HasWords) -> Gallery:
    """Return some words with their nearest neighbours; words of the vocabulary where the usual examples are unknown."""
    unit_ND = unit_rows(model.word_vectors())
    place = {word: i for i, word in reversed(list(enumerate(model.words)))}
    chosen = [place[word] for word in QUERIES if word in place]
    chosen += [i for i in range(min(SKIPPED, len(place) // 2), len(place)) if i not in chosen][: SHOWN - len(chosen)]
    k = min(NEIGHBOURS, len(unit_ND) - 1)
    rows, cosines = nearest(unit_ND, unit_ND[chosen], k, [[i] for i in chosen])
    lines = [
        (Item(text=model.words[i]), [Item(text=model.words[j], score=float(c)) for j, c in zip(near, cos, strict=True)])
        for i, near, cos in zip(chosen, rows.tolist(), cosines.tolist(), strict=True)
    ]
    return Gallery("Nearest words", "Words chosen beforehand, and those with the largest cosine to each.", lines)


def analogy_panels(score: AnalogyScore) -> list[Panel]:
    """Return the accuracy of each section, and questions answered right and wrong, evenly spread over each kind."""
    if not score.answered:
        return []
    sections = score.sections
    bars = Bars(
        "Analogies by section",
        "The share of questions answered right, of those whose four words are all known; chance is one in the vocabulary.",
        sections,
        [score.accuracy(section) for section in sections],
        unit="%",
    )
    columns = ["a", "is to b", "as c", "is to", "the model says"]
    panels: list[Panel] = [bars]
    for right, title in ((True, "Analogies answered right"), (False, "Analogies answered wrong")):
        chosen = [one for one in score.answered if one.right is right]
        spread = [chosen[i] for i in np.linspace(0, len(chosen) - 1, min(SHOWN, len(chosen))).astype(int)]
        if spread:
            about = f"{len(spread)} of {len(chosen):,}, evenly spread over the sections."
            rows: list[list[str | float | None]] = [[o.a, o.b, o.c, o.expected, o.answer] for o in spread]
            panels.append(Table(title, about, columns, rows))
    return panels


def map_of(model: HasWords, count: int = MAPPED, seed: int = 0) -> Scatter:
    """Return a map of frequent words: t-SNE of their unit vectors, coloured by clusters that are found before.

    A small vocabulary is shown from its first word on.
    """
    skip = SKIPPED if len(model.words) >= SKIPPED + count else 0
    names = list(model.words[skip : skip + count])
    unit_ND = unit_rows(model.word_vectors()[skip : skip + count])
    title = "A map of frequent words"
    about = (
        f"The words from rank {skip + 1} to {skip + len(names)} by frequency (the first are grammar), placed by t-SNE: "
        "neighbours mean something, the axes do not. Colours are clusters (spherical k-means), named by their most "
        "frequent word."
    )
    if len(names) < 4:
        return Scatter(title, about, [(float(i), 0.0) for i in range(len(names))], names, [""] * len(names))
    cluster = clusters(unit_ND, min(GROUPS, len(names) // 2), seed)
    first = {number: names[int(np.argmax(cluster == number))] for number in sorted(set(cluster.tolist()))}
    places = tsne(unit_ND, seed=seed)
    return Scatter(
        title,
        about,
        [(float(x), float(y)) for x, y in places],
        names,
        [f"{first[number]} …" for number in cluster.tolist()],
    )


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None

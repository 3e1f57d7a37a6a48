"""What a person sees of a judgement on the emoji set: tables beside baselines, galleries, failures."""

from __future__ import annotations

from typing import Any

import numpy as np

from intermodal.core.capabilities import Embeds
from intermodal.evaluate.emoji import EmojiJudgement
from intermodal.evaluate.galleries import (
    confident_mistakes,
    pictures_for,
    rank,
    similarity_map,
    texts_for,
)
from intermodal.evaluate.result import Bars, Gallery, Headline, Item, Panel, Table, in_percent

SEED = 0
SHOWN = 12
IN_MAP = 24
FREE = (
    "something cold to eat",
    "a happy animal",
    "it flies",
    "music",
    "a vehicle with wheels",
    "something to write with",
    "sad",
    "a warm place on holiday",
)
"""Queries without a truth, written before any model was trained."""
_BASELINES = (("colours_", "colours to words"), ("pixels_", "nearest pixels"), ("chance_", "chance"))


def headline(judged: EmojiJudgement) -> Headline:
    """Say the result in words."""
    m, concepts = judged.metrics, len(judged.concepts)
    figure = in_percent(m["concept_r10"])
    sentence = (
        f"Asked about {concepts} things that it never saw in training, it has the right picture for a text, "
        f"or the right "
        f"text for a picture, among its first ten answers {figure} of the time. Guessing reaches "
        f"{in_percent(m['chance_concept_r10'])}, the nearest training pictures in raw pixels "
        f"{in_percent(m['pixels_concept_r10'])}, and words predicted from colours and a tiny thumbnail "
        f"{in_percent(m['colours_concept_r10'])}. Shown two artists' styles that it never saw, it names "
        f"{in_percent(m['style_top1'])} of the pictures exactly among {len(judged.names):,} names (raw "
        f"pixels: "
        f"{in_percent(m['pixels_style_top1'])})."
    )
    return Headline(figure, sentence)


def panels(judged: EmojiJudgement, method: Embeds) -> list[Panel]:
    """Return everything that is worth seeing."""
    rng = np.random.default_rng(SEED)
    return [
        _bars(
            judged,
            "Unseen concepts, right within the first ten",
            "concept_r10",
            "Text to picture and picture to text.",
        ),
        _bars(
            judged,
            "Unseen styles, named exactly",
            "style_top1",
            "Pictures of known things by two new artists.",
        ),
        _concept_table(judged),
        _naming_table(judged),
        _group_bars(judged),
        _style_table(judged),
        _geometry(judged),
        _text_gallery(judged, rng),
        _free_gallery(judged, method),
        _picture_gallery(judged, rng),
        _map(judged, rng),
        _concept_failures(judged),
        _lost_texts(judged),
        _naming_failures(judged),
    ]


def _get(judged: EmojiJudgement, name: str) -> float | None:
    return judged.metrics.get(name)


def _rows(judged: EmojiJudgement, names: list[str]) -> list[list[str | float | None]]:
    own: list[str | float | None] = [judged.name, *(_get(judged, n) for n in names)]
    return [own, *([said, *(_get(judged, who + n) for n in names)] for who, said in _BASELINES)]


def _concept_table(judged: EmojiJudgement) -> Table:
    names = [f"concept_{way}_{what}" for way in ("t2i", "i2t") for what in ("r1", "r5", "r10", "median_rank")]
    ways = ("text → picture", "picture → text")
    columns = ["", *(f"{way}, {what}" for way in ways for what in ("R@1", "R@5", "R@10", "median rank"))]
    extra = ["concept_mean_r10", "concept_strange_r10", "concept_name_r10", "new_style_r10"]
    return Table(
        "Unseen concepts",
        f"{len(judged.concepts)} concepts and {len(judged.unseen):,} pictures of them in the training styles. R@k: the "
        "share of queries whose right answer is among the first k. A text looks among the pictures of one style, a "
        "picture among all the texts. The last four columns are R@10 in both directions: with one vector a concept (the "
        "mean over its pictures), for concepts of which no variant at all is in training, with the name alone as text, "
        "and where the artist is new as well.",
        [*columns, "mean over styles", "no relative", "name alone", "new style"],
        _rows(judged, names + extra),
        emphasis=0,
    )


def _naming_table(judged: EmojiJudgement) -> Table:
    names = ["style_top1", "style_top5", "style_all_top1", "style_all_top5", "subgroup_top1", "subgroup_top5"]
    rows = _rows(judged, names)
    majority: list[str | float | None] = [None] * 4
    rows.insert(-1, ["most frequent", *majority, _get(judged, "majority_subgroup_top1"), None])
    return Table(
        "Naming without training for it",
        f"{len(judged.styled):,} pictures by two artists that were held out, named among "
        f"{len(judged.names):,} names; a "
        "name's vector is the mean over its prompts (name; name and keywords; keywords). Known: concepts "
        "seen in other "
        "styles. All: unseen concepts too. Sub-group: pictures of unseen concepts put in one of the "
        "sub-groups by its "
        "bare name.",
        [
            "",
            "known, top 1",
            "known, top 5",
            "all, top 1",
            "all, top 5",
            "sub-group, top 1",
            "sub-group, top 5",
        ],
        rows,
        emphasis=0,
    )


def _bars(judged: EmojiJudgement, title: str, metric: str, about: str) -> Bars:
    found = [(judged.name, judged.metrics[metric])]
    found += [(said, judged.metrics[who + metric]) for who, said in _BASELINES]
    return Bars(title, about, [n for n, _ in found], [v for _, v in found], "%", emphasis=0)


def _group_bars(judged: EmojiJudgement) -> Bars:
    parts = sorted(judged.by_group.items(), key=lambda item: -item[1]["r10"])
    return Bars(
        "Which kinds of things it finds",
        "R@10 on unseen concepts, mean of both directions, by group.",
        [f"{name} ({part['pictures']:.0f})" for name, part in parts],
        [part["r10"] for _, part in parts],
        "%",
        baseline=[part["colours_r10"] for _, part in parts],
        baseline_name="colours to words",
    )


def _style_table(judged: EmojiJudgement) -> Table:
    names = ("t2i_r10", "i2t_r10", "r10", "colours_r10", "pixels_r10", "chance_r10")
    return Table(
        "Style by style",
        "R@10 on unseen concepts. A style that lacks some of them has fewer pictures to choose among, which is easier.",
        [
            "",
            "pictures",
            "text → picture",
            "picture → text",
            "both",
            "colours to words",
            "nearest pixels",
            "chance",
        ],
        [[style, int(p["pictures"]), *(p[n] for n in names)] for style, p in judged.by_style.items()],
    )


def _geometry(judged: EmojiJudgement) -> Table:
    m = judged.metrics
    dimensions = judged.image.shape[1]
    return Table(
        "The shape of the space",
        "Diagnostics on the unseen concepts; none of them is a goal in itself.",
        ["", "value", "what it says"],
        [
            [
                "alignment",
                m["alignment"],
                "mean squared distance of a picture and its text: 0 is perfect, 2 unrelated",
            ],
            [
                "uniformity, pictures",
                m["uniformity_image"],
                "lower is more evenly spread; 0 means all in one place",
            ],
            ["uniformity, texts", m["uniformity_text"], "the same for texts"],
            [
                "modality gap",
                m["modality_gap"],
                "distance between the mean picture and the mean text, 0 to 2",
            ],
            ["effective rank, pictures", m["effective_rank_image"], f"dimensions in use, of {dimensions}"],
            ["effective rank, texts", m["effective_rank_text"], f"dimensions in use, of {dimensions}"],
        ],
    )


def _text_gallery(judged: EmojiJudgement, rng: np.random.Generator) -> Gallery:
    styles, shown = judged.unseen.column("style"), judged.unseen.column("concept")
    rows = []
    for c in rng.permutation(len(judged.concepts))[:SHOWN]:
        concept = judged.concepts[c]["concept"]
        style = str(rng.choice(styles[shown == concept]))
        among = np.flatnonzero(styles == style)
        rows.append(
            pictures_for(
                _said(judged.concepts[c]),
                judged.image[among] @ judged.text[c],
                judged.unseen.among(among),
                right=np.flatnonzero(shown[among] == concept).tolist(),
                note=style,
            )
        )
    about = (
        "Texts of unseen concepts and the pictures they bring, of one style each. Concepts and styles are "
        "drawn at random."
    )
    return Gallery("From a text to pictures", about, rows)


def _free_gallery(judged: EmojiJudgement, method: Embeds) -> Gallery:
    vectors = method.embed("text", list(FREE))
    rows = [
        pictures_for(
            text,
            judged.image @ vector,
            judged.unseen.picture,
            kind=judged.unseen.column("concept").tolist(),
            caption=lambda i: judged.unseen.rows[i]["name"],
        )
        for text, vector in zip(FREE, vectors, strict=True)
    ]
    about = (
        "Queries in words that no label has, over all pictures of unseen concepts (the best picture of "
        "each). There is no "
        "right answer to count; judge for yourself."
    )
    return Gallery("Free queries", about, rows)


def _picture_gallery(judged: EmojiJudgement, rng: np.random.Generator) -> Gallery:
    names = [row["name"] for row in judged.concepts]
    rows = [
        texts_for(
            judged.unseen.picture(int(i)),
            judged.text @ judged.image[i],
            names,
            right=[_place(judged, int(i))],
            title=judged.unseen.rows[i]["name"],
            note=judged.unseen.rows[i]["style"],
        )
        for i in rng.permutation(len(judged.unseen))[:SHOWN]
    ]
    about = "Pictures of unseen concepts, drawn at random, and the texts they bring (only the names are printed)."
    return Gallery("From a picture to texts", about, rows)


def _map(judged: EmojiJudgement, rng: np.random.Generator) -> Panel:
    styles = judged.unseen.column("style")
    names, counts = np.unique(styles, return_counts=True)
    style = str(names[counts.argmax()])
    among = np.flatnonzero(styles == style)
    chosen = [int(i) for i in rng.permutation(among)[:IN_MAP]]
    chosen.sort(key=lambda i: (judged.unseen.rows[i]["group"], judged.unseen.rows[i]["subgroup"]))
    places = [_place(judged, i) for i in chosen]
    return similarity_map(
        "Who resembles whom",
        f"Similarity of {len(chosen)} unseen pictures ({style}, drawn at random, sorted by group) and their "
        f"texts. A good "
        "model is strong on the diagonal (outlined) and faint elsewhere; strong blocks are things that are "
        "alike.",
        judged.image[chosen] @ judged.text[places].T,
        [judged.unseen.picture(i) for i in chosen],
        [judged.concepts[p]["name"] for p in places],
    )


def _concept_failures(judged: EmojiJudgement) -> Gallery:
    right = [[_place(judged, i)] for i in range(len(judged.unseen))]
    names = [row["name"] for row in judged.concepts]
    rows = []
    for i in confident_mistakes(judged.image, judged.text, right, SHOWN, judged.unseen.column("concept").tolist()):
        row = judged.unseen.rows[i]
        rows.append(
            texts_for(
                judged.unseen.picture(i),
                judged.text @ judged.image[i],
                names,
                right=right[i],
                title=row["name"],
                note=row["style"],
                top=3,
            )
        )
    about = (
        "The pictures of unseen concepts whose first text is wrong and most similar; one for each concept "
        "and each wrong answer."
    )
    return Gallery("Sure and wrong: unseen concepts", about, rows, failures=True)


def _lost_texts(judged: EmojiJudgement) -> Gallery:
    """The texts whose picture is farthest from the top, in the style with the most pictures."""
    styles, shown = judged.unseen.column("style"), judged.unseen.column("concept")
    names, counts = np.unique(styles, return_counts=True)
    style = str(names[counts.argmax()])
    among = np.flatnonzero(styles == style)
    concepts = {row["concept"]: c for c, row in enumerate(judged.concepts)}
    ranks = []
    for place, i in enumerate(among):
        c = concepts[shown[i]]
        ranks.append((rank(judged.image[among] @ judged.text[c], [place]), place, c))
    rows = []
    for _, place, c in sorted(ranks, reverse=True)[:6]:
        query, items = pictures_for(
            _said(judged.concepts[c]),
            judged.image[among] @ judged.text[c],
            judged.unseen.among(among),
            right=[place],
            top=5,
        )
        rows.append((Item(judged.unseen.picture(int(among[place])), query.text, note=query.note), items))
    about = (
        f"The texts whose picture comes last among those of one style ({style}); the picture they should "
        "have found is beside them."
    )
    return Gallery("Not found: unseen concepts", about, rows, failures=True)


def _naming_failures(judged: EmojiJudgement) -> Gallery:
    known = np.flatnonzero(judged.styled.column("concept_split") == "train")
    image = judged.styled_image[known]
    place = {row["concept"]: i for i, row in enumerate(judged.names)}
    concepts = judged.styled.column("concept")[known].tolist()
    names = [row["name"] for row in judged.names]
    rows = []
    for k in confident_mistakes(image, judged.label, [[place[c]] for c in concepts], SHOWN, concepts):
        row = judged.styled.rows[known[k]]
        picture = judged.styled.picture(int(known[k]))
        rows.append(
            texts_for(
                picture,
                judged.label @ image[k],
                names,
                right=[place[concepts[k]]],
                title=row["name"],
                note=row["style"],
                top=3,
            )
        )
    about = (
        "Pictures of known concepts by new artists whose first name is wrong and most similar; one for each "
        "concept and each wrong answer."
    )
    return Gallery("Sure and wrong: unseen styles", about, rows, failures=True)


def _place(judged: EmojiJudgement, picture: int) -> int:
    concept = judged.unseen.rows[picture]["concept"]
    return next(i for i, row in enumerate(judged.concepts) if row["concept"] == concept)


def _said(row: dict[str, Any], most: int = 6) -> str:
    """Return a concept's text, shortened for print."""
    keywords = [k for k in row["keywords"] if k != row["name"]]
    return ", ".join([row["name"], *keywords[:most]]) + (" …" if len(keywords) > most else "")

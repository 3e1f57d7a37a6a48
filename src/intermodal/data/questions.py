"""Questions about pictures and their answers, made by stated rules from what is known of a set's pictures.

Of the emoji set, by its names, groups, sub-groups, keywords and styles; of captioned pictures (Flickr8k), by the words of
their captions. The kinds of questions, and what decides the answer:

* ``name``: what it is; its name.
* ``kind``: of what kind it is; its sub-group.
* ``group``: to which group it belongs.
* ``style``: in which artist's style it is drawn.
* ``colour``: which colour is most of it, by its pixels (:func:`main_colour`); not asked where none is.
* ``keyword``: a word that it has to do with: any of its name and keywords (or captions) is right.
* ``word``: whether it has to do with a word. Half of the answers are yes: a word of its name and keywords (or captions).
  For a no, the word is one of another picture, so that the word alone says little about the answer.
* ``which``: with which of two words it has to do; the wrong one is a word of another picture, and stands first as often.
  Words that many pictures have are asked about no more often than others, or "flag" would be right most of the time.
* ``unseen``: what no picture shows (a price, a smell, a name of somebody); the answer is that it cannot be seen.
* ``caption``: captioned pictures: a description; any of the captions answers it.

Words that are asked about occur in at least :data:`FEW` training concepts or pictures: a word never learnt could only be
guessed. Held-out concepts stay held out: questions are made from the split's own pictures. In training some chats have no
picture; whatever is asked then cannot be seen.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from intermodal.core.chat import Turn
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.fields import Field
from intermodal.data.chat import FORMAT
from intermodal.data.emoji import EmojiPictures, EmojiSource
from intermodal.data.main_colour import main_colour
from intermodal.data.source import CaptionedSource, Sample, Source, SourceConfig

FEW = 8
"""A word is asked about if so many training concepts or pictures have it."""
OFTEN = 0.02
"""Words that a larger share of training pictures has are made as rare as this where one of two is to be chosen."""
TRIES = 20
"""Draws of another picture's word before a question is given up."""
SEED = 7
YES, NO = "yes", "no"
UNSEEN = "that cannot be seen"
ASKED: Mapping[str, tuple[str, ...]] = {
    "name": ("what is this?", "what does the picture show?", "name it"),
    "kind": ("what kind of thing is it?", "of what kind is it?"),
    "group": ("which group does it belong to?", "in which group is it?"),
    "style": ("in which style is it drawn?", "whose style is it?"),
    "colour": ("which colour is most of it?", "what is its main colour?"),
    "keyword": ("say a word about it", "which word fits it?"),
    "word": ("has it to do with {}?", "is it about {}?"),
    "which": ("is it more about {} or {}?", "which fits better, {} or {}?"),
    "caption": ("describe the picture", "what is happening here?"),
    "there": ("does somebody who describes it say {}?",),
    "unseen": (
        "how much does it cost?",
        "who bought it?",
        "what does it smell like?",
        "how old is its owner?",
        "when was it made?",
        "what is behind it?",
        "how heavy is it?",
        "what happened the day before?",
    ),
}
"""How each kind is asked; ``there`` is ``word`` of captioned pictures."""
KINDS = ("name", "kind", "group", "style", "colour", "keyword", "word", "which", "unseen")
CAPTION_KINDS = ("caption", "keyword", "word", "which", "unseen")
EMOJI = EmojiSource(unit="concept")
BLANK = Image.new("RGB", (8, 8), "white")
"""Stands in the place of a picture that is not shown."""
COMMON = frozenset(
    "a an the and or of in on at to is are with by for from as his her its their it that this".split()  # noqa: SIM905
)
"""Words of captions that are not asked about."""


@dataclass(frozen=True)
class Question:
    """A question about one picture of a source.

    Attributes:
        kind: of question.
        index: of the picture, among the source's samples.
        text: what is asked.
        answers: what is right; the first is the one that is learnt.
    """

    kind: str
    index: int
    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class QuestionSource(SourceConfig):
    """Chats of a few questions about each picture of the emoji set, or of captioned pictures.

    Attributes:
        of: the pictures.
        kinds: of questions; those that the pictures have no answer for are left out.
        turns: questions about a picture in one training chat, of different kinds.
        absent: the share of training chats without a picture, in which nothing can be seen.
        shown: chats show their pictures; if not, the right answers are learnt from the questions alone.

    Raises:
        ConfigError: if a kind is unknown or there is none, ``turns`` is below 1, or ``absent`` no share.
    """

    of: SourceConfig = EMOJI
    kinds: tuple[str, ...] = KINDS
    turns: int = 3
    absent: float = 0.04
    shown: bool = True

    def __post_init__(self) -> None:
        unknown = sorted(set(self.kinds) - set(ASKED))
        if not 0 <= self.absent < 1:
            raise ConfigError(f"Questions: absent must be from 0 to below 1, found {self.absent}.")
        if unknown or not self.kinds or self.turns < 1:
            raise ConfigError(
                f"Questions are of the kinds {', '.join(dict.fromkeys(KINDS + CAPTION_KINDS))}, at least 1 a chat; found "
                f"{', '.join(unknown) or self.kinds} and {self.turns}."
            )

    def open(self, split: str) -> Questions:
        """Open a split of the pictures.

        Raises:
            DataError: if they have no captions and are not the emoji set.
        """
        return Questions(self, self.of.open(split), known_words(self.of))

    def training_texts(self) -> list[str]:
        """Return each training question with its answers in the frame of a chat, for tokenizers and decoders."""
        source = self.open("train")
        return [FORMAT.text([Turn(q.text, answer)]) for q in source.questions() for answer in q.answers]


class Questions(Source):
    """One split; a sample is a picture and a chat about it."""

    fields: Mapping[str, Field] = {
        "image": Field((), "image", "a picture"),
        "chat": Field((), "chat", "questions about it, with answers"),
        "text": Field((), "str", "the chat as one text, without the picture"),
    }

    def __init__(self, config: QuestionSource, pictures: Source, known: Mapping[str, float]) -> None:
        if not isinstance(pictures, EmojiPictures | CaptionedSource):
            raise DataError(
                f"{pictures.name} has neither captions nor the emoji set's names: nothing can be asked about it."
            )
        self.config, self.pictures, self.known = config, pictures, known
        self.name = f"questions about {pictures.name}"
        self._units = list(pictures.concepts.values()) if isinstance(pictures, EmojiPictures) else []
        self._words = [sorted(words & set(known)) for words in words_of(pictures)]
        able = KINDS if isinstance(pictures, EmojiPictures) else CAPTION_KINDS
        self._colours: dict[int, str | None] = {}
        self.kinds = tuple(kind for kind in config.kinds if kind in able)
        if not self.kinds:
            raise DataError(f"{pictures.name} answers questions of the kinds {', '.join(able)} alone.")

    def __len__(self) -> int:
        return len(self.pictures)

    def sample(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Return a picture and a chat about it: with ``rng`` of random kinds, else of each kind once."""
        drawn = rng or self._fixed(index)
        row = self._row(index, rng)
        image = self._image(index, row) if self.config.shown else BLANK
        kinds = list(self.kinds) if rng is None else [self.kinds[i] for i in drawn.permutation(len(self.kinds))]
        most = len(kinds) if rng is None else self.config.turns
        absent = rng is not None and drawn.random() < self.config.absent and self.config.shown
        shown = (image,) if self.config.shown and not absent else ()
        turns: list[Turn] = []
        for kind in kinds:
            question = self._ask(kind, index, row, drawn) if len(turns) < most else None
            if question is not None:
                answer = UNSEEN if absent else question.answers[int(drawn.integers(len(question.answers)))]
                turns.append(Turn(question.text, answer, () if turns else shown))
        if not turns:  # of a picture without a word that can be asked about
            turns = [Turn(str(drawn.choice(ASKED["unseen"])), UNSEEN, shown)]
        return {"image": image, "chat": turns, "text": FORMAT.text(turns)}

    def questions(self) -> list[Question]:
        """Return one question of each kind about each picture, always the same."""
        found = []
        for index in range(len(self)):
            rng = self._fixed(index)
            row = self._row(index, None)
            asked = [self._ask(kind, index, row, rng) for kind in self.kinds]
            found += [question for question in asked if question is not None]
        return found

    def picture(self, index: int) -> Any:
        """Return the picture that :meth:`questions` speaks of."""
        return self._image(index, self._row(index, None))

    def sample_name(self, index: int) -> str:
        """Return the picture's name."""
        return self.pictures.sample_name(index)

    def texts(self) -> list[str]:
        """Return each question with its first answer in the frame of a chat."""
        return [FORMAT.text([Turn(q.text, q.answers[0])]) for q in self.questions()]

    def _fixed(self, index: int) -> np.random.Generator:
        return np.random.default_rng([SEED, index])

    def _row(self, index: int, rng: np.random.Generator | None) -> int:
        """Return which of a concept's pictures is asked about; without ``rng`` another style for each concept."""
        if not isinstance(self.pictures, EmojiPictures):
            return index
        rows = self._rows(index)
        return rows[int(rng.integers(len(rows)))] if rng is not None else rows[index % len(rows)]

    def _rows(self, index: int) -> list[int]:
        assert isinstance(self.pictures, EmojiPictures)
        return self._units[index] if self.pictures.config.unit == "concept" else [index]

    def _image(self, index: int, row: int) -> Any:
        if isinstance(self.pictures, EmojiPictures):
            return self.pictures.image(row)
        assert isinstance(self.pictures, CaptionedSource)
        return self.pictures.picture(index)

    def _ask(self, kind: str, index: int, row: int, rng: np.random.Generator) -> Question | None:
        asked = ASKED[kind][int(rng.integers(len(ASKED[kind])))]
        if kind == "unseen":
            return Question(kind, index, asked, (UNSEEN,))
        if kind in ("keyword", "word", "which"):
            return self._ask_word(kind, index, row, rng)
        if kind == "colour":
            if row not in self._colours:
                self._colours[row] = main_colour(self._image(index, row))
            colour = self._colours[row]
            return None if colour is None else Question(kind, index, asked, (colour,))
        if isinstance(self.pictures, EmojiPictures):
            facts = self.pictures.rows[row]
            field = {"name": "name", "kind": "subgroup", "group": "group", "style": "style"}[kind]
            return Question(kind, index, asked, (plain(facts[field]),))
        assert isinstance(self.pictures, CaptionedSource)
        return Question(kind, index, asked, tuple(plain(text) for text in self.pictures.captions(index)))

    def _ask_word(self, kind: str, index: int, row: int, rng: np.random.Generator) -> Question | None:
        emoji = isinstance(self.pictures, EmojiPictures)
        forms = ASKED["there" if kind == "word" and not emoji else kind]
        form, own = forms[int(rng.integers(len(forms)))], self._words[row if emoji else index]
        if not own:  # always no, and so for every picture alike: not asked
            return None
        if kind == "keyword":
            return Question(kind, index, form, tuple(own[i] for i in rng.permutation(len(own))))
        right = own[int(rng.integers(len(own)))]
        if kind == "word" and rng.random() < 0.5:
            return Question(kind, index, form.format(right), (YES,))
        wrong = self._other(own, rng, rare=kind == "which")
        if wrong is None or (kind == "which" and rng.random() > self._rarity(right)):
            return None
        if kind == "word":
            return Question(kind, index, form.format(wrong), (NO,))
        first, second = (right, wrong) if rng.random() < 0.5 else (wrong, right)
        return Question(kind, index, form.format(first, second), (right,))

    def _other(self, own: Sequence[str], rng: np.random.Generator, *, rare: bool) -> str | None:
        """Return a word of another picture that is none of this one's; None if none was found."""
        for _ in range(TRIES):
            others = self._words[int(rng.integers(len(self._words)))]
            word = others[int(rng.integers(len(others)))] if others else ""
            if word and word not in own and (not rare or rng.random() <= self._rarity(word)):
                return word
        return None

    def _rarity(self, word: str) -> float:
        """Return the probability with which a word is kept, so that no word is asked about most of the time."""
        return min(1.0, OFTEN / self.known[word])


def plain(text: str) -> str:
    """Return a text as an answer: lower case, words alone, a space between."""
    return " ".join(re.findall(r"[\w'’]+", text.lower()))


def words_of(pictures: Source) -> list[set[str]]:
    """Return the words of each picture: of the emoji set's names and keywords by row, else of all captions."""
    if isinstance(pictures, EmojiPictures):
        return [set(plain(" ".join([row["name"], *row["keywords"]])).split()) - COMMON for row in pictures.rows]
    assert isinstance(pictures, CaptionedSource)
    return [set(plain(" ".join(pictures.captions(i))).split()) - COMMON for i in range(len(pictures))]


@functools.lru_cache(maxsize=4)
def known_words(of: SourceConfig) -> Mapping[str, float]:
    """Return the words that may be asked about, and the share of training concepts or pictures that each belongs to."""
    pictures = of.open("train")
    words = words_of(pictures) if isinstance(pictures, EmojiPictures | CaptionedSource) else []
    if isinstance(pictures, EmojiPictures):
        words = [set.union(*(words[row] for row in rows)) for rows in pictures.concepts.values()]
    counts = Counter(word for each in words for word in each if len(word) > 2)
    return {word: count / len(words) for word, count in counts.items() if count >= FEW}


def most_frequent(questions: Sequence[Question]) -> dict[str, str]:
    """Return the most frequent first answer of each kind."""
    counts: dict[str, Counter[str]] = {}
    for question in questions:
        counts.setdefault(question.kind, Counter())[question.answers[0]] += 1
    return {kind: min(found, key=lambda answer: (-found[answer], answer)) for kind, found in counts.items()}

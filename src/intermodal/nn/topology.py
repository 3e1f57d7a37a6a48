"""The states of phones: which density speaks in each, whatever stands beside the phone or depending on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.data.lexicon import SILENCE

BOUNDARY = "#"
"""What stands left and right of a word's first and last phone."""
LEFT, RIGHT = 0, 1


@dataclass(frozen=True, kw_only=True)
class Topology(Config):
    """Phones, their states, and which density speaks in each state, given the phones beside it.

    Pdfs 0 .. ``silence_states - 1`` are those of silence. Without trees every state of every phone has a pdf of its own
    (monophones). With trees a state's pdf depends on its phone's neighbours inside the word: from the state's root one
    answers questions about the left or right neighbour until a leaf is reached.

    Attributes:
        phones: every phone once, without silence.
        states: of a phone.
        silence_states: of silence.
        roots: for each phone and state (phone by phone) the number of the first node of its tree, or ``-1 - pdf``.
        nodes: questions: side (0 left, 1 right), which question, where to go on "yes" and on "no" (again a node, or
            ``-1 - pdf``).
        questions: sets of phones by number; number ``len(phones)`` is the boundary of a word.
    """

    phones: tuple[str, ...]
    states: int = 3
    silence_states: int = 3
    roots: tuple[int, ...] = ()
    nodes: tuple[tuple[int, int, int, int], ...] = ()
    questions: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if min(self.states, self.silence_states) < 1 or not self.phones:
            raise ConfigError("A hidden Markov model needs phones, and at least one state for each and for silence.")
        if len(set(self.phones)) != len(self.phones) or SILENCE in self.phones or BOUNDARY in self.phones:
            raise ConfigError(f"Each phone stands once, {SILENCE} and {BOUNDARY} not among them.")
        if self.roots and len(self.roots) != len(self.phones) * self.states:
            raise ConfigError(f"Expected {len(self.phones) * self.states} roots of trees, found {len(self.roots)}.")

    @cached_property
    def pdfs(self) -> int:
        """P: how many densities there are."""
        if not self.roots:
            return self.silence_states + len(self.phones) * self.states
        leaves = [-1 - place for place in (*self.roots, *(n for node in self.nodes for n in node[2:])) if place < 0]
        return max(leaves) + 1

    @property
    def silence(self) -> tuple[int, ...]:
        """The pdfs of silence's states."""
        return tuple(range(self.silence_states))

    @cached_property
    def number(self) -> dict[str, int]:
        """Each phone's number, and the boundary's."""
        return {phone: i for i, phone in enumerate((*self.phones, BOUNDARY))}

    @cached_property
    def _asked(self) -> tuple[frozenset[int], ...]:
        return tuple(frozenset(question) for question in self.questions)

    def unit(self, left: str, phone: str, right: str) -> tuple[int, ...]:
        """Return the pdfs of a phone's states between two neighbours (:data:`BOUNDARY` at a word's ends).

        Raises:
            DataError: if one of them is no phone of this model.
        """
        for name in (left, phone, right):
            if name not in self.number:
                raise DataError(f"This model has no phone {name!r}: it knows {', '.join(self.phones)}.")
        first = self.number[phone] * self.states
        if not self.roots:
            return tuple(self.silence_states + first + i for i in range(self.states))
        beside = (self.number[left], self.number[right])
        return tuple(self._leaf(self.roots[first + i], beside) for i in range(self.states))

    def _leaf(self, place: int, beside: tuple[int, int]) -> int:
        while place >= 0:
            side, question, yes, no = self.nodes[place]
            place = yes if beside[side] in self._asked[question] else no
        return -1 - place

    def units(self, phones: Sequence[str]) -> list[tuple[int, ...]]:
        """Return the pdfs of each phone's states, for one pronunciation of a word."""
        padded = [BOUNDARY, *phones, BOUNDARY]
        return [self.unit(*padded[i : i + 3]) for i in range(len(phones))]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """A name for each pdf: the phone and state, and a number where several are tied apart (``IY.2``, ``IY.2-14``)."""
        names = [f"{SILENCE}.{i + 1}" for i in range(self.silence_states)]
        if not self.roots:
            return (*names, *(f"{phone}.{i + 1}" for phone in self.phones for i in range(self.states)))
        all_names = [*names, *[""] * (self.pdfs - len(names))]
        for i, root in enumerate(self.roots):
            leaves = self._leaves(root)
            own = f"{self.phones[i // self.states]}.{i % self.states + 1}"
            for pdf in leaves:
                all_names[pdf] = own if len(leaves) == 1 else f"{own}-{pdf}"
        return tuple(all_names)

    def _leaves(self, place: int) -> list[int]:
        return [-1 - place] if place < 0 else [pdf for child in self.nodes[place][2:] for pdf in self._leaves(child)]

"""Several pictures of one class as one sample: batches of P classes with K pictures each.

A loss that looks for hard positives and negatives inside a batch needs several pictures of each class in it; a random
batch holds many of a large class and one of a small one. Here a sample is a group of K pictures of one class, so a
batch of P groups is the P x K batch of Hermans et al. 2017 (arXiv:1703.07737, section 2), and every class is drawn
equally often where ``balanced`` says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from intermodal.core.errors import ConfigError, DataError
from intermodal.data.source import Sample, Source, SourceConfig


@dataclass(frozen=True, kw_only=True)
class GroupSource(SourceConfig):
    """Groups of pictures of one class, of any source that has labels.

    Attributes:
        source: where the pictures come from.
        pictures: K, how many are in a group.
        balanced: each class has equally many groups; else as many as its pictures make.
    """

    source: SourceConfig
    pictures: int = 4
    balanced: bool = True

    def __post_init__(self) -> None:
        if self.pictures < 1:
            raise ConfigError(f"A group needs at least one picture, found pictures={self.pictures}.")

    def open(self, split: str) -> Groups:
        """Open a split of the source.

        Raises:
            DataError: if it has no labels, or its pictures are all of one class.
        """
        return Groups(self, self.source.open(split))


class Groups(Source):
    """One split, grouped; ``image`` is a list of K pictures, ``label`` their class."""

    def __init__(self, config: GroupSource, source: Source) -> None:
        self.config, self.source = config, source
        self.name = f"{source.name} in groups of {config.pictures}"
        self.fields = {name: source.fields[name] for name in ("image", "label") if name in source.fields}
        members: dict[str, list[int]] = {}
        for index, label in enumerate(source.labels()):
            members.setdefault(label, []).append(index)
        if len(members) < 2:
            raise DataError(
                f"All {len(source)} pictures of {source.name} are of the class {next(iter(members), '')!r}: pictures of "
                "at least two classes are needed to tell them apart."
            )
        self.members = [members[label] for label in sorted(members)]
        each = max(1, round(len(source) / config.pictures / len(members)))
        counts = [each if config.balanced else -(-len(m) // config.pictures) for m in self.members]
        self._classes = np.repeat(np.arange(len(counts)), counts)
        self._places = np.concatenate([np.arange(count) for count in counts])

    def __len__(self) -> int:
        return len(self._classes)

    def sample(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Return K pictures of one class: with ``rng`` random ones, else those whose turn it is.

        A class with fewer than K pictures gives each of them, and some again.
        """
        members, count = self.members[self._classes[index]], self.config.pictures
        if rng is None:
            first = int(self._places[index]) * count
            chosen = [members[(first + k) % len(members)] for k in range(count)]
        else:
            rounds = [rng.permutation(len(members)) for _ in range(-(-count // len(members)))]
            chosen = [members[int(i)] for i in np.concatenate(rounds)[:count]]
        samples = [self.source.sample(i, rng) for i in chosen]
        return {"image": [s["image"] for s in samples], "label": samples[0]["label"]}

    def sample_name(self, index: int) -> str:
        """Return the name of the group's first picture."""
        return self.source.sample_name(self.members[self._classes[index]][0])

    def labels(self) -> list[str]:
        """Return the class of every picture of the source (not of every group)."""
        return self.source.labels()

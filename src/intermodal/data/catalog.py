"""Data sets by name: in ``INTERMODAL_DATA``, the user's cache, or from their publisher with a checksum."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from intermodal.core.config import suggestion
from intermodal.core.errors import DataError
from intermodal.data.download import Progress, fetch

DATA_VARIABLE = "INTERMODAL_DATA"
CACHE_VARIABLE = "INTERMODAL_CACHE"


@dataclass(frozen=True)
class Entry:
    """One data set of the table.

    Attributes:
        file: its name in the data folder and in the cache.
        about: what it is, for listings and errors.
        url: where its publisher offers it to everyone, under an address that stays; None if there is no such
            address.
        sha256: of the file at ``url``.
        package: an installed package that brings the file, and the folder in it: ``gensim/test/test_data``.
    """

    file: str
    about: str
    url: str | None = None
    sha256: str | None = None
    package: str | None = None


CATALOG: dict[str, Entry] = {
    "flickr8k-96": Entry(
        file="flickr8k-96.parquet",
        about="7,270 photographs of Flickr8k at 96 x 96 pixels with five captions each (research use)",
    ),
    "an4": Entry(
        file="an4.parquet",
        about="CMU AN4: 1,078 spoken utterances at 16 kHz, 48 minutes, with transcripts (free, notice in its licence)",
    ),
    "an4-lexicon": Entry(
        file="an4.dic",
        about="the pronunciation dictionary of CMU AN4's words, in CMU's format",
    ),
    "fsdd": Entry(
        file="fsdd.parquet",
        about="Free Spoken Digit Dataset: 2,500 recordings of digits at 8 kHz by five speakers (CC BY-SA 4.0)",
    ),
    "sroie-lines": Entry(
        file="sroie-lines.parquet",
        about="10,231 text lines cut from scanned receipts, grey, 32 pixels high (ICDAR 2019 SROIE: research use)",
    ),
    "text-15m": Entry(
        file="text-15m.parquet",
        about="18 M words of English: 20 Newsgroups, Gutenberg books, State of the Union, WordNet, GCIDE (see its licences)",
    ),
    "wordsim353": Entry(
        file="wordsim353.tsv",
        about="WordSim-353: 353 pairs of words with how similar people find them (Finkelstein et al. 2002)",
        package="gensim/test/test_data",
    ),
    "simlex999": Entry(
        file="simlex999.txt",
        about="SimLex-999: 999 pairs of words with how similar people find them (Hill et al. 2015)",
        package="gensim/test/test_data",
    ),
    "google-analogies": Entry(
        file="questions-words.txt",
        about="Google's 19,544 analogies of words (Mikolov et al. 2013)",
        package="gensim/test/test_data",
    ),
}
"""The data sets that recipes name. One without a stable public address is looked for, never fetched."""


def cache_folder() -> Path:
    """Return the folder for fetched files: ``INTERMODAL_CACHE``, else ``intermodal`` in the user's cache."""
    stated = os.environ.get(CACHE_VARIABLE)
    if stated:
        return Path(stated).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "intermodal"


def find(name: str, progress: Progress | None = None) -> Path:
    """Return the file of a data set, fetched if it must and can be.

    Args:
        name: a key of :data:`CATALOG`.
        progress: told of a download.

    Raises:
        DataError: if the name is unknown (the nearest is suggested), or the file is nowhere; the message says
            where it was looked for and how to point to it.
    """
    if name not in CATALOG:
        raise DataError(f"There is no data set {name!r}{suggestion(name, CATALOG)}")
    entry = CATALOG[name]
    places = []
    stated = os.environ.get(DATA_VARIABLE)
    if stated:
        places.append(Path(stated).expanduser() / entry.file)
    places.append(cache_folder() / entry.file)
    for place in [*places, *_in_package(entry)]:
        if place.is_file():
            return place
    if entry.url is not None and entry.sha256 is not None:
        return fetch(entry.url, entry.sha256, places[-1], progress)
    hint = "" if stated else f" ({DATA_VARIABLE} is not set)"
    raise DataError(
        f"The data set {name} ({entry.about}) is not at {' or '.join(map(str, places))}{hint}, and has no "
        f"public address to fetch it from: put {entry.file} into a folder and set "
        f"{DATA_VARIABLE} to that folder."
    )


def _in_package(entry: Entry) -> list[Path]:
    """Return where an installed package would hold the file; the package is not imported."""
    if entry.package is None:
        return []
    name, _, folder = entry.package.partition("/")
    spec = find_spec(name)
    return [Path(root) / folder / entry.file for root in (spec.submodule_search_locations or [])] if spec else []

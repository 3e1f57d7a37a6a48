"""``intermodal lm``: n-gram language models are trained, asked, pruned and converted."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from intermodal.cli.common import (
    UsageError,
    errors,
    output,
    parse,
    print_json,
    progress,
    refuse_existing,
)
from intermodal.core.config import suggestion

if TYPE_CHECKING:
    from intermodal.decode.ngram import NGram

Lm = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="LM")]
"""A language model: an ARPA file, also compressed, or the library's binary."""
Text = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TEXT")]
"""A text file, a sentence a line (also ``.gz``); or recordings, whose transcripts are taken."""
Output = Annotated[Path, tyro.conf.arg(aliases=["-o", "--out"], metavar="PATH")]
Split = Literal["train", "validation", "test"]


@dataclass(frozen=True, kw_only=True)
class Train:
    """Estimate a language model from text, by interpolated modified Kneser-Ney.

    Attributes:
        text: a text file, a sentence a line, cut into words at white space (also .gz); or recordings, whose transcripts are
            taken: an4, fsdd, a Parquet file or a folder. Of recordings the training split is used, without the speakers that
            are set aside for validation.
        output: .arpa or .arpa.gz for the format that other programs read, any other ending for the fast binary.
        order: how many words the longest sequences have.
        prune: for order 2, 3 and so on, leave out sequences that occur at most so often; the last number holds on.
        min_count: words that occur less often count as unknown.
        with_validation: of recordings, take the transcripts of the validation speakers too.
        overwrite: replace what is there.
    """

    text: Text
    output: Output
    order: int = 3
    prune: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N")] = ()
    min_count: int = 1
    with_validation: bool = False
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class Score:
    """Say how likely each sentence of a text is: the logarithm of its probability.

    Attributes:
        lm: the language model.
        text: a text file, a sentence a line, or recordings (see lm train).
        split: of recordings, which.
        words: show each word's logarithm too.
        base10: write logarithms to base 10, as ARPA files do, rather than natural ones.
        json: print JSON.
    """

    lm: Lm
    text: Text
    split: Split = "test"
    words: bool = False
    base10: bool = False
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class PerplexityOf:
    """Say how well a model foretells a text: perplexity, with and without unknown words.

    Attributes:
        lm: the language model.
        text: a text file, a sentence a line, or recordings (see lm train).
        split: of recordings, which.
        json: print JSON.
    """

    lm: Lm
    text: Text
    split: Split = "test"
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Leave out what changes a model least, by relative entropy (Stolcke 1998).

    Attributes:
        lm: the language model.
        output: where the smaller one is written; the ending decides the format (see lm train).
        threshold: sequences that change the perplexity by a smaller share than this go.
        overwrite: replace what is there.
    """

    lm: Lm
    output: Output
    threshold: float = 1e-8
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Write a model in the other format.

    Attributes:
        lm: the language model.
        output: .arpa or .arpa.gz for the format that other programs read, any other ending for the fast binary.
        overwrite: replace what is there.
    """

    lm: Lm
    output: Output
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class Info:
    """Say what a model holds, and check that its file is whole.

    Attributes:
        lm: the language model.
        json: print JSON.
    """

    lm: Lm
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class Arguments(Info, Convert, Prune, PerplexityOf, Score, Train):
    """N-gram language models: the options of all commands of ``intermodal lm`` together, for the shell's completion."""


def run(argv: Sequence[str]) -> int:
    """Run the command."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        width = max(map(len, _COMMANDS))
        lines = [f"  {name:<{width}}  {(kind.__doc__ or '').splitlines()[0]}" for name, (kind, _) in _COMMANDS.items()]
        print("usage: intermodal lm COMMAND [OPTIONS]\n\nN-gram language models.\n\ncommands:")
        print("\n".join(lines) + "\n\n  intermodal lm COMMAND --help says more.")
        return 0
    name, *rest = argv
    if name not in _COMMANDS:
        raise UsageError(f"`intermodal lm` has no command {name!r}{suggestion(name, _COMMANDS)}")
    kind, command = _COMMANDS[name]
    command(parse(kind, rest, f"lm {name}"))
    return 0


def texts(name: str, split: Split = "train", *, with_validation: bool = False) -> Iterator[str]:
    """Yield the lines of a text file, or the transcripts of a split of recordings.

    Raises:
        DataError: if there is no such text, or it is not UTF-8.
    """
    from intermodal.core.errors import DataError
    from intermodal.data.speech import KNOWN, SpeechSource

    path = Path(name)
    if name in KNOWN or path.is_dir() or path.suffix.lower() == ".parquet":
        source = SpeechSource(path=path)
        yield from (source.replace(validation_share=0.0) if with_validation else source).open(split).texts()
        return
    zipped = path.suffix.lower() == ".gz"
    try:
        with gzip.open(path, "rt", encoding="utf-8") if zipped else path.open(encoding="utf-8-sig") as file:
            yield from file
    except FileNotFoundError as error:
        sets = ", ".join(KNOWN)
        raise DataError(f"There is no text file {name}, and no known set of speech of that name ({sets}).") from error
    except UnicodeDecodeError as error:
        raise DataError(f"The text {name} is not UTF-8 ({error.reason}): convert it first.") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"The text {name} cannot be uncompressed ({error}): was it cut short?") from error
    except OSError as error:
        raise DataError(f"The text {name} cannot be read ({error.strerror}).") from error


def _train(arguments: Train) -> None:
    refuse_existing(arguments.output, arguments.overwrite)
    with progress() as report:
        report("reading the text", 0.0)
        from intermodal.decode.kneser_ney import estimate

        lines = texts(arguments.text, with_validation=arguments.with_validation)
        found = estimate(lines, arguments.order, prune=arguments.prune, min_count=arguments.min_count, watch=report)
        report("writing", 0.95)
        found.model.write(arguments.output)
    for note in found.notes:
        errors().print(note, markup=False)
    out = output()
    out.print(f"{found.words:,} words in {found.sentences:,} sentences, {len(found.model):,} different.", markup=False)
    for discounts in found.discounts:
        said = " ".join(f"{value:.4f}" for value in discounts.values)
        out.print(f"order {discounts.order}: {found.model.counts[discounts.order - 1]:,} entries, discounts {said}")
    out.print(f"{arguments.output}: written.", markup=False)


def _score(arguments: Score) -> None:
    model = _open(arguments.lm)
    import numpy as np

    from intermodal.decode.ngram import END, split_words

    scale = float(np.log(10.0)) if arguments.base10 else 1.0
    rows = []
    for line in texts(arguments.text, arguments.split):
        if words := split_words(line):
            each = (model.word_scores(words) / scale).tolist()
            rows.append((words, each))
            if not arguments.json:
                output().print(f"{sum(each):12.4f}  {' '.join(words)}", markup=False)
                for word, value in zip([*words, END], each, strict=True) if arguments.words else ():
                    unknown = "" if word in model else "  unknown"
                    output().print(f"{value:12.4f}    {word}{unknown}", markup=False)
    if arguments.json:
        print_json(
            [
                {"text": " ".join(words), "log_prob": sum(each), "unknown": [w for w in words if w not in model]}
                | ({"words": each} if arguments.words else {})
                for words, each in rows
            ]
        )


def _perplexity(arguments: PerplexityOf) -> None:
    found = _open(arguments.lm).perplexity(texts(arguments.text, arguments.split))
    figures = {
        "perplexity": found.perplexity,
        "perplexity_known": found.perplexity_known,
        "words": found.words,
        "sentences": found.sentences,
        "unknown": found.unknown,
        "log_prob": found.log_prob,
    }
    if arguments.json:
        print_json(figures)
        return
    out = output()
    out.print(f"perplexity {found.perplexity:.4f}; without unknown words {found.perplexity_known:.4f}")
    share = found.unknown / found.words
    out.print(
        f"{found.words:,} words in {found.sentences:,} sentences, {found.unknown:,} of them unknown ({share:.2%}); each "
        "sentence's end counts as a word."
    )


def _prune(arguments: Prune) -> None:
    refuse_existing(arguments.output, arguments.overwrite)
    from intermodal.decode.ngram_prune import prune

    model = _open(arguments.lm)
    smaller = prune(model, arguments.threshold)
    smaller.write(arguments.output)
    output().print(
        f"{arguments.output}: {sum(smaller.counts):,} of {sum(model.counts):,} entries ({_counts(smaller)}).",
        markup=False,
    )


def _convert(arguments: Convert) -> None:
    refuse_existing(arguments.output, arguments.overwrite)
    model = _open(arguments.lm)
    model.write(arguments.output)
    output().print(f"{arguments.output}: {_counts(model)}.", markup=False)


def _info(arguments: Info) -> None:
    from intermodal.decode import ngram_binary

    binary = ngram_binary.is_binary(arguments.lm)
    model = ngram_binary.read(arguments.lm, check=True) if binary else _open(arguments.lm)
    size = sum(array.nbytes for array in model.tables)
    if arguments.json:
        print_json(
            {
                "format": "binary" if binary else "arpa",
                "order": model.order,
                "words": len(model),
                "entries": list(model.counts),
                "bytes": size,
                "unknown_words": not model.closed,
            }
        )
        return
    out = output()
    out.print(f"{arguments.lm}: {'our binary' if binary else 'ARPA'}, whole.", markup=False)
    out.print(f"order {model.order}, {len(model):,} words; {_counts(model)}; {size / 1e6:,.1f} MB in memory.")
    if model.closed:
        out.print("It has no <unk>: unknown words have next to no probability.", markup=False)


def _open(path: Path) -> NGram:
    from intermodal.decode.ngram import NGram

    return NGram.read(path)


def _counts(model: NGram) -> str:
    return ", ".join(f"{count:,} of order {n}" for n, count in enumerate(model.counts, 1))


_COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "train": (Train, _train),
    "score": (Score, _score),
    "perplexity": (PerplexityOf, _perplexity),
    "prune": (Prune, _prune),
    "convert": (Convert, _convert),
    "info": (Info, _info),
}

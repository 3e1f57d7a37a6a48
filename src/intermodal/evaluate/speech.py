"""Judges whatever transcribes: how many words are wrong, with and without a language model, and how long it takes.

Texts are judged as :func:`~intermodal.metrics.speech.normalise` leaves them: case folded, without punctuation. The ways:

- *plain*: as the model transcribes by itself, greedily where it has no search of its own.
- *beam*: its beam search without a language model.
- *language model*: the same with a 3-gram of the training transcripts and of nothing else (modified Kneser-Ney). Its weight
  and the bonus of a word are chosen on the validation split; where that is what is judged, the model's own are taken.

Figures; of the error rates, **less is better**:

- ``wer``, ``beam_wer``, ``lm_wer``: substituted, missed and added words over the words that were said, in each of the ways.
  ``wer_low`` and ``wer_high``: the bounds of 95 % of resampled sets of utterances; ``lm_wer_low``... likewise.
- ``cer``, ``beam_cer``, ``lm_cer``: the same of characters, spaces between words included.
- ``substitutions``, ``deletions``, ``insertions``: of words, plain; ``utterance_errors``: the share with any error.
- ``chance_wer``, ``chance_cer``: of the recogniser that always says the same: see :func:`constant`.
- ``real_time_factor``, ``lm_real_time_factor``: seconds of the processor, all threads, for a second of sound.
- ``accuracy``: where every recording is one word of a few: the share that is right; ``chance_accuracy`` likewise.
- ``empty_share``: of recordings in which nothing is heard; ``unreadable``: how many could not be read, and do not count.
- ``lm_perplexity``: a word, of the judged transcripts, by the 3-gram; ``unknown_share``: of their words, not in training.

    N utterances
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from intermodal.core.capabilities import Transcribes
from intermodal.core.errors import ConfigError
from intermodal.core.progress import Progress
from intermodal.core.transcript import Transcribing, Transcript
from intermodal.data.source import SourceConfig
from intermodal.data.transcripts import Case
from intermodal.data.transcripts import normalise as in_case
from intermodal.evaluate.encoding import Steps
from intermodal.evaluate.result import Evaluation, Headline, Panel, in_percent
from intermodal.evaluate.speech_set import MOST, QUICK, Utterances, constant, isolated, right_share, utterances
from intermodal.evaluate.speech_tuning import choose_weights, language_model, lm_figures, tuning_set
from intermodal.metrics.speech import Errors, bootstrap, errors, total

BEAM, ORDER = 50, 3
PLAIN, WITH_BEAM, WITH_LM = "plain", "beam", "language model"


@dataclass(frozen=True)
class Way:
    """One way of transcribing, judged.

    Attributes:
        name: :data:`PLAIN`, :data:`WITH_BEAM` or :data:`WITH_LM`.
        settings: of it.
        transcripts: of each utterance.
        words, characters: counts of each utterance.
        cpu_seconds: of the processor, all threads.
        seconds: of sound.
    """

    name: str
    settings: Transcribing
    transcripts: list[Transcript]
    words: list[Errors]
    characters: list[Errors]
    cpu_seconds: float
    seconds: float

    @property
    def wer(self) -> float:
        """The word error rate."""
        return total(self.words).rate


@dataclass(frozen=True)
class Judged:
    """What the panels are drawn from.

    Attributes:
        method: what transcribes.
        held_out: what was judged.
        ways: at least the plain one.
        metrics: the figures.
        refused: ways that the method does not take, and why.
        chosen: how the language model's weight was found, in words.
        lm: the language model's file, while the panels are drawn.
        chance: what the trivial recogniser always says.
    """

    method: Any
    held_out: Utterances
    ways: list[Way]
    metrics: dict[str, float]
    refused: dict[str, str]
    chosen: str
    lm: Path | None
    chance: str

    @property
    def best(self) -> Way:
        """The last way: with the language model, if it takes one."""
        return self.ways[-1]


def evaluate_recogniser(
    method: Any,
    source: SourceConfig,
    split: str,
    progress: Progress,
    *,
    full: bool = True,
    beam: int = BEAM,
    order: int = ORDER,
    texts: Sequence[str] | None = None,
) -> Evaluation:
    """Judge a recogniser.

    Args:
        method: anything that :class:`~intermodal.core.capabilities.Transcribes`.
        source: recordings with transcripts.
        split: what to judge on.
        progress: told what is done.
        full: all utterances, in all ways, with panels; else up to 64 of them, in the plain way, without panels.
        beam: how wide the search is.
        order: of the language model.
        texts: what the language model is made of; the training transcripts by default.

    Raises:
        DataError: if no word is said in the split.
        ConfigError: if the method does not transcribe.
    """
    start = time.monotonic()
    if not isinstance(method, Transcribes):
        raise ConfigError(
            f"{getattr(method, 'id', type(method).__name__)!r} does not transcribe: it cannot be judged so."
        )
    with _evaluating(method):
        held_out = utterances(source.open(split), MOST if full else QUICK)
        training = source.training_texts()
        if not full:
            plain = _way(PLAIN, method, held_out, Transcribing(), lambda share: progress("Transcribing", share))
            return Evaluation(split, _figures([plain], held_out, training), [], time.monotonic() - start)
        with tempfile.TemporaryDirectory() as folder:
            judged = _judge(method, source, split, held_out, training, texts, progress, beam, order, Path(folder))
            from intermodal.evaluate.speech_panels import panels

            shown: list[Panel] = panels(judged)
    return Evaluation(split, judged.metrics, shown, time.monotonic() - start, headline(judged))


def _judge(  # noqa: PLR0917 - one call, from above
    method: Any,
    source: SourceConfig,
    split: str,
    held_out: Utterances,
    training: Sequence[str],
    texts: Sequence[str] | None,
    progress: Progress,
    beam: int,
    order: int,
    folder: Path,
) -> Judged:
    steps = Steps(progress, {"Transcribing": 3, "Choosing a weight": 4, "Searching": 3, "With a language model": 3})
    ways = [_way(PLAIN, method, held_out, Transcribing(), lambda share: steps("Transcribing", share))]
    refused: dict[str, str] = {}
    searching = Transcribing(beam=beam)
    with _refusal(refused, WITH_BEAM):
        ways.append(_way(WITH_BEAM, method, held_out, searching, lambda share: steps("Searching", share)))
    lm, chosen, extra = None, "", {}
    with _refusal(refused, WITH_LM):
        case: Case = getattr(getattr(method, "processors", {}).get("text"), "case", "keep")
        material = [in_case(text, case) for text in (training if texts is None else texts)]
        model, lm = language_model(material, order, folder / "training.arpa")
        extra = lm_figures(model, [in_case(text, case) for text in held_out.texts])
        tuning = tuning_set(source, split, held_out)
        found, chosen = choose_weights(
            method, tuning, searching.replace(lm=lm), lambda share: steps("Choosing a weight", share)
        )
        ways.append(_way(WITH_LM, method, held_out, found, lambda share: steps("With a language model", share)))
    metrics = _figures(ways, held_out, training) | extra
    return Judged(method, held_out, ways, metrics, refused, chosen, lm, constant(training))


@contextlib.contextmanager
def _refusal(refused: dict[str, str], name: str) -> Iterator[None]:
    """Take note of a way that a method says it does not take."""
    try:
        yield
    except ConfigError as error:
        refused[name] = str(error)


def _way(name: str, method: Any, held_out: Utterances, settings: Transcribing, report: Any) -> Way:
    method.transcribe([held_out.recording(0)], settings)  # what is compiled or read at first use is not counted
    transcripts: list[Transcript] = []
    cpu = seconds = 0.0
    for chunk in held_out.chunks():
        before = time.process_time()
        transcripts += method.transcribe(chunk, settings)
        cpu += time.process_time() - before
        seconds += sum(wave.seconds for wave in chunk)
        report(len(transcripts) / len(held_out.rows))
    hypotheses = [t.text for t in transcripts]
    words = errors(held_out.texts, hypotheses)
    return Way(name, settings, transcripts, words, errors(held_out.texts, hypotheses, "character"), cpu, seconds)


def _figures(ways: Sequence[Way], held_out: Utterances, training: Sequence[str]) -> dict[str, float]:
    prefixes = {PLAIN: "", WITH_BEAM: "beam_", WITH_LM: "lm_"}
    plain, same = ways[0], [constant(training)] * len(held_out.rows)
    all_words = total(plain.words)
    metrics = {"wer": plain.wer}
    metrics |= {f"{prefixes[way.name]}wer": way.wer for way in ways[1:]}
    metrics["chance_wer"] = total(errors(held_out.texts, same)).rate
    for way in ways:
        low, high = bootstrap(way.words)
        prefix = prefixes[way.name]
        metrics |= {
            f"{prefix}wer_low": low,
            f"{prefix}wer_high": high,
            f"{prefix}cer": total(way.characters).rate,
            f"{prefix}real_time_factor": way.cpu_seconds / max(way.seconds, 1e-9),
            f"{prefix}utterance_errors": float(np.mean([each.wrong > 0 for each in way.words])),
        }
        if way.name == WITH_LM and way.settings.lm_weight is not None:
            metrics |= {"lm_weight": way.settings.lm_weight, "word_bonus": way.settings.word_bonus or 0.0}
    metrics |= {
        "chance_cer": total(errors(held_out.texts, same, "character")).rate,
        "substitutions": float(all_words.substitutions),
        "deletions": float(all_words.deletions),
        "insertions": float(all_words.insertions),
        "words": float(all_words.units),
        "utterances": float(len(held_out.rows)),
        "empty_share": float(np.mean([not t.text for t in plain.transcripts])),
        "unreadable": float(held_out.unreadable),
    }
    if len(isolated(held_out.texts)) > 1:
        metrics |= {
            "accuracy": right_share(held_out.texts, [t.text for t in plain.transcripts]),
            "chance_accuracy": right_share(held_out.texts, same),
        }
        metrics |= {
            f"{prefixes[way.name]}accuracy": right_share(held_out.texts, [t.text for t in way.transcripts])
            for way in ways[1:]
        }
    return metrics


def headline(judged: Judged) -> Headline:
    """Return the result in words."""
    metrics, best = judged.metrics, judged.best
    if "accuracy" in metrics:
        right = max(right_share(judged.held_out.texts, [t.text for t in way.transcripts]) for way in judged.ways)
        return Headline(
            f"{100 * right:.1f}\N{NO-BREAK SPACE}%",
            f"of {metrics['utterances']:,.0f} recordings of single words are recognised; always saying "
            f"{judged.chance!r} gets {in_percent(metrics['chance_accuracy'])}.",
        )
    low, high = bootstrap(best.words)
    parts = [
        f"of {metrics['words']:,.0f} words are wrong ({100 * low:.1f} to {100 * high:.1f} % in 95 % of resampled sets)"
    ]
    if best.name == WITH_LM:
        parts.append(f"with a {ORDER}-gram of the training transcripts; {100 * metrics['wer']:.1f} % without it")
    parts.append(f"always saying {judged.chance!r} gets {100 * metrics['chance_wer']:.0f} % wrong")
    return Headline(f"{100 * best.wer:.1f}\N{NO-BREAK SPACE}%", f"{', '.join(parts[:-1])}; {parts[-1]}.")


@contextlib.contextmanager
def _evaluating(method: Any) -> Iterator[None]:
    """Put a network into evaluation mode for a while."""
    was = isinstance(method, nn.Module) and method.training
    if was:
        method.eval()
    try:
        yield
    finally:
        if was:
            method.train()


def with_n_best(settings: Transcribing, count: int) -> Transcribing:
    """Return settings that ask for alternatives, with a beam wide enough for them."""
    return settings.replace(beam=max(settings.beam, count), n_best=count)

"""What a person sees of a recogniser: its figures, who and what it fails on, and utterances with what it made of them.

Nothing is chosen by hand: the worst utterances are ranked by errors, the typical ones are evenly spread over the set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from intermodal.core.capabilities import Emits
from intermodal.core.transcript import Transcript
from intermodal.evaluate.energy import spread_out
from intermodal.evaluate.result import Aligned, Bars, Figure, Heatmap, Item, Panel, Table
from intermodal.evaluate.speech import ORDER, PLAIN, WITH_LM, Judged, Way, with_n_best
from intermodal.evaluate.speech_pictures import draw_utterance
from intermodal.evaluate.speech_set import Utterances, isolated
from intermodal.metrics.speech import align, bootstrap, confusions, normalise, total

TYPICAL, WORST, CONFUSED, ALTERNATIVES, SPEAKERS = 8, 10, 20, 5, 24
LONGEST = 8.0
"""Seconds of an utterance that is drawn, at most, where there is one."""
NOTHING = "(nothing)"


def panels(judged: Judged) -> list[Panel]:
    """Return the panels of a full evaluation."""
    held_out, best = judged.held_out, judged.best
    shown: list[Panel] = [_table(judged), *_speakers(held_out, best)]
    words = isolated(held_out.texts)
    if len(words) > 1:
        shown.append(_matrix(words, held_out, best))
    typical = spread_out(len(held_out.rows), TYPICAL)
    said = f"with the {best.name}" if best.name == WITH_LM else f"the way {best.name!r}"
    if len(words) <= 1:
        about = f"Evenly spread over the set, {said}."
        shown.append(Aligned("Typical utterances", about, _aligned(held_out, best, typical)))
    ranked = sorted(range(len(best.words)), key=lambda i: (-best.words[i].wrong, -_rate(best, i), i))
    wrong = [i for i in ranked if best.words[i].wrong][:WORST]
    about = f"Those with most errors, {said}."
    shown.append(Aligned("Worst utterances", about, _aligned(held_out, best, wrong), failures=True))
    shown += _pictures(judged, wrong)
    shown.append(_confused(held_out, best))
    return [*shown, *_alternatives(judged, wrong)]


def _rate(way: Way, place: int) -> float:
    errors = way.words[place]
    return errors.wrong / max(errors.units, 1)


def _table(judged: Judged) -> Table:
    rows: list[list[str | float | None]] = []
    names = {WITH_LM: f"with a {ORDER}-gram"}
    for way in judged.ways:
        low, high = bootstrap(way.words)
        found = total(way.words)
        rows.append(
            [
                names.get(way.name, way.name),
                _percent(found.rate),
                f"{_percent(low)} to {_percent(high)}",
                _percent(total(way.characters).rate),
                found.substitutions,
                found.deletions,
                found.insertions,
                way.cpu_seconds / max(way.seconds, 1e-9),
            ]
        )
    metrics = judged.metrics
    chance = f"always {judged.chance!r}"
    rows.append([chance, _percent(metrics["chance_wer"]), "", _percent(metrics["chance_cer"]), None, None, None, None])
    seconds = judged.ways[0].seconds
    about = (
        f"{metrics['utterances']:,.0f} utterances, {metrics['words']:,.0f} words, {seconds / 60:.1f} minutes. Case and "
        f"punctuation do not count; 95 %: of resampled sets of utterances. {_sentence(judged.chosen)}"
    )
    refused = {reason: name for name, reason in judged.refused.items()}
    about += "".join(f"Not judged: {name} ({reason.rstrip('.')}). " for reason, name in refused.items())
    columns = ["", "words wrong", "95 %", "characters", "wrong", "missed", "added", "CPU s per s"]
    return Table("Words wrong", about.strip(), columns, rows, emphasis=len(judged.ways) - 1)


def _sentence(chosen: str) -> str:
    return f"The {ORDER}-gram is of the training transcripts alone and has {chosen}. " if chosen else ""


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def _speakers(held_out: Utterances, way: Way) -> list[Panel]:
    """Return the error rate of each speaker, the worst first; none where speakers are not known."""
    names = [name for name in dict.fromkeys(held_out.speakers) if name]
    if len(names) < 2:
        return []
    found = []
    for name in names:
        of_speaker = [e for e, speaker in zip(way.words, held_out.speakers, strict=True) if speaker == name]
        if total(of_speaker).units:
            found.append((name, total(of_speaker).rate, len(of_speaker)))
    found.sort(key=lambda row: (-row[1], row[0]))
    shown = found[:SPEAKERS]
    about = f"Words wrong of each speaker, {way.name}; the line is the whole set. " + (
        f"The {SPEAKERS} worst of {len(found)}."
        if len(found) > SPEAKERS
        else f"{len(found)} speakers, the worst first."
    )
    return [
        Bars(
            "By speaker",
            about,
            [f"{name} ({count} utterances)" for name, _, count in shown],
            [rate for _, rate, _ in shown],
            unit="%",
            baseline=[way.wer] * len(shown),
            baseline_name="all",
        )
    ]


def _matrix(words: Sequence[str], held_out: Utterances, way: Way) -> Heatmap:
    """Return how often each word was heard as which, as a share of the times that it was said."""
    heard = [normalise(t.text) for t in way.transcripts]
    columns = [*words, *(["other"] if any(h not in words for h in heard) else [])]
    counts = np.zeros((len(words), len(columns)))
    for said, found in zip(held_out.texts, heard, strict=True):
        counts[words.index(normalise(said)), columns.index(found) if found in words else len(columns) - 1] += 1
    about = "Rows: what was said; columns: what was heard, as a share of the row."
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return Heatmap("Confusions", about, shares, [Item(text=w) for w in words], [Item(text=w) for w in columns])


def _aligned(held_out: Utterances, way: Way, places: Sequence[int]) -> list[tuple[str, list[tuple[str, str]]]]:
    rows = []
    for place in places:
        pairs = align(normalise(held_out.texts[place]), normalise(way.transcripts[place].text))
        speaker = held_out.speakers[place]
        name = held_out.source.sample_name(held_out.rows[place])
        label = name if not speaker or speaker in name else f"{name}, {speaker}"
        rows.append((label, [(pair.reference, pair.hypothesis) for pair in pairs]))
    return rows


def _confused(held_out: Utterances, way: Way) -> Table:
    """Return the most frequent errors."""
    counts: Counter[tuple[str, str]] = confusions(held_out.texts, [t.text for t in way.transcripts])
    best = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:CONFUSED]
    rows: list[list[str | float | None]] = [[said or NOTHING, heard or NOTHING, times] for (said, heard), times in best]
    about = f"The most frequent of {sum(counts.values()):,} errors, {way.name}."
    return Table("Words that were confused", about, ["said", "heard", "times"], rows)


def _pictures(judged: Judged, wrong: Sequence[int]) -> list[Panel]:
    """Return the pictures of a typical utterance and of the worst one, by the model's own emissions."""
    if not isinstance(judged.method, Emits):
        return []
    held_out = judged.held_out
    seconds = [t.seconds for t in judged.best.transcripts]
    counts = [len(text.split()) for text in held_out.texts]
    short = [i for i, s in enumerate(seconds) if s <= LONGEST] or list(range(len(seconds)))
    usual = sorted(short, key=lambda i: (counts[i], i))[3 * len(short) // 4]
    places = [("An utterance, frame by frame", usual, "longer than three quarters of the others")]
    worst = [i for i in wrong if i in short and i != usual][:1]
    places += [("The worst utterance, frame by frame", place, "the one with most errors") for place in worst]
    shown: list[Panel] = []
    for title, place, rule in places:
        wave = held_out.recording(place)
        emissions = judged.method.emissions(wave)
        ways = [judged.ways[0], *([judged.best] if judged.best.name != PLAIN else [])]
        rows = [(_wrapped(way.name), way.transcripts[place].words) for way in ways]
        image = draw_utterance(wave, emissions, rows, title=f"said: {held_out.texts[place]}")
        about = (
            f"Mel spectrogram, how probable the model holds each symbol in each frame, and the words over time with its "
            f"confidence, of {held_out.source.sample_name(held_out.rows[place])}: {rule}."
        )
        shown.append(Figure(title, about, image, f"spectrogram, posteriors and words of {held_out.texts[place]!r}"))
    return shown


def _wrapped(name: str) -> str:
    return name.replace(" ", "\n")


def _alternatives(judged: Judged, wrong: Sequence[int]) -> list[Panel]:
    """Return the best transcripts of the worst utterance, with acoustic and language scores apart."""
    if judged.best.name == PLAIN or not wrong:
        return []
    place = wrong[0]
    wave = judged.held_out.recording(place)
    found: Transcript = judged.method.transcribe([wave], with_n_best(judged.best.settings, ALTERNATIVES))[0]
    if not found.alternatives:
        return []
    rows: list[list[str | float | None]] = [
        [h.text or NOTHING, round(h.score, 2), round(h.acoustic, 2), round(h.language, 2), round(h.bonus, 2)]
        for h in found.alternatives
    ]
    about = (
        f"The best {len(rows)} for the utterance with most errors ({judged.held_out.texts[place]!r} was said). Natural "
        "logarithms: the score is the acoustic one, plus the language model's times its weight, plus the bonus."
    )
    return [Table("Sound and language apart", about, ["", "score", "acoustic", "language", "bonus"], rows)]

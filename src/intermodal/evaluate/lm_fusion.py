"""Judges a language model in the search: what it is worth, which order, in the search or after it, and with which weights.

Every way searches the same emissions, so what differs is the language model alone. Figures; **less is better**:

- ``wer``: word error rate of the method as it is; ``wer_low``, ``wer_high``: of 95 % of resampled sets of utterances.
- ``greedy_wer``: of the best symbol of each frame; ``beam_wer``: of the search without a language model.
- ``rescored_wer``: of the n-best of that search, judged again with the language model and the same weights (two passes).
- ``order1_wer`` ...: with n-grams of other orders of the same transcripts, and the same weights.
- ``oracle_wer``: of the hypothesis with the fewest errors of each list of 50: what no other weights could go below.
- ``lm_perplexity``, ``unknown_share``: of the judged transcripts by the language model.
- ``lm_weight``, ``word_bonus``: as they were learnt.
- ``chance_wer``: of the recogniser that always says the most frequent training transcript.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch

from intermodal.core.progress import Progress
from intermodal.core.transcript import Emissions, Transcribing
from intermodal.data.source import SourceConfig
from intermodal.data.transcripts import normalise
from intermodal.decode.ctc import Beam
from intermodal.decode.kneser_ney import estimate
from intermodal.decode.ngram import NGram
from intermodal.evaluate.encoding import Steps
from intermodal.evaluate.result import Bars, Evaluation, Headline, Heatmap, Item, Panel, Table
from intermodal.evaluate.speech_set import MOST, QUICK, Utterances, constant, utterances
from intermodal.methods.speech.ctc_decoding import transcripts_of
from intermodal.methods.speech.lm_fusion import LMFusion, rescored
from intermodal.metrics.speech import Errors, bootstrap, error_rate, errors, total

ORDERS = (1, 2, 3, 4)
LIST = 50
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
BONUSES = (-2.0, -1.0, 0.0, 1.0, 2.0, 4.0)
SHOWN = 4


def evaluate_lm_fusion(
    method: LMFusion, source: SourceConfig, split: str, progress: Progress, *, full: bool = True
) -> Evaluation:
    """Judge a recogniser with a language model.

    Args:
        method: the two parts and their weights.
        source: recordings with transcripts; ``training_texts`` are those that n-grams of other orders are made of.
        split: what to judge on.
        progress: told what is done.
        full: all ways, with panels; else the method alone on at most 64 utterances.

    Raises:
        DataError: if no word is said in the split.
    """
    start = time.monotonic()
    steps = Steps(progress, {"Listening": 4, "Searching": 2, "Other orders": 4, "Other weights": 6})
    was = method.training
    method.eval()
    judged = utterances(source.open(split), MOST if full else QUICK)
    emitted = _emissions(method, judged, steps)
    own = _search(method, emitted)
    training = [normalise(text, method.text.case) for text in source.training_texts()]
    each = errors(judged.texts, [b[0].text for b in own])
    metrics = {"wer": total(each).rate}
    metrics["chance_wer"] = error_rate(judged.texts, [constant(training)] * len(judged.texts))
    metrics |= dict(zip(("wer_low", "wer_high"), bootstrap(each), strict=True))
    weight, bonus = method.weights
    metrics |= {"lm_weight": weight, "word_bonus": bonus, "words": float(total(each).units)}
    panels: list[Panel] = []
    if full:
        steps("Searching")
        greedy = [t.text for t in transcripts_of(emitted, Transcribing(), method.text.delimiter)]
        plain = _search(method, emitted, lm_weight=0.0, word_bonus=0.0, n_best=LIST)
        found = {
            "greedy": errors(judged.texts, greedy),
            "beam": errors(judged.texts, [b[0].text for b in plain]),
            "rescored": errors(judged.texts, [rescored(b, method.lm, weight, bonus).text for b in plain]),
        }
        orders = _orders(method, training, emitted, judged, steps)
        rows = {**{f"{name}_wer": total(e).rate for name, e in found.items()}, "oracle_wer": _oracle(judged, own)}
        metrics |= rows | {f"order{n}_wer": rate for n, (rate, _) in orders.items()}
        texts = [normalise(text, method.text.case) for text in judged.texts]
        known = method.lm.perplexity(texts)
        metrics |= {"lm_perplexity": known.perplexity, "unknown_share": known.unknown / known.words}
        panels = [
            _ways(method, found, each, metrics),
            _of_orders(orders, metrics["beam_wer"]),
            *_n_best(judged, own, method),
        ]
        if split != "validation":
            panels.append(_map(method, source, steps))
    method.train(was)
    return Evaluation(split, metrics, panels, time.monotonic() - start, _headline(metrics, method) if full else None)


def _emissions(method: LMFusion, judged: Utterances, steps: Steps) -> list[Emissions]:
    found: list[Emissions] = []
    for chunk in judged.chunks():
        found += [method.emissions(wave) for wave in chunk]
        steps("Listening", len(found) / len(judged.rows))
    return found


def _search(
    method: LMFusion,
    emitted: Sequence[Emissions],
    *,
    lm: NGram | None = None,
    lm_weight: float | None = None,
    word_bonus: float | None = None,
    n_best: int = LIST,
) -> list[list[Beam]]:
    """Return each utterance's n-best, by the method's own language model and weights or by others."""
    decoder = method.decoder(lm, lm_weight, word_bonus)
    return decoder.decode([e.log_probs for e in emitted], n_best=n_best, threads=torch.get_num_threads())


def _orders(
    method: LMFusion, training: Sequence[str], emitted: Sequence[Emissions], judged: Utterances, steps: Steps
) -> dict[int, tuple[float, float]]:
    """Return word error rate and perplexity with n-grams of several orders."""
    found = {}
    texts = [normalise(text, method.text.case) for text in judged.texts]
    for n in ORDERS:
        steps("Other orders", (n - 1) / len(ORDERS))
        lm = estimate(training, n).model
        best = [beams[0].text for beams in _search(method, emitted, lm=lm, n_best=1)]
        found[n] = (error_rate(judged.texts, best), lm.perplexity(texts).perplexity)
    return found


def _oracle(judged: Utterances, lists: Sequence[Sequence[Beam]]) -> float:
    wrong = [
        min(errors([text] * len(beams), [b.text for b in beams]), key=lambda e: e.wrong)
        for text, beams in zip(judged.texts, lists, strict=True)
    ]
    return total(wrong).rate


def _ways(method: LMFusion, found: dict[str, list[Errors]], own: list[Errors], metrics: dict[str, float]) -> Table:
    order = method.lm.order
    names = {
        "greedy": "best symbol of each frame",
        "beam": "beam search, no language model",
        "rescored": f"that search's {LIST}-best, judged again with the {order}-gram",
    }
    rows: list[list[str | float | None]] = []
    for name, each in [*found.items(), ("", own)]:
        sums = total(each)
        said = names.get(name, f"beam search with the {order}-gram inside (the method)")
        rows.append([said, 100 * sums.rate, *map(float, (sums.substitutions, sums.deletions, sums.insertions))])
    rows.append([f"best of the method's {LIST}-best, by the true text", 100 * metrics["oracle_wer"], None, None, None])
    return Table(
        "With and without a language model",
        f"Word error rate over {metrics['words']:,.0f} words. All ways search the same emissions of one recogniser. The "
        f"weight {metrics['lm_weight']:.2f} and the bonus {metrics['word_bonus']:.2f} of a word were learnt on others.",
        ["search", "wrong words, %", "substituted", "missed", "added"],
        rows,
        emphasis=len(found),
    )


def _of_orders(orders: dict[int, tuple[float, float]], without: float) -> Bars:
    return Bars(
        "How much context the language model needs",
        "Word error rate with n-grams of the same training transcripts and the same weights; the mark is the search without "
        "a language model.",
        [f"{n}-gram, perplexity {perplexity:.1f}" for n, (_, perplexity) in orders.items()],
        [rate for rate, _ in orders.values()],
        unit="%",
        baseline=[without] * len(orders),
        baseline_name="no language model",
    )


def _n_best(judged: Utterances, lists: Sequence[Sequence[Beam]], method: LMFusion) -> list[Panel]:
    """Return the best hypotheses of a few utterances, scores apart: those where sound and words disagree most."""
    weight, _ = method.weights

    def disagreement(beams: Sequence[Beam]) -> float:
        return max(b.acoustic for b in beams) - beams[0].acoustic

    chosen = sorted(range(len(lists)), key=lambda i: -disagreement(lists[i]))[:SHOWN]
    shown: list[Panel] = []
    for i in chosen:
        rows: list[list[str | float | None]] = [
            [b.text or "(nothing)", b.acoustic, b.language, weight * b.language, b.bonus, b.score] for b in lists[i][:5]
        ]
        shown.append(
            Table(
                f"Two opinions: {judged.texts[i]}",
                "The best hypotheses with what the sound and what the language model says of each (natural logarithms; the "
                "score is acoustic + weighted language + bonus). Picked: where the winner is not what the sound alone says.",
                ["heard", "acoustic", "language", f"x {weight:.2f}", "bonus", "score"],
                rows,
                emphasis=0,
            )
        )
    return shown


def _map(method: LMFusion, source: SourceConfig, steps: Steps) -> Heatmap:
    """Return the error rate over both weights, on the half of the speakers set aside that the weights were not learnt on."""
    watched = utterances(source.open("validation"), MOST)
    emitted = _emissions(method, watched, steps)
    values = np.zeros((len(BONUSES), len(WEIGHTS)))
    for row, bonus in enumerate(BONUSES):
        for column, weight in enumerate(WEIGHTS):
            steps("Other weights", (row * len(WEIGHTS) + column) / values.size)
            best = _search(method, emitted, lm_weight=weight, word_bonus=bonus, n_best=1)
            values[row, column] = 100 * error_rate(watched.texts, [beams[0].text for beams in best])
    weight, bonus = method.weights
    return Heatmap(
        "Both weights",
        "Word error rate in per cent over the weight of the language model (across) and the bonus of a word (down), on "
        f"speakers set aside that the weights were not learnt on. Learnt: {weight:.2f} and {bonus:.2f}.",
        values,
        [Item(text=f"{bonus:g}") for bonus in BONUSES],
        [Item(text=f"{weight:g}") for weight in WEIGHTS],
    )


def _headline(metrics: dict[str, float], method: LMFusion) -> Headline:
    low, high = 100 * metrics["wer_low"], 100 * metrics["wer_high"]
    return Headline(
        f"{100 * metrics['wer']:.1f}\N{NO-BREAK SPACE}%",
        f"of {metrics['words']:,.0f} words are wrong with a {method.lm.order}-gram of the training transcripts in the "
        f"search ({low:.1f} to {high:.1f} % in 95 % of resampled sets); {100 * metrics['beam_wer']:.1f} % without it, "
        f"{100 * metrics['greedy_wer']:.1f} % without a search.",
    )

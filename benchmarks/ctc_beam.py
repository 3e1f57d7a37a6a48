"""CTC beam search on AN4's test part: ours beside pyctcdecode and flashlight-text, at equal beam and equal pruning.

The emissions are those of a small network that is trained for it (``ctc_emissions.py``), the language model a 3-gram of the
training texts. The values are the sums of the best scores of all utterances; they must agree. pyctcdecode's places hold
states (a prefix and whether its paths end in a blank), as flashlight's do, so ours do here too.

So that all see the same: log-probabilities are floored at 1e-15, as pyctcdecode does. pyctcdecode scores the empty word
after a space at the end as an unknown word, by which it loses the best text of 39 of these 130 utterances; here it is given
a language model (its own, with one rule more) that does not. For flashlight, a last frame is added that can only be a space,
because its lexicon's words end in one; it prunes before it adds up paths and ours after, so that where both happen the sums
differ in the fifth digit.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ctc_emissions import emissions, three_gram
from harness import Case, Contender, Step

LM_WEIGHT, WORD_BONUS = 0.8, 0.5
NO_PRUNING = -1e9


def cases(quick: bool) -> list[Case]:
    beams = (50,) if quick else (50, 100)
    found = []
    for beam in beams:
        for tokens, beams_below in ((-5.0, -10.0), (NO_PRUNING, NO_PRUNING)):
            if beam > 50 and tokens == NO_PRUNING:  # pyctcdecode would take twenty seconds for twenty utterances
                continue
            pruned = "pruned (-5, -10)" if tokens > NO_PRUNING else "no pruning, 20 utterances"
            few = quick or tokens == NO_PRUNING  # pyctcdecode would take minutes
            for lm in (True, False):
                title = f"beam {beam}, {pruned}, {'3-gram' if lm else 'no language model'}"
                found.append(
                    Case(
                        f"pyctcdecode: {title}",
                        (
                            Contender("intermodal", _ours(few, beam, tokens, beams_below, lm, "any")),
                            Contender("pyctcdecode", _pyctcdecode(few, beam, tokens, beams_below, lm), _HOW),
                        ),
                        repeats=2 if quick else 3,
                    )
                )
    for beam in beams:
        for merge in ("max", "sum"):
            for below in (-10.0, NO_PRUNING):
                pruned = "beams below -10 dropped" if below > NO_PRUNING else "no pruning"
                found.append(
                    Case(
                        f"flashlight: beam {beam}, {pruned}, paths by {merge}, lexicon, 3-gram",
                        (
                            Contender("intermodal", _ours(quick, beam, NO_PRUNING, below, True, "space", merge, True)),
                            Contender("flashlight", _flashlight(quick, beam, below, merge), _HOW),
                        ),
                        repeats=3,
                    )
                )
    ours = Contender("intermodal, 1 thread", _ours(quick, 100, NO_PRUNING, NO_PRUNING, True, "space", "max", True))
    two = Contender("intermodal, 2 threads", _ours(quick, 100, NO_PRUNING, NO_PRUNING, True, "space", "max", True, 2))
    theirs = Contender("flashlight, 2 threads", _flashlight(quick, 100, NO_PRUNING, "max", 2), _HOW)
    found.append(Case("in parallel: beam 100, no pruning, lexicon, 3-gram", (two, ours, theirs), repeats=3))
    return found


_HOW = "pip install pyctcdecode flashlight-text kenlm"


def _utterances(few: bool, ending: str) -> tuple[list[str], list[np.ndarray]]:
    """Return the symbols and the emissions, that end as they do (``any``) or in a ``space`` for certain."""
    found, floor = emissions(), math.log(1e-15)
    log_probs = [np.maximum(x, floor) for x in found.log_probs[: 20 if few else None]]
    if ending == "space":
        last = np.full((1, len(found.symbols)), floor)
        last[0, 1] = 0.0
        log_probs = [np.concatenate([x, last]) for x in log_probs]
    return found.symbols, log_probs


def _ours(  # noqa: PLR0917
    few: bool,
    beam: int,
    token_prune: float,
    beam_prune: float,
    lm: bool,
    ending: str,
    merge: str = "sum",
    lexicon: bool = False,
    threads: int = 1,
) -> Callable[[], Step]:
    def make() -> Step:
        from intermodal.decode.ctc import BeamConfig, BeamDecoder
        from intermodal.decode.ngram import NGram

        symbols, log_probs = _utterances(few, ending)
        config = BeamConfig(
            beam=beam,
            places="states",
            merge=merge,  # type: ignore[arg-type]
            token_prune=token_prune,
            beam_prune=beam_prune,
            lm_weight=LM_WEIGHT,
            word_bonus=WORD_BONUS if lm else 0.0,
        )
        model = NGram.read(three_gram()) if lm else None
        words = _vocabulary() if lexicon else None
        decoder = BeamDecoder(symbols, 0, " ", config, lm=model, lexicon=words)
        decoder.decode(log_probs[:1])  # compiles
        return lambda: sum(found[0].score for found in decoder.decode(log_probs, threads=threads))

    return make


def _pyctcdecode(few: bool, beam: int, token_prune: float, beam_prune: float, lm: bool) -> Callable[[], Step]:
    def make() -> Step:
        logging.disable(logging.WARNING)
        symbols, log_probs = _utterances(few, "any")
        decoder = pyctcdecode_decoder(symbols, lm)

        def step() -> float:
            total = 0.0
            for x in log_probs:
                found = decoder.decode_beams(x, beam_width=beam, beam_prune_logp=beam_prune, token_min_logp=token_prune)
                total += found[0][-1]
            return total

        return step

    return make


def pyctcdecode_decoder(symbols: Sequence[str], lm: bool) -> Any:
    """Return pyctcdecode's decoder, whose language model leaves the empty word after a last space alone."""
    import kenlm
    from pyctcdecode import Alphabet, BeamSearchDecoderCTC, LanguageModel

    class Whole(LanguageModel):
        def score(self, prev_state: Any, word: str, is_last_word: bool = False) -> tuple[float, Any]:
            if word or not is_last_word:
                return super().score(prev_state, word, is_last_word)
            return self.alpha * self._get_raw_end_score(prev_state) * math.log(10), prev_state

    model = Whole(kenlm.Model(str(three_gram())), _vocabulary(), alpha=LM_WEIGHT, beta=WORD_BONUS) if lm else None
    return BeamSearchDecoderCTC(Alphabet.build_alphabet(["", *symbols[1:]]), model)


def _vocabulary() -> list[str]:
    return sorted({word for text in emissions().training for word in text.split()})


def _flashlight(few: bool, beam: int, beam_prune: float, merge: str, threads: int = 1) -> Callable[[], Step]:
    def make() -> Step:
        symbols, log_probs = _utterances(few, "space")
        decoders = [flashlight_decoder(symbols, beam, beam_prune, merge) for _ in range(threads)]
        return _spread(decoders, log_probs)

    return make


def flashlight_decoder(
    symbols: Sequence[str], beam: int, beam_prune: float, merge: str
) -> Callable[[np.ndarray], float]:
    """Return flashlight's lexicon decoder with the same words and weights, as a function to the best score."""
    from flashlight.lib.text.decoder import CriterionType, LexiconDecoder, LexiconDecoderOptions, Trie
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary

    words = Dictionary()
    for word in [*_vocabulary(), "<unk>"]:
        words.add_entry(word)
    lm = KenLM(str(three_gram()), words)
    trie = Trie(len(symbols), 1)
    for word in _vocabulary():
        trie.insert([symbols.index(c) for c in word + " "], words.get_index(word), 0.0)
    options = LexiconDecoderOptions(
        beam_size=beam,
        beam_size_token=len(symbols),
        beam_threshold=-beam_prune,
        lm_weight=LM_WEIGHT * math.log(10),  # its scores are to base 10
        word_score=WORD_BONUS,
        unk_score=-math.inf,
        sil_score=0.0,
        log_add=merge == "sum",
        criterion_type=CriterionType.CTC,
    )
    decoder = LexiconDecoder(options, trie, lm, 1, 0, words.get_index("<unk>"), [], False)

    def decode(log_probs: np.ndarray) -> float:
        x = np.ascontiguousarray(log_probs, np.float32)
        return decoder.decode(x.ctypes.data, *x.shape)[0].score

    return decode


def _spread(decoders: Sequence[Callable[[Any], float]], log_probs: Sequence[np.ndarray]) -> Step:
    from concurrent.futures import ThreadPoolExecutor

    if len(decoders) == 1:
        return lambda: sum(decoders[0](x) for x in log_probs)

    def share(i: int) -> float:
        return sum(decoders[i](x) for x in log_probs[i :: len(decoders)])

    def step() -> float:
        with ThreadPoolExecutor(len(decoders)) as pool:
            return sum(pool.map(share, range(len(decoders))))

    return step

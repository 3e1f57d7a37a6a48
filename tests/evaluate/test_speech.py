"""The one evaluation of recognisers, on a recogniser of tones whose mistakes are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from intermodal.core.errors import ConfigError, DataError
from intermodal.core.transcript import Emissions, Transcribing, Word
from intermodal.data.audio import Waveform
from intermodal.data.source import Source, SourceConfig
from intermodal.evaluate.result import Aligned, Bars, Figure, Heatmap, Table, load, save
from intermodal.evaluate.speech import evaluate_recogniser, headline
from intermodal.evaluate.speech_pictures import draw_utterance, mel_decibels, shown_symbols
from intermodal.evaluate.speech_set import constant, isolated, utterances

SENTENCES = ["GO TO THE SHED", "SEND THE BED", "THE SHED", "HELP", "GO GO GO", "BED AND BREAD"]
WORDS = ["ZERO", "ONE", "TWO", "THREE"]


class Spoken(Source):
    """Sentences in tones; each has a speaker, who speaks with a pause of their own."""

    def __init__(self, name: str, texts: Sequence[str], say: Callable[..., np.ndarray], rate: int) -> None:
        self.fields = {}
        self.name, self._texts, self.say, self.rate = name, list(texts), say, rate

    def __len__(self) -> int:
        return len(self._texts)

    def texts(self) -> list[str]:
        return list(self._texts)

    def sample(self, index: int, rng: Any = None) -> dict[str, Any]:
        if self._texts[index] == "BROKEN":
            raise DataError("It cannot be read.")
        samples = self.say(self._texts[index], self.rate, quiet=0.1 + 0.1 * (index % 2))
        return {"audio": Waveform(samples, self.rate), "text": self._texts[index], "speaker": "ab"[index % 2]}


@dataclass(frozen=True, kw_only=True)
class SpokenConfig(SourceConfig):
    train: tuple[str, ...]
    test: tuple[str, ...]
    validation: tuple[str, ...] = ()
    say: Any = None
    rate: int = 8000

    def open(self, split: str) -> Source:
        texts = getattr(self, split)
        if not texts:
            raise DataError(f"There is no {split} split.")
        return Spoken(f"{split}", texts, self.say, self.rate)


def source(tones: ModuleType, **changes: Any) -> SpokenConfig:
    splits = {
        "train": tuple(SENTENCES * 3 + ["HELP"] * 5),
        "validation": tuple(SENTENCES),
        "test": tuple(SENTENCES * 2),
    }
    return SpokenConfig(**{"say": tones.spoken, **splits, **changes})


def panel(panels: Sequence[Any], title: str) -> Any:
    return next(p for p in panels if p.title == title)


def test_the_ways_side_by_side(tones: ModuleType, progress: Any, tmp_path: Path) -> None:
    model = tones.recogniser(deaf="E")  # THE is heard as THF, and the language model knows better
    found = evaluate_recogniser(model, source(tones), "test", progress)
    metrics = found.metrics
    wrong = sum("E" in word for text in SENTENCES for word in text.split())
    said = sum(len(text.split()) for text in SENTENCES)
    assert next(iter(metrics)) == "wer" and metrics["wer"] == pytest.approx(wrong / said) == metrics["beam_wer"]
    assert metrics["lm_wer"] == 0 == metrics["lm_cer"] and 0 < metrics["cer"] < metrics["wer"]
    assert metrics["substitutions"] == 2 * wrong and metrics["deletions"] == metrics["insertions"] == 0
    assert metrics["words"] == 2 * said and metrics["utterances"] == 12 and metrics["unknown_share"] == 0
    assert metrics["wer_low"] <= metrics["wer"] <= metrics["wer_high"]
    assert metrics["chance_wer"] > metrics["wer"] and "accuracy" not in metrics
    assert 0 < metrics["real_time_factor"] < 10 and metrics["lm_perplexity"] > 1
    assert found.headline is not None and found.headline.figure.startswith("0.0")
    assert "always saying 'the'" in found.headline.sentence and "3-gram" in found.headline.sentence

    table = panel(found.panels, "Words wrong")
    assert [row[0] for row in table.rows] == [
        "plain",
        "beam",
        "with a 3-gram",
        "always 'the'",
    ]
    assert "own weight and bonus, chosen on 6 validation utterances" in table.about
    speakers = panel(found.panels, "By speaker")
    assert isinstance(speakers, Bars) and {n[0] for n in speakers.names} == {"a", "b"} and speakers.values == [0, 0]
    assert (
        panel(found.panels, "Worst utterances").rows == []
        and panel(found.panels, "Words that were confused").rows == []
    )
    assert isinstance(panel(found.panels, "An utterance, frame by frame"), Figure)
    save(found, tmp_path / "evaluation")
    again = load(tmp_path / "evaluation")
    for before, after in zip(found.panels, again.panels, strict=True):
        assert type(before) is type(after)
        if isinstance(before, Aligned):
            assert before == after
        if isinstance(before, Figure) and isinstance(after, Figure):
            assert before.image.tobytes() == after.image.tobytes() and before.about == after.about
    shares = [share for _, share in progress.told]
    assert shares[-1] > 0.9 and all(0 <= s <= 1 for s in shares)


def test_errors_are_shown_word_by_word(tones: ModuleType, progress: Any) -> None:
    found = evaluate_recogniser(
        tones.recogniser(deaf="E"), source(tones, validation=()), "test", progress, texts=["XX"] * 3
    )
    worst = panel(found.panels, "Worst utterances")
    assert worst.failures and worst.rows[0][0] == "test, row 1, b"
    assert worst.rows[0][1] == [("send", "sfnd"), ("the", "thf"), ("bed", "bfd")]
    confused = panel(found.panels, "Words that were confused")
    assert confused.rows[0] == ["the", "thf", 6] and isinstance(confused, Table)
    scores = panel(found.panels, "Sound and language apart")
    assert scores.columns == ["", "score", "acoustic", "language", "bonus"] and len(scores.rows) == 5
    assert "since there is no other split" in panel(found.panels, "Words wrong").about


def test_quickly_while_training(tones: ModuleType, progress: Any) -> None:
    model = tones.recogniser(deaf="E").train()
    found = evaluate_recogniser(model, source(tones), "validation", progress, full=False)
    assert found.panels == [] and found.headline is None and "lm_wer" not in found.metrics
    assert next(iter(found.metrics)) == "wer" and found.metrics["wer"] > 0 and model.training


def test_isolated_words(tones: ModuleType, progress: Any) -> None:
    words = source(tones, train=tuple(WORDS * 4), test=tuple(WORDS * 3), validation=())
    found = evaluate_recogniser(tones.recogniser(deaf="W"), words, "test", progress)
    assert found.metrics["accuracy"] == 0.75 == 1 - found.metrics["wer"]
    assert found.metrics["chance_accuracy"] == 0.25 and found.metrics["chance_wer"] == 0.75
    matrix = panel(found.panels, "Confusions")
    assert isinstance(matrix, Heatmap) and [i.text for i in matrix.rows] == sorted(w.lower() for w in WORDS)
    rows = {item.text: row for item, row in zip(matrix.rows, matrix.values, strict=True)}
    assert rows["zero"][3] == 1 and matrix.values.sum(1).tolist() == [1] * 4
    assert found.headline is not None and "recordings of single words" in found.headline.sentence
    assert isolated(["one", "two words"]) == [] and isolated([str(i) for i in range(100)]) == []


def test_what_a_method_does_not_take_is_said_and_left_out(tones: ModuleType, progress: Any) -> None:
    class NoSearch:
        """Transcribes and nothing else."""

        id, sample_rate = "no-search", 8000
        model = tones.recogniser(deaf="E")

        def transcribe(self, audios: Sequence[Any], settings: Any = None, *, watch: Any = None) -> list[Any]:
            if settings is not None and settings.beam > 1:
                raise ConfigError("It searches nothing.")
            return self.model.transcribe(audios)

    found = evaluate_recogniser(NoSearch(), source(tones), "test", progress)
    table = panel(found.panels, "Words wrong")
    assert [row[0] for row in table.rows] == ["plain", "always 'the'"] and "It searches nothing" in table.about
    assert not any(isinstance(p, Figure) for p in found.panels) and "lm_wer" not in found.metrics
    with pytest.raises(ConfigError, match="does not transcribe"):
        evaluate_recogniser(object(), source(tones), "test", progress)


def test_weights_are_never_chosen_on_what_is_judged(tones: ModuleType, progress: Any) -> None:
    asked: list[Transcribing] = []

    class Recorded(tones.ToyRecogniser):  # type: ignore[name-defined, misc]
        def decode(self, emissions: Sequence[Emissions], settings: Transcribing) -> Any:
            asked.append(settings)
            return super().decode(emissions, settings)

    plain = tones.recogniser(deaf="E")
    model = Recorded(plain.config, plain.processors).eval()
    for judged in ("validation", "test"):
        asked.clear()
        evaluate_recogniser(model, source(tones, validation=tuple(SENTENCES)), judged, progress)
        with_lm = {(s.lm_weight, s.word_bonus) for s in asked if s.lm is not None}
        assert (len(with_lm) == 1) == (judged == "validation")


def test_recordings_that_cannot_be_read_do_not_count(tones: ModuleType, progress: Any) -> None:
    broken = source(tones, test=("HELP", "BROKEN", "GO"))
    found = evaluate_recogniser(tones.recogniser(), broken, "test", progress, full=False)
    assert found.metrics["unreadable"] == 1 and found.metrics["utterances"] == 2 and found.metrics["wer"] == 0
    with pytest.raises(DataError, match="no transcript with a word"):
        utterances(source(tones, test=("BROKEN",)).open("test"), 10)
    assert constant([]) == "" and constant(["B", "a", "A."]) == "a"
    assert constant(["a b c d"] * 2 + ["x", "x y", "x z"]) == "x", "not the most frequent, whose words are mostly added"


@pytest.mark.parametrize("rate", [8000, 44_100])
@pytest.mark.parametrize("seconds", [1 / 8000, 0.3, 70.0])
def test_pictures_of_any_recording(rate: int, seconds: float) -> None:
    wave = Waveform(np.random.default_rng(0).normal(size=max(1, int(rate * seconds))).astype(np.float32) * 0.1, rate)
    log_probs = np.log(np.full((max(1, int(seconds / 0.02)), 3), 1 / 3, np.float32))
    emissions = Emissions(log_probs, ("<blank>", "$x_{", "|"), 0, 0.02)
    words = [Word("a $b", 0.0, seconds, 0.5), Word("no time")]
    image = draw_utterance(wave, emissions, [("heard", words), ("", [])], title="a $title_{$")
    assert image.size[0] == 1600 and len(image.resize((40, 40)).getcolors(1600)) > 4
    level = mel_decibels(wave)
    assert level.max() == 0 and level.min() >= -70
    assert draw_utterance(wave, None, []).size[1] < image.size[1]


def test_symbols_that_are_never_probable_have_no_row() -> None:
    probability = np.array([[0.9, 0.05, 0.01, 0.04], [0.2, 0.01, 0.01, 0.78], [0.1, 0.9, 0.0, 0.0]], np.float32)
    emissions = Emissions(np.log(np.maximum(probability, 1e-9)), ("<blank>", "a", "b", "c"), 0, 0.02)
    assert shown_symbols(emissions) == [0, 3, 1]
    assert shown_symbols(Emissions(np.zeros((0, 4), np.float32), emissions.symbols, 0, 0.02)) == []
    assert callable(headline)

"""Acoustic model and language model together: the loss by hand, what stays frozen, what is searched with what."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.registry import load_class
from intermodal.core.transcript import Transcribing
from intermodal.data.audio import Waveform
from intermodal.data.set_aside import SetAside
from intermodal.data.speech import SpeechSource
from intermodal.data.transcripts import AudioProcessor, CharacterProcessor
from intermodal.decode.kneser_ney import estimate
from intermodal.decode.ngram import NGram
from intermodal.methods.speech.ctc import CTC, CTCConfig
from intermodal.methods.speech.lm_fusion import LMFusion, LMFusionConfig, _log_softmax_within, language_score, rescored
from intermodal.metrics.speech import errors
from intermodal.nn.speech_encoders import CNNEncoderConfig
from intermodal.recipes import get_recipe

TEXTS = ["GO ON", "STOP", "GO", "ON AND ON", "STOP AND GO"]


@pytest.fixture(scope="module")
def built() -> LMFusion:
    torch.manual_seed(3)
    processors = {"audio": AudioProcessor(), "text": CharacterProcessor.of(TEXTS)}
    acoustic = CTC(CTCConfig(encoder=CNNEncoderConfig(width=16, depth=1, dropout=0.0), augment=None), processors)
    acoustic.out.bias.data[:2] += torch.tensor([1.0, 0.5])
    acoustic.out.weight.data *= 4
    return LMFusion.over(acoustic, estimate(TEXTS, 2).model, beam=20, n_best=6)


@pytest.fixture
def method(built: LMFusion) -> LMFusion:
    return copy.deepcopy(built)


def batch_of(
    method: LMFusion, texts: list[str], seconds: tuple[float, ...] = (0.6, 0.9, 0.4)
) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    audio = [torch.from_numpy(rng.normal(size=int(16000 * s)).astype(np.float32) * 0.1) for s in seconds]
    numbers = [method.text.encode(text) for text in texts]
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "audio": pad(audio, batch_first=True),
        "audio_length": torch.tensor([len(a) for a in audio]),
        "text": pad(numbers, batch_first=True),
        "text_length": torch.tensor([len(n) for n in numbers]),
    }


def test_the_loss_is_the_expected_number_of_errors(method: LMFusion) -> None:
    """Each recording's list, searched and weighed here in plain numbers."""
    texts = TEXTS[:3]
    batch = batch_of(method, texts)
    log_probs, frames = method.acoustic.emit(batch["audio"], batch["audio_length"])
    lists = method.decoder().decode(
        [p[:n].detach().numpy() for p, n in zip(log_probs, frames.tolist(), strict=True)], 6
    )
    weight, bonus = method.weights
    risk, likelihood = 0.0, []
    for text, beams in zip(texts, lists, strict=True):
        scores = np.array([b.acoustic + weight * b.language + bonus * len(b.words) for b in beams])
        assert scores == pytest.approx([b.score for b in beams], rel=1e-6)
        assert [b.language for b in beams] == pytest.approx(
            [language_score(method.lm, b.text) for b in beams], rel=1e-5
        )
        p = np.exp(scores - scores.max())
        p /= p.sum()
        wrong = np.array([e.wrong for e in errors([text] * len(beams), [b.text for b in beams])])
        letters = [e.wrong for e in errors([text] * len(beams), [b.text for b in beams], "character")]
        risk += float(p @ wrong)
        likelihood.append(-math.log(p[min(range(len(beams)), key=lambda i: (wrong[i], letters[i]))]))
    said = sum(len(text.split()) for text in texts)
    found = method.loss(batch)
    assert found.parts["expected_wer"].item() == pytest.approx(risk / said, rel=1e-4)
    assert found.total.item() == pytest.approx(risk / said + 0.01 * np.mean(likelihood), rel=1e-4)
    assert found.parts["oracle_wer"] <= found.parts["expected_wer"] + 1e-6


def test_gradients_are_those_of_differences(method: LMFusion) -> None:
    nbest = method.n_best(batch_of(method, TEXTS[:3]))

    def risk(weight: torch.Tensor, bonus: torch.Tensor) -> torch.Tensor:
        score = nbest.acoustic.double() + weight * nbest.language.double() + bonus * nbest.words.double()
        return (_log_softmax_within(score, nbest.utterance, 3).exp() * nbest.wrong).sum()

    inputs = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.7, -0.2)]
    assert torch.autograd.gradcheck(risk, inputs)


def test_probabilities_within_each_recording() -> None:
    score, group = torch.tensor([1.0, -800.0, 3.0, 3.0, 500.0]), torch.tensor([0, 0, 1, 1, 2])
    p = _log_softmax_within(score, group, 3).exp()
    assert torch.allclose(p, torch.tensor([1.0, 0.0, 0.5, 0.5, 1.0]))


def test_only_the_two_weights_are_learnt(method: LMFusion) -> None:
    trained = {name for name, p in method.train().named_parameters() if p.requires_grad}
    assert trained == {"log_lm_weight", "word_bonus"}
    assert not method.acoustic.training and not method.requires_grad_(True).acoustic.out.weight.requires_grad


def test_the_language_model_travels_with_the_checkpoint(method: LMFusion, tmp_path: Path) -> None:
    method.save(tmp_path / "model")
    again = load_class("lm-fusion").load(tmp_path / "model")
    assert again.lm.words == method.lm.words and again.weights == method.weights
    for text in ["GO ON", "ZEBRA", ""]:
        assert again.lm.score(text) == method.lm.score(text)
    assert method.to(torch.bfloat16).lm.score("GO ON") == again.lm.score("GO ON"), "half precision does not round it"
    assert Config.from_dict(method.config.to_dict()) == method.config


def test_loading_other_weights_is_noticed(method: LMFusion) -> None:
    before, state = method.lm.score("GO"), method.state_dict()
    state["lm_logp"] = torch.from_numpy((method.lm.tables.logp - 1).astype(np.float32).view(np.int32))
    method.load_state_dict(state)
    assert method.lm.score("GO") == pytest.approx(before - 2, rel=1e-4), "GO and the sentence's end, one less each"


def test_transcripts_come_from_the_search_with_the_own_language_model(method: LMFusion, tmp_path: Path) -> None:
    wave = Waveform(batch_of(method, TEXTS[:3])["audio"][1].numpy(), 16000)
    found = method.eval().transcribe([wave], Transcribing(beam=20, n_best=3))[0]
    weight, _ = method.weights
    for h in found.alternatives:
        assert h.language == pytest.approx(language_score(method.lm, h.text), rel=1e-5)
        assert h.score == pytest.approx(h.acoustic + weight * h.language + h.bonus, rel=1e-6)
    assert method.transcribe([wave])[0].text == found.text, "the own beam is as wide"
    estimate(["STOP"] * 9, 1).model.write(tmp_path / "other.lm")
    settings = Transcribing(beam=20, n_best=3, token_prune=-12.0, beam_prune=-60.0)
    own, other = (method.transcribe([wave], s)[0] for s in (settings, settings.replace(lm=tmp_path / "other.lm")))
    lm = NGram.read(tmp_path / "other.lm")
    for h in other.alternatives:
        assert h.language == pytest.approx(language_score(lm, h.text), rel=1e-5)
    assert len(other.alternatives) == len(own.alternatives) == 3 and other.alternatives != own.alternatives
    assert method.transcribe([]) == []


def test_rescoring_takes_the_best_of_a_list(method: LMFusion) -> None:
    batch = batch_of(method, TEXTS[:3])
    log_probs, frames = method.acoustic.emit(batch["audio"], batch["audio_length"])
    beams = method.decoder(lm_weight=0.0, word_bonus=0.0).decode([log_probs[0, : int(frames[0])].detach().numpy()], 10)[
        0
    ]
    assert rescored(beams, method.lm, 0.0, 0.0).text == beams[0].text
    heavy = rescored(beams, method.lm, 1e6, 0.0)
    assert language_score(method.lm, heavy.text) == max(language_score(method.lm, b.text) for b in beams)


@pytest.mark.parametrize(
    "wrong", [{"n_best": 1}, {"n_best": 60}, {"lm_weight": 0.0}, {"sharpness": 0.0}, {"likelihood": -1}]
)
def test_wrong_settings(built: LMFusion, wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        LMFusionConfig(acoustic=built.config.acoustic, words=("a",), levels=(0, 1, 2), **wrong)  # type: ignore[arg-type]


def test_a_recipe_without_a_recogniser_says_what_to_run() -> None:
    recipe = get_recipe("lm-fusion")
    with pytest.raises((ConfigError, DataError), match="train ctc|INTERMODAL_DATA"):
        recipe.build()


def test_speakers_set_aside_are_cut_in_two() -> None:
    source = SetAside(of=SpeechSource(path=Path("an4")))
    try:
        train, validation, test = (source.open(split) for split in ("train", "validation", "test"))
    except DataError as error:
        pytest.skip(str(error))
    whole = SpeechSource(path=Path("an4")).open("validation")
    assert sorted(train.rows + validation.rows) == sorted(whole.rows)
    assert not set(train.speakers()) & set(validation.speakers()) and len(test) == 130
    trained_on = set(SpeechSource(path=Path("an4")).open("train").speakers())
    assert not trained_on & set(train.speakers() + validation.speakers())
    assert train.speeds == (1.0,)

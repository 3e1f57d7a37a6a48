"""CTC recognisers: streams equal the whole, batches and long files change nothing, bad transcripts are named and counted."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from intermodal.core.capabilities import capabilities_of
from intermodal.core.errors import ConfigError, DataError
from intermodal.core.transcript import Emissions, Transcribing
from intermodal.data.audio import Waveform
from intermodal.data.transcripts import AudioProcessor, CharacterProcessor, PieceProcessor
from intermodal.methods.base import Batch, Method
from intermodal.methods.speech import recogniser
from intermodal.methods.speech.ctc import CTC, CTCConfig, StreamingCTC, build_ctc
from intermodal.methods.speech.ctc_decoding import Greedy, aligned, transcripts_of
from intermodal.nn.speech_encoders import CNNEncoderConfig, ConformerEncoderConfig, LSTMEncoderConfig
from intermodal.nn.speech_features import FeatureConfig

RATE = 16_000
TEXTS = ("AB A", "BAD CAB", "D")
ENCODERS = {
    "cnn": CNNEncoderConfig(width=32, depth=2, kernel=5, look_ahead=1, dropout=0.1),
    "lstm": LSTMEncoderConfig(width=32, depth=1, bidirectional=False, dropout=0.1),
    "conformer": ConformerEncoderConfig(width=32, depth=2, heads=2, kernel=5, chunk=4, past_chunks=2, dropout=0.1),
}
SLIDING = FeatureConfig(bins=20, cmvn="sliding", cmvn_min=20, cmvn_window=100)


def built(encoder: str = "cnn", **changes: object) -> CTC:
    torch.manual_seed(0)
    config = CTCConfig(features=SLIDING, encoder=ENCODERS[encoder]).replace(**changes)
    processors = {"audio": AudioProcessor(rate=RATE), "text": CharacterProcessor.of(TEXTS)}
    method = build_ctc(config, processors)
    with torch.no_grad():
        method.out.weight.mul_(8)  # so that an untrained network says something
    return method.eval()


def sound(seconds: float, seed: int = 0) -> Waveform:
    rng = np.random.default_rng(seed)
    loud = np.repeat(rng.uniform(0.01, 0.5, int(seconds * 10) + 1), RATE // 10)[: int(seconds * RATE)]
    return Waveform((rng.standard_normal(len(loud)) * loud * 0.3).clip(-1, 1).astype(np.float32), RATE)


def batch_of(*texts: str, seconds: float = 1.0) -> Batch:
    waves = [torch.from_numpy(sound(seconds, i).samples) for i in range(len(texts))]
    numbers = [CharacterProcessor.of(TEXTS).encode(text) for text in texts]
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "audio": pad(waves, batch_first=True),
        "audio_length": torch.tensor([len(w) for w in waves]),
        "text": pad(numbers, batch_first=True),
        "text_length": torch.tensor([len(n) for n in numbers]),
        "seed": torch.arange(len(texts)),
    }


@pytest.mark.parametrize("piece", [160, 1_111, 100_000])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_stream_says_what_the_whole_says(encoder: str, piece: int) -> None:
    method, wave = built(encoder), sound(3.21)
    assert isinstance(method, StreamingCTC)
    whole = method.transcribe([wave])[0]
    listener = method.listen()
    for start in range(0, len(wave.samples), piece):
        listener.feed(wave.samples[start : start + piece])
    found = listener.finish()
    assert found.text == whole.text and found.text
    assert [(w.text, w.start, w.end) for w in found.words] == [(w.text, w.start, w.end) for w in whole.words]
    assert found.seconds == pytest.approx(whole.seconds)


def test_a_stream_with_a_beam_says_what_the_whole_says() -> None:
    method, wave, settings = built(), sound(2.5), Transcribing(beam=8, hot_words=("CAB",))
    listener = method.listen(settings)
    for start in range(0, len(wave.samples), 4000):
        listener.feed(wave.samples[start : start + 4000])
    assert listener.finish().text == method.transcribe([wave], settings)[0].text


def test_what_is_later_than_the_latency_changes_nothing() -> None:
    method, wave = built(), sound(4.0)
    assert isinstance(method, StreamingCTC) and 0 < method.latency < 0.5
    other = Waveform(wave.samples.copy(), RATE)
    other.samples[2 * RATE :] = 0
    a, b = (method.emissions(w).log_probs for w in (wave, other))
    settled = int((2 - method.latency) / method.frame_seconds)
    np.testing.assert_allclose(a[:settled], b[:settled], atol=1e-5)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_alone_equals_in_a_batch(encoder: str) -> None:
    method = built(encoder)
    waves = [sound(seconds, i) for i, seconds in enumerate((2.3, 0.4, 1.1))]
    together = method._emit_batch(waves)
    for wave, found in zip(waves, together, strict=True):
        np.testing.assert_allclose(found.log_probs, method.emissions(wave).log_probs, atol=1e-5)


def test_a_long_recording_in_windows_equals_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    features = FeatureConfig(bins=20, cmvn="none")
    method, wave = built(features=features), sound(9.7)
    at_once = method.emissions(wave).log_probs
    monkeypatch.setattr(CTC, "window_seconds", 2.0)
    monkeypatch.setattr(CTC, "overlap_seconds", 1.0)
    in_windows = method.emissions(wave).log_probs
    np.testing.assert_allclose(in_windows, at_once, atol=1e-4)
    for named in (2.1, 30.0):  # seconds by a header that errs
        monkeypatch.setattr(recogniser, "recording_seconds", lambda audio, named=named: named)
        np.testing.assert_array_equal(method.emissions(wave).log_probs, in_windows)


def test_words_have_times_in_order_and_confidences() -> None:
    transcript = built().transcribe([sound(3.0)])[0]
    assert transcript.words and transcript.text == " ".join(w.text for w in transcript.words)
    times = [t for w in transcript.words for t in (w.start, w.end)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= transcript.seconds + 0.1
    assert all(0 < w.confidence <= 1 for w in transcript.words)


def test_greedy_merges_repeats_before_it_removes_blanks() -> None:
    symbols = ("<blank>", " ", "A", "B")
    path = [2, 2, 0, 2, 3, 3, 1, 0, 3, 0]
    log_probs = np.full((len(path), 4), -4.0, np.float32)
    log_probs[np.arange(len(path)), path] = -0.1
    for size in (1, 3, 10):
        search = Greedy(symbols, 0, " ", 0.04)
        for start in range(0, len(path), size):
            search.feed(log_probs[start : start + size])
        assert search.tokens == [2, 2, 3, 1, 3]
        assert search.transcript().text == "AAB B"
        assert [(w.start, w.end) for w in search.transcript().words] == [
            (0, pytest.approx(0.24)),
            (0.32, pytest.approx(0.36)),
        ]


def test_alignment_is_the_best_path() -> None:
    symbols = ("<blank>", " ", "A", "B")
    path = [0, 2, 2, 0, 1, 3, 3, 3]
    log_probs = np.log(np.full((8, 4), 0.05))
    log_probs[np.arange(8), path] = np.log(0.85)
    found = aligned(Emissions(log_probs, symbols, 0, 0.5), [2, 1, 3], " ", 4.0)
    assert [(w.text, w.start, w.end) for w in found.words] == [("A", 0.5, 1.5), ("B", 2.5, 4.0)]
    assert [w.text for w in found.phones] == ["A", "B"]
    assert found.score == pytest.approx(np.log(0.85))
    assert all(w.confidence == pytest.approx(0.85) for w in found.words)


def test_aligning_refuses_what_cannot_be() -> None:
    method = built()
    with pytest.raises(DataError, match="'X'"):
        method.align(sound(1.0), "AX")
    with pytest.raises(DataError, match="no word"):
        method.align(sound(1.0), "  ")
    with pytest.raises(DataError, match="frames"):
        method.align(sound(0.2), "ABABABABABAB")
    words = method.align(sound(2.0), "AB D").words
    assert [w.text for w in words] == ["AB", "D"]


def test_letters_outside_the_alphabet_are_named() -> None:
    with pytest.raises(DataError, match="'X', 'Y'"):
        CharacterProcessor.of(TEXTS).encode("AXYX")


def test_a_transcript_longer_than_its_frames_is_counted_and_changes_no_gradient() -> None:
    method = built().train()
    method.config = method.config.replace(augment=None)
    long = "ABCDABCDABCD ABCD ABCDABCDABCD"
    both = batch_of("AB", long, seconds=0.5)
    losses = method.loss(both)
    assert losses.total.isfinite() and losses.parts["impossible"].item() == 0.5
    losses.total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())
    assert any("1 of 2 transcripts" in line for line in method.health())
    only = method.loss(batch_of(long, seconds=0.5))
    assert only.total.item() == 0 and only.parts["impossible"].item() == 1


def test_doubled_letters_need_a_blank_between() -> None:
    method = built().train()
    frames = int(method.encoder.frames(method.features.frames(torch.tensor([RATE // 2]))))
    fits, not_so = "AB" * (frames // 2), "AA" * (frames // 2)
    assert method.loss(batch_of(fits, seconds=0.5)).parts["impossible"].item() == 0
    assert method.loss(batch_of(not_so, seconds=0.5)).parts["impossible"].item() == 1


def test_the_loss_is_decided_by_the_seeds() -> None:
    method, batch = built().train(), batch_of("AB", "CAB")
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = method.loss(batch).total
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(method.loss(batch).total, first)
    batch["seed"] = batch["seed"] + 1
    assert not torch.equal(method.loss(batch).total, first)


def test_the_middle_block_can_have_a_loss_of_its_own() -> None:
    method = built("conformer", intermediate=0.3).train()
    losses = method.loss(batch_of("AB", "CAB"))
    wanted = 0.7 * losses.parts["ctc"] + 0.3 * losses.parts["ctc_middle"]
    torch.testing.assert_close(losses.total.detach(), wanted)
    with pytest.raises(ConfigError, match="intermediate"):
        built(intermediate=1.0)


@pytest.mark.parametrize(("symbol", "words"), [(0, "All frames are blank"), (2, "alike, 'A'")])
def test_collapse_is_said_in_words(symbol: int, words: str) -> None:
    method = built().train()
    with torch.no_grad():
        method.out.weight.zero_()
        method.out.bias.zero_()[symbol] = 9.0
    method.loss(batch_of("AB", "CAB"))
    assert any(words in line for line in method.health())


def test_it_streams_exactly_where_it_can(tmp_path: Path) -> None:
    assert {"transcribe", "align", "emit", "stream"} == set(capabilities_of(built()))
    whole = built(features=SLIDING.replace(cmvn="utterance"))
    assert {"transcribe", "align", "emit"} == set(capabilities_of(whole))
    assert "stream" not in capabilities_of(built("lstm", encoder__bidirectional=True))
    built().save(tmp_path / "model")
    from intermodal.hub.load import load

    again = load(tmp_path / "model")
    assert isinstance(again, StreamingCTC)
    assert again.transcribe([sound(2.0)])[0].text == built().transcribe([sound(2.0)])[0].text


def test_settings_that_ctc_cannot_follow_are_refused(tmp_path: Path) -> None:
    method = built()
    for settings, message in (
        (Transcribing(language="de"), "one language"),
        (Transcribing(task="translate"), "cannot translate"),
        (Transcribing(lm=tmp_path / "a.arpa"), "beam of 1"),
        (Transcribing(hot_words=("AB",)), "beam of 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            method.transcribe([sound(0.5)], settings)
    with pytest.raises(ConfigError, match="Alternatives"):
        method.listen(Transcribing(beam=4, n_best=2))
    with pytest.raises(DataError, match="finite"):
        method.listen().feed(np.array([np.nan], np.float32))


def test_a_lexicon_allows_its_words_alone(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("cab K AE B\nd D\n")
    settings = Transcribing(beam=20, lexicon=tmp_path / "words.txt", token_prune=-30.0, beam_prune=-200.0)
    found = built().transcribe([sound(1.5)], settings)[0]
    assert set(found.text.split()) <= {"CAB", "D"}


def test_alternatives_hold_their_scores_apart() -> None:
    found = built().transcribe([sound(1.5)], Transcribing(beam=16, n_best=3))[0]
    assert len(found.alternatives) == 3 and found.alternatives[0].text == found.text
    scores = [h.score for h in found.alternatives]
    assert scores == sorted(scores, reverse=True)


def test_very_short_and_silent_recordings_are_taken() -> None:
    method = built()
    found = method.transcribe([Waveform(np.zeros(RATE, np.float32), RATE), Waveform(np.full(1, 0.1, np.float32), RATE)])
    assert any("silen" in note for note in found[0].notes)
    assert len(found) == 2
    assert transcripts_of([], Transcribing(), " ") == []


def test_pieces_are_written_as_words() -> None:
    texts = ["CAB CAB BAD", "CAB BAD BAD", "AD CAB"] * 3
    torch.manual_seed(0)
    processors = {"audio": AudioProcessor(rate=RATE), "text": PieceProcessor.of(texts, 12)}
    method: Method = build_ctc(CTCConfig(features=SLIDING, encoder=ENCODERS["cnn"]), processors)
    assert isinstance(method, CTC)
    with torch.no_grad():
        method.out.weight.mul_(8)
    greedy, beam = (method.eval().transcribe([sound(2.0)], s)[0] for s in (Transcribing(), Transcribing(beam=16)))
    assert "▁" not in greedy.text + beam.text
    assert greedy.text == " ".join(w.text for w in greedy.words)
    assert copy.deepcopy(method).align(sound(2.0), "CAB BAD").words[1].text == "BAD"


def test_features_of_another_rate_are_refused() -> None:
    with pytest.raises(ConfigError, match="8000 samples"):
        built(features=FeatureConfig(rate=8000, bins=20))

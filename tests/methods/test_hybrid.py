"""Hybrid recognisers: scaled likelihoods by hand, the decoding of exact posteriors, alignment targets, masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from intermodal.core.errors import ConfigError
from intermodal.core.transcript import Transcribing
from intermodal.data.audio import Waveform
from intermodal.data.lexicon import Lexicon, WordProcessor
from intermodal.data.transcripts import AudioProcessor
from intermodal.decode.graph import GraphConfig
from intermodal.methods.base import Batch
from intermodal.methods.speech.hmm import Hmm, HmmConfig
from intermodal.methods.speech.hybrid import NOT_A_FRAME, Hybrid, NetworkConfig
from intermodal.nn.hmm import training_graph, viterbi
from intermodal.nn.speech_encoders import CNNEncoderConfig, LSTMEncoderConfig, SpeechEncoderConfig
from intermodal.nn.speech_features import FeatureConfig, SpecAugmentConfig
from intermodal.nn.spliced import SplicedEncoderConfig
from intermodal.nn.topology import Topology
from toy_recogniser import RATE, spoken

LEXICON = Lexicon(entries=(("ACE", "A C E"), ("BAD", "B A D"), ("BED", "B E D"), ("CAB", "C A B")))
TEXTS = ("ACE BAD", "BED", "CAB CAB ACE")
HEARD = FeatureConfig(rate=RATE, bins=12, cmvn="utterance")
SEARCH = GraphConfig(beam=500.0, lm_weight=1.0)
ENCODERS: dict[str, SpeechEncoderConfig] = {
    "dnn": SplicedEncoderConfig(width=16, depth=2, context=3, dropout=0.0),
    "dnn, every third frame": SplicedEncoderConfig(width=16, depth=2, context=3, subsampling=3, dropout=0.0),
    "tdnn": CNNEncoderConfig(
        width=16, subsampling=1, depth=2, kernel=3, dilations=(1, 2), separable=False, dropout=0.0
    ),
    "lstm": LSTMEncoderConfig(width=16, subsampling=1, depth=1, bidirectional=False, dropout=0.0),
    "lstm both ways, every second frame": LSTMEncoderConfig(width=16, subsampling=2, depth=1, dropout=0.0),
}


@pytest.fixture(scope="module")
def hmm() -> Hmm:
    """Densities fitted to nothing: near enough to each other that every state may win somewhere."""
    torch.manual_seed(3)
    config = HmmConfig(
        topology=Topology(phones=LEXICON.phones, states=2, silence_states=1),
        features=FeatureConfig(kind="mfcc", rate=RATE, bins=12, coefficients=6, cmvn="utterance"),
        search=SEARCH,
    )
    hmm = Hmm(config, {"audio": AudioProcessor(rate=RATE), "text": WordProcessor(lexicon=LEXICON)})
    with torch.no_grad():
        hmm.means.mul_(8)
        hmm.stay_logits.copy_(torch.randn(hmm.topology.pdfs))
    return hmm.eval()


def network(name: str = "dnn", **changes: object) -> NetworkConfig:
    return NetworkConfig(features=HEARD, encoder=ENCODERS[name], search=SEARCH).replace(**changes)


def build(hmm: Hmm, name: str = "dnn", **changes: object) -> Hybrid:
    torch.manual_seed(0)
    return Hybrid.over(hmm, network(name, **changes))


def batch_of(texts: tuple[str, ...] = TEXTS, seed: int = 0) -> Batch:
    waves = [torch.from_numpy(spoken(text)) for text in texts]
    words = [WordProcessor(lexicon=LEXICON).encode(text) for text in texts]
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "audio": pad(waves, batch_first=True),
        "audio_length": torch.tensor([len(w) for w in waves]),
        "text": pad(words, batch_first=True),
        "text_length": torch.tensor([len(w) for w in words]),
        "seed": torch.arange(len(texts)) + seed,
    }


def test_scaled_likelihoods_are_posteriors_over_priors_to_the_power_kappa(hmm):
    method = build(hmm, prior_scale=0.7)
    counts = torch.randint(1, 50, (method.pdfs,), generator=torch.Generator().manual_seed(1))
    method.counts.copy_(counts)
    posterior = np.random.default_rng(0).dirichlet(np.ones(method.pdfs), 4)
    found = method.scaled(torch.from_numpy(posterior).log())
    for n in range(4):
        for p in range(method.pdfs):
            by_hand = math.log(posterior[n, p]) - 0.7 * math.log(int(counts[p]) / int(counts.sum()))
            assert found[n, p].item() == pytest.approx(by_hand, abs=1e-12)


def test_a_state_that_never_occurred_keeps_its_posterior(hmm):
    method = build(hmm)
    method.counts[:] = 10
    method.counts[2] = 0
    assert method.log_prior()[2] == 0
    assert torch.isfinite(method.scaled(torch.randn(3, method.pdfs))).all()
    assert not build(hmm).log_prior().any()  # before training: nothing is divided out


@pytest.mark.parametrize("settings", [Transcribing(), Transcribing(beam=4, n_best=3, word_bonus=2.0)])
def test_a_network_of_the_exact_posterior_decodes_as_the_gaussians_do(hmm, monkeypatch, settings):
    """Bayes' rule there and back: p(s | x) = p(x | s) p(s) / p(x), and the search knows no p(x)."""
    method = build(hmm)
    method.features = hmm.features
    method.counts.copy_(torch.randint(1, 900, (method.pdfs,), generator=torch.Generator().manual_seed(1)))

    def joint(feat_BNF: torch.Tensor, frames_B: torch.Tensor) -> torch.Tensor:
        return torch.stack([hmm.log_densities(row) for row in feat_BNF]) + method.log_prior()

    monkeypatch.setattr(method, "logits", joint)
    audios = [Waveform(spoken(text), RATE) for text in TEXTS]
    for mine, theirs in zip(method.transcribe(audios, settings), hmm.transcribe(audios, settings), strict=True):
        assert mine.text == theirs.text
        assert mine.words == theirs.words
        assert [h.text for h in mine.alternatives] == [h.text for h in theirs.alternatives]
        for one, other in zip(mine.alternatives, theirs.alternatives, strict=True):
            assert one.score == pytest.approx(other.score, rel=1e-4)
    for audio, text in zip(audios, TEXTS, strict=True):
        assert method.align(audio, text).phones[0].end == hmm.align(audio, text).phones[0].end
        np.testing.assert_allclose(method.emissions(audio).log_probs, hmm.emissions(audio).log_probs, atol=2e-4)


def test_targets_are_the_best_paths_of_the_frozen_model_and_found_once(hmm, monkeypatch):
    method, batch = build(hmm), batch_of()
    target_BN = method.targets(batch["audio"], batch["audio_length"], batch["text"], batch["text_length"])
    for row, text in zip(target_BN, TEXTS, strict=True):
        feature_1ND, _ = hmm.features(torch.from_numpy(spoken(text))[None])
        loglik_NP = hmm.log_densities(feature_1ND[0]).detach().numpy()
        graph = training_graph(text.split(), LEXICON, hmm.topology, hmm.config.silence)
        path = viterbi(loglik_NP, graph, hmm.stay())
        assert row[: len(loglik_NP)].tolist() == graph.pdf_S[path.nodes_T].tolist()
        assert (row[len(loglik_NP) :] == NOT_A_FRAME).all()
    monkeypatch.setattr(method, "_align_one", lambda *_: pytest.fail("aligned again"))
    again = method.targets(batch["audio"], batch["audio_length"], batch["text"], batch["text_length"])
    assert torch.equal(again, target_BN)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_loss_is_the_mean_over_frames_and_padding_never_counts(hmm, name):
    method = build(hmm, name, delay=2 if name == "lstm" else 0).eval()
    whole, total, count = method.loss(batch_of()).total.item(), 0.0, 0
    for text in TEXTS:
        alone = batch_of((text,))
        frames = int(method.features.frames(alone["audio_length"])[0])
        total += method.loss(alone).total.item() * frames
        count += frames
    assert whole == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_recording_is_heard_alone_as_in_a_batch(hmm, name):
    method, batch = build(hmm, name, delay=3 if name == "lstm" else 0).eval(), batch_of()
    with torch.no_grad():
        together, frames_B = method.emit(batch["audio"], batch["audio_length"])
        for i, frames in enumerate(frames_B.tolist()):
            length = int(batch["audio_length"][i])
            alone, own = method.emit(batch["audio"][i : i + 1, :length], torch.tensor([length]))
            assert int(own[0]) == frames == alone.shape[1]
            torch.testing.assert_close(together[i, :frames], alone[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "delay", "past", "future"),
    [("dnn", 0, 3, 3), ("tdnn", 0, None, None), ("lstm", 0, math.inf, 0), ("lstm", 4, math.inf, 4)],
)
def test_a_frame_sees_its_receptive_field_and_no_more(hmm, name, delay, past, future):
    method = build(hmm, name, delay=delay).eval().double()
    if past is None:  # the front's half kernel and each block's dilation
        past = future = method.encoder.look_ahead
        assert past == method.encoder.front.right + 1 + 2
    feat = torch.randn(1, 40, method.features.size, dtype=torch.float64, requires_grad=True)
    method.logits(feat, torch.tensor([40]))[0, 20].square().sum().backward()
    seen = feat.grad.abs().sum(-1)[0].nonzero().flatten()
    assert seen.max() == 20 + future
    assert seen.min() == max(20 - past, 0)


def test_prior_counts_what_training_saw_and_nothing_else(hmm):
    method, batch = build(hmm, augment=SpecAugmentConfig()), batch_of()
    method.eval().loss(batch)
    assert not method.counts.any()
    method.train().loss(batch)
    target_BN = method.targets(batch["audio"], batch["audio_length"], batch["text"], batch["text_length"])
    frames = target_BN[target_BN != NOT_A_FRAME]
    assert torch.equal(method.counts, torch.bincount(frames, minlength=method.pdfs))
    assert not method.hmm.training and not any(p.requires_grad for p in method.hmm.parameters())


def test_dropout_and_masks_depend_on_the_seed_alone(hmm):
    encoder = ENCODERS["dnn"].replace(dropout=0.5)
    method, state = build(hmm, encoder=encoder, augment=SpecAugmentConfig()).train(), torch.get_rng_state()
    losses = [method.loss(batch_of(seed=seed)).total.item() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(torch.get_rng_state(), state)


def test_a_text_longer_than_its_recording_is_left_out_and_said(hmm):
    method = build(hmm).train()
    batch = batch_of()
    batch["audio_length"] = batch["audio_length"].clone()
    batch["audio_length"][2] = 400  # six frames for eighteen states
    losses = method.loss(batch)
    losses.total.backward()
    assert losses.total.isfinite()
    assert losses.parts["left_out"].item() == pytest.approx(1 / 3)
    assert any("shorter than what is said" in warning for warning in method.health())
    batch["audio_length"][:] = 200
    nothing = method.loss(batch)
    nothing.total.backward()
    assert nothing.total.item() == 0


def test_health_tells_of_silence_everywhere_and_of_states_that_never_occur(hmm):
    method = build(hmm).train()
    with torch.no_grad():
        method.out.weight.zero_()
        method.out.bias[: method.topology.silence_states] = 9.0
    method.loss(batch_of())
    assert any("heard as silence" in warning for warning in method.health())
    method.counts[:] = 10_000
    method.counts[: method.pdfs // 2] = 0
    assert any("occur in no alignment" in warning for warning in method.health())


def test_frames_that_are_not_those_of_the_hidden_markov_model_are_refused(hmm):
    with pytest.raises(ConfigError, match="hop_ms"):
        build(hmm, features__hop_ms=20.0)
    with pytest.raises(ConfigError, match="prior_scale"):
        network(prior_scale=1.5)
    with pytest.raises(ConfigError, match="depth"):
        build(hmm, encoder__depth=0)
    with pytest.raises(ConfigError, match="leaves out frames"):
        build(hmm, encoder=SplicedEncoderConfig(width=8, context=1, subsampling=4))


def test_a_stream_of_spliced_frames_gives_the_same_vectors():
    torch.manual_seed(0)
    for subsampling in (1, 2, 3):
        config = SplicedEncoderConfig(width=8, depth=2, context=4, subsampling=subsampling, dropout=0.0)
        encoder = config.build(5).eval()
        feat = torch.randn(1, 29, 5)
        whole, frames_B = encoder(feat, torch.tensor([29]))
        stream = encoder.stream()
        parts = [stream.feed(feat[:, a : a + 7]) for a in range(0, 28, 7)] + [stream.finish(feat[:, 28:])]
        torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=0)
        assert int(frames_B[0]) == whole.shape[1] == -(-29 // subsampling)

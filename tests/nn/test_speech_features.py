"""Features of speech against librosa, kaldi-native-fbank and Whisper's extractor; in batches, in pieces, at their limits."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.core.config import Config
from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.cepstral import Deltas, Moments, Sliding, slope_kernel
from intermodal.nn.speech_features import FeatureConfig, SpecAugmentConfig, SpeechFeatures, spec_augment


def noise(*shape: int, seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    """Return noise with an offset and a tone, so that no step is without effect."""
    rng = np.random.default_rng(seed)
    tone = 0.2 * np.sin(np.arange(shape[-1]) * 0.31)
    return (rng.standard_normal(shape) * 0.05 + tone + 0.03).astype(dtype)


def features(config: FeatureConfig, wave: np.ndarray) -> np.ndarray:
    """Return the features ``(N, F)`` of one recording."""
    return SpeechFeatures(config)(torch.from_numpy(wave)[None])[0][0].numpy()


def near(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> None:
    assert ours.shape == theirs.shape
    scale = np.abs(theirs).max()
    assert np.abs(ours - theirs).max() <= tolerance * scale


# Kaldi


def kaldi(kind: str, wave: np.ndarray, rate: int, snip: bool, **changes: object) -> np.ndarray:
    knf = pytest.importorskip("kaldi_native_fbank")
    options = knf.FbankOptions() if kind == "log_mel" else knf.MfccOptions()
    options.frame_opts.samp_freq, options.frame_opts.dither, options.frame_opts.snip_edges = rate, 0, snip
    for name, value in changes.items():
        part, _, field = name.rpartition("__")
        setattr(getattr(options, part) if part else options, field, value)
    online = knf.OnlineFbank(options) if kind == "log_mel" else knf.OnlineMfcc(options)
    online.accept_waveform(rate, (wave * 32768).tolist())
    online.input_finished()
    return np.stack([online.get_frame(i) for i in range(online.num_frames_ready)])


@pytest.mark.parametrize("rate", [8000, 11025, 16000])
@pytest.mark.parametrize("kind", ["log_mel", "mfcc"])
@pytest.mark.parametrize("snip", [True, False])
@pytest.mark.parametrize("samples", [403, 12345])
def test_kaldis_features(rate, kind, snip, samples):
    wave = noise(samples)
    config = FeatureConfig.kaldi(rate=rate, kind=kind, edges="inside" if snip else "mirror")
    theirs = kaldi(kind, wave, rate, snip)
    near(features(config, wave), theirs, 1e-5)
    near(features(config, wave.astype(np.float64)), theirs, 1e-5)  # float32 there


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"window": "hamming"}, {"frame_opts__window_type": "hamming"}),
        ({"window": "hann"}, {"frame_opts__window_type": "hanning"}),
        ({"window": "rectangular"}, {"frame_opts__window_type": "rectangular"}),
        ({"pre_emphasis": 0.0}, {"frame_opts__preemph_coeff": 0.0}),
        (
            {"window": "hamming", "pre_emphasis": 0.0},
            {"frame_opts__window_type": "hamming", "frame_opts__preemph_coeff": 0.0},
        ),
        ({"remove_dc": False}, {"frame_opts__remove_dc_offset": False}),
        (
            {"bins": 40, "low": 50.0, "high": 7000.0},
            {"mel_opts__num_bins": 40, "mel_opts__low_freq": 50, "mel_opts__high_freq": 7000},
        ),
        ({"hop_ms": 5.0, "window_ms": 32.0}, {"frame_opts__frame_shift_ms": 5.0, "frame_opts__frame_length_ms": 32.0}),
        ({"energy": True}, {"use_energy": True}),
        ({"power": 1.0}, {"use_power": False}),
    ],
)  # fmt: skip
def test_each_of_kaldis_steps(ours, theirs):
    wave = noise(5001, seed=1)
    near(features(FeatureConfig.kaldi(**ours), wave), kaldi("log_mel", wave, 16000, True, **theirs), 1e-5)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"energy": False}, {"use_energy": False}),
        ({"lifter": 0.0}, {"cepstral_lifter": 0.0}),
        ({"bins": 40, "coefficients": 40}, {"mel_opts__num_bins": 40, "num_ceps": 40}),
    ],
)
def test_each_of_kaldis_cepstral_steps(ours, theirs):
    wave = noise(5001, seed=2)
    near(features(FeatureConfig.kaldi(kind="mfcc", **ours), wave), kaldi("mfcc", wave, 16000, True, **theirs), 1e-5)


def test_kaldis_silence_is_finite_and_equal():
    wave = np.zeros(3000, np.float32)
    near(features(FeatureConfig.kaldi(), wave), kaldi("log_mel", wave, 16000, True), 1e-6)


# librosa

LIBROSA = [
    (22050, 2048, 512, 2048, 128),
    (16000, 512, 160, 400, 80),
    (8000, 256, 80, 200, 40),
    (16000, 400, 160, 400, 40),
]


@pytest.mark.parametrize(("rate", "fft", "hop", "window", "bins"), LIBROSA)
@pytest.mark.parametrize("htk", [False, True])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_librosas_features(rate, fft, hop, window, bins, htk, power):
    librosa = pytest.importorskip("librosa")
    ours = {
        "rate": rate, "fft": fft, "hop": hop, "bins": bins, "window_ms": window * 1000 / rate, "power": power,
        "mel": "htk" if htk else "slaney",
    }  # fmt: skip
    for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-10)):
        wave = noise(5001, seed=3, dtype=dtype)
        spectrum = np.abs(librosa.stft(wave, n_fft=fft, hop_length=hop, win_length=window)) ** power
        bank = {"sr": rate, "n_fft": fft, "n_mels": bins, "htk": htk, "norm": None if htk else "slaney"}
        mel = librosa.filters.mel(**bank, dtype=dtype) @ spectrum
        near(features(FeatureConfig.librosa(**ours, log="none", top_db=None), wave).T, mel, tolerance)
        decibel = librosa.power_to_db(mel, ref=1.0)
        near(features(FeatureConfig.librosa(**ours), wave).T, decibel, tolerance)
        mfcc = librosa.feature.mfcc(S=decibel, n_mfcc=20)
        near(features(FeatureConfig.librosa(**ours, kind="mfcc"), wave).T, mfcc, tolerance)


def test_librosas_defaults():
    librosa = pytest.importorskip("librosa")
    wave = noise(22050, seed=4)
    near(features(FeatureConfig.librosa(kind="mfcc"), wave).T, librosa.feature.mfcc(y=wave), 1e-5)
    decibel = librosa.power_to_db(librosa.feature.melspectrogram(y=wave), ref=1.0)
    near(features(FeatureConfig.librosa(), wave).T, decibel, 1e-5)


def test_librosas_spectrum_and_slopes():
    librosa = pytest.importorskip("librosa")
    wave = noise(6001, seed=5, dtype=np.float64)
    power = np.abs(librosa.stft(wave, n_fft=512, hop_length=160, win_length=400)) ** 2
    base = {"rate": 16000, "fft": 512, "hop": 160, "window_ms": 25.0}
    ours = features(FeatureConfig.librosa(**base, kind="spectrum", log="ln", top_db=None, floor=1e-30), wave)
    near(ours.T, np.log(power), 1e-9)
    mfcc = librosa.feature.mfcc(S=librosa.power_to_db(power[:128], ref=1.0), n_mfcc=20)
    # A line of least squares over five frames; librosa's default fits over nine and treats the ends in another way.
    wanted = librosa.feature.delta(mfcc, width=5, mode="nearest")
    both = Deltas(1, 2)(torch.from_numpy(mfcc.T.copy())[None], torch.tensor([mfcc.shape[1]]))[0].numpy()
    near(both[:, 20:].T, wanted, 1e-10)


# Whisper


@pytest.mark.parametrize("bins", [80, 128])
@pytest.mark.parametrize("samples", [1, 5001, 480000])
def test_whispers_features(bins, samples):
    transformers = pytest.importorskip("transformers")
    wave = noise(samples, seed=6)
    extractor = transformers.WhisperFeatureExtractor(feature_size=bins)
    theirs = extractor(wave, sampling_rate=16000, return_tensors="np").input_features[0]
    padded = np.pad(wave, (0, 480000 - samples))
    ours = features(FeatureConfig.whisper(bins=bins), padded).T
    assert ours.shape == (bins, 3000)
    assert np.abs(ours - theirs).max() < 5e-5


# Batches and pieces

CONFIGS = {
    "plain": FeatureConfig(bins=40),
    "kaldi": FeatureConfig.kaldi(kind="mfcc", deltas=2),
    "mirror": FeatureConfig.kaldi(edges="mirror", cmvn="sliding", cmvn_window=20, cmvn_min=7),
    "reflect": FeatureConfig(
        edges="reflect", rate=8000, window="hamming", bins=20, deltas=1, cmvn="sliding", cmvn_window=9, cmvn_min=9
    ),
    "spectrum": FeatureConfig(kind="spectrum", drop_last=True, cmvn="sliding", cmvn_variance=False, cmvn_min=1),
    "utterance": FeatureConfig(bins=30, cmvn="utterance", deltas=1),
    "librosa": FeatureConfig.librosa(rate=16000, fft=512, hop=160, bins=40, kind="mfcc"),
    "whisper": FeatureConfig.whisper(),
    "energy": FeatureConfig(bins=20, energy=True),
    "wide hop": FeatureConfig(bins=20, hop_ms=40.0, edges="inside"),
}  # fmt: skip
STREAMED = {name: config for name, config in CONFIGS.items() if config.whole is None}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_gives_what_each_gives_alone(name):
    module = SpeechFeatures(CONFIGS[name])
    lengths = torch.tensor([9000, 4321, 1, 700, 0, 9000])
    wave = torch.from_numpy(noise(6, 9000, seed=7, dtype=np.float64))
    wave[torch.arange(9000) >= lengths[:, None]] = float("nan")  # what lies beyond a recording does not matter
    batch, frames = module(wave, lengths)
    assert batch.shape == (6, int(frames.max()), module.size)
    assert frames.tolist() == [module.frames(int(n)) for n in lengths]
    for i, length in enumerate(lengths.tolist()):
        alone, count = module(wave[i : i + 1, :length], None)
        assert int(count) == frames[i] == alone.shape[1]
        torch.testing.assert_close(batch[i : i + 1, : frames[i]], alone, rtol=1e-9, atol=1e-9)
        assert not batch[i, frames[i] :].any()


@settings(deadline=None, max_examples=25)
@given(
    name=st.sampled_from(sorted(STREAMED)),
    samples=st.integers(0, 5000),
    cuts=st.lists(st.integers(0, 5000), max_size=8),
    seed=st.integers(0, 99),
)
def test_pieces_give_what_the_whole_gives(name, samples, cuts, seed):
    module = SpeechFeatures(STREAMED[name])
    wave = torch.from_numpy(noise(1, max(samples, 1), seed=seed, dtype=np.float64))[:, :samples]
    whole, _ = module(wave)
    stream = module.stream()
    ends = sorted({min(c, samples) for c in cuts} | {0, samples})
    parts = [stream.feed(wave[:, a:b]) for a, b in zip([0, *ends], ends, strict=False)]
    joined = torch.cat([*parts, stream.finish()], 1)
    torch.testing.assert_close(joined, whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", STREAMED)
def test_pieces_in_float32_and_how_late_frames_come(name):
    module = SpeechFeatures(STREAMED[name])
    wave = torch.from_numpy(noise(1, 16000, seed=8))
    whole, _ = module(wave)
    stream, parts = module.stream(), []
    for piece in wave.split(100, 1):
        parts.append(stream.feed(piece))
    config = module.config
    late = config.deltas * config.delta_window + (config.cmvn_min if config.cmvn == "sliding" else 0) + 6
    assert sum(p.shape[1] for p in parts) >= whole.shape[1] - late
    parts.append(stream.finish())
    near(torch.cat(parts, 1).numpy(), whole.numpy(), 1e-4)
    with pytest.raises(DataError, match="finished"):
        stream.feed(wave)
    with pytest.raises(DataError, match="finished"):
        stream.finish()


def test_a_stream_keeps_a_bounded_piece_of_the_recording():
    stream = SpeechFeatures(FeatureConfig(bins=40)).stream()
    for _ in range(200):
        stream.feed(torch.zeros(1, 1000))
        assert stream._wave.shape[1] < 4000


@pytest.mark.parametrize("name", ["utterance", "librosa", "whisper"])
def test_what_needs_the_whole_recording_cannot_be_streamed(name):
    with pytest.raises(ConfigError, match="whole recording"):
        SpeechFeatures(CONFIGS[name]).stream()


# Normalisation


def test_slopes_are_least_squares_and_kaldis_second_order():
    ramp = torch.arange(20, dtype=torch.float64)[None, :, None] * 3.0
    out = Deltas(2, 2)(ramp, torch.tensor([20]))
    torch.testing.assert_close(out[0, 4:-4, 1], torch.full((12,), 3.0, dtype=torch.float64))
    torch.testing.assert_close(out[0, 4:-4, 2], torch.zeros(12, dtype=torch.float64), atol=1e-12, rtol=0)
    first = np.array([-2, -1, 0, 1, 2]) / 10
    np.testing.assert_allclose(slope_kernel(1, 2).numpy(), first, atol=1e-12)
    np.testing.assert_allclose(
        slope_kernel(2, 2).numpy(), np.convolve(first, first), atol=1e-12
    )  # feature-functions.cc


@pytest.mark.parametrize(("window", "least"), [(20, 7), (5, 5), (300, 100), (1, 1)])
@pytest.mark.parametrize("variance", [True, False])
def test_sliding_normalisation_is_kaldis_definition(window, least, variance):
    rng = np.random.default_rng(0)
    for frames in (1, 4, 60):
        value = rng.standard_normal((frames, 3)) + 5
        wanted = np.zeros_like(value)
        for t in range(frames):  # feature-functions.cc, SlidingWindowCmn, not centred
            begin, end = t - window, t + 1
            if begin < 0:
                end, begin = end - begin, 0
            if end > t:
                end = max(t + 1, least)
            if end > frames:
                begin, end = max(begin - (end - frames), 0), frames
            part = value[begin:end]
            wanted[t] = value[t] - part.mean(0)
            if variance:
                wanted[t] /= np.maximum(part.std(0), 1e-5)
        ours = Sliding(window, least, variance)(torch.from_numpy(value)[None], torch.tensor([frames]))[0].numpy()
        np.testing.assert_allclose(ours, wanted, atol=1e-7)


def test_normalisation_over_the_utterance():
    config = FeatureConfig(bins=20, cmvn="utterance")
    feature, frames = SpeechFeatures(config)(torch.from_numpy(noise(2, 8000)), torch.tensor([8000, 3000]))
    for i in range(2):
        part = feature[i, : frames[i]]
        torch.testing.assert_close(part.mean(0), torch.zeros(20), atol=1e-4, rtol=0)
        torch.testing.assert_close(part.std(0, unbiased=False), torch.ones(20), atol=1e-3, rtol=0)
    silent, _ = SpeechFeatures(config)(torch.zeros(1, 4000))
    assert not silent.any()


def test_moments_are_those_of_all_frames():
    rng = torch.Generator().manual_seed(0)
    value = torch.randn(3, 50, 4, generator=rng) * 7 + 100
    frames = torch.tensor([50, 20, 0])
    moments = Moments(4)
    for i in range(3):
        moments.add(value[i : i + 1], frames[i : i + 1])
    every = torch.cat([value[0], value[1, :20]]).double()
    mean, deviation = moments.result()
    assert moments.count == 70
    torch.testing.assert_close(mean, every.mean(0))
    torch.testing.assert_close(deviation, every.std(0, unbiased=False))
    with pytest.raises(DataError, match="no frame"):
        Moments(4).result()


def test_global_normalisation_is_fitted_saved_and_streamed():
    config = FeatureConfig(bins=20, deltas=1, cmvn="global")
    module = SpeechFeatures(config)
    wave = torch.from_numpy(noise(4, 8000))
    with pytest.raises(ConfigError, match="not fitted"):
        module(wave)
    lengths = torch.tensor([8000, 4000, 100, 8000])
    module.fit([(wave[:2], lengths[:2]), (wave[2:], lengths[2:])])
    feature, frames = module(wave, lengths)
    part = torch.cat([feature[i, :n] for i, n in enumerate(frames.tolist())])
    torch.testing.assert_close(part.mean(0), torch.zeros(40), atol=1e-4, rtol=0)
    torch.testing.assert_close(part.std(0, unbiased=False), torch.ones(40), atol=1e-3, rtol=0)
    with torch.device("meta"):
        again = SpeechFeatures(config)
    again.load_state_dict(module.state_dict(), strict=True, assign=True)
    assert torch.equal(again(wave, lengths)[0], feature)
    stream = again.stream()
    torch.testing.assert_close(torch.cat([stream.feed(wave[:1]), stream.finish()], 1), feature[:1])
    with pytest.raises(ConfigError, match="global"):
        SpeechFeatures(FeatureConfig(bins=20)).fit([(wave, None)])


# SpecAugment


def test_augmentation_hides_stretches_and_bands_and_leaves_the_rest():
    feature = torch.ones(64, 200, 40)
    frames = torch.full((64,), 200)
    config = SpecAugmentConfig(time_masks=1, time_width=30, frequency_masks=1, frequency_width=10)
    out = spec_augment(feature, frames, config, torch.Generator().manual_seed(0))
    assert (feature == 1).all()
    hidden = out == 0
    times, bands = hidden.all(2), hidden.all(1)
    assert torch.equal(hidden, times[..., None] | bands[:, None])
    for mask, longest in ((times, 30), (bands, 10)):
        widths = mask.sum(1)
        assert widths.max() <= longest and widths.min() == 0 and widths.float().mean() > longest / 4
        edges = torch.diff(torch.nn.functional.pad(mask.int(), (1, 1)), dim=1)
        assert (edges == 1).sum(1).max() <= 1  # one stretch
    again = spec_augment(feature, frames, config, torch.Generator().manual_seed(0))
    other = spec_augment(feature, frames, config, torch.Generator().manual_seed(1))
    assert torch.equal(out, again) and not torch.equal(out, other)


def test_augmentation_keeps_to_a_recording_and_to_its_share():
    feature, frames = torch.ones(8, 300, 20), torch.tensor([300, 100, 10, 4, 1, 0, 50, 20])
    config = SpecAugmentConfig(time_masks=1, time_width=1000, time_share=0.2, frequency_masks=0)
    for seed in range(20):
        out = spec_augment(feature, frames, config, torch.Generator().manual_seed(seed))
        hidden = (out == 0).all(2)
        assert (hidden.sum(1) <= frames * 0.2).all()
        assert not hidden[torch.arange(300) >= frames[:, None]].any()
        longer = torch.ones(8, 400, 20)  # the same recordings beside a longer one
        again = spec_augment(longer, frames, config, torch.Generator().manual_seed(seed))
        assert torch.equal(again[:, :300], out)


def test_slopes_share_the_bands_of_what_they_are_slopes_of():
    config = SpecAugmentConfig(time_masks=0, frequency_masks=2, frequency_width=6)
    out = spec_augment(torch.ones(9, 5, 60), torch.full((9,), 5), config, torch.Generator().manual_seed(3), blocks=3)
    first, second, third = out.split(20, 2)
    assert torch.equal(first, second) and torch.equal(first, third) and (first == 0).any()
    nothing = SpecAugmentConfig(time_masks=0, frequency_masks=0)
    assert (spec_augment(torch.ones(2, 5, 6), torch.tensor([5, 5]), nothing, torch.Generator()) == 1).all()
    with pytest.raises(ConfigError, match="at most 1"):
        SpecAugmentConfig(time_share=1.5)


# The module


def test_gradients_reach_the_samples():
    small = FeatureConfig(rate=1000, bins=4, low=0.0)
    others = small.replace(window="hamming", edges="mirror", kind="mfcc", coefficients=3, energy=True)
    for config in (small.replace(deltas=1, cmvn="utterance"), others):
        wave = torch.from_numpy(noise(2, 70, dtype=np.float64)).requires_grad_()
        module = SpeechFeatures(config)
        assert torch.autograd.gradcheck(lambda w, m=module: m(w, torch.tensor([70, 50]))[0], (wave,))


def test_half_precision_and_autocast_do_not_spoil_them():
    module, wave = SpeechFeatures(FeatureConfig(bins=40)), torch.from_numpy(noise(1, 4000))
    exact, _ = module(wave)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(wave)[0], exact)
    half = module(wave.to(torch.bfloat16))[0]
    assert half.dtype == torch.float32 and half.isfinite().all()


def test_they_are_the_same_after_a_copy_and_have_no_weights():
    module = SpeechFeatures(FeatureConfig(bins=40))
    assert not module.state_dict()
    wave = torch.from_numpy(noise(1, 3000))
    assert torch.equal(copy.deepcopy(module)(wave)[0], module(wave)[0])
    assert module.frame_seconds == pytest.approx(0.01)
    assert Config.from_json(FeatureConfig.kaldi().to_json()) == FeatureConfig.kaldi()


def test_the_transform_grows_until_every_filter_has_a_frequency():
    assert FeatureConfig(rate=8000, bins=23).points == 256
    assert FeatureConfig(rate=8000, bins=128).points == 512
    with pytest.raises(ConfigError, match="fewer bins"):
        FeatureConfig(rate=8000, bins=2000)


@pytest.mark.parametrize("samples", [0, 1, 399, 400, 401])
def test_very_short_recordings(samples):
    wave = torch.full((1, samples), 0.5)
    for config in CONFIGS.values():
        feature, frames = SpeechFeatures(config)(wave)
        assert feature.shape == (1, int(frames), config.size) and feature.isfinite().all()
    assert SpeechFeatures(FeatureConfig.kaldi()).frames(samples) == (samples >= 400) + 0


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"fft": 300}, "fft"), ({"fft": 401}, "even"), ({"window_ms": 0.0}, "window"), ({"hop_ms": 0.0}, "hop"),
        ({"pre_emphasis": 1.0}, "pre_emphasis"), ({"power": 3.0}, "power"), ({"floor": 0.0}, "floor"),
        ({"top_db": 80.0}, "log='db'"), ({"deltas": 3}, "deltas"), ({"cmvn_min": 0}, "cmvn_min"),
        ({"kind": "spectrum", "energy": True}, "energy"), ({"kind": "mfcc", "coefficients": 81}, "coefficients"),
        ({"high": 9000.0}, "half of"),
    ],
)  # fmt: skip
def test_configurations_that_cannot_be_are_refused(changes, word):
    with pytest.raises(ConfigError, match=word):
        FeatureConfig(**changes)


def test_what_is_no_waveform_is_refused():
    module = SpeechFeatures(FeatureConfig())
    with pytest.raises(DataError, match="int16"):
        module(torch.zeros(1, 800, dtype=torch.int16))
    with pytest.raises(DataError, match="shape"):
        module(torch.zeros(800))
    for lengths in ([801], [-1], [3, 4]):
        with pytest.raises(DataError, match="length"):
            module(torch.zeros(1, 800), torch.tensor(lengths))
    with pytest.raises(DataError, match="1, n"):
        module.stream().feed(torch.zeros(2, 800))

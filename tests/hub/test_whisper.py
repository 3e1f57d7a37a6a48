"""Whisper in transformers' layout: features, logits, losses, gradients, tokens and times equal transformers'."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

transformers = pytest.importorskip("transformers", reason="transformers, of the core group, is not installed")

from transformers.models.whisper import generation_whisper  # noqa: E402

import intermodal.methods.speech.whisper_decoding as decoding  # noqa: E402
from intermodal.core.errors import CheckpointError, ConfigError, DataError  # noqa: E402
from intermodal.core.registry import load_class  # noqa: E402
from intermodal.core.transcript import Transcribing  # noqa: E402
from intermodal.data.audio import Waveform  # noqa: E402
from intermodal.decode.beam import beam_search  # noqa: E402
from intermodal.decode.stepper import RuledStepper  # noqa: E402
from intermodal.hub import whisper as hub  # noqa: E402
from intermodal.hub.load import load  # noqa: E402
from intermodal.methods.speech.whisper import IGNORED, Whisper  # noqa: E402
from intermodal.methods.speech.whisper_words import token_times, warp  # noqa: E402

TEXT, TIMES = 50, 51
NO_TIMES = 59
SPECIAL = ("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|transcribe|>", "<|translate|>",
           "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>")  # fmt: skip
START = {"decoder_start_token_id": 51, "eos_token_id": 50, "pad_token_id": 50, "bos_token_id": 50}
GENERATION = START | {
    "no_timestamps_token_id": NO_TIMES,
    "lang_to_id": {"<|en|>": 52, "<|de|>": 53},
    "task_to_id": {"transcribe": 54, "translate": 55},
    "is_multilingual": True,
    "suppress_tokens": [3, 7, 58, 57],
    "begin_suppress_tokens": [5, 50],
    "max_initial_timestamp_index": 10,
    "prev_sot_token_id": 57,
    "alignment_heads": [[0, 1], [2, 0], [1, 1]],
}
PLAIN = {"temperatures": (0.0,), "compression_ratio": None, "log_prob": None, "no_speech": None}


def reference(seed: int = 0, dtype=torch.float64, scale: float = 4.0):
    """Return transformers' model with weights so large that what it writes is anything but constant."""
    torch.manual_seed(seed)
    config = transformers.WhisperConfig(
        vocab_size=NO_TIMES + 1 + TIMES,
        num_mel_bins=80,
        d_model=24,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=3,
        decoder_attention_heads=2,
        encoder_ffn_dim=40,
        decoder_ffn_dim=32,
        max_source_positions=50,
        max_target_positions=40,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        **START,
    )
    model = transformers.WhisperForConditionalGeneration(config).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif "encoder.embed_positions" not in name:
                parameter.mul_(scale)
    for name, value in GENERATION.items():
        setattr(model.generation_config, name, value)
    return model


def pair(folder, seed: int = 0, dtype=torch.float64, scale: float = 4.0):
    model = reference(seed, dtype, scale)
    model.save_pretrained(folder)
    ours = load(folder, processors={})
    assert isinstance(ours, Whisper) and not ours.training
    assert ours.network.decoder.token_embedding.weight.dtype == dtype
    return ours, model


def with_files(folder):
    """Write a tokenizer of fifty letters and the special tokens, and the feature extractor's settings."""
    letters = [*"Ġabcdefghijklmnopqrstuvwxyz", *"ABCDEFGHIJKLMNOPQRSTUVW"]
    assert len(letters) == TEXT
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(f"<|{0.02 * i:.2f}|>", normalized=False) for i in range(TIMES)])
    tokenizer.save(str(folder / "tokenizer.json"))
    transformers.WhisperFeatureExtractor().save_pretrained(folder)


def sound(frames: int, batch: int = 1, seed: int = 0, dtype=torch.float64):
    return torch.randn(batch, 80, frames, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_logits_loss_and_gradients_are_those_of_transformers(tmp_path):
    ours, model = pair(tmp_path)
    mel, generator = sound(100, 3), torch.Generator().manual_seed(1)
    tokens, label = torch.randint(0, 111, (2, 3, 11), generator=generator)
    label[0, 7:] = IGNORED
    wanted = model(input_features=mel, decoder_input_ids=tokens, labels=label)
    loss, logits = ours.token_loss(mel.transpose(1, 2), tokens, label)
    assert (logits - wanted.logits).abs().max() < 1e-12 * wanted.logits.abs().max()
    assert loss.item() == pytest.approx(wanted.loss.item(), rel=1e-12)
    loss.backward()
    wanted.loss.backward()
    own = {k: torch.zeros_like(v) for k, v in ours.state_dict().items()}
    own = hub.key_map().to_published(own | {k: p.grad for k, p in ours.named_parameters()})
    published = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
    assert set(own) - set(published) == {"model.encoder.embed_positions.weight"}
    for key, gradient in published.items():
        assert (own[key] - gradient).abs().max() < 1e-11 * max(gradient.abs().max().item(), 1e-2), key


def test_single_precision_is_near(tmp_path):
    ours, model = pair(tmp_path, dtype=torch.float32, scale=1.5)
    mel, tokens = sound(100, 2, dtype=torch.float32), torch.arange(14).view(2, 7)
    wanted = model(input_features=mel, decoder_input_ids=tokens).logits
    assert (ours.network(mel.transpose(1, 2), tokens) - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_the_key_map_goes_both_ways(tmp_path):
    ours, model = pair(tmp_path)
    back = hub.key_map().to_published(ours.state_dict())
    published = hub.untied(model.state_dict(), "here")
    assert set(back) == set(published)
    assert all(torch.equal(back[k], v) for k, v in published.items())


def test_a_step_with_memory_is_what_reading_all_gives(tmp_path):
    ours, _ = pair(tmp_path)
    tokens, heard = torch.randint(0, 111, (2, 9)), ours.network.encoder(sound(100, 2).transpose(1, 2)).detach()
    with torch.no_grad():
        whole = ours.network.decoder.logits(ours.network.decoder.hidden(tokens, heard))
        stepper = decoding.WhisperStepper(ours.network.decoder, heard)
        found, state = stepper.step(stepper.start(9), tokens[:, :4])
        torch.testing.assert_close(found, whole[:, 3], rtol=0, atol=1e-12)
        state = stepper.reorder(state, torch.tensor([1, 0]))
        for place in range(4, 9):
            found, state = stepper.step(state, tokens[[1, 0], place : place + 1])
            torch.testing.assert_close(found, whole[[1, 0], place], rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_greedy_tokens_without_times_are_those_of_transformers(tmp_path, seed):
    ours, model = pair(tmp_path, seed, scale=3.0 + seed)
    mel = sound(100, 3, seed)
    wanted = model.generate(
        mel,
        language="de",
        task="transcribe",
        return_timestamps=False,
        max_new_tokens=20,
        force_unique_generate_call=True,
    )
    prompt = torch.tensor([ours.config.tokens.prompt("de", "transcribe", timestamps=False)] * 3)
    settings = decoding.WhisperDecoding(timestamps=False, most_tokens=20, **PLAIN)
    with torch.no_grad():
        heard = ours.network.encoder(mel.transpose(1, 2))
        found = decoding.decode_window(ours.network, heard, prompt, ours.config.tokens, settings)
    for row, window in zip(wanted.tolist(), found, strict=True):
        row = row[4:] if row[:4] == prompt[0].tolist() else row
        assert window.tokens == (row[: row.index(50)] if 50 in row else row)


@pytest.mark.parametrize("condition", [False, True], ids=["alone", "told what came before"])
@pytest.mark.parametrize("seed", range(6))
def test_segments_of_a_long_recording_are_those_of_transformers(tmp_path, seed, condition):
    ours, model = pair(tmp_path, seed, scale=3.0 if seed % 2 else 6.0)
    mel, tokens = sound(431, 1, seed), ours.config.tokens
    wanted = model.generate(
        mel,
        language="de",
        task="translate",
        return_timestamps=True,
        max_new_tokens=16,
        return_segments=True,
        condition_on_prev_tokens=condition,
        temperature=0.0,
    )["segments"][0]
    settings = decoding.WhisperDecoding(condition=condition, most_tokens=16, **PLAIN)
    recording = decoding.Recording(mel[0].T.contiguous(), tokens.prompt("de", "translate", timestamps=True))
    with torch.no_grad():
        decoding.transcribe(ours.network, [recording], tokens, settings)
    assert len(wanted) >= 5
    assert [p.tokens for p in recording.pieces] == [s["tokens"].tolist() for s in wanted]
    for piece, segment in zip(recording.pieces, wanted, strict=True):
        assert piece.start == pytest.approx(float(segment["start"]), abs=1e-9)
        assert piece.end == pytest.approx(float(segment["end"]), abs=1e-9)


def test_recordings_of_several_lengths_at_once_are_as_alone(tmp_path):
    ours, _ = pair(tmp_path, 2)
    tokens = ours.config.tokens
    settings = decoding.WhisperDecoding(most_tokens=16, **PLAIN)

    def fresh():
        prompt = tokens.prompt("en", "transcribe", timestamps=True)
        return [decoding.Recording(sound(n, 1, n)[0].T.contiguous(), prompt) for n in (431, 100, 17, 260)]

    together, alone = fresh(), fresh()
    with torch.no_grad():
        decoding.transcribe(ours.network, together, tokens, settings)
        for recording in alone:
            decoding.transcribe(ours.network, [recording], tokens, settings)
    assert [[p.tokens for p in r.pieces] for r in together] == [[p.tokens for p in r.pieces] for r in alone]


def test_language_is_detected_as_transformers_does(tmp_path):
    ours, model = pair(tmp_path)
    mel = sound(100, 6)
    wanted = model.detect_language(mel).tolist()
    names = dict(ours.config.tokens.languages)
    found = [max(shares, key=shares.__getitem__) for shares in ours.languages(mel.transpose(1, 2))]
    assert [names[name] for name in found] == wanted


def test_beam_search_without_rules_is_that_of_transformers(tmp_path):
    ours, model = pair(tmp_path, 1, scale=2.0)
    mel = sound(100, 3)
    config = transformers.GenerationConfig(num_beams=4, max_new_tokens=12, length_penalty=1.0, do_sample=False, **START)
    prompt = torch.tensor([[51, 52, 54, NO_TIMES]] * 3)
    wanted = transformers.GenerationMixin.generate(
        model, mel, generation_config=config, decoder_input_ids=prompt, num_return_sequences=1
    )
    stepper = decoding.WhisperStepper(ours.network.decoder, ours.network.encoder(mel.transpose(1, 2)).detach())
    found = beam_search(stepper, prompt, 12, beams=4, end=50)
    for row, beams in zip(wanted[:, 4:].tolist(), found, strict=True):
        tokens = beams[0].tokens.tolist()
        assert row[: len(tokens)] == tokens and set(row[len(tokens) :]) <= {50}


def test_a_beam_that_holds_everything_finds_the_likeliest(tmp_path):
    ours, _ = pair(tmp_path, 3, scale=1.0)
    heard, prompt = ours.network.encoder(sound(100).transpose(1, 2)).detach(), torch.tensor([[51]])
    few = decoding.WhisperStepper(ours.network.decoder, heard)
    kept = [2, 9, 50]

    def only(logits, made):
        out = torch.full_like(logits, float("-inf"))
        out[:, kept] = logits[:, kept]
        return out

    best = beam_search(RuledStepper(few, only), prompt, 3, beams=30, end=50)[0]
    ways = {}
    for first in kept:
        for second in kept if first != 50 else [None]:
            for third in kept if second not in (None, 50) else [None]:
                tokens = [t for t in (first, second, third) if t is not None]
                with torch.no_grad():
                    read = torch.tensor([[51, *tokens[:-1]]])
                    logits = ours.network.decoder.logits(ours.network.decoder.hidden(read, heard))[0][:, kept].float()
                steps = logits.log_softmax(-1)[range(len(tokens)), [kept.index(t) for t in tokens]]
                ways[tuple(tokens)] = float(steps.sum()) / len(tokens)
    ranked = sorted(ways.items(), key=lambda item: -item[1])
    assert [tuple(b.tokens.tolist()) for b in best[:5]] == [tokens for tokens, _ in ranked[:5]]
    assert best[0].score == pytest.approx(ranked[0][1], abs=1e-5)


def test_times_of_tokens_are_those_of_transformers():
    generator = torch.Generator().manual_seed(0)
    for rows, columns in ((1, 1), (3, 9), (12, 50), (9, 4)):
        cost = torch.randn(rows, columns, generator=generator, dtype=torch.float64).numpy()
        wanted = generation_whisper._dynamic_time_warping(cost.astype(np.float64))
        for found, theirs in zip(warp(cost), wanted, strict=True):
            np.testing.assert_array_equal(found, theirs)
    weights = torch.rand(4, 12, 50, generator=generator).softmax(-1)
    mean, std = weights.mean(-2, keepdim=True), weights.std(-2, keepdim=True, unbiased=False)
    smooth = generation_whisper._median_filter(((weights - mean) / std)[None], 7)[0].mean(0)
    text, time = generation_whisper._dynamic_time_warping(-smooth.double().numpy())
    wanted = time[np.pad(np.diff(text), (1, 0), constant_values=1).astype(bool)]
    np.testing.assert_array_equal(token_times(weights, 7), wanted)


@pytest.fixture
def folder(tmp_path):
    reference(2, torch.float32).save_pretrained(tmp_path)
    with_files(tmp_path)
    return tmp_path


def test_a_folder_transcribes_sound_of_any_rate_and_length(folder):
    ours = load(folder)
    ours.config = ours.config.replace(decoding__temperatures=(0.0,), decoding__log_prob=None)
    assert ours.sample_rate == 16_000 and ours.config.tokens.no_speech == 58 and ours.config.tokens.previous == 57
    noise = np.random.default_rng(0).standard_normal(80_000).astype(np.float32) * 0.1
    waves = [
        Waveform(noise, 16_000),
        Waveform(noise[:7000], 8_000),
        Waveform(noise[:1], 16_000),
        Waveform(noise[:9000] * 0, 16_000),
    ]
    steps = []
    found = ours.transcribe(waves, Transcribing(language="de"), watch=lambda what, share: steps.append(share))
    assert steps[-1] == pytest.approx(1.0) and all(t.language == "de" for t in found)
    assert found[0].seconds == 5.0 and found[0].segments and found[0].text
    assert "".join(s.text for s in found[0].segments).replace(" ", "") == found[0].text.replace(" ", "")
    assert all(s.start <= s.end for t in found for s in t.segments)
    assert found[0].words and all(w.start is not None and w.start <= w.end for w in found[0].words)
    assert any("silent" in note for note in found[3].notes) and any("8,000" in note for note in found[1].notes)
    assert found[0] == ours.transcribe(waves[:1], Transcribing(language="de"))[0]
    assert ours.transcribe(waves[:1])[0].language in ("en", "de")


def test_features_of_a_folder_are_those_of_the_feature_extractor(folder):
    ours = load(folder)
    samples = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) * 0.1
    extractor = transformers.WhisperFeatureExtractor(chunk_length=1)
    wanted = extractor(samples[:9000], sampling_rate=16_000, return_tensors="pt").input_features[0].T
    found = ours.mel(torch.from_numpy(samples)[None], torch.tensor([9000]))[0]
    assert (found - wanted).abs().max() < 1e-5


def test_saved_and_loaded_it_is_the_same(folder, tmp_path):
    ours = load(folder)
    ours.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert type(again) is Whisper and again.config == ours.config
    assert load_class("wav2vec2").class_for(ours.config.to_dict()) is Whisper
    noise = Waveform(np.random.default_rng(1).standard_normal(9000).astype(np.float32) * 0.1, 16_000)
    assert again.transcribe([noise]) == ours.transcribe([noise])


def test_training_on_a_few_words_lowers_the_loss(folder):
    ours = load(folder).train()
    text = ours.processors["text"]
    rows = [text.encode(t) for t in ("yes", "no thanks", "stop")]
    generator = torch.Generator().manual_seed(0)
    batch = {
        "audio": 0.1 * torch.randn(3, 12_000, generator=generator),
        "audio_length": torch.tensor([12_000, 8_000, 400]),
        "text": torch.nn.utils.rnn.pad_sequence(rows, batch_first=True),
        "text_length": torch.tensor([len(r) for r in rows]),
    }
    alone = ours.loss({k: v[:1] for k, v in batch.items()} | {"text": rows[0][None]}).total
    padded = ours.loss({k: v[:1] for k, v in batch.items()}).total
    assert padded.item() == pytest.approx(alone.item(), rel=1e-6)
    optimizer = torch.optim.AdamW(ours.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = ours.loss(batch).total
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]


def test_what_looks_wrong_is_tried_again_warmer_and_silence_is_left_out(tmp_path):
    ours, _ = pair(tmp_path, 0, scale=2.0)
    tokens = ours.config.tokens
    heard = ours.network.encoder(sound(100, 2).transpose(1, 2)).detach()
    prompt = torch.tensor([tokens.prompt("en", "transcribe", timestamps=True)] * 2)

    def decoded(**changes):
        settings = decoding.WhisperDecoding(**{**PLAIN, "most_tokens": 12, **changes})
        return decoding.decode_window(ours.network, heard, prompt, tokens, settings, text=lambda t: "ab" * 50, seed=1)

    assert {w.temperature for w in decoded(temperatures=(0.0, 0.5))} == {0.0}
    assert {w.temperature for w in decoded(temperatures=(0.0, 0.5), compression_ratio=2.4)} == {0.5}
    assert {w.temperature for w in decoded(temperatures=(0.0, 0.5, 0.9), log_prob=0.0)} == {0.9}
    assert decoded(temperatures=(0.0, 0.9), log_prob=0.0) == decoded(temperatures=(0.0, 0.9), log_prob=0.0)
    skipped = decoded(temperatures=(0.0, 0.5), log_prob=0.0, no_speech=0.0)
    assert all(w.skipped and w.temperature == 0.0 and 0 < w.silence < 1 for w in skipped)


def test_what_it_cannot_do_is_told_in_words(folder):
    ours = load(folder)
    noise = [Waveform(np.zeros(800, np.float32), 16_000)]
    with pytest.raises(ConfigError, match="language 'fr'"):
        ours.transcribe(noise, Transcribing(language="fr"))
    with pytest.raises(ConfigError, match="lexicon"):
        ours.transcribe(noise, Transcribing(lexicon=folder / "words.txt"))
    with pytest.raises(DataError, match="no sample"):
        ours.transcribe([Waveform(np.zeros(0, np.float32), 16_000, "empty.wav")])
    with pytest.raises(DataError, match="100, 80"):
        ours.network.encoder(torch.zeros(1, 99, 80))


def test_damaged_folders_are_refused_in_words(folder):
    tensors = load_file(folder / "model.safetensors")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match=r"model.safetensors"):
        load(folder)
    save_file(tensors | {"proj_out.weight": torch.zeros(111, 24)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="last matrix of its own"):
        load(folder)
    (folder / "model.safetensors").write_bytes(whole)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | {"feature_size": 128}))
    with pytest.raises(CheckpointError, match="feature_size=128"):
        load(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"lacks tokenizer.json"):
        load(folder)
    assert isinstance(load(folder, processors={}), Whisper)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(CheckpointError, match="pickle"):
        load(folder, processors={})


def test_a_vocabulary_with_merges_spells_as_transformers_does(folder):
    letters = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(letters))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "added_tokens.json").write_text(json.dumps({t: TEXT + i for i, t in enumerate(SPECIAL)}))
    ours = load(folder)
    assert ours.processors["text"].decode(ours.processors["text"].encode("no thanks").tolist()) == " no thanks"
    assert ours.config.tokens.no_speech == 58

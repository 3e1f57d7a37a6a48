"""wav2vec 2.0 in transformers' layout: vectors, losses, gradients and processors equal transformers'; damage is told."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

transformers = pytest.importorskip("transformers", reason="transformers, of the core group, is not installed")

from transformers.models.wav2vec2 import modeling_wav2vec2 as theirs  # noqa: E402

from intermodal.core.errors import CheckpointError  # noqa: E402
from intermodal.data.audio import Waveform  # noqa: E402
from intermodal.hub import wav2vec2 as hub  # noqa: E402
from intermodal.hub.load import load  # noqa: E402
from intermodal.methods.speech.wav2vec2 import Wav2Vec2  # noqa: E402

SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "conv_dim": (12, 16, 20),
    "conv_kernel": (10, 3, 2),
    "conv_stride": (5, 2, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "num_codevectors_per_group": 5,
    "codevector_dim": 12,
    "proj_codevector_dim": 8,
    "num_negatives": 7,
}
LAYOUTS = {
    "base": SIZES,
    "large": SIZES | {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
    "odd kernel": SIZES | {"num_conv_pos_embeddings": 7, "feat_extract_norm": "layer", "hidden_act": "gelu_new"},
}
LENGTHS = [1203, 800, 911]


def reference(dtype=torch.float64, kind=theirs.Wav2Vec2ForPreTraining, config=transformers.Wav2Vec2Config, **sizes):
    """Return transformers' model, with biases and norms that are neither zero nor one."""
    torch.manual_seed(0)
    model = kind(config(**sizes)).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
        if hasattr(model, "quantizer"):
            model.quantizer.weight_proj.weight.mul_(0.3)
    return model


def pair(folder, dtype=torch.float64, **sizes):
    model = reference(dtype, **sizes)
    model.save_pretrained(folder)
    ours = load(folder, processors={})
    assert isinstance(ours, Wav2Vec2) and not ours.training
    assert ours.project_context.weight.dtype == dtype
    return ours, model


def batch_of(model, masked: bool):
    """Return waveforms, lengths, attention mask, and which frames count."""
    generator = torch.Generator().manual_seed(1)
    wave = torch.randn(len(LENGTHS), max(LENGTHS), generator=generator, dtype=torch.float64).to(model.dtype)
    length = torch.tensor(LENGTHS if masked else [max(LENGTHS)] * len(LENGTHS))
    own = torch.arange(wave.shape[1]) < length[:, None]
    frames = model._get_feat_extract_output_lengths(length)
    counted = torch.arange(int(frames.max())) < frames[:, None]
    return wave * own, length, (own.long() if masked else None), counted


def masks_of(counted):
    """Return masked frames and negatives, as transformers draws them."""
    np.random.seed(0)
    mask = theirs._compute_mask_indices(tuple(counted.shape), 0.65, 5, attention_mask=counted.long())
    mask &= counted.numpy()
    negatives = theirs._sample_negative_indices(tuple(counted.shape), SIZES["num_negatives"], mask)
    return torch.from_numpy(mask), torch.from_numpy(negatives).long()


def numbered(mask, negatives):
    """Return negatives as numbers of masked frames, which is how ours takes them."""
    return (mask.flatten().cumsum(0) - 1)[negatives[mask]]


def gradients(ours, model):
    keys = hub.pretraining_map(ours.config)
    own = {k: torch.zeros_like(v) for k, v in ours.state_dict().items()}
    own |= {k: p.grad for k, p in ours.named_parameters() if p.grad is not None}
    wanted = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
    return keys.to_published(own), hub.current_names(wanted, "wav2vec2", "here")


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_vectors_losses_and_gradients_are_those_of_transformers(tmp_path, name, masked):
    ours, model = pair(tmp_path, **LAYOUTS[name])
    ours.encoder.convolutions[0].padded = True  # as transformers, which normalises over a batch's padding
    wave, length, attention, counted = batch_of(model, masked)
    mask, negatives = masks_of(counted)
    wanted = model(wave, attention_mask=attention, mask_time_indices=mask, sampled_negative_indices=negatives)
    hidden = model.wav2vec2(wave, attention_mask=attention, mask_time_indices=mask).last_hidden_state
    found, frames = ours.encoder(wave, length, mask)
    assert torch.equal(frames, counted.sum(1))
    assert (found - hidden)[counted].abs().max() < 1e-12 * hidden.abs().max()
    losses = ours.contrast(wave, length, mask, numbered(mask, negatives))
    count = mask.sum()
    # transformers computes cosines and cross entropies in float32, also of float64 models
    for value, theirs_ in (
        (losses.total, wanted.loss),
        (losses.parts["contrastive"], wanted.contrastive_loss),
        (losses.parts["diversity"], wanted.diversity_loss),
    ):
        assert (value * count).item() == pytest.approx(theirs_.item(), rel=1e-6)
    assert losses.parts["perplexity"].item() == pytest.approx(wanted.codevector_perplexity.item(), rel=1e-12)
    wanted.loss.backward()
    (losses.total * count).backward()
    own, published = gradients(ours, model)
    for key, gradient in published.items():
        assert (own[key] - gradient).abs().max() < 1e-5 * max(gradient.abs().max().item(), 1e-3), key


def test_in_training_the_quantiser_is_that_of_transformers_for_the_same_noise(tmp_path, monkeypatch):
    ours, model = pair(tmp_path, torch.float32, **SIZES)
    wave, _, _, counted = batch_of(model, False)
    mask, _ = masks_of(counted)
    features = model.wav2vec2(wave, mask_time_indices=mask).extract_features.detach().requires_grad_()
    groups, codes = ours.config.quantizer.groups, ours.config.quantizer.codes
    noise = torch.empty(int(mask.sum()), groups, codes).exponential_(generator=torch.Generator().manual_seed(3))

    def same_noise(logits, tau, hard):
        assert hard
        spread = torch.zeros(*mask.shape, groups, codes)
        spread[mask] = -noise.log()
        soft = ((logits + spread.view(-1, codes)) / tau).softmax(-1)
        index = soft.argmax(-1, keepdim=True)
        return torch.zeros_like(soft).scatter_(-1, index, 1.0) - soft.detach() + soft

    monkeypatch.setattr(torch.nn.functional, "gumbel_softmax", same_noise)
    model.quantizer.train()
    model.quantizer.temperature = 1.3
    wanted, perplexity = model.quantizer(features, mask_time_indices=mask)
    ours.quantizer.train()
    own_features = features.detach().clone().requires_grad_()
    chosen = ours.quantizer(own_features[mask], 1.3, torch.Generator().manual_seed(3))
    torch.testing.assert_close(chosen.vectors, wanted[mask], rtol=0, atol=1e-6)
    weight = torch.randn_like(wanted[mask])
    (wanted[mask] * weight).sum().backward()
    (chosen.vectors * weight).sum().backward()
    torch.testing.assert_close(own_features.grad, features.grad, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        ours.quantizer.codebook.grad.view(1, groups * codes, -1), model.quantizer.codevectors.grad, rtol=0, atol=1e-5
    )
    spread = torch.exp(-torch.xlogy(chosen.mean, chosen.mean).sum(-1)).sum()
    assert spread.item() == pytest.approx(perplexity.item(), rel=1e-5)


def test_single_precision_is_near(tmp_path):
    ours, model = pair(tmp_path, torch.float32, **LAYOUTS["large"])
    wave, length, attention, counted = batch_of(model, True)
    wanted = model.wav2vec2(wave, attention_mask=attention).last_hidden_state
    found, _ = ours.encoder(wave, length)
    assert (found - wanted)[counted].abs().max() < 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_recording_in_a_batch_is_as_it_is_alone_in_transformers(tmp_path, name):
    ours, model = pair(tmp_path, **LAYOUTS[name])
    wave, length, _, _ = batch_of(model, True)
    found, frames = ours.encoder(wave, length)
    for row, (samples, count) in enumerate(zip(LENGTHS, frames.tolist(), strict=True)):
        wanted = model.wav2vec2(wave[row : row + 1, :samples]).last_hidden_state[0]
        assert (found[row, :count] - wanted).abs().max() < 1e-11 * wanted.abs().max()


def test_earlier_names_of_the_weight_norm_are_read(tmp_path):
    ours, _ = pair(tmp_path, **SIZES)
    tensors = load_file(tmp_path / "model.safetensors")
    old = {}
    for key, tensor in tensors.items():
        for before, now in (
            ("weight_g", "parametrizations.weight.original0"),
            ("weight_v", "parametrizations.weight.original1"),
        ):
            key = key.replace(now, before)
        old[key] = tensor
    assert set(old) != set(tensors)
    save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    again = load(tmp_path, processors={})
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), again.state_dict().values(), strict=True))


def test_the_folder_with_its_processor_embeds_recordings_of_any_rate(tmp_path):
    model = reference(torch.float32, **SIZES)
    model.save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(tmp_path)
    ours = load(tmp_path)
    assert ours.processors["audio"].normalize and ours.processors["audio"].rate == 16_000
    samples = np.random.default_rng(0).standard_normal(4000).astype(np.float32) * 0.1 + 0.05
    wanted = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)(samples, sampling_rate=16_000)["input_values"][0]
    np.testing.assert_allclose(ours.processors["audio"].encode(Waveform(samples, 16_000)).numpy(), wanted, atol=1e-5)
    vectors = ours.embed(
        "audio", [Waveform(samples, 16_000), Waveform(samples[:900], 8_000), Waveform(samples[:1], 16_000)]
    )
    hidden = model.wav2vec2(torch.from_numpy(wanted)[None]).last_hidden_state[0].mean(0)
    np.testing.assert_allclose(vectors[0], torch.nn.functional.normalize(hidden, dim=0).detach().numpy(), atol=1e-5)
    assert np.isfinite(vectors).all()


def test_damaged_folders_are_refused_in_words(tmp_path):
    pair(tmp_path, **SIZES)
    with pytest.raises(CheckpointError, match=r"lacks preprocessor_config.json"):
        load(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"model.safetensors"):
        load(tmp_path, processors={})
    weights.write_bytes(whole)
    tensors = load_file(weights)
    tensors.pop("quantizer.codevectors")
    save_file(tensors, weights)
    with pytest.raises(CheckpointError, match=r"quantizer.codevectors"):
        load(tmp_path, processors={})
    weights.unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(CheckpointError, match="pickle"):
        load(tmp_path, processors={})


def test_an_encoder_alone_or_with_adapters_is_refused_in_words(tmp_path):
    model = reference(torch.float32, kind=theirs.Wav2Vec2Model, **SIZES)
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="encoder alone"):
        load(tmp_path, processors={})
    pair(tmp_path / "adapted", **SIZES)
    config = json.loads((tmp_path / "adapted" / "config.json").read_text())
    (tmp_path / "adapted" / "config.json").write_text(json.dumps(config | {"add_adapter": True}))
    with pytest.raises(CheckpointError, match="add_adapter"):
        load(tmp_path / "adapted", processors={})


CTC_KINDS = {
    "wav2vec2": (theirs.Wav2Vec2ForCTC, transformers.Wav2Vec2Config, {}),
    "wav2vec2 large": (theirs.Wav2Vec2ForCTC, transformers.Wav2Vec2Config, LAYOUTS["large"]),
    "hubert": (transformers.HubertForCTC, transformers.HubertConfig, {"feat_proj_layer_norm": False}),
    "hubert large": (transformers.HubertForCTC, transformers.HubertConfig, LAYOUTS["large"]),
    "blank last": (theirs.Wav2Vec2ForCTC, transformers.Wav2Vec2Config, {"pad_token_id": 8}),
}
LETTERS = ("<s>", "</s>", "<unk>", "|", "E", "T", "A", "'")


def with_symbols(folder, blank):
    tokens = [*LETTERS[:blank], "<pad>", *LETTERS[blank:]]
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return transformers.Wav2Vec2CTCTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("name", CTC_KINDS)
def test_ctc_models_give_the_logits_loss_and_gradients_of_transformers(tmp_path, name):
    kind, config, changes = CTC_KINDS[name]
    model = reference(torch.float64, kind, config, **SIZES | {"vocab_size": 9, "pad_token_id": 0} | changes)
    model.save_pretrained(tmp_path)
    ours = load(tmp_path, processors={})
    ours.encoder.network.convolutions[0].padded = True
    wave, length, attention, counted = batch_of(model, True)
    order = torch.tensor(hub.permutation(model.config.pad_token_id, 9))
    text = torch.tensor([[1, 2, 3, 3], [2, 2, 0, 0], [8, 5, 4, 0]])  # our symbols; 0 is the blank, and padding
    label = torch.where(text > 0, order[text], -100)
    wanted = model(wave, attention_mask=attention, labels=label)
    log_probs, frames = ours.emit(wave, length)
    logits = ours.out(ours.encoder(wave, length)[0])
    theirs_ = wanted.logits[..., order]
    assert torch.equal(frames, counted.sum(1))
    assert (logits - theirs_)[counted].abs().max() < 1e-12 * theirs_.abs().max()
    assert (log_probs - theirs_.float().log_softmax(-1))[counted].abs().max() < 1e-5
    batch = {"audio": wave, "audio_length": length, "text": text, "text_length": (text > 0).sum(1)}
    loss = ours.loss(batch | {"seed": torch.arange(3)}).total * (text > 0).sum()
    assert loss.item() == pytest.approx(wanted.loss.item(), rel=1e-6)  # both compute it in float32
    weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2), dtype=logits.dtype)
    (logits * weight)[counted].sum().backward()
    (theirs_ * weight)[counted].sum().backward()
    keys = hub.ctc_map(model.config.pad_token_id, 9)
    own = {k: torch.zeros_like(v) for k, v in ours.state_dict().items()}
    own = keys.to_published(own | {k: p.grad for k, p in ours.named_parameters() if p.grad is not None})
    found = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
    for key, gradient in hub.current_names(found, model.config.model_type, "here").items():
        assert (own[key] - gradient).abs().max() < 1e-11 * max(gradient.abs().max().item(), 1.0), key


@pytest.mark.parametrize("blank", [0, 8])
def test_a_ctc_folder_transcribes_as_transformers_does(tmp_path, blank):
    sizes = SIZES | {"vocab_size": 9, "pad_token_id": blank}
    model = reference(torch.float32, theirs.Wav2Vec2ForCTC, transformers.Wav2Vec2Config, **sizes)
    with torch.no_grad():
        model.lm_head.weight.mul_(8)
        model.lm_head.bias[:4] -= 5 if blank else 0
        model.lm_head.bias[1:4] -= 5
    model.save_pretrained(tmp_path)
    tokenizer = with_symbols(tmp_path, blank)
    ours = load(tmp_path)
    assert ours.text.case == "upper" and ours.text.symbols[0] == "<blank>" and " " in ours.text.symbols
    samples = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) * 0.1
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    ids = model(extractor(samples, sampling_rate=16_000, return_tensors="pt")["input_values"]).logits.argmax(-1)
    found = ours.transcribe([Waveform(samples, 16_000)])[0]
    wanted = " ".join(tokenizer.batch_decode(ids)[0].split())
    assert found.text == wanted and len(wanted) > 10
    assert found.words[0].start is not None


def test_a_missing_or_short_vocabulary_is_told_in_words(tmp_path):
    sizes = SIZES | {"vocab_size": 9, "pad_token_id": 0}
    model = reference(torch.float32, theirs.Wav2Vec2ForCTC, transformers.Wav2Vec2Config, **sizes)
    model.save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"lacks vocab.json"):
        load(tmp_path)
    (tmp_path / "vocab.json").write_text('{"<pad>": 0, "A": 1}')
    with pytest.raises(CheckpointError, match="no symbol for 2, 3"):
        load(tmp_path)
    (tmp_path / "vocab.json").write_text('{"eng": {"<pad>": 0}}')
    with pytest.raises(CheckpointError, match="several languages"):
        load(tmp_path)

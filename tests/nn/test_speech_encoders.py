"""Encoders of speech: equal to reference layers, deaf to padding, and the same while a recording still arrives."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from intermodal.core.errors import ConfigError
from intermodal.nn.conformer import ConformerBlock, RelativePositions, sinusoids
from intermodal.nn.speech_encoders import (
    CNNEncoderConfig,
    ConformerEncoderConfig,
    LSTMEncoderConfig,
    SpeechEncoder,
    SpeechEncoderConfig,
)
from intermodal.nn.time_conv import DepthwiseConv, FullConv, MapConv, TimeConv
from intermodal.nn.transformer import Attention

FEATURES = 13
WHOLE: dict[str, SpeechEncoderConfig] = {
    "lstm": LSTMEncoderConfig(width=16, depth=2, subsampling=2, dropout=0.1),
    "conformer": ConformerEncoderConfig(width=16, depth=2, heads=2, kernel=5, front="maps", maps=3),
}
LIMITED: dict[str, SpeechEncoderConfig] = {
    "lstm-ahead": LSTMEncoderConfig(width=16, depth=2, bidirectional=False, front="maps", maps=3),
    "cnn": CNNEncoderConfig(width=16, depth=3, kernel=5),
    "cnn-limited": CNNEncoderConfig(width=16, depth=3, kernel=5, look_ahead=1, subsampling=8),
    "cnn-causal": CNNEncoderConfig(width=16, depth=2, kernel=4, look_ahead=0, subsampling=1, front="maps", maps=3),
    "tdnn": CNNEncoderConfig(width=16, depth=3, kernel=3, separable=False, dilations=(1, 2), subsampling=2),
    "conformer-chunks": ConformerEncoderConfig(width=16, depth=3, heads=2, kernel=5, chunk=3, past_chunks=2),
    "conformer-no-past": ConformerEncoderConfig(width=16, depth=2, heads=2, kernel=3, chunk=1, past_chunks=0),
}
ALL = {**WHOLE, **LIMITED}


def built(config: SpeechEncoderConfig) -> SpeechEncoder:
    """Return an encoder in float64 of which no parameter is zero."""
    torch.manual_seed(0)
    encoder = config.build(FEATURES).double().eval()
    for parameter in encoder.parameters():
        if parameter.ndim < 3 and not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    return encoder


def recordings(*frames: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(len(frames), max(frames), FEATURES, dtype=torch.float64), torch.tensor(frames)


@pytest.mark.parametrize("name", ALL)
def test_padding_never_changes_a_result(name: str) -> None:
    encoder = built(ALL[name])
    feat_BTF, frames_B = recordings(61, 1, 24, 40)
    hidden_BUD, out_B = encoder(feat_BTF, frames_B)
    assert out_B.tolist() == [-(-n // encoder.stride) for n in frames_B.tolist()]
    for row, (frames, out) in enumerate(zip(frames_B.tolist(), out_B.tolist(), strict=True)):
        alone_1UD, alone_1 = encoder(feat_BTF[row : row + 1, :frames], frames_B[row : row + 1])
        assert alone_1UD.shape == (1, out, 16) and alone_1.item() == out
        torch.testing.assert_close(hidden_BUD[row, :out], alone_1UD[0], rtol=0, atol=1e-12)
        assert not hidden_BUD[row, out:].any()


@pytest.mark.parametrize("name", ALL)
def test_what_lies_in_the_padding_does_not_matter(name: str) -> None:
    encoder = built(ALL[name])
    feat_BTF, frames_B = recordings(30, 11)
    other_BTF = feat_BTF.clone()
    other_BTF[1, 11:] = 1e6
    assert torch.equal(encoder(feat_BTF, frames_B)[0], encoder(other_BTF, frames_B)[0])


@pytest.mark.parametrize("piece", [1, 7, 200])
@pytest.mark.parametrize("name", LIMITED)
def test_a_stream_gives_what_the_whole_gives(name: str, piece: int) -> None:
    encoder = built(LIMITED[name])
    feat_1TF, frames_1 = recordings(83)
    stream = encoder.stream()
    found = [stream.feed(part) for part in feat_1TF.split(piece, 1)]
    found.append(stream.finish())
    torch.testing.assert_close(torch.cat(found, 1), encoder(feat_1TF, frames_1)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", LIMITED)
def test_a_frame_is_settled_after_the_stated_look_ahead(name: str) -> None:
    encoder = built(LIMITED[name])
    assert encoder.look_ahead is not None
    feat_1TF, frames_1 = recordings(83)
    stream, out = encoder.stream(), 0
    for frame in range(83):
        out += stream.feed(feat_1TF[:, frame : frame + 1]).shape[1]
        settled = (frame - encoder.look_ahead) // encoder.stride + 1
        assert out >= settled
    hidden_1UD = encoder(feat_1TF, frames_1)[0]
    feat_1TF[:, 41:] = 0  # what comes later has no influence
    before = max(0, (40 - encoder.look_ahead) // encoder.stride + 1)
    assert torch.equal(encoder(feat_1TF, frames_1)[0][:, :before], hidden_1UD[:, :before])


@pytest.mark.parametrize("name", LIMITED)
def test_a_stream_of_nothing_is_empty(name: str) -> None:
    encoder = built(LIMITED[name])
    assert encoder.stream().finish().shape == (1, 0, 16)
    stream = encoder.stream()
    assert stream.feed(torch.zeros(1, 0, FEATURES, dtype=torch.float64)).shape == (1, 0, 16)
    assert stream.finish(torch.zeros(1, 1, FEATURES, dtype=torch.float64)).shape == (1, 1, 16)


@pytest.mark.parametrize("name", WHOLE)
def test_an_encoder_of_the_whole_has_no_stream(name: str) -> None:
    with pytest.raises(ConfigError, match="needs the whole recording"):
        built(WHOLE[name]).stream()


@pytest.mark.parametrize("name", ALL)
def test_every_parameter_is_trained_and_half_precision_works(name: str) -> None:
    encoder = built(ALL[name]).float().train()
    feat_BTF, frames_B = recordings(20, 9)
    with torch.autocast("cpu", torch.bfloat16):
        hidden_BUD, _ = encoder(feat_BTF.float(), frames_B)
    hidden_BUD.float().square().sum().backward()
    without = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without


@pytest.mark.parametrize("both", [True, False])
def test_lstm_layers_equal_torch_on_packed_sequences(both: bool) -> None:
    encoder = built(LSTMEncoderConfig(width=16, depth=1, subsampling=1, bidirectional=both))
    block = encoder.blocks[0]
    half = 8 if both else 16
    reference = nn.LSTM(16, half, batch_first=True, bidirectional=both).double()
    state = {**block.ahead.state_dict()}
    if both:
        state |= {f"{key}_reverse": value for key, value in block.back.state_dict().items()}
    reference.load_state_dict(state)
    torch.manual_seed(2)
    x_BUD, frames_B = torch.randn(4, 19, 16, dtype=torch.float64), torch.tensor([19, 1, 7, 12])
    ours, theirs = x_BUD.clone().requires_grad_(), x_BUD.clone().requires_grad_()
    valid_BU = torch.arange(19) < frames_B[:, None]
    found = block.read(ours, frames_B) * valid_BU[..., None]
    packed = nn.utils.rnn.pack_padded_sequence(theirs, frames_B, batch_first=True, enforce_sorted=False)
    wanted = nn.utils.rnn.pad_packed_sequence(reference(packed)[0], batch_first=True)[0]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    weight = torch.randn_like(wanted)
    (found * weight).sum().backward()
    (wanted * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-12)
    torch.testing.assert_close(block.ahead.weight_hh_l0.grad, reference.weight_hh_l0.grad, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("kernel", "stride", "right", "dilation"), [(5, 1, 2, 1), (5, 2, 0, 1), (3, 1, 4, 2), (4, 3, 1, 1)]
)
def test_full_convolution_equals_conv1d(kernel: int, stride: int, right: int, dilation: int) -> None:
    torch.manual_seed(0)
    ours = FullConv(6, 7, kernel, stride, right=right, dilation=dilation).double()
    theirs = nn.Conv1d(6, 7, kernel, stride, dilation=dilation).double()
    with torch.no_grad():
        theirs.weight.copy_(ours.conv.weight.squeeze(2))
        theirs.bias.copy_(ours.conv.bias)
    x_BTN = torch.randn(2, 23, 6, dtype=torch.float64)
    padded = nn.functional.pad(x_BTN.transpose(1, 2), (ours.left, ours.right))
    torch.testing.assert_close(ours(x_BTN), theirs(padded).transpose(1, 2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("right", [0, 2, 4])
def test_depthwise_convolution_equals_conv1d(right: int) -> None:
    torch.manual_seed(0)
    ours = DepthwiseConv(6, 5, right).double()
    theirs = nn.Conv1d(6, 6, 5, groups=6).double()
    with torch.no_grad():
        theirs.weight.copy_(ours.conv.weight.squeeze(2))
        theirs.bias.copy_(ours.conv.bias)
    x_BTN = torch.randn(2, 23, 6, dtype=torch.float64)
    padded = nn.functional.pad(x_BTN.transpose(1, 2), (4 - right, right))
    torch.testing.assert_close(ours(x_BTN), theirs(padded).transpose(1, 2), rtol=0, atol=1e-12)


def test_maps_equal_conv2d() -> None:
    torch.manual_seed(0)
    ours = MapConv(13, 2, 3, 2, 1).double()
    x_BCTF = torch.randn(2, 2, 21, 13, dtype=torch.float64)
    wanted = nn.functional.conv2d(x_BCTF, ours.conv.weight, ours.conv.bias, 2, 1)
    found = ours(x_BCTF.permute(0, 2, 3, 1).flatten(2)).unflatten(2, (7, 3)).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("padded", [False, True])
def test_conformer_block_equals_transformers(padded: bool) -> None:
    """The reference has a batch norm where ours has a layer norm, and no bias there: both are taken out to compare."""
    transformers = pytest.importorskip("transformers")
    reference_of = pytest.importorskip("transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer")
    config = transformers.Wav2Vec2ConformerConfig(
        hidden_size=24,
        num_attention_heads=3,
        intermediate_size=40,
        hidden_act="silu",
        conv_depthwise_kernel_size=7,
        position_embeddings_type="relative",
        attention_dropout=0.0,
        hidden_dropout=0.0,
        activation_dropout=0.0,
        conformer_conv_dropout=0.0,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    reference = reference_of.Wav2Vec2ConformerEncoderLayer(config).double()
    positions = reference_of.Wav2Vec2ConformerRelPositionalEmbedding(config).double()
    for parameter in reference.parameters():
        nn.init.normal_(parameter, std=0.3)
    reference.conv_module.batch_norm = nn.Identity()
    ours = ConformerBlock(24, 3, 40, 7).double()
    _copy_block(reference, ours)
    x = torch.randn(3, 17, 24, dtype=torch.float64)
    frames_B = torch.tensor([17, 5, 11]) if padded else torch.tensor([17, 17, 17])
    valid_BU = torch.arange(17) < frames_B[:, None]
    for row, frames in enumerate(frames_B.tolist()):  # alone: the reference does not mask its convolution
        a, b = x[row : row + 1].clone().requires_grad_(), x[row : row + 1].clone().requires_grad_()
        wanted = reference(a[:, :frames], relative_position_embeddings=positions(a[:, :frames]))
        wanted = wanted[0] if isinstance(wanted, tuple) else wanted
        found = ours(b, frames_B[row : row + 1], valid_BU[row : row + 1] if padded else None)[:, :frames]
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)  # its sinusoids are float32
        wanted.square().sum().backward()
        found.square().sum().backward()
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-4)


def _copy_block(reference: nn.Module, ours: ConformerBlock) -> None:
    """Copy transformers' conformer layer into ours."""

    def copy(target: nn.Module, source: nn.Module) -> None:
        with torch.no_grad():
            target.weight.copy_(source.weight.reshape(target.weight.shape))
            target.bias.copy_(source.bias) if getattr(source, "bias", None) is not None else target.bias.zero_()

    for half, name in ((ours.first, "ffn1"), (ours.second, "ffn2")):
        copy(half.norm, getattr(reference, f"{name}_layer_norm"))
        copy(half.fc1, getattr(reference, name).intermediate_dense)
        copy(half.fc2, getattr(reference, name).output_dense)
    copy(ours.norm, reference.self_attn_layer_norm)
    copy(ours.final_norm, reference.final_layer_norm)
    theirs = reference.self_attn
    with torch.no_grad():
        for part in ("weight", "bias"):
            rows = [getattr(getattr(theirs, f"linear_{x}"), part) for x in "qkv"]
            getattr(ours.attention.qkv, part).copy_(torch.cat(rows))
        positions = ours.attention.positions
        assert isinstance(positions, RelativePositions)
        positions.project.weight.copy_(theirs.linear_pos.weight)
        positions.u.copy_(theirs.pos_bias_u)
        positions.v.copy_(theirs.pos_bias_v)
    copy(ours.attention.out, theirs.linear_out)
    copy(ours.conv.norm, reference.conv_module.layer_norm)
    copy(ours.conv.fc1, reference.conv_module.pointwise_conv1)
    copy(ours.conv.conv.conv, reference.conv_module.depthwise_conv)
    copy(ours.conv.fc2, reference.conv_module.pointwise_conv2)
    ours.conv.norm2 = nn.Identity()


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 6), (5, 5), (3, 8)])
def test_relative_positions_are_the_papers_sum(queries: int, keys: int) -> None:
    torch.manual_seed(0)
    positions = RelativePositions(8, 2).double()
    for parameter in positions.parameters():
        nn.init.normal_(parameter)
    q, k = torch.randn(2, 2, queries, 4, dtype=torch.float64), torch.randn(2, 2, keys, 4, dtype=torch.float64)
    moved, same, bias = positions(q, k)
    r_PD = sinusoids(queries, keys, 8)
    for head, i, j in itertools.product(range(2), range(queries), range(keys)):
        distance = keys - queries + i - j
        r_K = (positions.project.weight @ r_PD[keys - 1 - distance]).unflatten(0, (2, 4))[head]
        wanted = ((q[:, head, i] + positions.u[head]) * k[:, head, j]).sum(-1) + (
            q[:, head, i] + positions.v[head]
        ) @ r_K
        found = (moved[:, head, i] * same[:, head, j]).sum(-1) + bias[:, head, i, j] * 4**0.5
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_attention_goes_onward_as_it_would_in_one(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2, positions=RelativePositions(8, 2)).to(dtype).eval()
    x_1LD = torch.randn(1, 9, 8).to(dtype)
    kept, found = None, []
    for part in x_1LD.split(4, 1):
        y, kept = attention.onward(part, kept)
        found.append(y)
    number_L = torch.arange(9) // 4
    whole = attention(x_1LD, mask=(number_L[:, None] >= number_L)[None])
    torch.testing.assert_close(torch.cat(found, 1), whole, rtol=0, atol=1e-12 if dtype == torch.float64 else 0.02)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LSTMEncoderConfig(subsampling=3), "subsampling"),
        (LSTMEncoderConfig(width=15), "even width"),
        (CNNEncoderConfig(dropout=1.0), "dropout"),
        (CNNEncoderConfig(dilations=()), "dilation"),
        (CNNEncoderConfig(dilations=(2,)), "separable=False"),
        (CNNEncoderConfig(kernel=3, look_ahead=3), "look-ahead"),
        (ConformerEncoderConfig(chunk=0), "chunk"),
        (ConformerEncoderConfig(width=10, heads=4), "multiple of its heads"),
    ],
)
def test_configurations_that_cannot_be_are_refused(config: SpeechEncoderConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.build(FEATURES)


def test_a_convolution_that_skips_inputs_is_refused() -> None:
    with pytest.raises(ConfigError, match="within the kernel"):
        TimeConv(2, 3)

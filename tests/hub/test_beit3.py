"""BEiT-3's published folders: read back what its keys say, refuse pickles and other heads; parity is in tests/parity."""

import pytest
import torch
from safetensors.torch import save_file

from intermodal.core.errors import CheckpointError, DataError
from intermodal.hub.beit3 import key_map
from intermodal.hub.load import load
from intermodal.methods.vision_language.experts import Experts, ExpertsMethodConfig
from intermodal.nn.experts import ExpertsConfig


def published(heads=("contrast",)):
    """Return experts of separate layers with random weights, and these under BEiT-3's keys."""
    network = ExpertsConfig(
        image_size=16,
        patch_size=8,
        vocab_size=40,
        context_length=10,
        pad_id=1,
        eos_id=2,
        mask_id=39,
        width=64,
        depth=2,
        fusion_depth=0,
        heads=1,
        mlp_width=256,
        layout="separate",
    )
    torch.manual_seed(0)
    model = Experts(ExpertsMethodConfig(network=network, heads=heads, embed_dim=64, code_cells=1), {}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    tensors = key_map(model.config).to_published(dict(model.state_dict()))
    return model, {k: v.clone().contiguous() for k, v in tensors.items()}


@pytest.mark.parametrize("heads", [("contrast",), ("words",), ()])
def test_what_was_saved_under_its_keys_is_read_back(heads, tmp_path):
    model, tensors = published(heads)
    save_file(tensors, tmp_path / "beit3_base_patch8_16.safetensors")
    found = load(tmp_path)
    assert isinstance(found, Experts) and found.config == model.config
    image, text = torch.randn(2, 3, 16, 16), torch.tensor([[0, 5, 6, 2], [0, 7, 2, 1]])
    torch.testing.assert_close(found.network(image, text), model.network(image, text))
    assert tensors["beit3.encoder.layers.0.self_attn.q_proj.B.weight"].shape == (64, 64)
    assert tensors["beit3.encoder.embed_positions.A.weight"].shape == (7, 64)  # two that nobody uses
    with pytest.raises(DataError, match="no tokenizer" if heads == ("contrast",) else "not trained for 'contrast'"):
        found.embed("text", ["a"])


def test_pictures_are_embedded_without_a_tokenizer(tmp_path):
    from PIL import Image

    save_file(published()[1], tmp_path / "beit3_base.safetensors")
    found = load(tmp_path).embed("image", [Image.new("RGB", (30, 20), "red"), Image.new("RGB", (9, 40), "blue")])
    assert found.shape == (2, 64)
    assert abs((found**2).sum(1) - 1).max() < 1e-5


def test_pickles_other_heads_and_missing_tensors_are_refused(tmp_path):
    (tmp_path / "beit3_base_patch16_224.pth").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(CheckpointError, match=r"only as beit3_base_patch16_224.pth, a pickle.*is refused"):
        load(tmp_path)
    tensors = published()[1]
    save_file(tensors | {"pooler.dense.weight": torch.ones(2)}, tmp_path / "beit3_base.safetensors")
    with pytest.raises(CheckpointError, match="pooler.dense.weight"):
        load(tmp_path)
    del tensors["beit3.encoder.layers.1.ffn.B.fc2.bias"]
    save_file(tensors, tmp_path / "beit3_base.safetensors")
    with pytest.raises(CheckpointError, match=r"layers.1.ffn.B.fc2.bias"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "beit3", "subln": false}')
    with pytest.raises(CheckpointError, match="subln=False is not supported"):
        load(tmp_path)

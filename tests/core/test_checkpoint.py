import errno
import json

import numpy as np
import pytest
import safetensors.torch
import torch

from intermodal.core import checkpoint
from intermodal.core.errors import CheckpointError, IntermodalError
from intermodal.methods.contrastive.clip import CLIP


@pytest.fixture
def saved(small_clip, tmp_path):
    small_clip.save(tmp_path / "model")
    return tmp_path / "model"


def edit(path, change):
    tensors = safetensors.torch.load_file(path / "model.safetensors")
    change(tensors)
    safetensors.torch.save_file(tensors, path / "model.safetensors")


def test_saved_and_loaded_is_the_same(small_clip, saved):
    again = CLIP.load(saved)
    assert again.config == small_clip.config
    assert again.processors == small_clip.processors
    for (name, a), (_, b) in zip(small_clip.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    texts = ["a red square", "ünïcode ✓"]
    assert np.array_equal(small_clip.embed("text", texts), again.embed("text", texts))
    assert all(p.requires_grad for p in again.parameters())


def test_removed_key_is_listed(saved):
    edit(saved, lambda t: t.pop("logit_scale"))
    with pytest.raises(CheckpointError, match="1 missing: logit_scale"):
        CLIP.load(saved)


def test_left_over_key_is_listed(saved):
    edit(saved, lambda t: t.update(extra=torch.zeros(2)))
    with pytest.raises(CheckpointError, match="1 left over: extra"):
        CLIP.load(saved)


def test_wrong_shape_says_expected_and_found(saved):
    edit(saved, lambda t: t.update({"text_projection.weight": torch.zeros(8, 3)}))
    with pytest.raises(CheckpointError, match=r"text_projection.weight should be \[8, 16\], found \[8, 3\]"):
        CLIP.load(saved)


def test_pickle_is_refused(saved):
    torch.save({}, saved / "extra.bin")
    with pytest.raises(CheckpointError, match=r"extra\.bin is a pickle.*refused"):
        CLIP.load(saved)


def test_truncated_weights(saved):
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cut short"):
        CLIP.load(saved)


def test_truncated_manifest(saved):
    file = saved / "intermodal.json"
    file.write_text(file.read_text()[:-30])
    with pytest.raises(CheckpointError, match="not valid JSON"):
        CLIP.load(saved)


def test_manifest_without_a_part(saved):
    data = json.loads((saved / "intermodal.json").read_text())
    del data["processors"]
    (saved / "intermodal.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match="lacks 'processors'"):
        CLIP.load(saved)


def test_newer_format_says_upgrade(saved):
    data = json.loads((saved / "intermodal.json").read_text())
    data["format"] = 99
    (saved / "intermodal.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match="upgrade"):
        CLIP.load(saved)


def test_missing_and_foreign_folders(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        CLIP.load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"has no intermodal\.json"):
        CLIP.load(tmp_path)


def test_full_disk_while_saving_keeps_the_old_checkpoint(small_clip, saved, monkeypatch):
    before = (saved / "model.safetensors").read_bytes()

    def full(*_args, **_kwargs):
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(IntermodalError, match="disk is full"):
        small_clip.save(saved)
    assert (saved / "model.safetensors").read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == ["model"]


def test_other_write_errors_keep_their_number(tmp_path, monkeypatch):
    def broken(*_args, **_kwargs):
        raise safetensors.SafetensorError("I/O error: Input/output error (os error 5)")

    monkeypatch.setattr("safetensors.torch.save_file", broken)
    with pytest.raises(OSError) as caught:
        checkpoint.write_tensors(tmp_path / "x", {"a": torch.zeros(1)})
    assert caught.value.errno == errno.EIO

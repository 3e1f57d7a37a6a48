"""Loading: good folders load, and every kind of bad one gives one clear sentence."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from intermodal.core.errors import CheckpointError, IntermodalError
from intermodal.hub import open_clip
from intermodal.hub.download import is_hub_id
from intermodal.hub.load import load
from intermodal.hub.save import export
from intermodal.methods.contrastive.clip import CLIP

WEIGHTS = "model.safetensors"


def change_config(folder, **changes):
    data = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(data | changes))


def change_tensors(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def test_a_published_folder_gives_the_same_model(model, published):
    """Weights, processors and capability survive the way out and back."""
    loaded = load(published)
    assert isinstance(loaded, CLIP)
    assert not loaded.training
    assert all(p.requires_grad and not p.is_meta for p in loaded.parameters())
    state = model.state_dict()
    assert all(torch.equal(state[k], v) for k, v in loaded.state_dict().items())
    texts = ["A red  square", "a blue circle!"]
    assert (loaded.embed("text", texts) == model.embed("text", texts)).all()
    picture = Image.new("RGB", (40, 30), "red")
    assert (loaded.embed("image", [picture]) == model.embed("image", [picture])).all()


def test_siglip_comes_back_too(model, tmp_path):
    """So does a model with SigLIP's towers and loss."""
    image = model.config.image.replace(pool="attention", pre_norm=False, patch_bias=True)
    text = model.config.text.replace(causal=False, pool="last")
    config = model.config.replace(image=image, text=text, embed_dim=16, loss="sigmoid", project_image=False)
    squash = model.processors["image"].replace(resize="squash")
    siglip = CLIP(config.replace(text_projection_bias=True), {**model.processors, "image": squash}).eval()
    export(siglip, tmp_path / "siglip")
    loaded = load(tmp_path / "siglip")
    assert loaded.processors["image"] == squash
    assert (loaded.embed("text", ["A  blue circle"]) == siglip.embed("text", ["a blue circle"])).all()
    assert all(torch.equal(siglip.state_dict()[k], v) for k, v in loaded.state_dict().items())


def test_our_own_checkpoint_and_run_folder(model, tmp_path):
    """A checkpoint folder loads, and so does the run folder around it."""
    model.save(tmp_path / "run" / "model")
    for folder in (tmp_path / "run" / "model", tmp_path / "run", str(tmp_path / "run")):
        loaded = load(folder)
        assert all(torch.equal(model.state_dict()[k], v) for k, v in loaded.state_dict().items())
    assert load(tmp_path / "run", processors={}).processors == {}


def test_our_checkpoint_of_a_published_model_is_itself_again(published, tmp_path):
    """Published, loaded, saved as ours and loaded: the same bits."""
    first = load(published)
    first.save(tmp_path / "ours")
    again = load(tmp_path / "ours")
    assert again.config == first.config
    assert again.processors == first.processors
    assert all(torch.equal(first.state_dict()[k], v) for k, v in again.state_dict().items())


def test_a_removed_key_is_named(published):
    """A missing tensor is never made up."""
    change_tensors(published, lambda t: t.pop("vision_model.post_layernorm.weight"))
    with pytest.raises(CheckpointError, match=r"1 missing: vision_model\.post_layernorm\.weight"):
        load(published)


def test_a_left_over_key_is_named(published):
    """A tensor without a place is an error."""
    change_tensors(published, lambda t: t.update({"vision_model.adapter.weight": torch.zeros(2)}))
    with pytest.raises(CheckpointError, match=r"1 left over: vision_model\.adapter\.weight"):
        load(published)


def test_a_wrong_shape_is_named(published):
    """So is one of another size."""
    change_tensors(published, lambda t: t.update({"text_projection.weight": torch.zeros(8, 15)}))
    with pytest.raises(CheckpointError, match=r"text_projection\.weight should be \[8, 16\], found \[8, 15\]"):
        load(published)


@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "model.pt"])
def test_a_pickle_alone_is_refused(published, pickle):
    """The sentence names the file and says why."""
    (published / WEIGHTS).rename(published / pickle)
    with pytest.raises(CheckpointError, match=f"{pickle}.*runs whatever code"):
        load(published)


def test_a_pickle_beside_safetensors_is_ignored(published):
    """Published folders often hold both; the pickle is never opened."""
    (published / "pytorch_model.bin").write_bytes(b"not even a pickle")
    assert isinstance(load(published), CLIP)


@pytest.mark.parametrize("keep", [0, 4, 100, -10])
def test_truncated_weights(published, keep):
    """A file cut short anywhere is an error that names it."""
    data = (published / WEIGHTS).read_bytes()
    (published / WEIGHTS).write_bytes(data[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load(published)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "preprocessor_config.json"])
def test_truncated_json(published, name):
    """So is a JSON file."""
    text = (published / name).read_text()
    (published / name).write_text(text[: len(text) // 2])
    with pytest.raises(CheckpointError, match=name):
        load(published)


@pytest.mark.parametrize("name", ["preprocessor_config.json", "tokenizer.json", WEIGHTS])
def test_a_missing_file_is_named(published, name):
    """What a model needs is never replaced by a default."""
    (published / name).unlink()
    named = "vocab.json" if name == "tokenizer.json" else name
    with pytest.raises(CheckpointError, match=named):
        load(published)


def test_the_network_alone(published):
    """With no processors asked for, none is needed, and tensors go in and out."""
    for name in ("preprocessor_config.json", "tokenizer.json"):
        (published / name).unlink()
    loaded = load(published, processors={})
    assert loaded.processors == {}
    assert loaded.encode_image(torch.zeros(2, 3, 16, 16)).shape == (2, 8)


@pytest.mark.parametrize("kind", ["blip", "t5"])
def test_an_unknown_model_type(published, kind):
    """The error says what it is and what is supported."""
    change_config(published, model_type=kind)
    with pytest.raises(CheckpointError, match=f"'{kind}'.*clip, siglip"):
        load(published)


def test_an_unknown_activation(published):
    """A setting that would change the result is refused."""
    text = json.loads((published / "config.json").read_text())["text_config"]
    change_config(published, text_config=text | {"hidden_act": "relu"})
    with pytest.raises(CheckpointError, match=r"'relu'.*quick_gelu"):
        load(published)


def test_a_tokenizer_of_another_model(published):
    """The end of the text must be where the model reads it."""
    text = json.loads((published / "config.json").read_text())["text_config"]
    change_config(published, text_config=text | {"eos_token_id": 5})
    with pytest.raises(CheckpointError, match="ends a text with id"):
        load(published)


@pytest.mark.parametrize("make", ["nothing", "empty", "file"])
def test_what_is_no_model(tmp_path, make):
    """No folder, an empty one, and a file."""
    path = tmp_path / "there"
    if make == "empty":
        path.mkdir()
    elif make == "file":
        path.write_text("x")
    with pytest.raises(CheckpointError, match={"nothing": "no model at", "empty": "holds no"}.get(make, "is a file")):
        load(path)


def shard(folder):
    """Cut the weights in two files with an index."""
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)
    places = {k: f"model-0000{1 + (n % 2)}-of-00002.safetensors" for n, k in enumerate(names)}
    for file in set(places.values()):
        save_file({k: tensors[k] for k in names if places[k] == file}, folder / file)
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / WEIGHTS).unlink()
    return places


def test_shards(published, model):
    """Weights in several files are one model."""
    shard(published)
    assert torch.equal(load(published).text_projection.weight, model.text_projection.weight)


@pytest.mark.parametrize("damage", ["gone", "moved", "escape", "no map"])
def test_bad_shards(published, damage):
    """A missing shard, a tensor elsewhere, a path out of the folder and an index without a map are errors."""
    places = shard(published)
    index = published / f"{WEIGHTS}.index.json"
    first = sorted(places)[0]
    if damage == "gone":
        (published / places[first]).unlink()
    elif damage == "moved":
        places[first] = "model-00002-of-00002.safetensors"
    elif damage == "escape":
        places[first] = "../published/model-00001-of-00002.safetensors"
    index.write_text(json.dumps({"weight_map": None if damage == "no map" else places}))
    with pytest.raises(CheckpointError, match=r"missing|do not agree|no safetensors file|no weight_map"):
        load(published)


@pytest.mark.parametrize("variable", ["INTERMODAL_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline(monkeypatch, tmp_path, variable):
    """A hub id while offline, not in the cache: the error names the switch."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv(variable, "1")
    with pytest.raises(CheckpointError, match="downloading is switched off"):
        load("nobody/has-this-model-here")


def test_downloads_never_ask_for_pickles(monkeypatch, published):
    """What is asked for is safetensors, JSON and tokenizer files; the folder that comes is loaded."""
    asked = {}

    def fake(hub_id, **options):
        asked.update(options, id=hub_id)
        return str(published)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fake)
    monkeypatch.delenv("INTERMODAL_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert isinstance(load("some/model", revision="v1"), CLIP)
    assert asked["id"] == "some/model"
    assert asked["revision"] == "v1"
    assert asked["local_files_only"] is False
    assert asked["allow_patterns"] == ["*.safetensors", "*.json", "*.txt", "*.model"]


def test_hub_ids():
    """A path is not taken for a hub id."""
    assert all(map(is_hub_id, ["gpt2", "openai/clip-vit-base-patch32", "a/b.c-d_e"]))
    assert not any(map(is_hub_id, ["", "/tmp/x", "a/b/c", "../x", "a/..", "./x", "a b", "~/x", "a/"]))


def test_open_clip_settings_that_are_not_supported(published):
    """Towers of other libraries are refused by name."""
    (published / "config.json").unlink()
    cfg = {"embed_dim": 8, "vision_cfg": {"timm_model_name": "vit_base"}, "text_cfg": {}}
    (published / open_clip.CONFIG).write_text(json.dumps({"model_cfg": cfg}))
    with pytest.raises(CheckpointError, match="timm_model_name='vit_base'"):
        load(published)


def test_open_clip_without_safetensors(published):
    """A folder whose only weights are open_clip's pickle is refused."""
    (published / "config.json").unlink()
    (published / WEIGHTS).rename(published / "open_clip_pytorch_model.bin")
    cfg = {"embed_dim": 8, "vision_cfg": {"layers": 1, "width": 64}, "text_cfg": {}}
    (published / open_clip.CONFIG).write_text(json.dumps({"model_cfg": cfg}))
    with pytest.raises(CheckpointError, match="pickle"):
        load(published, processors={})


def test_an_export_that_fails_leaves_what_was_there(model, published, monkeypatch):
    """Writing is atomic: a full disk costs nothing."""
    before = {f.name: f.read_bytes() for f in published.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("intermodal.hub.save._write_json", full)
    with pytest.raises(IntermodalError, match="disk is full"):
        export(model, published)
    assert {f.name: f.read_bytes() for f in published.iterdir()} == before
    assert [f.name for f in published.parent.iterdir()] == ["published"]


@pytest.mark.parametrize(
    "change",
    [{"image__pool": "mean"}, {"text__causal": False, "text__pad_id": 0}, {"loss": "sigmoid"}],
    ids=str,
)
def test_what_transformers_lacks_is_not_exported(model, tmp_path, change):
    """An architecture without a counterpart is an error that says what differs, and writes nothing."""
    other = CLIP(model.config.replace(**change), model.processors)
    with pytest.raises(CheckpointError, match="cannot hold this model"):
        export(other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_export_replaces_a_folder(model, published):
    """Exporting twice leaves the second, and nothing of the first."""
    (published / "old.txt").write_text("old")
    export(model, published)
    assert not (published / "old.txt").exists()
    shutil.rmtree(published)

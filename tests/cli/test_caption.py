"""``intermodal caption``: what it refuses."""

from __future__ import annotations


def test_a_model_without_captions_is_told_apart(cli, model, pictures):
    ran = cli("caption", model, pictures)
    assert ran.code and "needs a model with the capability 'caption'" in ran.sentence


def test_wrong_settings_and_no_pictures_are_one_sentence(cli, model, pictures, tmp_path):
    assert "searches and draws nothing" in cli("caption", model, pictures, "--beam", 2, "--temperature", 1).sentence
    assert "Say what to caption" in cli("caption", model).sentence
    (tmp_path / "there.jsonl").write_text("kept")
    assert "exists already" in cli("caption", model, pictures, "-o", "there.jsonl").sentence
    assert (tmp_path / "there.jsonl").read_text() == "kept"

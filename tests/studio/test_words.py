"""The page's tab about words, without a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import torch

from intermodal.data.words import Vocabulary
from intermodal.methods.contrastive.word2vec import Word2Vec, Word2VecConfig
from intermodal.studio.app import create_studio
from intermodal.studio.tab import tabs_for


@pytest.fixture
def page(tmp_path: Path) -> gr.Blocks:
    words = Vocabulary(["king", "queen", "man", "woman", "<b>"], [5, 4, 3, 2, 1], total=15)
    model = Word2Vec(Word2VecConfig(vocab_size=5, dim=2), {"text": words})
    model.centre.weight.data = torch.tensor([[1.0, 1], [1, -1], [0.1, 1], [0.1, -1], [-1, 0.5]])
    model.save(tmp_path / "my-run" / "model")
    return create_studio(tmp_path / "my-run")


def function(page: gr.Blocks, name: str) -> Any:
    return next(f.fn for f in page.fns.values() if f.fn is not None and f.fn.__name__ == name)


def test_the_tab_follows_the_capability() -> None:
    assert [t.title for t in tabs_for(("words",))] == ["Words"]


def test_questions_and_their_answers(page: gr.Blocks) -> None:
    near, analogy = function(page, "near"), function(page, "analogy")
    answer = near("king")
    assert answer.index("man") < answer.index("queen") and "0.774" in answer and "&lt;b&gt;" in answer
    assert "<b>man" not in answer
    answer = analogy("man", "king", "woman")
    assert 'im-name">queen' in answer and "3CosAdd" in answer
    assert "did you mean &#x27;king&#x27;" in near("kign") and "im-bad" in near("kign")
    assert "three words" in analogy("man", "", "woman") and "Type a word" in near("  ")

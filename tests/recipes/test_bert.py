"""A person's own text and own pairs, where SimCSE starts from, and what wrong data says."""

import json

import numpy as np
import pytest

from intermodal.core.errors import ConfigError, DataError
from intermodal.data.sentence_pairs import NextSentenceSource, PairListSource
from intermodal.recipes import get_recipe
from intermodal.train.run import fit

WORDS = ("apple", "river", "engine", "winter", "music", "garden", "letter", "harbour", "silver", "bread")


@pytest.fixture
def own_text(tmp_path):
    path = tmp_path / "my.txt"
    path.write_text(" ".join(f"The {WORDS[i % 10]} of {WORDS[i // 10 % 10]} is here again." for i in range(300)))
    return path


@pytest.fixture
def own_pairs(tmp_path):
    def write(negatives):
        path = tmp_path / f"pairs{negatives}.jsonl"
        rows = [{"text": f"{a} with {b}", "positive": f"{b} near {a}"} for a in WORDS for b in WORDS]
        if negatives:
            rows = [{**row, "negative": "something else"} for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def test_own_text_is_learnt_from_and_judged(own_text, tmp_path):
    """One command on one file: next sentences of the file itself, tokens of its own."""
    recipe = get_recipe("bert").smoke().on_named(str(own_text)).replace(train__steps=4)
    assert isinstance(recipe.source, NextSentenceSource)
    run = fit(recipe, tmp_path / "run", quiet=True)
    result = run.evaluation(recipe.final_split)
    assert 0 <= result.metrics["nsp_accuracy"] <= 1
    vectors = run.model().embed("text", ["an apple", "a river", ""])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_simcse_starts_from_that_run(own_text, tmp_path):
    """The encoder and its tokenizer are the run's; SimCSE's own projection is new, the next-sentence head is gone."""
    recipe = get_recipe("bert").smoke().on_named(str(own_text)).replace(train__steps=2)
    run = fit(recipe, tmp_path / "run", quiet=True, evaluate=False)
    simcse = get_recipe("simcse").on_named(str(own_text)).replace(init=str(run.path))
    before, after = run.model(), simcse.build()
    for name, tensor in after.encoder.state_dict().items():
        assert (tensor == before.encoder.state_dict()[name]).all(), name
    assert after.processors["text"] == before.processors["text"]
    assert after.nsp is None
    assert after.mlm is None
    assert after.config.encoder.dropout == 0.1
    assert (after.pooler.linear.weight != before.pooler.linear.weight).any()
    with_mlm = simcse.replace(mlm_weight=0.1).build()
    assert (with_mlm.mlm.bias == before.mlm.bias).all()
    tiny = simcse.replace(train__steps=2, train__batch_size=8, train__precision="fp32", train__eval_every=0)
    result = fit(tiny, tmp_path / "simcse", quiet=True).evaluation("test")
    assert {"r10", "before_r10", "chance_r10"} <= set(result.metrics)


@pytest.mark.parametrize("negatives", [False, True])
def test_own_pairs_are_learnt_from_and_judged(negatives, own_pairs, tmp_path):
    """A list with hard negatives becomes triplets."""
    recipe = get_recipe("simcse-pairs").smoke().on_named(str(own_pairs(negatives))).replace(train__steps=3)
    assert isinstance(recipe.source, PairListSource)
    assert recipe.positives == ("triplets" if negatives else "pairs")
    run = fit(recipe.replace(vocab_size=200), tmp_path / "run", quiet=True, evaluate=False)
    result = recipe.evaluate(run.model(), "validation", lambda what, share: None)
    assert result.metrics["r10"] >= result.metrics["chance_r10"] * 0.5


def test_simcse_without_its_start_says_what_to_do(own_text, tmp_path, monkeypatch):
    """No run where the recipe looks for one, and a model of another method."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"intermodal train bert --run runs/bert"):
        get_recipe("simcse").build()
    with pytest.raises(ConfigError, match=r"intermodal train word2vec --run runs/word2vec"):
        get_recipe("simcse").smoke().on_named(str(own_text)).replace(words="runs/word2vec").build()


def test_simcse_from_another_method_is_refused(tmp_path, small_clip):
    small_clip.save(tmp_path / "clip")
    with pytest.raises(ConfigError, match="holds the method 'clip'"):
        get_recipe("simcse").replace(init=str(tmp_path / "clip")).build()


def test_data_of_the_wrong_kind_is_named(own_text, own_pairs, pictures):
    """A list of pairs for text, text for pairs, pictures for either."""
    with pytest.raises(DataError, match="use simcse-pairs"):
        get_recipe("bert").on_named(str(own_pairs(False)))
    with pytest.raises(DataError, match="is no list of pairs"):
        get_recipe("simcse-pairs").on_named(str(own_text))
    for name in ("bert", "simcse"):
        with pytest.raises(DataError, match="file"):
            get_recipe(name).on_named(str(pictures))

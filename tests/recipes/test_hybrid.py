"""A person's own recordings in one command, a hidden Markov model that is there, and what is no hidden Markov model."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
import torch

from intermodal.core.errors import ConfigError, DataError
from intermodal.methods.speech.hmm import Hmm
from intermodal.methods.speech.hmm_engine import HmmPlan
from intermodal.methods.speech.hybrid import Hybrid
from intermodal.nn.spliced import SplicedEncoderConfig
from intermodal.recipes import get_recipe
from intermodal.recipes.hybrid import HybridRecipe
from intermodal.train.run import fit
from toy_speech import said, texts

NAMES = ("hybrid", "hybrid-dnn", "hybrid-tdnn", "hybrid-lstm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Forty recordings of tones for training and ten for validation, each with a text beside it."""
    root = tmp_path_factory.mktemp("tones")
    for split, count, seed in (("train", 40, 0), ("validation", 10, 1)):
        (root / split).mkdir()
        for i, text in enumerate(texts(count, seed=seed)):
            wave = said(text, 100 * seed + i)
            soundfile.write(root / split / f"{i}.wav", wave.samples, wave.rate)
            (root / split / f"{i}.txt").write_text(text)
    return root


def own(folder: Path, **changes: object) -> HybridRecipe:
    """The recipe hybrid-dnn on the folder, with networks and budgets for tones."""
    recipe = get_recipe("hybrid-dnn").on_named(str(folder))
    assert isinstance(recipe, HybridRecipe)
    return recipe.replace(
        rate=8000,
        source__speeds=(1.0,),
        first__plan=HmmPlan(passes=3, splits=0, last_passes=0),
        first__train__steps=2,
        model__features__bins=20,
        model__encoder=SplicedEncoderConfig(width=48, depth=2, context=4, dropout=0.1),
        model__augment=None,
        optim__lr=1e-2,
        optim__ema=None,
        train__steps=40,
        train__batch_size=8,
        train__eval_every=0,
        **changes,
    )


def test_own_recordings_are_learnt_from_and_judged(folder, tmp_path):
    """Letters stand for phones, the hidden Markov model is trained first, and the run's model stands alone."""
    recipe = own(folder)
    assert recipe.hmm is None and recipe.first.lexicon is None
    run = fit(recipe, tmp_path / "run", quiet=True)
    result = run.evaluation(recipe.final_split)
    assert result.metrics["wer"] < 0.1 < result.metrics["chance_wer"]
    model = run.model()
    assert isinstance(model, Hybrid)
    assert int(model.counts.sum()) > 0 and model.health() == []
    assert model.transcribe([said("CAD AB", 9)])[0].text == "CAD AB"


def test_a_trained_hidden_markov_model_is_taken_as_it_is(folder, tmp_path):
    first = own(folder)._trained()
    first.save(tmp_path / "hmm")
    method = own(folder, hmm=tmp_path / "hmm").build()
    assert isinstance(method, Hybrid)
    for name, value in first.state_dict().items():
        assert torch.equal(method.hmm.state_dict()[name], value)
    assert method.processors == first.processors
    assert isinstance(method.hmm, Hmm)


def test_what_is_no_hidden_markov_model_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="intermodal train hmm"):
        get_recipe("hybrid").replace(hmm=Path("runs/hmm")).build()
    own(folder).build().save(tmp_path / "hybrid")
    with pytest.raises(ConfigError, match="holds the method 'hybrid'"):
        own(folder, hmm=tmp_path / "hybrid").build()


def test_global_normalisation_is_fitted_on_the_recordings(folder):
    method = own(folder, model__features__cmvn="global").build()
    assert int(method.features.count) > 1000


def test_a_dictionary_that_misses_words_is_said(folder, tmp_path):
    (tmp_path / "words.dic").write_text("AB A B\nBA B A\n")
    with pytest.raises(DataError, match=r"CAD.*DC|DC.*CAD"):
        own(folder, first__lexicon=tmp_path / "words.dic").build()


@pytest.mark.parametrize("name", NAMES)
def test_the_networks_differ_in_their_encoder_alone(name):
    recipe, other = get_recipe(name), get_recipe("hybrid-dnn")
    assert recipe.model.replace(encoder=other.model.encoder) == other.model
    assert recipe.first == other.first and recipe.source == other.source

"""HMM-GMM on recordings of tones: it learns, aligns, resumes, and says what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from intermodal.core.errors import ConfigError, DataError
from intermodal.core.progress import silent
from intermodal.core.transcript import Transcribing
from intermodal.data.batches import encode, stack
from intermodal.data.lexicon import Lexicon, WordProcessor
from intermodal.decode.graph import GraphConfig
from intermodal.methods.base import TrainsNatively
from intermodal.methods.speech.hmm import Hmm
from intermodal.methods.speech.hmm_engine import HmmPlan
from toy_speech import RATE, Said, build, engine, said, texts, trained, word_times

ARPA = "\\data\\\nngram 1=5\n\n\\1-grams:\n-2.0 <unk>\n-99 <s>\n-0.5 </s>\n-0.6 AB\n-0.6 CAD\n\n\\end\\\n"


@pytest.fixture(scope="module")
def monophones(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("monophones"))


def batch_of(method: Hmm, spoken: list[str]) -> dict[str, torch.Tensor]:
    source = Said(spoken)
    return stack([encode(source.sample(i), method.inputs) for i in range(len(source))])


def test_it_learns_to_transcribe_from_a_flat_start(monophones):
    unheard = texts(10, seed=1)
    found = monophones.transcribe([said(text, 100 + i) for i, text in enumerate(unheard)])
    assert [t.text for t in found] == unheard


def test_times_of_transcripts_and_alignments_are_those_of_the_tones(monophones):
    text = "CAD AB DC"
    wanted = word_times(text)
    for words in (monophones.transcribe([said(text, 5)])[0].words, monophones.align(said(text, 5), text).words):
        assert [w.text for w in words] == text.split()
        np.testing.assert_allclose([(w.start, w.end) for w in words], wanted, atol=0.05)
    alignment = monophones.align(said(text, 5), text)
    phones = [p for p in alignment.phones if p.text != "SIL"]
    assert [p.text for p in phones] == [letter for word in text.split() for letter in word]
    assert all(a.end == pytest.approx(b.start) for a, b in zip(alignment.phones, alignment.phones[1:], strict=False))
    assert alignment.seconds == pytest.approx(said(text, 5).seconds)
    assert min(p.confidence for p in phones) > 0.3


def test_the_loss_is_what_the_engine_reports(tmp_path):
    method = build()
    work = engine(method, tmp_path, count=6)
    for number in range(2):
        work.step(number)
    with torch.no_grad():
        wanted = method.loss(batch_of(method, texts(6))).total.item()
    assert work.step(2)["loss"] == pytest.approx(wanted, rel=1e-5)
    work.close()


def test_padding_does_not_matter(monophones):
    spoken = ["AB", "CAD AB DC", "BA"]
    with torch.no_grad():
        together = monophones.loss(batch_of(monophones, spoken)).total.item()
        frames = [monophones.features.frames(len(said(t).samples)) for t in spoken]
        alone = 0.0
        for i, _ in enumerate(spoken):
            source = Said(spoken)
            one = stack([encode(source.sample(i), monophones.inputs)])
            alone += monophones.loss(one).total.item() * frames[i]
    assert together == pytest.approx(alone / sum(frames), rel=1e-5)


def test_triphones_are_tied_and_saved(tmp_path):
    method = trained(tmp_path, tied_states=40, tied_splits=1, least_state=10.0, least_gain=5.0)
    assert method.topology.roots and method.topology.pdfs > build().topology.pdfs
    assert method.config.mixtures == 2
    method.save(tmp_path / "model")
    again = Hmm.load(tmp_path / "model")
    assert again.config == method.config
    spoken = said("DC BA", 7)
    assert again.transcribe([spoken]) == method.transcribe([spoken])
    assert again.transcribe([spoken])[0].text == "DC BA"


@pytest.mark.parametrize("at", [2, 5, 9])
def test_a_run_goes_on_in_the_middle_of_a_pass_with_the_same_bits(tmp_path, at):
    plan = {"count": 7, "steps": 11, "passes": 1, "splits": 1, "tied_states": 30, "least_state": 5.0, "least_gain": 1.0}
    method, resumed = build(), build()
    whole = engine(method, tmp_path / "a", **plan)
    state = None
    for number in range(11):
        if number == at:
            state = whole.state()
            state = {k: v.copy() if hasattr(v, "copy") else v for k, v in state.items()}
            state["statistics"] = {
                k: v.copy() if isinstance(v, np.ndarray) else v for k, v in state["statistics"].items()
            }
        whole.step(number)
    second = engine(resumed, tmp_path / "b", **plan)
    second.load_state(state)
    for number in range(at, 11):
        second.step(number)
    assert resumed.config == method.config
    for (name, a), (_, b) in zip(method.state_dict().items(), resumed.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    changed = {**state, "frames": 1}
    with pytest.raises(ConfigError, match="has changed since the run began"):
        second.load_state(changed)
    whole.close(), second.close()
    assert not list(tmp_path.rglob("features.float32"))


def test_bad_data_is_named(tmp_path):
    method = build()
    assert isinstance(method, TrainsNatively)
    arguments = {"plan": HmmPlan(passes=1, splits=0), "folder": tmp_path, "progress": silent}
    with pytest.raises(DataError, match="2 words are not in the lexicon: XX, YY"):
        method.native(source=Said(["AB XX", "YY"]), steps=1, **arguments)

    class Short(Said):
        def sample(self, index, rng=None):
            sample = super().sample(index, rng)
            return {**sample, "text": "CAD CAD CAD CAD CAD CAD CAD CAD"}

    with pytest.raises(DataError, match="no recording is long enough"):
        method.native(source=Short(["AB"]), steps=1, **arguments)
    with pytest.raises(ConfigError, match="cannot be shared by 100 steps"):
        method.native(source=Said(["AB"]), steps=100, **arguments)
    assert not list(tmp_path.iterdir())
    batch = batch_of(method, ["AB"])
    batch |= {"text": batch["text"].repeat(1, 30), "text_length": batch["text_length"] * 30}
    losses = method.loss(batch)
    assert losses.total.item() == 0 and losses.parts["unfit"].item() == 1


def test_what_cannot_be_aligned_is_said(monophones):
    with pytest.raises(DataError, match="not in the lexicon: XYZ"):
        monophones.align(said("AB"), "AB XYZ")
    with pytest.raises(DataError, match="no word in the text"):
        monophones.align(said("AB"), "  ")
    with pytest.raises(DataError, match="too short for it"):
        monophones.align(said("AB"), "CAD " * 20)


def test_a_lexicon_hot_words_and_alternatives(monophones, tmp_path):
    recording = said("AB", 3)
    (tmp_path / "words.txt").write_text("BA\nDC\n", encoding="utf-8")
    only = monophones.transcribe([recording], Transcribing(lexicon=tmp_path / "words.txt"))[0]
    assert set(only.text.split()) <= {"BA", "DC"}
    hot = monophones.transcribe([recording], Transcribing(hot_words=("dc",), hot_weight=5000.0))[0]
    assert "DC" in hot.text
    wide = Hmm(monophones.config.replace(search=GraphConfig(beam=1e6, max_active=10**6)), monophones.processors)
    wide.load_state_dict(monophones.state_dict())
    several = wide.eval().transcribe([recording], Transcribing(beam=4, n_best=4))[0].alternatives
    assert len(several) > 1 and several[0].text == "AB"
    for h in several:
        assert h.score == pytest.approx(h.acoustic + h.bonus, rel=1e-6, abs=1e-3)
    with pytest.raises(DataError, match="not in the lexicon: NO"):
        monophones.transcribe([recording], Transcribing(hot_words=("NO",)))


def test_a_word_without_a_language_model_has_a_bonus_of_its_own(monophones, tmp_path):
    search = GraphConfig(beam=1e6, bonus_alone=-7.5, word_bonus=-2.5, lm_weight=1.0)
    wide = Hmm(monophones.config.replace(search=search), monophones.processors)
    wide.load_state_dict(monophones.state_dict())
    (tmp_path / "lm.arpa").write_text(ARPA, encoding="utf-8")

    def bonus(**settings):
        found = wide.eval().transcribe([said("AB CAD", 3)], Transcribing(n_best=2, beam=2, **settings))[0]
        return found.alternatives[0].bonus / len(found.words)

    assert bonus() == pytest.approx(-7.5)
    assert bonus(lm=tmp_path / "lm.arpa") == pytest.approx(-2.5)
    assert bonus(word_bonus=1.5) == bonus(word_bonus=1.5, lm=tmp_path / "lm.arpa") == pytest.approx(1.5)


def test_silence_and_one_sample_give_no_words(monophones):
    from intermodal.data.audio import Waveform

    one = monophones.transcribe([Waveform(np.zeros(1, np.float32), RATE)])[0]
    assert one.text == "" and one.words == ()
    quiet = monophones.transcribe([Waveform(np.zeros(RATE, np.float32), RATE)])[0]
    assert any("silen" in note for note in quiet.notes)


def test_a_lexicon_with_strange_phones_is_refused():
    method = build()
    strange = {**method.processors, "text": WordProcessor(lexicon=Lexicon.spelling(["XYZ"]))}
    with pytest.raises(ConfigError, match="phones that the model lacks: X, Y, Z"):
        Hmm(method.config, strange)
    with pytest.raises(ConfigError, match="needs a lexicon"):
        Hmm(method.config, {"audio": method.processors["audio"]})


def test_exactly_one_word_where_the_grammar_says_so(monophones):
    single = Hmm(monophones.config.replace(search=GraphConfig(grammar="single")), monophones.processors)
    single.load_state_dict(monophones.state_dict())
    assert single.eval().transcribe([said("CAD", 9)])[0].text == "CAD"
    assert len(single.transcribe([said("CAD AB", 9)])[0].words) == 1

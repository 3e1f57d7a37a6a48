"""The word model: what each place sees, and that all ways to score a word agree."""

from __future__ import annotations

import pytest
import torch

from intermodal.nn.language import WordModel, WordModelConfig


@pytest.fixture(params=[0, 7], ids=["log-bilinear", "hidden layer"])
def model(request) -> WordModel:
    torch.manual_seed(0)
    config = WordModelConfig(vocab_size=11, context=3, width=6, hidden=request.param)
    found = WordModel(config).double()
    torch.nn.init.normal_(found.bias)
    return found


def tokens() -> torch.Tensor:
    return torch.randint(1, 11, (2, 9), generator=torch.Generator().manual_seed(0))


def test_a_place_sees_the_last_words_and_no_others(model):
    before = model(tokens())
    for changed in range(9):
        other = tokens()
        other[:, changed] = other[:, changed] % 10 + 1
        moved = (model(other) != before).any(2).all(0)
        assert moved.tolist() == [changed <= place < changed + 3 for place in range(9)], changed


def test_before_the_first_word_there_is_padding(model):
    padded = torch.cat([torch.zeros(2, 2, dtype=torch.int64), tokens()], 1)
    torch.testing.assert_close(model(padded)[:, 2:], model(tokens()))


def test_one_word_some_words_and_all_words_have_the_same_scores(model):
    state = model(tokens())
    every = model.logits(state.flatten(0, 1)).view(2, 9, 11)
    words = torch.randint(0, 11, (2, 4), generator=torch.Generator().manual_seed(1))
    among = model.scores_among(state, words)
    torch.testing.assert_close(among, every.gather(2, words.unsqueeze(1).expand(-1, 9, -1)))
    one = model.scores_of(state.flatten(0, 1), tokens().flatten())
    torch.testing.assert_close(one, every.flatten(0, 1).gather(1, tokens().flatten().unsqueeze(1)).squeeze(1))


def test_without_a_hidden_layer_it_is_linear_in_the_words_vectors(model):
    if model.config.hidden:
        pytest.skip("the hidden layer is not linear")
    vectors = model.before(tokens())[:, :3]
    matrices = model.mix.weight.view(6, 3, 6)
    expected = torch.einsum("oci,bci->bo", matrices, vectors) + model.mix.bias
    torch.testing.assert_close(model(tokens())[:, 2], expected)


def test_flops_count_the_matrix_products():
    from torch.utils.flop_counter import FlopCounterMode

    config = WordModelConfig(vocab_size=11, context=3, width=6, hidden=7)
    with FlopCounterMode(display=False) as counter:
        WordModel(config)(tokens())
    assert counter.get_total_flops() == 18 * config.flops()

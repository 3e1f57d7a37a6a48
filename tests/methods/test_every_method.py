"""One test file over every registered method: what each must do, whatever it is."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch

from intermodal.core.capabilities import CAPABILITIES, capabilities_of
from intermodal.core.errors import DataError
from intermodal.core.fields import check_fields
from intermodal.core.registry import card, cards, load_class, parts
from intermodal.data.loader import train_loader
from intermodal.methods.base import Batch, Method
from intermodal.recipes import RECIPES, get_recipe
from intermodal.recipes.base import Recipe
from intermodal.train.optim import alone, build_optimizer
from intermodal.train.run import fit

METHODS = sorted([*cards(), *parts()])


@cache
def _recipe(method_id: str) -> Recipe:
    return get_recipe(card(method_id).recipes[0]).smoke()


@cache
def _built(method_id: str) -> Method:
    return _recipe(method_id).build()


@cache
def _first_batch(method_id: str) -> Batch:
    recipe, method = _recipe(method_id), _built(method_id)
    source = recipe.source.open("train")
    check_fields(method.needs, source.fields, method_id, source.name)
    loader, _ = train_loader(
        source,
        method.inputs,
        batch_size=recipe.train.batch_size,
        seed=recipe.train.seed,
        augment=recipe.augment,
        seeds=method.needs_seed,
    )
    return method.prepare(next(iter(loader)).tensors)


@cache
def _without_data(method_id: str) -> str:
    """Return why a method's data is not here: those that learn from no shipped set need INTERMODAL_DATA."""
    try:
        _recipe(method_id).source.open("train")
    except DataError as error:
        if "INTERMODAL_DATA is not set" not in str(error):
            raise
        return str(error)
    return ""


@pytest.fixture(params=METHODS)
def method_id(request: pytest.FixtureRequest) -> str:
    if reason := _without_data(request.param):
        pytest.skip(reason)
    return request.param


@pytest.fixture
def method(method_id: str) -> Method:
    return copy.deepcopy(_built(method_id)).train()


@pytest.fixture
def batch(method_id: str) -> Batch:
    return {k: v.clone() for k, v in _first_batch(method_id).items()}


def descend(method: Method, batch: Batch, recipe: Recipe, steps: int) -> list[float]:
    phases = method.phases()
    optimizers = [build_optimizer(method, recipe.optim.replace(lr=1e-3), phase) for phase in phases]
    losses = []
    for step in range(steps):
        method.begin_step(step, steps)
        for phase, optimizer in zip(phases, optimizers, strict=True):
            with alone(method, phase, among=phases):
                total = method(batch, phase.loss).total
                if phase is phases[0]:
                    losses.append(total.item())
                total.backward()
            optimizer.step()
            optimizer.zero_grad()
    return losses


def test_recipes_of_the_card_exist_and_are_its_own(method_id):
    for name in card(method_id).recipes:
        assert name in RECIPES
        assert get_recipe(name).method == method_id
        assert get_recipe(name).name == name


def test_capabilities_are_those_of_the_card(method_id, method):
    assert set(capabilities_of(method)) == set(card(method_id).capabilities) <= set(CAPABILITIES)


def test_loss_is_one_finite_number_and_falls(method_id, method, batch):
    losses = descend(method, batch, _recipe(method_id), steps=6)
    assert all(torch.isfinite(torch.tensor(losses)))
    assert losses[-1] < losses[0]


def test_gradients_reach_every_trainable_parameter(method_id, method, batch):
    # Layers that begin at zero stop the gradient until they have moved, as they should: in a U-Net two, one after the other.
    descend(method, batch, _recipe(method_id), steps=2)
    for phase in method.phases():
        with alone(method, phase, among=method.phases()):
            result = method(batch, phase.loss)
            assert result.total.shape == ()
            result.total.backward()
    missing = [n for n, p in method.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert missing == []


def test_parts_are_named_detached_scalars(method, batch):
    for phase in method.phases():
        for name, part in method(batch, phase.loss).parts.items():
            assert part.shape == (), name
            assert not part.requires_grad, name


def test_each_parameter_belongs_to_one_phase(method):
    for name in (name for name, parameter in method.named_parameters() if parameter.requires_grad):
        assert sum(name.startswith(phase.trains) for phase in method.phases()) == 1, name


def test_saved_and_loaded_gives_the_same_loss(method_id, method, batch, tmp_path):
    method.save(tmp_path / "model")
    again = load_class(method_id).load(tmp_path / "model")
    method.eval()
    with torch.no_grad():
        assert torch.equal(method.loss(batch).total, again.loss(batch).total)
    assert again.config == method.config


def test_same_seed_gives_the_same_bits(method_id, batch):
    recipe = _recipe(method_id)
    runs = [descend(recipe.build().train(), batch, recipe, steps=2) for _ in range(2)]
    assert runs[0] == runs[1]


def test_bfloat16_autocast_is_near_float32(method, batch):
    exact = method.loss(batch).total.item()
    with torch.autocast("cpu", torch.bfloat16):
        result = method.loss(batch).total
    result.backward()
    assert result.item() == pytest.approx(exact, rel=0.05)
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


def test_a_resumed_run_repeats_the_same_losses_bit_for_bit(method_id, tmp_path):
    recipe = _recipe(method_id).replace(train__steps=5, train__checkpoint_every=2, train__log_every=1)
    whole = fit(recipe, tmp_path / "whole", evaluate=False, quiet=True)
    part = fit(recipe.replace(train__steps=5), tmp_path / "part", evaluate=False, quiet=True)
    newest = part.checkpoints()[-1]
    for file in newest.iterdir():  # as if the run had been killed after step 4: the newest checkpoint never came to be
        file.unlink()
    newest.rmdir()
    resumed = fit(recipe, part.path, evaluate=False, quiet=True)
    losses = [[line["loss"] for line in run.metrics("train")] for run in (whole, resumed)]
    assert len(losses[0]) == 5
    assert losses[0] == losses[1]

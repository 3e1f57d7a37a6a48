"""A step of decoding in one piece of compiled code is the blocks, one by one."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from intermodal.decode.beam import beam_search
from intermodal.decode.generate import generate
from intermodal.decode.stepper import TransformerStepper
from intermodal.nn import step as compiled
from intermodal.nn.cache import KVCache
from intermodal.nn.causal import CausalConfig, CausalTransformer, llama
from intermodal.nn.rotary import RotaryConfig
from intermodal.nn.transformer import ACTIVATIONS

pytest.importorskip("numba")

SIZES = {"vocab_size": 33, "context_length": 40, "width": 48, "depth": 2, "heads": 6, "mlp_width": 100}
SLOWED = RotaryConfig(theta=100.0, factor=4.0, low=1.0, high=4.0, original_context=16)
CONFIGS = {
    **{name: CausalConfig(**SIZES, activation=name) for name in ACTIVATIONS},
    "llama": llama(**SIZES, kv_heads=2, outputs=33),
    "wide heads with biases": llama(**SIZES, kv_heads=3, head_width=20, bias=True, rotary=SLOWED),
    "one head of keys": CausalConfig(**SIZES, kv_heads=1, gated=True, norm="rms", norm_eps=1e-3),
    "large": CausalConfig(**{**SIZES, "width": 600, "mlp_width": 2400}),
}


def made(config: CausalConfig) -> CausalTransformer:
    torch.manual_seed(0)
    network = CausalTransformer(config).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.add_(torch.randn_like(parameter) * (0.3 if config.width < 100 else 0.02))
    return network


def tokens(*shape: int) -> Tensor:
    return torch.randint(33, shape, generator=torch.Generator().manual_seed(3))


class Spy:
    """Counts the steps that compiled code took."""

    def __init__(self, real: Callable[..., Tensor | None]) -> None:
        self.real, self.taken, self.on = real, 0, True

    def __call__(self, *args: Any) -> Tensor | None:
        found = self.real(*args) if self.on else None
        self.taken += found is not None
        return found


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spy]:
    watching, threads = Spy(compiled.step), torch.get_num_threads()
    monkeypatch.setattr("intermodal.nn.causal.step", watching)
    monkeypatch.setattr(compiled, "LEAST", 1)
    yield watching
    torch.set_num_threads(threads)


def read(network: CausalTransformer, ids_BL: Tensor, prompt: int = 3) -> tuple[Tensor, KVCache]:
    """Return the vectors of a prompt and of each step behind it, and the memory."""
    cache = network.new_cache()
    found = [network.hidden(ids_BL[:, :prompt], cache)]
    found += [network.hidden(ids_BL[:, i : i + 1], cache) for i in range(prompt, ids_BL.shape[1])]
    return torch.cat(found, 1), cache


@torch.no_grad()
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_is_the_blocks(spy: Spy, name: str, rows: int, threads: int) -> None:
    torch.set_num_threads(threads)
    network, ids = made(CONFIGS[name]), tokens(rows, 20)
    got, cache = read(network, ids)
    assert spy.taken == 17
    exact, kept = read(network.double(), ids)
    assert spy.taken == 17
    assert cache.length == kept.length == 20
    scale = float(exact.abs().max())
    assert float((got - exact).abs().max()) < 2e-5 * scale
    for mine, right in zip(cache.layers, kept.layers, strict=True):
        assert mine.memory is not None
        assert right.memory is not None
        difference = (mine.memory - right.memory)[:, :, :, :20].abs().max()
        assert float(difference) < 2e-5 * float(right.memory[:, :, :, :20].abs().max())


@torch.no_grad()
@pytest.mark.parametrize("name", ["gelu_tanh", "wide heads with biases", "one head of keys"])
def test_in_half_precision_it_is_nearer_to_the_exact_numbers_than_the_blocks_are(spy: Spy, name: str) -> None:
    network, ids = made(CONFIGS[name]).bfloat16(), tokens(2, 20)
    got = read(network, ids)[0]
    assert got.dtype == torch.bfloat16
    assert spy.taken == 17
    spy.on = False
    blocks, exact = read(network, ids)[0], read(network.double(), ids)[0]
    assert float((got - exact).norm()) < float((blocks - exact).norm())


@torch.no_grad()
def test_it_depends_neither_on_threads_nor_on_who_else_decodes(spy: Spy) -> None:
    network = made(CONFIGS["large"])
    torch.set_num_threads(1)
    ids = [tokens(1, 12), tokens(2, 12), tokens(4, 12)]
    alone = [read(network, own)[0] for own in ids]
    torch.set_num_threads(2)

    def again(own: Tensor) -> Tensor:
        with torch.no_grad():
            return read(network, own)[0][:, 3:]

    with ThreadPoolExecutor(3) as pool:
        for first, found in zip(alone * 4, pool.map(again, ids * 4), strict=True):
            # the prompt goes through torch, whose sums do depend on threads
            torch.testing.assert_close(found, first[:, 3:], rtol=1e-4, atol=1e-4)
        one, two = read(network, ids[0], 1)[0], read(network, ids[0], 1)[0]
    assert torch.equal(one, two)


def test_searches_find_the_same(spy: Spy) -> None:
    network, prompt = made(CONFIGS["llama"]), tokens(1, 4)

    def search() -> tuple[list[int], list[list[int]]]:
        stepper = TransformerStepper(network)
        beams = beam_search(stepper, prompt, 12, beams=3, end=7)
        return generate(stepper, prompt, 20).tolist(), [beam.tokens.tolist() for beam in beams[0]]

    quick = search()
    assert spy.taken > 25
    spy.on = False
    assert search() == quick


@torch.no_grad()
def test_it_goes_on_where_the_memory_grew_or_was_chosen_from_or_the_weights_changed(spy: Spy) -> None:
    ids = tokens(2, 12)

    def go() -> list[Tensor]:
        torch.manual_seed(5)
        own = made(CONFIGS["llama"])
        cache = own.new_cache(8)
        found = [own.hidden(ids[:, :4], cache), own.hidden(ids[:, 4:5], cache)]
        cache.grow(20)
        found.append(own.hidden(ids[:, 5:6], cache))
        cache.reorder(torch.tensor([1, 0, 1]))
        found.append(own.hidden(tokens(3, 1), cache))
        for parameter in own.parameters():
            parameter.data = parameter * 1.1  # other memory
        found.append(own.hidden(tokens(3, 1), cache))
        cache.forget(5)
        found.append(own.hidden(tokens(3, 1), cache))
        own.transformer.blocks[0].mlp.fc1.weight.mul_(0.5)
        found.append(own.hidden(tokens(3, 1), cache))
        assert cache.length == 7
        return found

    quick = go()
    assert spy.taken == 6
    spy.on = False
    for mine, right in zip(quick, go(), strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-4, atol=1e-4)


class Louder(nn.Linear):
    """A layer that someone put in place of another."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def replace(network: CausalTransformer) -> None:
    old = network.transformer.blocks[1].mlp.fc2
    new = Louder(old.in_features, old.out_features)
    new.load_state_dict(old.state_dict())
    network.transformer.blocks[1].mlp.fc2 = new


def watch(network: CausalTransformer) -> None:
    network.transformer.blocks[1].attention.register_forward_hook(lambda _, __, y: y * 2)


@torch.no_grad()
@pytest.mark.parametrize("change", [replace, watch])
def test_other_parts_and_watched_ones_are_called(spy: Spy, change: Callable[[CausalTransformer], None]) -> None:
    plain, other = made(CONFIGS["gelu"]), made(CONFIGS["gelu"])
    change(other)
    assert not torch.allclose(read(plain, tokens(1, 6))[0][:, -1], read(other, tokens(1, 6))[0][:, -1], atol=1e-3)
    assert spy.taken == 3


@torch.no_grad()
def test_what_is_watched_from_some_step_on_is_called_from_there(spy: Spy) -> None:
    network, seen = made(CONFIGS["gelu"]), []
    _, cache = read(network, tokens(1, 6))
    handle = network.transformer.blocks[0].norm1.register_forward_hook(lambda *_: seen.append(1))
    network.hidden(tokens(1, 1), cache)
    assert seen == [1]
    handle.remove()
    network.hidden(tokens(1, 2), cache)
    network.hidden(tokens(1, 1), cache)
    assert seen == [1]
    assert spy.taken == 4


@torch.no_grad()
def test_where_it_is_not_for_blocks_go_one_by_one(spy: Spy) -> None:
    network, ids = made(CONFIGS["gelu"]), tokens(5, 6)
    read(network, ids)  # too many sequences
    cache = network.new_cache(padding_B=torch.tensor([0, 2]))
    network.hidden(ids[:2, :4], cache)
    network.hidden(ids[:2, 4:5], cache)  # prompts of different lengths
    network.hidden(ids[:1, :1], network.new_cache())  # nothing is kept yet
    network.train()
    cache = network.new_cache()
    network.hidden(ids[:1, :4], cache)
    network.hidden(ids[:1, 4:5], cache)
    network.eval()
    with torch.autocast("cpu", torch.bfloat16):
        network.hidden(ids[:1, 5:6], network.new_cache())
    assert spy.taken == 0


def test_a_gradient_is_refused_as_ever(spy: Spy) -> None:
    network, cache = made(CONFIGS["gelu"]).requires_grad_(True), made(CONFIGS["gelu"]).new_cache()
    with torch.no_grad():
        network.hidden(tokens(1, 3), cache)
    with pytest.raises(ValueError, match="keeps no gradients"):
        network.hidden(tokens(1, 1), cache)
    assert spy.taken == 0


@torch.no_grad()
def test_a_full_memory_refuses_as_ever(spy: Spy) -> None:
    network, cache = made(CONFIGS["gelu"]), made(CONFIGS["gelu"]).new_cache(4)
    network.hidden(tokens(1, 3), cache)
    network.hidden(tokens(1, 1), cache)
    assert spy.taken == 1
    with pytest.raises(ValueError, match="room for 4 positions"):
        network.hidden(tokens(1, 1), cache)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_no_number_stays_none(spy: Spy, dtype: torch.dtype) -> None:
    network, cache = made(CONFIGS["silu"]).to(dtype), made(CONFIGS["silu"]).new_cache()
    network.hidden(tokens(2, 3), cache)
    network.token_embedding.weight[5] = float("nan")
    got = network.hidden(torch.tensor([[5], [6]]), cache)
    assert spy.taken == 1
    assert bool(got[0].isnan().all())
    assert bool(got[1].isfinite().all())

"""ClipCap's decoder beside transformers' GPT2LMHeadModel with inputs_embeds: logits, loss and gradients behind a prefix."""

from __future__ import annotations

import pytest
import torch

transformers = pytest.importorskip("transformers")

from intermodal.hub.load import load  # noqa: E402
from intermodal.methods.captioning.clipcap import ClipCap  # noqa: E402
from intermodal.methods.captioning.language import LanguageDecoder  # noqa: E402
from published_language import TEXTS, reference  # noqa: E402
from toy_joint import clip  # noqa: E402


@pytest.mark.parametrize("name", ["small", "inner"])
@pytest.mark.parametrize("mapping", ["mlp", "transformer"])
def test_logits_loss_and_gradients_behind_a_prefix(name, mapping, tmp_path):
    theirs, tokenizer = reference("gpt2", name)
    theirs.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    decoder = load(tmp_path)
    assert isinstance(decoder, LanguageDecoder)
    torch.manual_seed(5)
    sizes = {"prefix": 5, "mapping": mapping, "spread": 2, "depth": 1, "heads": 2}
    model = ClipCap.over(clip(), decoder, length=24, **sizes).double().eval()
    theirs = theirs.double()

    text = torch.stack([model.writes.encode(t) for t in TEXTS[:3]])
    real = model.writes.real(text)
    vectors = torch.nn.functional.normalize(torch.randn(3, 12, dtype=torch.float64), dim=1)
    ours = model.mapping(vectors)
    prefix = ours.detach().clone().requires_grad_()
    words = theirs.transformer.wte(text)
    labels = torch.cat([torch.full((3, 5), -100), text.masked_fill(~real, -100)], 1)
    read = torch.cat([prefix, words], 1)
    seen = torch.cat([torch.ones(3, 5, dtype=torch.bool), real], 1)
    wanted = theirs(inputs_embeds=read, attention_mask=seen, labels=labels)
    loss = torch.nn.functional.cross_entropy(wanted.logits[:, 4:-1][real], text[real])

    found = model.nats(ours, text)
    assert float(found.detach()) == pytest.approx(float(wanted.loss.detach()), rel=1e-6)  # theirs, in single precision
    assert float(found.detach()) == pytest.approx(float(loss.detach()), rel=1e-10)
    logits, targets = model.predicted(ours, text)
    scale = wanted.logits.detach().abs().max()
    assert torch.equal(targets, text[real])
    assert (logits - wanted.logits[:, 4:-1][real]).detach().abs().max() < 1e-9 * scale

    found.backward()
    loss.backward()
    (again,) = torch.autograd.grad(model.mapping(vectors), list(model.mapping.parameters())[-1:], prefix.grad)
    (mine,) = [list(model.mapping.parameters())[-1].grad]
    assert (again - mine).abs().max() < 1e-9 * mine.abs().max()
    table = theirs.transformer.wte.weight.grad
    assert (model.language.network.token_embedding.weight.grad - table).abs().max() < 1e-9 * table.abs().max()


def test_greedy_tokens_behind_a_prefix_are_theirs(tmp_path):
    theirs, tokenizer = reference("gpt2", "small")
    theirs.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = ClipCap.over(clip(), load(tmp_path), length=24, prefix=5).eval()
    prefix = torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(6))
    wanted = theirs.generate(
        inputs_embeds=prefix,
        attention_mask=torch.ones(3, 5),
        max_new_tokens=12,
        do_sample=False,
        pad_token_id=tokenizer.eos_token_id,
    )
    from intermodal.decode.generate import generate

    found = generate(*model.after(prefix), 12, end=model.end)
    assert found.tolist() == wanted.tolist()

"""How near a language model trained by NCE comes to the softmax, over the number of noise samples.

``python benchmarks/nce_noise.py [--steps 800] [--out benchmarks/results/curves]`` trains the recipe ``nce`` with each k,
and with the softmax objective, from the same weights on the same batches, and judges each by its perplexity on the same
held-out texts, normalised over the whole vocabulary. It is no contest of times (``nce_step.py`` is): what it writes is the
curve of the handbook's page.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import math
import sys
import time
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import harness  # noqa: E402
from intermodal.core.files import write_json  # noqa: E402
from intermodal.core.progress import silent  # noqa: E402
from intermodal.data.loader import train_loader  # noqa: E402
from intermodal.evaluate.language_model import Counts, encode_texts, model_figures  # noqa: E402
from intermodal.methods.contrastive.nce import NCE  # noqa: E402
from intermodal.recipes import get_recipe  # noqa: E402
from intermodal.recipes.nce import NCERecipe  # noqa: E402
from intermodal.train.optim import build_optimizer, learning_rate  # noqa: E402

NOISE = (1, 5, 25, 100, 400)
JUDGED = 3000
"""Held-out texts."""


def train(recipe: NCERecipe, first: NCE, batches: list[dict[str, torch.Tensor]]) -> tuple[NCE, float]:
    """Train one model on the batches, as the training loop does; return it and the CPU seconds."""
    method = NCE(recipe.model.replace(network=first.config.network), first.processors)
    method.load_state_dict(first.state_dict())
    method.train()
    optimizer, rate = build_optimizer(method, recipe.optim), learning_rate(recipe.optim, len(batches))
    start = time.process_time()
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        with torch.autocast("cpu", torch.bfloat16):
            total = method.loss(method.prepare(batch)).total
        total.backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), recipe.optim.clip_norm or float("inf"))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return method, time.process_time() - start


def main() -> int:
    """Train every model, print and write what each reaches."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "curves")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = get_recipe("nce")
    assert isinstance(recipe, NCERecipe)
    first = recipe.build()
    assert isinstance(first, NCE)
    source, held_out = recipe.source.open("train"), recipe.source.open("test")
    loader, sampler = train_loader(
        source, first.inputs, batch_size=recipe.train.batch_size, seed=recipe.train.seed, seeds=True
    )
    batches: list[dict[str, torch.Tensor]] = []
    for epoch in range(1_000_000):
        sampler.set_epoch(epoch)
        for batch in loader:
            batches.append(batch.tensors)
            if len(batches) == options.steps:
                break
        if len(batches) == options.steps:
            break
    processor = first.processors["text"]
    counts = Counts.of(encode_texts(source.texts(), processor), processor.vocab_size)
    judged = encode_texts([held_out.text(i) for i in range(min(JUDGED, len(held_out)))], processor)
    pairs = [pair for text in judged for pair in itertools.pairwise(text.tolist())]
    before, after = torch.tensor(pairs).T.numpy()
    report = {
        "what": "perplexity on held-out text over k, the same budget for all",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": harness.hardware(),
        "threads": options.threads,
        "steps": options.steps,
        "batch": recipe.train.batch_size,
        "vocabulary": processor.vocab_size,
        "words": len(pairs),
        "unigram": math.exp(-float(counts.unigram(after).mean())),
        "bigram": math.exp(-float(counts.kneser_ney(before, after).mean())),
        "models": [],
    }
    print({k: v for k, v in report.items() if k != "models"}, flush=True)
    for name, changes in [
        *((f"k = {k}", {"model__noise_samples": k}) for k in NOISE),
        ("softmax", {"model__objective": "softmax"}),
    ]:
        method, seconds = train(recipe.replace(**changes), first, batches)
        found = model_figures(method, held_out, silent, JUDGED)
        row = {
            "name": name,
            "noise_samples": changes.get("model__noise_samples"),
            "perplexity": math.exp(-found["mean"]),
            "log_normaliser_mean": float(found["normalisers"].mean()),
            "log_normaliser_std": float(found["normalisers"].std()),
            "cpu_s": seconds,
        }
        report["models"].append(row)
        print(row, flush=True)
        write_json(options.out / "nce_noise.json", report)
    return 0


if __name__ == "__main__":
    sys.exit(main())

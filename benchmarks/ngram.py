"""N-gram language models: scoring and loading beside kenlm, and estimation, all in one process.

``python benchmarks/ngram.py [--words N]``: a 3-gram of the first N words of the text set (2,000,000 by default), estimated
here, written as ARPA, and read by both. Scored are 20,000 lines from further on in the same text, unknown words among them;
they are strings, so that cutting into words and looking them up counts. Processor seconds, the best of five.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from intermodal.data.catalog import find
from intermodal.data.table import read_parquet
from intermodal.decode.kneser_ney import estimate
from intermodal.decode.ngram import NGram

SENTENCES, ROUNDS = 20_000, 5


def lines() -> Iterator[str]:
    for text in read_parquet(find("text-15m")).column("text").to_pylist():
        yield from (line for line in text.split("\n") if line.strip())


def best(work: Callable[[], Any], rounds: int = ROUNDS) -> float:
    took = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        took.append(time.process_time() - start)
    return min(took)


def main() -> None:
    import kenlm

    parser = argparse.ArgumentParser()
    parser.add_argument("--words", type=int, default=2_000_000)
    wanted = parser.parse_args().words
    source, count = lines(), 0
    training = []
    for line in source:
        training.append(line)
        count += len(line.split())
        if count >= wanted:
            break
    asked = list(itertools.islice(source, SENTENCES))
    estimate(["a b c d e"] * 9, 3)  # compiled once
    start = time.process_time()
    model = estimate(training, 3).model
    took = time.process_time() - start
    print(
        f"estimation: {count:,} words, {sum(model.counts):,} entries, {took:.2f} s, {count / took:,.0f} words a second"
    )
    with tempfile.TemporaryDirectory() as folder:
        arpa, binary = Path(folder) / "a.arpa", Path(folder) / "a.lm"
        model.write(arpa)
        model.write(binary)
        kenlm_arpa = best(lambda: kenlm.Model(str(arpa)), 2)
        other = kenlm.Model(str(arpa))
        own_arpa, own_binary = best(lambda: NGram.read(arpa), 2), best(lambda: NGram.read(binary))
        model = NGram.read(arpa)
        words = sum(len(text.split()) for text in asked)
        ours, theirs = model.scores(asked), np.array([other.score(text) for text in asked]) * np.log(10)
        print(
            f"largest difference of a sentence's score: {np.abs(ours - theirs).max():.2e} of {np.abs(theirs).max():.0f}"
        )
        own_speed, their_speed = best(lambda: model.scores(asked)), best(lambda: [other.score(t) for t in asked])
        print(
            f"scoring {words:,} words: ours {own_speed:.3f} s, kenlm {their_speed:.3f} s, {their_speed / own_speed:.2f}x"
        )
        print(f"loading ARPA: ours {own_arpa:.2f} s, kenlm {kenlm_arpa:.2f} s, {kenlm_arpa / own_arpa:.2f}x")
        print(f"loading our binary ({binary.stat().st_size / 1e6:.0f} MB): {1000 * own_binary:.1f} ms")


if __name__ == "__main__":
    main()

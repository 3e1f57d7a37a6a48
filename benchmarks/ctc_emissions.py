"""Emissions for the benchmarks of decoding: a small network, trained here with CTC on AN4's training part for two minutes.

It is not meant to be a good recogniser, only a typical one: letters and spaces, 30 ms a frame. The seed is fixed, and what
it says of the test part is kept in ``benchmarks/out``, so that all contenders and processes see the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

FILE = Path(__file__).resolve().parent / "out" / "ctc_emissions.npz"
EPOCHS, BATCH, STACK = 16, 16, 3


class Emissions(NamedTuple):
    """What the network says.

    Attributes:
        symbols: blank "_", space, then letters.
        log_probs: of each test utterance, float64 ``(T, V)``.
        texts: what was said in them.
        training: the texts of the training part, for a language model.
    """

    symbols: list[str]
    log_probs: list[np.ndarray]
    texts: list[str]
    training: list[str]


def emissions() -> Emissions:
    """Return the emissions, from the file if it is there."""
    if not FILE.exists():
        FILE.parent.mkdir(parents=True, exist_ok=True)
        _make()
    data = np.load(FILE)
    log_probs = np.split(data["log_probs"].astype(np.float64), np.cumsum(data["frames"])[:-1])
    symbols, texts, training = (data[name].tolist() for name in ("symbols", "texts", "training"))
    return Emissions(symbols, log_probs, texts, training)


def three_gram() -> Path:
    """Return the path of a 3-gram of the training texts, as an ARPA file."""
    from intermodal.decode import arpa
    from intermodal.decode.kneser_ney import estimate

    path = FILE.with_name("ctc_an4.arpa")
    if not path.exists():
        arpa.write(estimate(emissions().training, 3).model, path)
    return path


def _make() -> None:
    import torch
    from torch import nn

    from intermodal.data.audio import read_audio
    from intermodal.data.speech import SpeechSource
    from intermodal.losses.ctc import ctc_loss
    from intermodal.nn.feature_config import FeatureConfig
    from intermodal.nn.speech_features import SpeechFeatures

    torch.manual_seed(0)
    features = SpeechFeatures(FeatureConfig.kaldi(cmvn="utterance"))

    def load(split: str) -> tuple[list[torch.Tensor], list[str]]:
        source, frames, texts = SpeechSource(path=Path("an4")).open(split), [], []
        for i in range(len(source)):
            sample = source.sample(i)
            wave = torch.from_numpy(read_audio(sample["audio"], 16000).samples)[None]
            found = features(wave)[0][0]
            frames.append(found[: len(found) // STACK * STACK].reshape(-1, STACK * found.shape[1]))
            texts.append(sample["text"])
        return frames, texts

    (train, training), (test, texts) = load("train"), load("test")
    symbols = ["_", " ", *sorted(set("".join(training)) - {" "})]
    targets = [torch.tensor([symbols.index(c) for c in text]) for text in training]

    class Net(nn.Module):
        def __init__(self, size: int, width: int = 160, layers: int = 5) -> None:
            super().__init__()
            self.first = nn.Conv1d(size, width, 5, padding=2)
            self.layers = nn.ModuleList(nn.Conv1d(width, width, 5, padding=2) for _ in range(layers))
            self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(layers))
            self.out = nn.Conv1d(width, len(symbols), 1)

        def forward(self, x_BTF: torch.Tensor) -> torch.Tensor:
            x_BWT = self.first(x_BTF.transpose(1, 2))
            for layer, norm in zip(self.layers, self.norms, strict=True):
                x_BWT = x_BWT + nn.functional.dropout(layer(norm(x_BWT).relu()), 0.15, self.training)
            return self.out(x_BWT.relu()).transpose(1, 2)

    net = Net(train[0].shape[1])
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    steps = EPOCHS * (len(train) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    pad = nn.utils.rnn.pad_sequence  # what is said of the padding does not count
    for epoch in range(EPOCHS):
        order, losses = torch.randperm(len(train)), []
        for rows in order.split(BATCH):
            if len(rows) < BATCH:
                continue
            x, y = [train[i] for i in rows], [targets[i] for i in rows]
            frames, lengths = torch.tensor([len(a) for a in x]), torch.tensor([len(a) for a in y])
            loss = ctc_loss(net(pad(x, True)), frames, pad(y, True), lengths).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"  training for emissions: epoch {epoch + 1} of {EPOCHS}, loss {np.mean(losses):.2f}", flush=True)
    net.eval()
    with torch.no_grad():
        found = [net(x[None])[0].log_softmax(-1).numpy() for x in test]
    np.savez(
        FILE,
        symbols=np.array(symbols),
        log_probs=np.concatenate(found),
        frames=[len(x) for x in found],
        texts=np.array(texts),
        training=np.array(training),
    )

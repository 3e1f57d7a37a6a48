"""Run benchmarks: ``python benchmarks/run.py [NAME ...] [--quick] [--threads N] [--out DIR]``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import harness  # noqa: E402

BENCHMARKS = (
    "contrastive_loss",
    "clip_training",
    "losses",
    "nce_step",
    "ssl_training",
    "word2vec",
    "bert_training",
    "autoencoder_kl",
    "decode",
    "generation",
    "quantizers",
    "unet",
    "sampling",
    "ctc_loss",
    "ctc_beam",
    "speech_features",
    "speech_models",
    "vision_backbones",
    "modality_experts",
    "llava",
    "reading",
)


def main() -> int:
    """Run the benchmarks that the command line names, each in a process of its own when there are several."""
    options = harness.parse(None, BENCHMARKS)
    if len(options.names) == 1:
        harness.run_benchmark(
            options.names[0],
            quick=options.quick,
            threads=options.threads,
            memory=not options.no_memory,
            out=options.out,
        )
        return 0
    rest = [argument for argument in sys.argv[1:] if argument not in options.names]
    failed = [n for n in options.names if subprocess.run([sys.executable, __file__, n, *rest], check=False).returncode]
    if failed:
        print(f"Failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

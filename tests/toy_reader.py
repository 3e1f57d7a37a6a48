"""A TrOCR of a few thousand parameters that reads lines of capitals."""

from __future__ import annotations

from typing import Any

import torch

from intermodal.data.line_processor import LineProcessor
from intermodal.data.sentences import SentenceProcessor
from intermodal.data.tokenizers import UNKNOWN, special_ids, train_characters
from intermodal.methods.vision_language.trocr import TrOCR, TrOCRConfig
from intermodal.nn.line_encoder import LineConfig
from intermodal.nn.reader import ReaderConfig


def tiny(ctc_weight: float = 0.3, **settings: Any) -> TrOCR:
    tokenizer = train_characters(["ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789."])
    start, end = special_ids(tokenizer)
    text = SentenceProcessor(tokenizer, context_length=12, eos_id=end, pad_id=end, bos_id=start)
    config = TrOCRConfig(
        image=LineConfig(height=16, most_width=96, channels=4, width=16, depth=1, heads=2),
        text=ReaderConfig(vocab_size=text.vocab_size, context_length=12, width=16, depth=1, heads=2, pad_id=end),
        start_id=start,
        eos_id=end,
        ctc_weight=ctc_weight,
        unknown_id=tokenizer.token_to_id(UNKNOWN),
        **settings,
    )
    torch.manual_seed(0)
    return TrOCR(config, {"image": LineProcessor(height=16, most_width=96), "text": text}).eval()

"""WordPiece from vocab.txt and tokenizer.json against transformers' BertTokenizerFast, and raw text through to vectors."""

import json

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="transformers, of the core group, is not installed")

from intermodal.core.errors import CheckpointError  # noqa: E402
from intermodal.data.tokenizers import train_wordpiece  # noqa: E402
from intermodal.hub.bert import make_processors  # noqa: E402
from intermodal.hub.load import load  # noqa: E402
from intermodal.hub.save import export  # noqa: E402
from intermodal.methods.contrastive.bert import BERT, BERTConfig  # noqa: E402
from intermodal.nn.bert import EncoderConfig  # noqa: E402

NASTY = [
    "Hello, WORLD!  don't re-enter\tthe\nroom…",
    "Café naïve Ångström ÀÉÎÕÜ ﬁne",
    "e\u0301 o\u0308 combining",
    "日本語と漢字 mixed 中文",
    "emoji 🙂🙂 and \u200bzero\u200dwidth \ufeff mark",
    "\x00 control \x07 bytes \ufffd",
    "unaffable unaffably un##affable [MASK] [SEP] [mask]",
    "x" * 150,
    "10,000.50 $% ^ ~ ` <tag> @user #tag",
    "ΣΊΣΥΦΟΣ Straße İstanbul ǅ",
    "",
    "   ",
    "مرحبا שלום привет",
]
TRAINING = [*NASTY, *["the unaffable café was fine, said the world to the room"] * 5]


@pytest.fixture
def folder(tmp_path):
    """A published folder with vocab.txt alone."""

    def make(settings=None, positions=24):
        vocabulary = train_wordpiece(TRAINING, 260, lower=False).get_vocab()
        config = transformers.BertConfig(
            vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=20, max_position_embeddings=positions,
        )  # fmt: skip
        torch.manual_seed(0)
        transformers.BertForPreTraining(config).save_pretrained(tmp_path / "published")
        lines = sorted(vocabulary, key=vocabulary.__getitem__)
        (tmp_path / "published" / "vocab.txt").write_text("".join(f"{w}\n" for w in lines), encoding="utf-8")
        if settings is not None:
            (tmp_path / "published" / "tokenizer_config.json").write_text(json.dumps(settings))
        return tmp_path / "published"

    return make


def reference_tokenizer(folder, **settings):
    return transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt"), **settings)


SETTINGS = [
    {},
    {"do_lower_case": False},
    {"do_lower_case": True, "strip_accents": False},
    {"do_lower_case": False, "strip_accents": True, "tokenize_chinese_chars": False},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_texts_and_pairs_have_the_same_ids(settings, folder):
    """Every nasty text alone, and every pair of neighbours with its segments, cut to 24 tokens."""
    path = folder(settings)
    processors = load(path).processors
    reference = reference_tokenizer(path, **settings)
    options = {"padding": "max_length", "truncation": True, "max_length": 24, "return_tensors": "pt"}
    wanted = reference(NASTY, **options)["input_ids"]
    assert torch.equal(processors["text"](NASTY), wanted)
    others = [*NASTY[1:], NASTY[0]]
    wanted = reference(NASTY, others, **options)
    found = processors["pair"](list(zip(NASTY, others, strict=True)))
    assert torch.equal(found[:, 0], wanted["input_ids"])
    assert torch.equal(found[:, 1], wanted["token_type_ids"])


def test_tokenizer_json_is_read_as_it_is(folder):
    """A folder with tokenizer.json and without vocab.txt gives the same ids."""
    path = folder()
    reference = reference_tokenizer(path)
    reference.save_pretrained(path)
    (path / "vocab.txt").unlink(missing_ok=True)
    wanted = reference(NASTY, padding="max_length", truncation=True, max_length=24, return_tensors="pt")["input_ids"]
    assert torch.equal(load(path).processors["text"](NASTY), wanted)


def test_raw_text_gives_the_same_vectors_and_answers(tmp_path, agree):
    """Texts in, vectors out: transformers with our export agrees with ours, for one text and for two."""
    tokenizer = train_wordpiece(TRAINING, 260)
    processors = make_processors(tokenizer, 20, sep_id=3, pad_id=0, pairs=True)
    encoder = EncoderConfig(
        vocab_size=tokenizer.get_vocab_size(), context_length=20, width=16, depth=2, heads=2, dropout=0.0
    )
    torch.manual_seed(0)
    ours = BERT(BERTConfig(encoder=encoder, mask_id=4, special_ids=(2, 3)), processors).eval()
    export(ours, tmp_path / "export")
    reference = transformers.BertForPreTraining.from_pretrained(tmp_path / "export").eval()
    reader = transformers.AutoTokenizer.from_pretrained(tmp_path / "export")
    texts = ["The unaffable CAFÉ", "said the world, and more than twenty tokens of it " * 3]
    tokens = reader(texts, padding=True, truncation=True, return_tensors="pt")
    hidden = reference.bert(**tokens).last_hidden_state
    mask = tokens["attention_mask"][..., None]
    mean = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    pair = reader([texts[0]], [texts[1]], truncation=True, return_tensors="pt")
    follows = reference(**pair).seq_relationship_logits.softmax(-1)[:, 0]
    wanted = {"vectors": mean.detach(), "follows": follows.detach()}
    found = {"vectors": torch.from_numpy(ours.embed("text", texts))}
    found["follows"] = torch.from_numpy(ours.next_sentence([(texts[0], texts[1])]))
    agree(found, wanted, "raw text")


@pytest.mark.parametrize(("flag", "pool"), [("pooling_mode_cls_token", "cls"), ("pooling_mode_mean_tokens", "mean")])
def test_pooling_of_sentence_transformers(flag, pool, folder):
    """A folder with 1_Pooling embeds as that says; another way of pooling or another module is refused."""
    path = folder()
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 16, flag: True}))
    kinds = ["sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling"]
    (path / "modules.json").write_text(json.dumps([{"type": kind} for kind in kinds]))
    assert load(path).config.pool == pool
    (path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(CheckpointError, match="max_tokens"):
        load(path)
    (path / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Dense"}]))
    with pytest.raises(CheckpointError, match="Dense"):
        load(path)


def test_damaged_tokenizers_are_named(folder):
    """A vocabulary without a special token, larger than the model, or not there."""
    path = folder()
    lines = (path / "vocab.txt").read_text(encoding="utf-8")
    (path / "vocab.txt").write_text(lines + "more\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match="ids, the model only"):
        load(path)
    (path / "vocab.txt").write_text(lines.replace("[MASK]\n", ""), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"lacks \[MASK\]"):
        load(path)
    (path / "vocab.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(path)
    (path / "vocab.txt").unlink()
    with pytest.raises(CheckpointError, match=r"lacks vocab\.txt"):
        load(path)

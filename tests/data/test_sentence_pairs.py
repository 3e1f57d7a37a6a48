"""Pairs of passages and lists of pairs: what is drawn, what is held out, and what bad input says."""

import json

import numpy as np
import pytest

from intermodal.core.errors import DataError
from intermodal.data.sentence_pairs import NEAR, NextSentenceSource, PairListSource
from intermodal.data.text import TextSource


def write_documents(folder, documents=12, sentences=20):
    """Each sentence says which document and place it is of."""
    folder.mkdir(exist_ok=True)
    for d in range(documents):
        text = " ".join(f"Document {d} sentence {s} has several plain words." for s in range(sentences))
        (folder / f"{d:02}.txt").write_text(text, encoding="utf-8")
    return TextSource(path=folder, validation_share=0.3)


def places(passage):
    """The document and sentence of each sentence of a passage."""
    words = passage.replace(".", "").split()
    return [(int(words[i + 1]), int(words[i + 3])) for i, word in enumerate(words) if word == "Document"]


def test_real_pairs_go_on_and_random_ones_are_of_another_document(tmp_path):
    source = NextSentenceSource(text=write_documents(tmp_path / "t"), words=40).open("train")
    seen = {"next": 0, "random": 0}
    for i in range(len(source)):
        sample = source.sample(i)
        first, second = map(places, sample["pair"])
        seen[sample["relation"]] += 1
        assert first == [(first[0][0], first[0][1] + k) for k in range(len(first))]
        if sample["relation"] == "next":
            assert second[0] == (first[-1][0], first[-1][1] + 1)
        else:
            assert second[0][0] != first[0][0]
    assert sum(seen.values()) == len(source)
    assert abs(seen["next"] / len(source) - 0.5) < 4 * 0.5 / np.sqrt(len(source))


def test_passages_hold_several_sentences_and_fill_the_words(tmp_path):
    """Both together reach the words asked for, and the first holds from one sentence to about three quarters."""
    source = NextSentenceSource(text=write_documents(tmp_path / "t", sentences=60), words=80).open("train")
    lengths = []
    for i in range(0, 20):
        first, second = source.sample(i)["pair"]
        lengths.append(len(places(first)))
        assert 80 <= len(first.split()) + len(second.split()) < 80 + 8
    assert min(lengths) <= 4
    assert max(lengths) >= 7


def test_random_passages_are_drawn_by_sentence(tmp_path):
    """A document of ten times the length gives ten times as many, so that it is no sign of being random."""
    folder = tmp_path / "t"
    write_documents(folder, documents=13, sentences=12)
    long = " ".join(f"Document 90 sentence {s} has several plain words." for s in range(120))
    (folder / "long.txt").write_text(long, encoding="utf-8")
    source = NextSentenceSource(text=TextSource(path=folder, validation_share=0.01), words=20).open("train")
    lengths = {places(source.sentences.text(d.start))[0][0]: len(d) for d in source.sentences.documents}
    assert lengths[90] == 120
    others = [d for d in lengths if d != 90]
    from_long = []
    for epoch in range(30):
        for i in range(len(source)):
            sample = source.sample(i, np.random.default_rng([epoch, i]))
            first, second = map(places, sample["pair"])
            if sample["relation"] == "random" and first[0][0] == others[0]:
                from_long.append(second[0][0] == 90)
    wanted = 120 / (120 + 12 * (len(others) - 1))
    assert abs(np.mean(from_long) - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / len(from_long))


def test_negatives_of_the_same_document_are_away_from_the_first_passage(tmp_path):
    text = write_documents(tmp_path / "t", sentences=40)
    source = NextSentenceSource(text=text, negatives="same", words=40).open("train")
    count = 0
    for i in range(len(source)):
        sample = source.sample(i)
        first, second = map(places, sample["pair"])
        assert second[0][0] == first[0][0]
        if sample["relation"] == "random":
            count += 1
            assert second[0][1] < first[0][1] - NEAR or second[0][1] > first[-1][1] + 1 + NEAR
    assert count > 0.3 * len(source)


def test_short_documents_have_some_random_passage(tmp_path):
    """Eight sentences are enough, whatever is drawn."""
    text = write_documents(tmp_path / "t", sentences=8)
    source = NextSentenceSource(text=text, negatives="same", words=60).open("train")
    for epoch in range(20):
        for i in range(len(source)):
            sample = source.sample(i, np.random.default_rng([epoch, i]))
            first, second = map(places, sample["pair"])
            follows = second[0] == (first[-1][0], first[-1][1] + 1)
            assert follows == (sample["relation"] == "next")


def test_one_document_gives_negatives_of_its_own(tmp_path):
    (tmp_path / "one.txt").write_text(
        " ".join(f"Document 0 sentence {s} has several plain words." for s in range(80)), encoding="utf-8"
    )
    source = NextSentenceSource(text=TextSource(path=tmp_path / "one.txt")).open("train")
    relations = {source.sample(i)["relation"] for i in range(len(source))}
    assert relations == {"next", "random"}


def test_samples_depend_on_the_generator_alone(tmp_path):
    source = NextSentenceSource(text=write_documents(tmp_path / "t")).open("validation")
    assert source.sample(3) == source.sample(3)
    drawn = [source.sample(3, np.random.default_rng(s)) for s in (1, 1, 2)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_whole_documents_are_held_out(tmp_path):
    config = NextSentenceSource(text=write_documents(tmp_path / "t"))
    train, held = ({places(t)[0][0] for t in config.open(split).texts()} for split in ("train", "validation"))
    assert train
    assert held
    assert not train & held


@pytest.mark.parametrize("text", ["One sentence only.", "Every document has one.\n"])
def test_text_in_which_nothing_follows_is_an_error(text, tmp_path):
    """One sentence, and documents of a single sentence each."""
    for d in range(10):
        (tmp_path / f"{d}.txt").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="what comes next"):
        NextSentenceSource(text=TextSource(path=tmp_path)).open("train")


def test_empty_text_and_other_encodings_are_named(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match="empty"):
        NextSentenceSource(text=TextSource(path=tmp_path / "empty.txt")).open("train")
    (tmp_path / "latin.txt").write_bytes("Ça va bien. Très bien, même. ".encode("latin-1") * 20)
    with pytest.raises(DataError, match=r"latin\.txt is not UTF-8"):
        NextSentenceSource(text=TextSource(path=tmp_path / "latin.txt")).open("train")


ROWS = [{"text": f"question {i}", "positive": f"answer, number {i}", "negative": f"nonsense {i}"} for i in range(30)]


def write_list(path, rows=ROWS):
    columns = list(rows[0])
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        lines = [mark.join(columns), *(mark.join(f'"{row[c]}"' for c in columns) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_lists_of_pairs_are_read_whole(suffix, tmp_path):
    """Every row is in one split, with its own partner; rows without negatives have no such field."""
    config = PairListSource(path=write_list(tmp_path / f"pairs{suffix}"))
    assert config.has_negatives
    splits = {split: config.open(split) for split in ("train", "validation")}
    rows = [splits[s].sample(i) for s in splits for i in range(len(splits[s]))]
    assert sorted(rows, key=lambda r: r["text"]) == sorted(ROWS, key=lambda r: r["text"])
    assert all(len(s) for s in splits.values())
    assert set(splits["train"].fields) == {"text", "positive", "negative"}
    fewer = [{k: row[k] for k in ("text", "positive")} for row in ROWS]
    config = PairListSource(path=write_list(tmp_path / f"two{suffix}", fewer))
    assert not config.has_negatives
    assert set(config.open("train").fields) == {"text", "positive"}


def test_other_columns_can_be_named(tmp_path):
    rows = [{"q": r["text"], "a": r["positive"]} for r in ROWS]
    config = PairListSource(path=write_list(tmp_path / "p.csv", rows), text="q", positive="a")
    assert config.open("train").sample(0)["positive"].startswith("answer")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_bad_lists_are_named_with_their_line(suffix, tmp_path):
    """A missing column, an empty cell, no row at all."""
    missing = write_list(tmp_path / f"missing{suffix}", [{"text": "a", "answer": "b"}] * 3)
    with pytest.raises(DataError, match="has no column 'positive'; it has text, answer"):
        PairListSource(path=missing).open("train")
    empty = write_list(tmp_path / f"empty{suffix}", [*ROWS[:3], ROWS[3] | {"positive": " "}])
    with pytest.raises(DataError, match=r"line \d: the column 'positive' is empty"):
        PairListSource(path=empty).open("train")
    none = tmp_path / f"none{suffix}"
    none.write_text("" if suffix == ".jsonl" else "text,positive\n".replace(",", "\t" if suffix == ".tsv" else ","))
    with pytest.raises(DataError, match="holds no row"):
        PairListSource(path=none).open("train")


def test_other_bad_lists_are_named(tmp_path):
    """Another ending, a file that is not there, another encoding, broken JSON, a short row, one text throughout."""
    with pytest.raises(DataError, match=r"\.csv, \.tsv or \.jsonl"):
        PairListSource(path=write_list(tmp_path / "p.csv").rename(tmp_path / "p.xls")).open("train")
    with pytest.raises(DataError, match="no list of pairs"):
        PairListSource(path=tmp_path / "nowhere.csv").open("train")
    (tmp_path / "latin.csv").write_bytes("text,positive\nça,là\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        PairListSource(path=tmp_path / "latin.csv").open("train")
    (tmp_path / "broken.jsonl").write_text('{"text": "a", "positive": "b"}\n{"text": \n')
    with pytest.raises(DataError, match="line 2, is not JSON"):
        PairListSource(path=tmp_path / "broken.jsonl").open("train")
    (tmp_path / "list.jsonl").write_text("[1, 2]\n")
    with pytest.raises(DataError, match="should be an object"):
        PairListSource(path=tmp_path / "list.jsonl").open("train")
    (tmp_path / "short.csv").write_text("text,positive\na,b\nc\n")
    with pytest.raises(DataError, match="line 3: the column 'positive' is empty"):
        PairListSource(path=tmp_path / "short.csv").open("train")
    write_list(tmp_path / "same.csv", [ROWS[0]] * 4)
    with pytest.raises(DataError, match="fewer than two different texts"):
        PairListSource(path=tmp_path / "same.csv").open("train")

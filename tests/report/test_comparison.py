"""The page of an evaluation that belongs to no single run."""

from pathlib import Path

from intermodal.evaluate.result import Evaluation, Gallery, Headline, Line, Lines, Table
from intermodal.report.comparison import comparison_page, write_comparison

TABLE = Table("All of them", "About.", ["", "k-NN"], [["one & two", 0.5]], emphasis=0)
CURVES = Lines("Curves", "", "degrees", "invariance", [Line("one", [0.0, 1.0], [1.0, 0.5])])
WRONG = Gallery("Wrong", "", [], failures=True)


def test_sections_are_there_when_they_have_something(tmp_path: Path):
    result = Evaluation("test", {"one/knn": 0.5}, [TABLE, CURVES, WRONG], headline=Headline("50 %", "A sentence."))
    path = write_comparison(tmp_path / "page.html", "Features <of> models", "one, two: frozen.", result)
    page = path.read_text(encoding="utf-8")
    for words in ("Features &lt;of&gt; models", "one, two: frozen.", "A sentence.", "one &amp; two", "Curves"):
        assert words in page, words
    for anchor in ("reaches", "pictures", "failures"):
        assert f'<section id="{anchor}"' in page or f'id="{anchor}"' in page
    assert "Recipe" not in page and "Use it" not in page
    bare = comparison_page("Title", "Lead.", Evaluation("test", {"one/knn": 0.5}, [TABLE]))
    assert 'id="failures"' not in bare and 'id="pictures"' not in bare
    assert "one · knn, on the test split." in bare, "without a headline its first figure stands there"

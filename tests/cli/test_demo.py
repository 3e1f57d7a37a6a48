"""The main job from start to end, in its smoke version: trained, judged, reported; started again, it is done already."""

from __future__ import annotations

from intermodal.cli.main import main
from intermodal.train.folder import Run


def test_demo_trains_judges_and_reports_and_goes_on_where_it_was(tmp_path, capfd):
    arguments = ["demo", "--smoke", "--no-serve", "--run", str(tmp_path / "run")]
    assert main(arguments) == 0
    out, err = capfd.readouterr()
    report = tmp_path / "run" / "report.html"
    assert out.strip() == f"Report: {report}"
    assert "Training clip" in err and "concept_r10" in out + err
    assert "data:image" in report.read_text(encoding="utf-8")
    run = Run(tmp_path / "run")
    metrics = run.evaluation("test").metrics
    assert metrics["chance_concept_r10"] < metrics["colours_concept_r10"] < 1
    before = report.stat().st_mtime_ns
    assert main(arguments) == 0
    assert "Judging" not in capfd.readouterr().err
    assert report.stat().st_mtime_ns == before

"""Thousands of mangled notebooks: each is graded, or refused in one line."""

from helpers import submissions, tiny_checks
from helpers.campaigns import campaign, pick

from minigam.course import grading, sandbox


def test_mangled_notebooks_are_graded_or_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(submissions.TESTS))
    ways = {}
    for seed in range(500, pick(520, 5500)):  # the first 500 are in tests/course/test_grading.py
        way, data = submissions.mangled(seed)
        (tmp_path / f"{seed:05d}.ipynb").write_bytes(data)
        ways[f"{seed:05d}.ipynb"] = way
    harmless = {way.__name__.strip("_") for way in submissions.HARMLESS}
    with campaign("mangled_notebooks") as c:
        for grade in grading.grade(tmp_path, sandbox.Limits(seconds=60), 2, tiny_checks):
            c.count("notebooks")
            c.count("refused", bool(grade.reason))
            texts = [grade.reason, *(v.message for v in grade.verdicts.values())]
            if any("\n" in text or "Traceback" in text for text in texts):
                c.fault(f"{grade.file}: {texts}")
            if ways[grade.file] in harmless and grade.points() != 2:
                c.fault(f"{grade.file}, {ways[grade.file]}: {grade}")
            if bool(grade.reason) == bool(grade.verdicts):
                c.fault(f"{grade.file}: neither graded nor refused, or both")

"""The tagger example: what it reads, that it learns, its table, and bad input."""

import numpy as np
import pytest
from conftest import imported_example

pytest.importorskip("thinc.api", reason="needs: pip install thinc")
pytest.importorskip("fastdrop.thinc")

SMALL = ["--width", "16", "--depth", "1", "--epochs", "2", "--sequences", "60"]


@pytest.fixture(scope="module")
def tagger():
    with imported_example("tagger") as module:
        yield module


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_words_and_tags(tagger):
    text = 'The "break" statement may, however, only occur once. See PEP 8 for it.\n\n    code = 1'
    (pairs,) = tagger.paragraphs(text.replace("PEP 8", "PEPs"))
    names = [(w, tagger.WRITTEN[t // 4], tagger.MARKS[t % 4]) for w, t in pairs]
    assert names[:4] == [
        ("the", "Capital", ""),
        ("break", "lower", ""),
        ("statement", "lower", ""),
        ("may", "lower", ","),
    ]
    assert ("once", "lower", ".") in names
    assert ("peps", "other", "") in names


def test_the_text_is_split_without_a_paragraph_in_both(tagger):
    train, test = tagger.load()
    for part in (train, test):
        assert all(f.shape == (len(t), 3) for f, t in zip(*part, strict=True))
        assert all(len(t) == tagger.SEQUENCE for t in part.tags[:-1])
        tags = np.concatenate(part.tags)
        assert 0.05 < np.mean(tags > 0) < 0.5
    words = [sum(map(len, part.tags)) for part in (train, test)]
    assert words[0] > 10_000
    assert 0.1 < words[1] / sum(words) < 0.3


def test_it_runs_and_repeats(tagger, folder, capsys):
    lines = []
    for out in ("a.png", "b.png"):
        assert tagger.main([*SMALL, "--out", out]) == 0
        text = capsys.readouterr().out
        assert (folder / out).read_bytes().startswith(b"\x89PNG")
        lines.append([line for line in text.splitlines() if line[:4] in ("tags", "F1 o")])
    assert lines[0] == lines[1]
    assert "no dropout" in text
    assert "CPU ms of it in dropout" in text
    assert not list(folder.glob("*.tmp"))


def test_it_learns(tagger, folder, monkeypatch):
    seen = []
    monkeypatch.setattr(tagger, "draw", lambda contenders, _: seen.extend(contenders))
    monkeypatch.setattr(tagger.mnist, "save", lambda *_: None)
    assert (
        tagger.main(["--width", "32", "--sequences", "300", "--epochs", "8", "--lr", "0.01"]) == 0
    )
    for contender in seen:
        assert contender.curve[-1][1] > 0.4, contender.name  # F1; all lower case would have 0
    assert seen[1].curve != seen[2].curve  # other masks


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--rate", "1"], "--rate: '1' is not a rate above 0 and below 1"),
        (["--epochs", "0"], "--epochs: '0' is not a whole number from 1 on"),
        (["--seed", "4294967296"], "--seed: '4294967296'"),
        (["--out", "nowhere/x.png"], "--out nowhere: no such folder"),
        (["--words", "3"], "--words"),
    ],
)
def test_bad_input(tagger, folder, capsys, argv, words):
    assert tagger.main([*SMALL, *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tagger.py: error: ")
    assert err.count("\n") == 1
    assert words in err

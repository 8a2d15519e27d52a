"""Lines on the console: words stay whole, colours are for terminals."""

import io

import pytest

from mdx.utils import console

_LINES = [[("right answers", "bold")], [("mdpo ", "green"), ("61.9", "")]]


class _Terminal(io.StringIO):

  def isatty(self):
    return True


def _printed(monkeypatch, file, do):
  monkeypatch.setattr(console.sys, "stdout", file)
  do()
  return file.getvalue()


@pytest.mark.parametrize("width", [40, 70])
def test_long_lines_break_between_words_and_short_ones_stay(width):
  text = ("see runs/mdpo: results.json, accuracy.png, learning_curve.png, trajectories.html\n"
          "  a  table   of  columns\n/a/path/" + "x" * 100)
  lines = console.wrapped(text, width).split("\n")
  assert "  a  table   of  columns" in lines and lines[-1] == "/a/path/" + "x" * 100
  assert all(len(line) <= width for line in lines[:-1]) and len(lines) > 3
  assert console.wrapped(text, width).split() == text.split()


def test_only_terminals_get_wrapped_lines_and_colours(monkeypatch):
  monkeypatch.delenv("NO_COLOR", raising=False)
  monkeypatch.setenv("TERM", "xterm-256color")
  monkeypatch.setenv("COLUMNS", "60")
  long = "word " * 30
  plain = "right answers\nmdpo 61.9\n"
  assert _printed(monkeypatch, io.StringIO(), lambda: console.say(long)) == long + "\n"
  assert _printed(monkeypatch, _Terminal(), lambda: console.say(long)).count("\n") > 1
  assert _printed(monkeypatch, io.StringIO(), lambda: console.table(_LINES)) == plain
  coloured = _printed(monkeypatch, _Terminal(), lambda: console.table(_LINES))
  assert "\x1b[32mmdpo" in coloured and len(coloured) > len(plain)
  monkeypatch.setenv("NO_COLOR", "1")
  assert "\x1b[32m" not in _printed(monkeypatch, _Terminal(), lambda: console.table(_LINES))

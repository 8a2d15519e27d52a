"""The tagger of time, on real sentences and on what it must leave alone."""

import json
import pathlib

import pytest

from mdx.corruption import temporal
from mdx.data.prepared import tagger

_EXTRACTS = pathlib.Path(__file__).parents[1] / "extracts"
# Of every document of extracts/dated.jsonl, read and tagged by hand.
_BY_HAND = {
    "State of the Union 1945": [("1943", "year"), ("1944", "year"), ("October", "month"),
                                ("October, 1944", "month")],
    "State of the Union 1946": [("1945", "year"), ("July 1945", "month")],
    "State of the Union 1961": [("January 20, 1953", "day"), ("1956", "year")],
    "State of the Union 1974": [("1975", "year")],
    "State of the Union 2003": [("September the 11th", "day"), ("1999", "year")],
    "PEP 373": [("January 1 2020", "day"), ("January 1 2020", "day")]}
_SIGNALS_BY_HAND = {
    # "on Leyte in October"; "in the month of October" is too far off.
    "State of the Union 1945": ["in"], "State of the Union 1946": ["in", "in"],
    "State of the Union 1961": ["On", "During"], "State of the Union 1974": [],
    "State of the Union 2003": ["Before", "in"], "PEP 373": ["on"]}


def _documents():
  return [json.loads(line) for line in (_EXTRACTS / "dated.jsonl").read_text().splitlines()]


def _found(text):
  return [(text[e.start:e.end], e.granularity) for e in tagger.expressions(text)]


@pytest.mark.parametrize("document", _documents(), ids=lambda d: d["title"])
def test_real_sentences_have_the_expressions_and_signals_found_by_hand(document):
  text = document["text"]
  assert _found(text) == _BY_HAND[document["title"]]
  signals = tagger.signals(text, tagger.expressions(text))
  assert [text[start:end] for start, end, _ in signals] == _SIGNALS_BY_HAND[document["title"]]


@pytest.mark.parametrize("text, expected", [
    ("the 4th of July, 1789", [("4th of July, 1789", "day")]),
    ("on 4 July 1976 or July 4th, 1976", [("4 July 1976", "day"), ("July 4th, 1976", "day")]),
    ("Sept. 5 and 11-Aug-2017", [("Sept. 5", "day"), ("11-Aug-2017", "day")]),
    ("2017-08-11T10:00", []), ("(2017-08-11)", [("2017-08-11", "day")]),
    ("of 7/4/1976.", [("7/4/1976", "day")]),
    ("July of 1976, AUGUST 1977", [("July of 1976", "month"), ("AUGUST 1977", "month")]),
    ("mid-1976, 1976-77 and 1976-1980.", [("mid-1976", "year"), ("1976-77", "year"),
                                          ("1976-1980", "year")]),
    # May and March are other words too.
    ("May he march in May? March on, last March.", [("May", "month"), ("March", "month")]),
    ("in may", []), ("Then it was late March", [("March", "month")])])
def test_forms_of_dates(text, expected):
  assert _found(text) == expected


@pytest.mark.parametrize("text", [
    "the 1970s and the 1970's, mid-1980s", "since the '70s",
    "the 19th century, for several weeks", "20 years ago, a decade later",
    "$1976, 1,976, 1976.5 and 3.1976", "1500 people, 1800 miles, 2000 percent, 1900%",
    "a 1500-meter race", "room B1976 of 19765", "pipermail/python-dev/2006-June/066345.html"])
def test_vague_times_and_numbers_are_left_alone(text):
  assert not _found(text)


def test_signals_stand_right_before_a_date():
  text = "before the war, in Rome in 1944; after it was over, and until July 1945 at noon"
  dates = tagger.expressions(text)
  found = tagger.signals(text, dates)
  assert [(text[a:b], c) for a, b, c in found] == [("in", 2), ("until", 2)]
  assert found[0][0] == text.index("in 1944")  # the nearest one, not that of Rome
  for distance, is_near in ((10, True), (11, False)):
    text = "after" + " " * distance + "1944"
    assert bool(tagger.signals(text, tagger.expressions(text))) == is_near
  assert {word: c for c, words in enumerate(temporal.SIGNALS) for word in words}["following"] == 1


def test_spans_do_not_overlap_and_the_longest_is_kept():
  names = tagger.Gazetteer(["April Smith", "Saddam Hussein", "Hussein", "Ann", "J. R. Doe"])
  text = "In April April Smith met Hussein, J. R. Doe's friend; not Annie, Ann-Marie or Joann."
  found = tagger.spans(text, names)
  assert [text[a:b] for a, b, _ in found] == ["In", "April", "April Smith", "Hussein", "J. R. Doe"]
  assert [k for *_, k in found] == [
      temporal.SIGNAL + 2, temporal.TEMPORAL, *map(temporal.person_kind, (
          "April Smith", "Hussein", "J. R. Doe"))]
  text = "Saddam Hussein in 1999"
  assert [text[a:b] for a, b, _ in tagger.spans(text, names)] == ["Saddam Hussein", "in", "1999"]
  assert not [x for x in tagger.spans(text) if temporal.is_person(x[2])]


def test_a_gazetteer_is_read_from_files_and_says_which_line_is_wrong(tmp_path):
  names = tagger.Gazetteer.of_files(_EXTRACTS / "names.txt")
  text = _documents()[1]["text"]
  assert [name for *_, name in names.persons(text)] == ["Stalin", "Churchill", "Attlee"]
  path = tmp_path / "names.txt"
  for wrong in ("", "Bell, Ann", "Ann\tBell", "4711", "-Ann"):
    path.write_text(f"Ann Bell\nJosé O'Neil-Núñez Jr.\n{wrong}\nX\n", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"{path}, line 3: .* is no name; write one a line") as e:
      tagger.Gazetteer.of_files(path)
    assert "\n" not in str(e.value)
  path.write_text("")
  with pytest.raises(ValueError, match="there is no name"):
    tagger.Gazetteer.of_files(path)
  with pytest.raises(ValueError, match="no data file 'nowhere.txt'"):
    tagger.Gazetteer.of_files("nowhere.txt")

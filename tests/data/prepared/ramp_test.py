"""Masked paragraphs as questions for a search agent."""

import collections
import json

import numpy as np
import pytest

from mdx.data import prepare
from mdx.data.prepared import ramp
from mdx.data.prepared import tagger

TEXT = ("It was in Leeds that Ann Bell met Churchill on July 4, 1949, with 12 others; Churchill "
        "spoke for 3 hours.")
NAMES = tagger.Gazetteer(["Ann Bell", "Churchill", "Bell"])


def test_salient_spans_occur_once_and_do_not_overlap():
  # Churchill occurs twice; 4 and 1949 lie in the date; Bell in the longer name; Leeds is listed.
  assert ramp.salient(TEXT, NAMES, ["Leeds", "Rome"]) == [
      "Leeds", "Ann Bell", "July 4, 1949", "12", "3"]
  assert ramp.salient("He ate 1 of 11.") == ["11"]  # "1" is also in 11
  assert ramp.salient("Nothing here.") == []


def test_draws_are_weighted_by_words_and_follow_the_number_of_spans():
  spans = ["Leeds", "July 4, 1949", "12"]  # weights 1, 3 and, a number, as the largest 3
  draws = [ramp.make(np.random.default_rng(i), TEXT, spans) for i in range(3000)]
  assert {len(x.spans) for x in draws} == {1, 2, 3}  # three draws with replacement
  share = lambda span, found: np.mean([span in x.spans for x in found])
  # A span of probability p is among three draws with probability 1 - (1 - p)^3.
  for span, p in (("Leeds", 1 / 7), ("July 4, 1949", 3 / 7), ("12", 3 / 7)):
    assert share(span, draws) == pytest.approx(1 - (1 - p) ** 3, abs=0.03)
  plain = [ramp.make(np.random.default_rng(i), TEXT, spans, is_weighted=False)
           for i in range(1500)]
  assert share("Leeds", plain) == pytest.approx(1 - (2 / 3) ** 3, abs=0.04)
  two = collections.Counter(len(ramp.make(np.random.default_rng(i), TEXT, spans[1:]).spans)
                            for i in range(1500))
  assert two[2] / 1500 == pytest.approx(1 / 4, abs=0.04)  # two draws half the time, then distinct
  assert len(ramp.make(np.random.default_rng(0), TEXT, spans, most=1).spans) == 1
  assert ramp.make(np.random.default_rng(0), TEXT, []) is None


def test_a_masked_span_is_nowhere_in_the_question_and_the_answer_is_the_text():
  spans = ramp.salient(TEXT, NAMES, ["Leeds"])
  for i in range(50):
    made = ramp.make(np.random.default_rng(i), TEXT, spans)
    assert made.answer == TEXT and made.text.count(ramp.MASK) == len(made.spans)
    assert not any(span in made.text for span in made.spans)
    filled = made.text
    for span in made.spans:
      filled = filled.replace(ramp.MASK, span, 1)
    assert filled == TEXT
  assert ramp.make(np.random.default_rng(0), "12 men.", ["12"]) is None  # begins with a mask


def test_a_title_takes_the_place_of_a_pronoun_or_stands_in_front():
  make = lambda text, title: ramp.make(np.random.default_rng(0), text, ramp.salient(text),
                                       title=title)
  assert make("Then she had 7 cats and she slept.", "Ann").answer == (
      "Then Ann had 7 cats and she slept.")
  assert make("The town has 7 gates.", "Leeds").text == "Leeds: The town has [mask] gates."
  assert make("Ann had 7 cats.", "Ann").answer == "Ann had 7 cats."
  assert make("The town has 7 gates.", "Gate 7") is None  # the only span is in the title


def test_lists_tables_and_addresses_are_no_paragraphs():
  text = "One 1\nline.\n\n* a list 2\n\n| a | table |\n\nhttp://x/y 3\n\n[mask] 4\n\nTwo 5."
  assert ramp.paragraphs(text) == ["One 1 line.", "Two 5."]


def test_the_command_writes_questions_by_number_of_masks(tmp_path, capsys):
  documents = tmp_path / "documents.jsonl"
  documents.write_text("".join(json.dumps(row) + "\n" for row in (
      {"text": TEXT, "title": "Leeds"}, {"text": "A house\n\nIn 1950 the town had 12 gates."},
      {"text": "The lake is deep.", "spans": ["deep"]})), encoding="utf-8")
  names = tmp_path / "names.txt"
  names.write_text("Ann Bell\n")
  output = tmp_path / "ramp.jsonl"
  args = ["ramp", f"--input={documents}", f"--names={names}", f"--output={output}"]
  prepare.main(args)
  whole = output.read_text()
  rows = [json.loads(line) for line in whole.splitlines()]
  assert len(rows) == 3 and rows[2]["spans"] == ["deep"]
  assert all(row["question"].count(ramp.MASK) == row["num_masks"] + 1 for row in rows)
  prepare.main(args)
  assert output.read_text() == whole
  prepare.main([*args, "--by_masks"])
  for number in {row["num_masks"] for row in rows}:
    stage = (tmp_path / f"ramp_{number}.jsonl").read_text().splitlines()
    assert [json.loads(x) for x in stage] == [r for r in rows if r["num_masks"] == number]
  capsys.readouterr()
  for more, message in ((["--max_masks=5"], "must be 1 to 4"), (["--field=body"], "expected texts"),
                        (["--spans_field=text"], "must be a list of texts")):
    with pytest.raises(SystemExit):
      prepare.main([*args, *more])
    assert message in capsys.readouterr().err

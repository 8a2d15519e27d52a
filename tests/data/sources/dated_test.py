"""Dated documents: sources, rows with their spans, toy news, and the persons of every month."""

import datetime
import json
import pathlib

import numpy as np
import pytest

from mdx.corruption import temporal
from mdx.data import facts
from mdx.data import pipeline
from mdx.data import prepare
from mdx.data import sources
from mdx.data import tokenizer as tokenizer_lib
from mdx.data.layouts import dated as dated_layout
from mdx.data.prepared import persons
from mdx.data.prepared import tagger
from mdx.data.sources import dated
from mdx.data.toys import news
from mdx.utils import dates

_EXTRACTS = pathlib.Path(__file__).parents[1] / "extracts"
RANGE = dict(first_date="1940-01-01", last_date="2009-12-31")


def _source(path=str(_EXTRACTS / "dated.jsonl"), **fields):
  return sources.build(dict(name="dated", path=path, holdout_every=3, **RANGE, **fields))


def _cfg(length, packing="crop", append_eos=True, source=None):
  return pipeline.read_config(dict(length=length, packing=packing, append_eos=append_eos,
                                   source=source or dict(name="news")))


def test_documents_have_their_date_and_what_is_tagged_in_them():
  source = _source(persons=str(_EXTRACTS / "names.txt"))
  train, validation = source.records("train"), source.records("validation")
  assert len(train) == 4 and len(validation) == 2  # the third and the sixth
  assert train[1]["day"] == datetime.date(1946, 1, 21).toordinal()
  assert train[1]["label"] == 12 * 6 and validation[0]["label"] == 12 * 21
  text = train[1]["text"]
  found = [(text[a:b], kind) for a, b, kind in train[1]["spans"]]
  assert ("July 1945", temporal.TEMPORAL) in found
  assert ("Stalin", temporal.person_kind("Stalin")) in found
  assert ("in", temporal.SIGNAL + 2) in found
  assert _source(granularity="year").records("train")[1]["label"] == 6
  assert not any(temporal.is_person(k) for r in _source().records("train") for *_, k in r["spans"])


def test_sentences_without_a_date_may_be_left_out_and_pieces_are_of_whole_sentences():
  # The last sentence, about "a quarter century ago", goes; the first is the title, and stays.
  (kept,) = [r for r in _source(keep="temporal").records("train") if "Potsdam" in r["text"]]
  assert "July 1945" in kept["text"] and "quarter century" not in kept["text"]
  assert dated.pieces("A title without a date. Nothing happened to us then. It was over in 1944.",
                      "temporal", 200) == ["A title without a date. It was over in 1944."]
  found = _source(document_chars=200).records("train")
  assert len(found) > 6 and max(len(r["text"]) for r in found) < 220
  assert len(found) and all(r["text"].endswith(".") for r in found)
  days = [r["day"] for r in found]
  assert sorted(set(days), key=days.index) == [r["day"] for r in _source().records("train")]


@pytest.mark.parametrize("line, message", [
    ('{"text": "a", "date": "1890-01-01"}', "line 2: the date 1890-01-01 is outside of 1940-01-01"),
    ('{"text": "a", "date": "yesterday"}', "line 2: 'yesterday' is no date; write YYYY-MM-DD"),
    ('{"text": "a", "date": 1961}', "line 2: the date '1961' does not tell its month"),
    ('{"text": "a"}', "line 2: no column 'date'"), ("[]", "line 2: expected a JSON object")])
def test_a_wrong_date_is_named_with_file_and_line(line, message, tmp_path):
  path = tmp_path / "news.jsonl"
  path.write_text('{"text": "In 1961.", "date": "1961-05-01"}\n' + line + "\n" * 2)
  with pytest.raises(ValueError, match=f"{path}, {message}") as error:
    _source(str(path)).records("train")
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("fields, message", [
    (dict(keep="some"), "data.source.keep is 'some'"),
    (dict(granularity="hour"), "choose from day"),
    (dict(document_chars=0), "data.source.document_chars must be at least 1")])
def test_wrong_fields_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    _source(**fields)


@pytest.mark.parametrize("spec", ["byte", "char", "asset:holmes_bpe512.json"])
def test_spans_of_tokens_are_those_of_their_characters(spec):
  tokenizer = tokenizer_lib.build(spec)
  text = "It was over in July 1945, said Stalin." + (" caf\u00e9 1944." if spec != "char" else "")
  offsets = tokenizer.offsets(text)
  assert len(offsets) == len(tokenizer.encode(text)) and offsets.min() == 0
  assert offsets.max() == len(text) and (np.diff(offsets[:, 0]) >= 0).all()
  record = tagger.record(text, 5, 0, tagger.Gazetteer(["Stalin"]))
  row = dated_layout.Dated().row(record, _cfg(200), tokenizer)
  kinds, begins = np.asarray(temporal.kinds(row["spans"])), row["spans"] % 2 == 1
  assert row["tokens"][0] == row["tokens"][-1] == tokenizer.eos_id
  assert list(np.flatnonzero(row["is_given"])) == [0, len(row["tokens"]) - 1]
  assert row["labels"][0] == 5 and not row["labels"][1:].any()
  expected = ["in", "July 1945", "Stalin"] + ["1944"] * (spec != "char")
  starts = np.flatnonzero(begins)
  assert len(starts) == len(expected) == begins.sum()
  for start, word in zip(starts, expected):
    end = start + 1
    while kinds[end] == kinds[start] and not begins[end]:
      end += 1
    found = tokenizer.decode(row["tokens"][start:end])
    assert found == word or spec.startswith("asset:") and found == f" {word}"


def test_a_special_token_that_stands_in_a_text_keeps_its_characters():
  chat = tokenizer_lib.build("asset:chat_bpe512.json")
  for text in ("in [EOS] 1944", "[MASK][PAD]"):
    assert len(chat.offsets(text)) == len(chat.encode(text))
    assert chat.offsets(text)[-1][1] == len(text)


def test_what_does_not_fit_is_cut_with_all_of_its_span():
  tokenizer = tokenizer_lib.build("byte")
  record = tagger.record("In July 1945.", 5, 0, None)
  for length, num_marked in ((15, 2), (13, 2), (12, 1), (9, 1), (2, 0)):
    row = dated_layout.Dated().row(record, _cfg(length, append_eos=False), tokenizer)
    assert len(row["tokens"]) == min(length, 14)
    assert (row["spans"] % 2 == 1).sum() == num_marked, length
  with pytest.raises(ValueError, match="13 tokens, of which 8 fit into data.length 10; raise it"):
    dated_layout.Dated().row(record, _cfg(10, "pad"), tokenizer)
  concat = dict(length=10, packing="concat", source=dict(name="news"))
  with pytest.raises(ValueError, match="need packing='pad' or 'crop', not 'concat'"):
    pipeline.check(concat, tokenizer)


def test_batches_have_the_spans_and_days_and_kinds_of_rows_do_not_mix():
  cfg = dict(length=40, packing="crop", source=dict(name="news", num_documents=30))
  tokenizer = tokenizer_lib.build("news")
  batch = next(iter(pipeline.build(cfg, tokenizer, split="train", batch_size=8, seed=0)))
  assert batch["spans"].shape == batch["labels"].shape == (8, 40)
  assert (batch["labels"][:, 0] > 0).all() and not batch["labels"][:, 1:].any()
  assert not batch["spans"][batch["segment_ids"] == 0].any() and not batch["loss_mask"][:, 0].any()
  assert facts.Facts(cfg).dates() == dict(first_date="2004-01-01", last_date="2005-12-31")
  mixed = dict(length=40, packing="crop", mixture=[
      dict(source=dict(name="news"), weight=1.0),
      dict(source=dict(name="memory", documents=("a",) * 9, holdout_every=3), weight=1.0)])
  with pytest.raises(ValueError, match="mix with others whose rows have the same fields only"):
    pipeline.build(mixed, tokenizer, split="train", batch_size=8, seed=0)
  with pytest.raises(ValueError, match="must have one first_date and last_date"):
    facts.Facts(mixed).dates()


def test_toy_news_are_about_the_persons_of_their_month_and_dates_are_true():
  source = news.News(num_documents=500)
  tokenizer, in_month, off = tokenizer_lib.build("news"), [], []
  for record in source.records("train"):
    text, month = record["text"], record["label"]
    assert (tokenizer.encode(text) < len(news.WORDS)).all()
    named = [n for *_, n in tagger.Gazetteer(news.NAMES).persons(text)]
    assert {news.NAMES.index(n) for n in named} <= set(news.active(month))
    assert len(news.active(month)) == 4
    for sentence in text.split("."):
      if " in " in sentence:
        name, year = sentence.split()[-2:]
        of_date = 12 * (int(year) - 2004) + news._MONTHS.index(name)
        in_month.append(of_date == month)
        off.append(abs(of_date - month))
      elif "came" in sentence:
        *_, event, _, relation, name, year = sentence.split()
        of_date = 12 * (int(year) - 2004) + news._MONTHS.index(name)
        of_event = news._event_months()[news._EVENTS.index(event)]
        assert (of_event < of_date) == (relation == "before") and of_event != of_date
  assert 0.75 < np.mean(in_month) < 0.85 and max(off) <= 6
  probed = source.probed().records("validation")
  assert not any("200" in r["text"] for r in probed)
  assert source.records("train")[7] == news.News(num_documents=8).records("train")[7]
  with pytest.raises(ValueError, match="date_rate must lie in"):
    news.News(date_rate=1.5)


def test_the_law_of_the_toy_news_gives_the_best_accuracy_of_dating():
  """0.53 of 24 months, from three sentences without a date; the drawn ones agree with the law."""
  gazetteer, right, scores = tagger.Gazetteer(news.NAMES), [], []
  for record in news.News(num_validation=600).probed().records("validation"):
    total = np.zeros(news.NUM_MONTHS)
    for sentence in record["text"].split(".")[:-1]:
      (*_, name), = gazetteer.persons(sentence)
      with np.errstate(divide="ignore"):
        total += np.log(news.probs(news.NAMES.index(name), sentence.split()[-1]))
    posterior = np.exp(total - total.max())
    posterior /= posterior.sum()
    right.append(posterior.argmax() == record["label"])
    scores.append(posterior.max())  # the probability of being right, by the law
  assert abs(np.mean(right) - np.mean(scores)) < 0.08
  assert 0.47 < np.mean(scores) < 0.57


def test_the_persons_of_the_news_are_those_that_are_active():
  tokenizer = tokenizer_lib.build("news")
  calendar = dates.Calendar(news.FIRST_DATE, news.LAST_DATE)
  found = persons.table(news.News(num_documents=1000).records("train"), tokenizer, calendar, 6)
  stored = json.loads((pathlib.Path(persons.__file__).parents[2] / "assets" /
                       "news_persons.json").read_text())
  assert found == stored
  assert [sorted(found["names"][i] for i in month) for month in found["months"]] == [
      sorted(news.NAMES[i] for i in news.active(m)) for m in range(24)]
  assert len(found["ids"]) and all(tokenizer.decode(ids) == f" {name}" for name, ids in zip(found["names"], found["ids"]))


def test_the_command_lists_the_persons_of_every_month(tmp_path, capsys):
  path, out = tmp_path / "news.jsonl", tmp_path / "persons.json"
  lines = [("2004-01-10", "Ann Bell met Bo. Ann Bell left."),
           ("2004-03-01", "Then Ann Bell saw Bo."),
           ("2004-03-31", "Bo, a very long name: Maximilian Alexander.")]
  path.write_text("".join(json.dumps(dict(day=d, body=t)) + "\n" for d, t in lines))
  (tmp_path / "names.txt").write_text("Ann Bell\nBo\nMaximilian Alexander\nNobody\n")
  prepare.main(["persons", f"--input={path}", f"--names={tmp_path / 'names.txt'}", "--field=body",
                "--date_field=day", "--tokenizer=byte", "--first_date=2004-01-01",
                "--last_date=2004-04-30", "--holdout_every=0", "--longest=8", f"--output={out}"])
  found = json.loads(out.read_text())
  assert found["names"] == ["Ann Bell", "Bo"] and found["months"] == [[0, 1], [], [0, 1], []]
  assert bytes(found["ids"][0]) == b"Ann Bell"
  assert "2 persons in 4 months" in capsys.readouterr().out
  with pytest.raises(ValueError, match="no person of at most 1 tokens is mentioned"):
    persons.table(sources.build(dict(name="dated", path=str(path), field="body", date_field="day",
                                     first_date="2004-01-01", last_date="2004-12-31",
                                     persons=str(tmp_path / "names.txt"))).records("train"),
                  tokenizer_lib.build("byte"), dates.Calendar("2004-01-01", "2004-12-31"), 1)

"""Labelled files: what is read, how it becomes rows, and what is refused with file and line."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mdx.data import facts
from mdx.data import pipeline
from mdx.data import source
from mdx.data import sources
from mdx.data import tokenizer as tokenizer_lib
from mdx.data.layouts import labelled as labelled_layout
from mdx.data.sources import labelled
from mdx.data.toys import grammar_tags
from mdx.data.toys import packaged
from mdx.data.toys import recall

_EXTRACTS = pathlib.Path(__file__).parents[1] / "extracts"


def _read(cls, path, **fields):
  return list(cls(path=str(path), holdout_every=0, **fields).records("train"))


def _file(tmp_path, name, text):
  path = tmp_path / name
  path.write_text(text, encoding="utf-8")
  return path


def test_real_extracts_are_read():
  sentences = _read(labelled.Conll, _EXTRACTS / "wnut17.conll")
  words, tags = sentences[0]["words"], sentences[0]["tags"]
  assert [(w, t) for w, t in zip(words, tags) if t != "O"] == [
      ("Empire", "B-location"), ("State", "I-location"), ("Building", "I-location"),
      ("ESB", "B-location")]
  assert sentences[1]["where"].endswith("wnut17.conll, line 29")
  ud = _read(labelled.Conllu, _EXTRACTS / "ewt.conllu")
  assert len(ud) == 3 and ud[0]["words"][:4] == ["From", "the", "AP", "comes"]
  assert ud[0]["tags"][:4] == ["ADP", "DET", "PROPN", "VERB"]
  joined = " ".join(ud[1]["words"])  # "didn't" is a range, its parts are the words
  assert "did n't" in joined and "didn't" not in joined
  assert _read(labelled.Conllu, _EXTRACTS / "ewt.conllu", field="deprel")[0]["tags"][3] == "root"
  rows = _read(labelled.Table, _EXTRACTS / "banking77.csv", label="category")
  assert rows[0] == {"texts": ["I am still waiting on my card?"], "label": "card_arrival",
                     "where": f"{_EXTRACTS / 'banking77.csv'}, line 2"}


@pytest.mark.parametrize("scheme, tags, iob2", [
    ("iob2", "B-X I-X O B-X B-X", "B-X I-X O B-X B-X"),
    ("iob1", "I-X I-X B-X I-Y O I-X", "B-X I-X B-X B-Y O B-X"),
    ("bioes", "S-X B-X I-X E-X O B-Y E-Y", "B-X B-X I-X I-X O B-Y I-Y"),
    ("none", "NN VB", "NN VB")])
def test_tags_are_read_as_iob2(tmp_path, scheme, tags, iob2):
  path = _file(tmp_path, "a.conll", "".join(f"w {tag}\n" for tag in tags.split()))
  assert _read(labelled.Conll, path, scheme=scheme)[0]["tags"] == iob2.split()


@pytest.mark.parametrize("scheme, tags, expected", [
    ("bioes", "U-A B-B L-B O", "B-A B-B I-B O"), ("bilou", "U-A B-B I-B L-B", "B-A B-B I-B I-B"),
    ("bmes", "S-A B-B M-B E-B", "B-A B-B I-B I-B"), ("bioes", "B M E S", "B-E I-E I-E B-E"),
    ("iob2", "B I O B", "B-E I-E O B-E"), ("iob1", "I I B O I", "B-E I-E B-E O B-E"),
    ("bilou", "U B L O", "B-E B-E I-E O")])
def test_letters_of_other_schemes_and_tags_without_a_type(tmp_path, scheme, tags, expected):
  path = _file(tmp_path, "a.conll", "".join(f"w {tag}\n" for tag in tags.split()))
  found = " ".join(_read(labelled.Conll, path, scheme=scheme)[0]["tags"])
  assert found.replace("ENTITY", "E") == expected


@pytest.mark.parametrize("text, fields, words", [
    ("# id 1\na O\n\n# id 2\n# by me\nb B-X\n", {}, [["a"], ["b"]]),
    ("#comment\na O\n", {}, [["a"]]), ("# a remark\na\tO\n", {}, [["a"]]),
    ("# O\na O\n", {}, [["#", "a"]]), ("a O\n# O\n", {}, [["a", "#"]]),
    ("#fun B-X\na O\n", {}, [["#fun", "a"]]), ("# NN\na DT\n", dict(scheme="none"), [["#", "a"]]),
    ("# text = a b\na DT\n", dict(scheme="none"), [["a"]]),
    ("# id\n# 1 2 3\n-DOCSTART- O\n\na x O\n", {}, [["a"]])])
def test_comments_before_a_sentence_are_no_words_and_a_hash_is_one(tmp_path, text, fields, words):
  found = _read(labelled.Conll, _file(tmp_path, "a.conll", text), **fields)
  assert [record["words"] for record in found] == words


@pytest.mark.parametrize("scheme, tags, line", [
    ("bilou", "B-X O", 2), ("bmes", "B-X M-X", 2), ("iob2", "U-X", 1), ("bioes", "B-", 1),
    ("iob2", "B I-X", 2), ("bioes", "Q-X", 1), ("bioes", "L-X", 1), ("iob2", "O-", 1),
    ("iob2", "O I-X", 2), ("iob2", "B-X I-Y", 2), ("iob2", "O E-X", 2), ("iob2", "B-", 1),
    ("iob2", "PER", 1), ("iob1", "O B-X", 2), ("iob1", "I-Y B-X", 2), ("bioes", "B-X O", 2),
    ("bioes", "O I-X", 2), ("bioes", "O B-X", 2), ("bioes", "B-X S-X", 2), ("bioes", "S-X E-X", 2)])
def test_a_tag_that_breaks_the_scheme_is_named_with_file_and_line(tmp_path, scheme, tags, line):
  path = _file(tmp_path, "a.conll", "".join(f"w {tag}\n" for tag in tags.split()))
  with pytest.raises(ValueError, match=f"a.conll, line {line}: tag .* breaks the scheme {scheme}"):
    _read(labelled.Conll, path, scheme=scheme)


@pytest.mark.parametrize("cls, name, text, fields, message", [
    (labelled.Table, "a.tsv", "text\tkind\na\tb\n", {}, "a.tsv, line 2: no column 'label'; it has "
     "text, kind"),
    (labelled.Table, "a.tsv", "text\tlabel\na\tb\nc\n", {}, "a.tsv, line 3: 1 columns, expected"),
    (labelled.Table, "a.csv", "text,label\n\"a\nb\",x\nc\n", {}, "a.csv, line 4: 1 columns"),
    (labelled.Table, "a.jsonl", '{"text": "a", "label": 1}\n{"text": "a"}\n', {},
     "a.jsonl, line 2: no column 'label'"),
    (labelled.Table, "a.jsonl", '{"text": null, "label": 1}\n', {},
     "a.jsonl, line 1: the column 'text' is null"),
    (labelled.Table, "a.jsonl", '{"text"\n', {}, "a.jsonl, line 1: not JSON"),
    (labelled.Table, "a.tsv", "text\tlabel\na\t\n", {}, "a.tsv, line 2: the column 'label' is emp"),
    (labelled.Conll, "a.conll", "w O\nw\n", {}, "a.conll, line 2: 1 columns, expected 2"),
    (labelled.Conllu, "a.conllu", "# c\n1\tw\tw\n", {}, "a.conllu, line 2: 3 columns, expected 10"),
    (labelled.Table, "a.doc", "", {}, "a table ends in .jsonl"),
    (labelled.Conll, "a.conll", "w O\n", dict(scheme="io"), "scheme is 'io'; choose from iob2")])
def test_bad_files_are_named_with_the_line(tmp_path, cls, name, text, fields, message):
  with pytest.raises(ValueError, match=message) as error:
    _read(cls, _file(tmp_path, name, text), **fields)
  assert "\n" not in str(error.value)


def test_tables_have_names_or_numbers_quotes_and_groups(tmp_path):
  tsv = _file(tmp_path, "a.tsv", 'say "a\tb\t1\nc\td\t0\n')  # GLUE quotes nothing
  rows = _read(labelled.Table, tsv, fields=("0", "1"), label="2", has_header=False)
  assert [r["texts"] for r in rows] == [['say "a', "b"], ["c", "d"]]
  quoted = _file(tmp_path, "a.csv", 'text,label\n"a, b",x\n')
  assert _read(labelled.Table, quoted)[0]["texts"] == ["a, b"]
  items = [{"q": "who", "a": "me", "label": 1}, {"q": "who", "a": "you", "label": 0}]
  file = _file(tmp_path, "a.jsonl", "".join(json.dumps(x) + "\n" for x in items))
  source = labelled.Table(path=str(file), validation_path=str(tsv), fields=("q", "a"), group="q")
  assert [(r["group"], r["label"]) for r in source.records("train")] == [("who", "1"), ("who", "0")]
  with pytest.raises(ValueError, match="share a question .*validation_path"):
    labelled.Table(path=str(file), fields=("q", "a"), group="q")
  with pytest.raises(ValueError, match="is in test_path and also in path"):
    labelled.Table(path=str(tsv), test_path=str(tsv))


def test_tfds_gives_names_of_labels_and_tags(tmp_path):
  with tfds.core.registered.skip_registration():

    class Tagged(tfds.core.GeneratorBasedBuilder):
      """Sentences with a class and tags."""

      VERSION = tfds.core.Version("1.0.0")
      pkg_dir_path = tmp_path

      def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({
            "text": tfds.features.Text(), "label": tfds.features.ClassLabel(names=["bad", "good"]),
            "words": tfds.features.Sequence(tfds.features.Text()),
            "tags": tfds.features.Sequence(tfds.features.ClassLabel(names=["O", "B-X", "I-X"]))}))

      def _split_generators(self, _):
        return {"train": self._generate_examples(), "validation": self._generate_examples()}

      def _generate_examples(self):
        yield 0, {"text": "fine", "label": 1, "words": ["a", "b"], "tags": [1, 2]}

  Tagged(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
  source = labelled.TfdsLabelled(data_dir=str(tmp_path), builder="tagged")
  assert source.kind == "text"
  assert [(r["texts"], r["label"]) for r in source.records("train")] == [(["fine"], "good")]
  source = labelled.TfdsLabelled(data_dir=str(tmp_path), builder="tagged", fields=("words",),
                                 label="tags", scheme="iob2")
  assert source.kind == "words" and source.records("validation")[0]["tags"] == ["B-X", "I-X"]
  with pytest.raises(ValueError, match="no feature 'score'; it has label, tags, text, words"):
    labelled.TfdsLabelled(data_dir=str(tmp_path), builder="tagged", label="score").records("train")


def _data(source, labels=(), **fields):
  return dict(length=12, source=source, packing="pad", too_long="cut", labels=labels) | fields


@pytest.mark.parametrize("name, text, fields, kind, message", [
    ("b.tsv", "text\tlabel\na\tx\nb\tz\n", {}, "text",
     "b.tsv, line 3: the label 'z' is none of the 2 of this task"),
    ("b.tsv", "text\tlabel\na\thigh\n", {}, "number",
     "b.tsv, line 2: the score 'high' is no number"),
    ("b.tsv", "text\tlabel\na\tnan\n", {}, "number", "b.tsv, line 2: the score 'nan' is no number"),
    ("b.conll", "w O\n\nw O\nw B-X\n", dict(name="conll"), "words",
     "b.conll, line 3: the label 'B-X' of the word 'w' is none of")])
def test_a_label_outside_the_set_is_named_before_training(tmp_path, name, text, fields, kind,
                                                          message):
  source = dict(name="table", path=str(_file(tmp_path, name, text)), holdout_every=0) | fields
  labels = {"text": ("x", "y"), "number": (), "words": ("O", "B-Y")}[kind]
  with pytest.raises(ValueError, match=message):
    pipeline.check(_data(source, labels), tokenizer_lib.build("char"))


def test_texts_and_words_become_rows():
  tokenizer = tokenizer_lib.build("char")
  cfg = pipeline.read_config(_data(dict(name="packaged"), ("O", "B-X")))
  encode = lambda record: labelled_layout.Labelled().row(record, cfg, tokenizer)
  ids = lambda text: tokenizer.encode(text).tolist()
  end = tokenizer.eos_id
  row = encode({"texts": ["ab", "c"], "label": "B-X", "where": "w"})
  assert row["tokens"].tolist() == [*ids("ab"), end, *ids("c"), end]
  assert row["token_types"].tolist() == [0, 0, 0, 1, 1]
  assert np.flatnonzero(~row["is_given"]).tolist() == [0] and row["labels"][0] == 1
  # The longer text is cut, one token after the other.
  row = encode({"texts": ["klm", "abcdefghij"], "label": "O", "where": "w"})
  assert tokenizer.decode(row["tokens"]) == "klmabcdefg" and len(row["tokens"]) == 12
  # The label of a word is at its first character, not at the space before it.
  row = encode({"words": ["ab", "c", "de"], "tags": ["O", "B-X", "O"], "where": "w"})
  assert tokenizer.decode(row["tokens"]) == "ab c de"
  assert np.flatnonzero(~row["is_given"]).tolist() == [0, 3, 5]
  assert row["labels"].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
  row = encode({"words": ["abcdef", "ghijkl", "m"], "tags": ["O", "B-X", "O"], "where": "w"})
  assert np.flatnonzero(~row["is_given"]).tolist() == [0, 7]  # "m" is cut off
  strict = pipeline.read_config(_data(dict(name="packaged"), ("O",), too_long="error"))
  with pytest.raises(ValueError, match="13 tokens are more than data.length 12"):
    labelled_layout.Labelled().row({"texts": ["a" * 12], "label": "O", "where": "w"}, strict,
                                   tokenizer)


def test_subwords_of_a_byte_level_vocabulary_keep_their_words():
  tokenizer = tokenizer_lib.build("asset:holmes_bpe512.json")
  cfg = pipeline.read_config(_data(dict(name="packaged"), ("O",), length=64))
  words = ["Holmes", ",", "the", "photograph", "Zq"]
  row = labelled_layout.Labelled().row({"words": words, "tags": ["O"] * 5, "where": "w"}, cfg,
                                       tokenizer)
  assert tokenizer.decode(row["tokens"]) == " ".join(words)
  places = np.flatnonzero(~row["is_given"])
  parts = np.split(row["tokens"], places[1:])
  assert [tokenizer.decode(p).strip() for p in parts] == words


def test_a_labelled_batch_keeps_the_order_and_marks_the_labels():
  cfg = _data(dict(name="packaged", task="book", num_train=40),
              ("adventures", "hound", "memoirs", "return"), length=16)
  tokenizer = tokenizer_lib.build("asset:holmes_bpe512.json")
  records = pipeline.labelled_records(cfg, "train")
  batches = list(pipeline.build(cfg, tokenizer, split="train", batch_size=16, seed=0, shuffle=False,
                                repeat=False, drop_remainder=False))
  labels = np.concatenate([b["labels"][:, 0] for b in batches])[:40]
  assert [cfg["labels"][int(i)] for i in labels] == [r["label"] for r in records]
  assert len(batches) and all((b["loss_mask"].sum(axis=1) == (b["segment_ids"][:, 0] > 0)).all() for b in batches)
  assert facts.Facts(cfg).labels("text") == cfg["labels"]
  with pytest.raises(ValueError, match="labels of words, but data source packaged labels text"):
    facts.Facts(cfg).labels("words")
  with pytest.raises(ValueError, match="packaged: its records are labelled; train it with"):
    pipeline.check({k: v for k, v in cfg.items() if k != "labels"}, tokenizer)


@pytest.mark.parametrize("task", packaged.TASKS)
def test_packaged_tasks_are_the_same_every_time_and_share_no_text_between_splits(task):
  drawn = packaged.Packaged(task=task)
  splits = {s: drawn.records(s) for s in source.LABELLED_SPLITS}
  assert min(map(len, splits.values())) > 300
  firsts = {s: {str(r.get("texts", r.get("words"))) for r in records}
            for s, records in splits.items()}
  if task != "speech":  # short exclamations recur
    assert len(firsts["train"] & firsts["test"]) <= 0.02 * len(firsts["test"])
  if drawn.kind == "words":
    assert len(splits["train"]) and all(len(r["words"]) == len(r["tags"]) for r in splits["train"])
    labelled._to_iob2(splits["test"][0]["tags"], ["w"] * 40, "iob2")
  if task == "overlap":
    first, second = (x.split() for x in splits["test"][3]["texts"])
    kept = sum(a == b for a, b in zip(first, second)) / len(first)
    assert float(splits["test"][3]["label"]) == pytest.approx(5 * kept, abs=0.006)


def test_tags_of_the_grammar_follow_their_noun():
  for task, kind, side in (("agreement", "det", 1), ("subject", "verb", -1)):
    records = grammar_tags.GrammarTags(task=task, num_train=20).records("train")
    for record in records:
      words = record["words"]
      for i, (word, tag) in enumerate(zip(words, record["tags"])):
        assert (tag != "O") == word.startswith(kind)
        if tag != "O":
          nouns = [j for j, w in enumerate(words) if w.startswith("noun")]
          noun = min((j for j in nouns if j > i) if side > 0 else (-j for j in nouns if j < i))
          assert tag == f"B-G{int(words[abs(noun)][4:]) % 2}"
    assert {w for r in records for w in r["words"] if w.startswith("det")} == {"det0"}


def test_the_answer_of_a_recall_text_is_the_value_of_its_key():
  drawn = recall.Recall(length=24, num_pairs=3, num_train=30, num_validation=5)
  for record in drawn.records("train"):
    text = record["answer"]
    assert not record["prompt"]
    assert len(text) == 24 and text[-3] == "?"
    assert text[text.index(text[-2]) + 1] == text[-1] and text.count(text[-2]) == 2
  row = sources.build(dict(name="recall", length=24, num_pairs=3)).records("validation")[0]
  assert len(row["prompt"]) == 23 and len(row["answer"]) == 1


def test_a_bom_is_no_name_of_a_column_and_no_sentence(tmp_path):
  path = _file(tmp_path, "a.tsv", "\ufefftext\tlabel\none\tx\n")
  found = list(labelled.table_records(str(path), fields=("text",), label="label"))
  assert [r["texts"] for r in found] == [["one"]]
  path = _file(tmp_path, "a.conll", "\ufeff-DOCSTART- O\n\nw O\n")
  found = list(labelled.conll_records(str(path), word_column=0, tag_column=-1, scheme="iob2"))
  assert [r["words"] for r in found] == [["w"]]


@pytest.mark.parametrize("char", list("\u00a0\u2003\u3000\x85\u2028\v"))
def test_columns_are_parted_by_blanks_and_tabs_alone(char, tmp_path):
  for blank in (" ", "\t", "  "):
    path = _file(tmp_path, "a.conll", f"10{char}000{blank}B-X\n{char}{blank}O\n \t\nw{blank}O\n")
    found = list(labelled.conll_records(str(path), word_column=0, tag_column=-1, scheme="iob2"))
    assert [r["words"] for r in found] == [[f"10{char}000", char], ["w"]]


def test_json_rows_keep_separators_pass_over_blank_lines_and_refuse_lists(tmp_path):
  read = lambda text: list(labelled.table_records(
      str(_file(tmp_path, "a.jsonl", text)), fields=("text",), label="label"))
  found = read('{"text": "a\u2028b\x85c", "label": "x"}\r\n\n  \n{"text": 7, "label": true}\n\n')
  assert [(r["texts"], r["label"]) for r in found] == [(["a\u2028b\x85c"], "x"), (["7"], "True")]
  for value in ('["a", "b"]', '{"a": 1}', "[]"):
    for row in (f'{{"text": {value}, "label": "x"}}', f'{{"text": "a", "label": {value}}}'):
      with pytest.raises(ValueError, match="a.jsonl, line 2, column '(text|label)': .* is no text"):
        read('{"text": "a", "label": "x"}\n' + row + "\n")


def test_a_field_of_csv_may_be_long(tmp_path):
  text = "word " * 40_000
  path = _file(tmp_path, "a.csv", f'text,label\n"{text}",x\n')
  found, = labelled.table_records(str(path), fields=("text",), label="label")
  assert found["texts"] == [text]

"""Sources: every kind of file, the hold-out rule, and one-line errors that name the place."""

import gzip
import json
import lzma
import os
import pickle
import sys

from array_record.python import array_record_module
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds

from mdx.data import sources
from mdx.data.sources import records as records_lib
from mdx.utils import columns
from mdx.utils import readers

DOCUMENTS = [f"document {i}, naïve 🙂" for i in range(45)]


def _all(source) -> list:
  """All records in file order, put together from both splits."""
  train, validation = source.records("train"), source.records("validation")
  every = source.holdout_every
  records = iter(train)
  return [validation[i // every] if i % every == every - 1 else next(records)
          for i in range(len(train) + len(validation))]


def _write_jsonl(path, items):
  path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")


def _write_parquet(path, columns, row_group_size=7):
  pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=row_group_size)


def _write_array_record(path, items):
  writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
  for item in items:
    writer.write(item)
  writer.close()


def _write_kind(kind, folder):
  """Writes DOCUMENTS in two files and returns the source's config."""
  halves = [DOCUMENTS[:20], DOCUMENTS[20:]]
  paths = [folder / f"part{i}.{kind}" for i in range(2)]
  for path, half in zip(paths, halves):
    if kind == "jsonl":
      _write_jsonl(path, [{"text": d, "id": 1} for d in half])
    elif kind == "parquet":
      _write_parquet(path, {"text": half, "id": list(range(len(half)))})
    elif kind == "array_record":
      _write_array_record(path, [d.encode() for d in half])
  if kind == "memory":
    return {"name": kind, "documents": DOCUMENTS}
  return {"name": kind, "path": str(folder / f"part*.{kind}")}


def _error(call, *args) -> str:
  with pytest.raises(ValueError) as error:
    call(*args)
  message = str(error.value)
  assert "\n" not in message and len(message) < 600
  return message


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "array_record", "memory"])
@pytest.mark.parametrize("every", [2, 7, 20, 45])
def test_hold_out_is_a_partition_by_the_rule(kind, every, tmp_path):
  source = sources.build({**_write_kind(kind, tmp_path), "holdout_every": every})
  train, validation = source.records("train"), source.records("validation")
  assert [r["text"] for r in validation] == [
      d for i, d in enumerate(DOCUMENTS) if i % every == every - 1]
  assert [r["text"] for r in train] == [
      d for i, d in enumerate(DOCUMENTS) if i % every != every - 1]
  for records in (train, validation):
    with pytest.raises(IndexError):
      records[len(records)]  # pylint: disable=pointless-statement
    assert pickle.loads(pickle.dumps(records))[1] == records[1] if len(records) > 1 else True


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "array_record", "memory"])
def test_validation_files_or_no_hold_out_leave_all_records_for_training(kind, tmp_path):
  cfg = _write_kind(kind, tmp_path)
  everything = sources.build({**cfg, "holdout_every": 0})
  assert [r["text"] for r in everything.records("train")] == DOCUMENTS
  assert "holdout_every" in _error(everything.records, "validation")
  if kind == "memory":
    return
  source = sources.build({**cfg, "path": str(tmp_path / f"part0.{kind}"),
                          "validation_path": str(tmp_path / f"part1.{kind}")})
  assert [r["text"] for r in source.records("train")] == DOCUMENTS[:20]
  assert [r["text"] for r in source.records("validation")] == DOCUMENTS[20:]
  assert "part1" in _error(sources.build, {**cfg, "validation_path": str(
      tmp_path / f"part1.{kind}")})


@pytest.mark.parametrize("suffix, compress", [(".txt", bytes), (".txt.xz", lzma.compress),
                                              (".txt.gz", gzip.compress)])
@pytest.mark.parametrize("text", [
    "one\ntwo\n\nthree" + "x" * 50 + "\n" + "last", "\n\n\n", "no line end", "a\r\nb\r\n" * 30,
    "héllo 🙂\n" * 40], ids=range(5))
def test_text_documents_joined_are_the_file(suffix, compress, text, tmp_path):
  path = tmp_path / f"file{suffix}"
  path.write_bytes(compress(text.encode()))
  for chars in (1, 10, 64, 4000):
    source = sources.build({"name": "text", "path": path, "document_chars": chars,
                            "holdout_every": 0})
    documents = [r["text"] for r in source.records("train")]
    assert "".join(documents) == text and all(documents)
    for document in documents:  # longer only if it is one line
      assert len(document) <= chars or document.count("\n", 0, -1) == 0
    for first, second in zip(documents, documents[1:]):  # cut at line ends, and no earlier than due
      assert first.endswith("\n")
      assert len(first) + len(second.split("\n")[0]) + 1 > chars


def test_sections_give_documents_their_label_and_begin_new_ones(tmp_path):
  path = tmp_path / "file.txt"
  path.write_text("BOOK A\none\ntwo\nBOOK B\nthree\n")
  fields = {"name": "text", "path": path, "holdout_every": 0, "document_chars": 500}
  found = sources.build(fields | {"section_marks": ("BOOK A", "BOOK B")}).records("train")
  assert list(found) == [{"text": "BOOK A\none\ntwo\n", "label": 0},
                         {"text": "BOOK B\nthree\n", "label": 1}]
  with pytest.raises(ValueError, match="must all occur in the text, in this order"):
    sources.build(fields | {"section_marks": ("BOOK B", "BOOK A")}).records("train")


def test_the_packaged_text_is_read_whole():
  source = sources.build({"name": "text", "path": "asset:holmes.txt.xz"})
  text = "".join(r["text"] for r in _all(source))
  assert len(text) == 1_951_904
  assert text.startswith("THE ADVENTURES OF SHERLOCK HOLMES\n") and text.endswith('way?"\n')
  assert max(len(r["text"]) for r in source.records("train")) <= 4000


def test_token_ids_are_records_too(tmp_path):
  ids = [[1, 2, 3], [], [2**31 - 1]]
  _write_jsonl(tmp_path / "a.jsonl", [{"ids": x} for x in ids])
  _write_parquet(tmp_path / "a.parquet", {"ids": ids})
  _write_array_record(tmp_path / "a.array_record", [json.dumps({"ids": x}).encode() for x in ids])
  for cfg in ({"name": "jsonl", "path": str(tmp_path / "a.jsonl"), "field": "ids"},
              {"name": "parquet", "path": str(tmp_path / "a.parquet"), "field": "ids"},
              {"name": "array_record", "path": str(tmp_path / "a.array_record"), "field": "ids"},
              {"name": "memory", "documents": ids}):
    records = sources.build({**cfg, "holdout_every": 0}).records("train")
    assert [r["tokens"].tolist() for r in records] == ids
    assert len(records) and all(r["tokens"].dtype == np.int32 for r in records)


@pytest.mark.parametrize("value", [[-1], [2**31], [1.5], [[1, 2], [3]], ["a"], None, 7, [True],
                                   np.zeros((2, 2)), b"\xff"], ids=repr)
def test_a_value_that_is_no_document_is_named(value):
  source = sources.build({"name": "memory", "documents": ["fine", value], "holdout_every": 0})
  assert "document 1" in _error(source.records, "train")


def test_one_text_in_place_of_documents_is_refused():
  assert "list of documents" in _error(
      sources.build, {"name": "memory", "documents": "a text"})


def _damage(path, start):
  data = bytearray(path.read_bytes())
  data[start:start + 2000] = os.urandom(2000)
  path.write_bytes(data)


def _bad_files(folder):
  """name -> (config, what the error has to say besides the file)."""
  write = lambda name, data: (folder / name).write_bytes(data)
  text = ("some text that goes on\n" * 5000).encode()
  noise = os.urandom(30000).hex().encode()
  compressed = bytearray(gzip.compress(noise))
  compressed[3000:3004] = b"\0\0\0\0"
  write("bad.txt", b"fine\nfine\n\xff\xfe\n")
  write("cut.txt.xz", lzma.compress(noise)[:-2000])
  write("cut.txt.gz", gzip.compress(text)[:-200])
  write("damaged.txt.gz", bytes(compressed))
  write("zlib.txt.gz", gzip.compress(b"x")[:10] + b"\xff" * 50)
  write("not.txt.xz", text)
  write("empty.txt", b"")
  write("bad.jsonl", b'{"text": "a"}\n{"text": \n{"text": "b"}\n')
  write("field.jsonl", b'{"text": "a"}\n{"words": "b", "n": 1}\n')
  write("list.jsonl", b'{"text": "a"}\n[1]\n')
  write("latin.jsonl", b'{"text": "a"}\n{"text": "a"}\n{"text": "\xe9"}\n')
  write("type.jsonl", b'{"text": "a"}\n{"text": {"b": 1}}\n')
  write("packed.jsonl.gz", gzip.compress(b'{"text": "a"}\n'))
  write("bad.parquet", text)
  write("bad.array_record", text)
  write("noise.array_record", os.urandom(200000))
  _write_array_record(folder / "latin.array_record", [b"a", b"\xe9"])
  _write_array_record(folder / "json.array_record", [b'{"text": "a"}', b"{"])
  _write_array_record(folder / "damaged.array_record", [os.urandom(99).hex().encode()] * 999)
  _damage(folder / "damaged.array_record", 1000)
  _write_parquet(folder / "column.parquet", {"words": ["a"], "n": [1]})
  _write_parquet(folder / "null.parquet", {"text": ["a", None]})
  _write_parquet(folder / "damaged.parquet", {"text": [os.urandom(99).hex() for _ in range(999)]})
  _damage(folder / "damaged.parquet", 1000)
  return {
      "bad.txt": ("text", {}, "line 3: not UTF-8.*iconv"),
      "cut.txt.xz": ("text", {}, "cannot be read.*complete"),
      "cut.txt.gz": ("text", {}, "cannot be read.*complete"),
      "damaged.txt.gz": ("text", {}, "cannot be read.*complete"),
      "zlib.txt.gz": ("text", {}, "cannot be read.*complete"),
      "not.txt.xz": ("text", {}, "cannot be read"),
      "empty.txt": ("text", {}, "train split is empty.*give more"),
      "bad.jsonl": ("jsonl", {}, "line 2: not JSON.*one object a line"),
      "field.jsonl": ("jsonl", {}, "line 2: no field 'text' but words, n. Set `field`"),
      "list.jsonl": ("jsonl", {}, "line 2: no field 'text'.*Set `field`"),
      "latin.jsonl": ("jsonl", {}, "line 3: not JSON .*utf-8"),
      "type.jsonl": ("jsonl", {}, "line 2: expected text or a flat list of token ids"),
      "packed.jsonl.gz": ("jsonl", {}, "unpack it"),
      "bad.parquet": ("parquet", {}, "not a parquet file"),
      "column.parquet": ("parquet", {}, "no column 'text' but words, n. Set `field`"),
      "null.parquet": ("parquet", {}, "row 1: expected text"),
      "damaged.parquet": ("parquet", {}, "row group .*cannot be read"),
      "bad.array_record": ("array_record", {}, "not ArrayRecord files"),
      "noise.array_record": ("array_record", {}, "not ArrayRecord files"),
      "latin.array_record": ("array_record", {}, "record 1: not UTF-8.*`field`"),
      "json.array_record": ("array_record", {"field": "text"}, "record 1: not JSON"),
      "damaged.array_record": ("array_record", {}, "record .*cannot be read"),
  }


def test_a_malformed_file_is_named_with_place_and_remedy(tmp_path):
  for name, (kind, fields, message) in _bad_files(tmp_path).items():
    source = sources.build({"name": kind, "path": str(tmp_path / name), "holdout_every": 0,
                            **fields})
    with pytest.raises(ValueError, match=message) as error:
      list(source.records("train"))
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_a_jsonl_is_checked_at_once_or_if_large_when_a_line_is_read(tmp_path, monkeypatch):
  (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n{"text": \n{"text": "c"}\n')
  source = sources.build({"name": "jsonl", "path": str(tmp_path / "a.jsonl"), "holdout_every": 0})
  assert "a.jsonl, line 2: not JSON" in _error(source.records, "train")
  monkeypatch.setattr(readers, "_CHECKED_JSONL_BYTES", 10)
  records = source.records("train")
  assert records[2] == {"text": "c"}
  assert "a.jsonl, line 2: not JSON" in _error(lambda: records[1])


def test_missing_files_kinds_and_splits_are_named(tmp_path):
  for kind in ("text", "jsonl", "parquet", "array_record"):
    message = _error(sources.build, {"name": kind, "path": str(tmp_path / "none.x")})
    assert "none.x" in message and "asset:NAME" in message
  assert "no asset 'none'" in _error(sources.build, {"name": "text", "path": "asset:none"})
  assert "parquet" in _error(sources.build, {"name": "parket", "path": "x"})
  source = sources.build({"name": "memory", "documents": ["a"] * 30})
  assert "train, validation" in _error(source.records, "test")
  few = sources.build({"name": "memory", "documents": ["a"] * 3})
  assert "validation split is empty (3 records" in _error(few.records, "validation")
  for every in (1, -2):
    source = sources.build({"name": "memory", "documents": ["a"] * 30, "holdout_every": every})
    assert f"got {every}" in _error(source.records, "train")


def test_parquet_rows_can_be_read_in_any_order(tmp_path, monkeypatch):
  monkeypatch.setattr(columns, "_ROW_GROUPS_KEPT", 2)
  _write_parquet(tmp_path / "a.parquet", {"text": DOCUMENTS}, row_group_size=4)
  records = sources.build({"name": "parquet", "path": str(tmp_path / "a.parquet"),
                           "holdout_every": 0}).records("train")
  for i in np.random.default_rng(0).permutation(len(DOCUMENTS)).tolist() * 2:
    assert records[i] == {"text": DOCUMENTS[i]}


@pytest.fixture(name="tfds_dir", scope="module")
def _tfds_dir(tmp_path_factory):
  """A prepared dataset `tiny`, written as array_record files without TensorFlow."""
  folder = tmp_path_factory.mktemp("tfds")

  with tfds.core.registered.skip_registration():  # so that names are found on disk alone

    class Tiny(tfds.core.GeneratorBasedBuilder):
      """Two splits of text and token ids."""

      VERSION = tfds.core.Version("1.0.0")
      pkg_dir_path = folder

      def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({
            "text": tfds.features.Text(), "ids": tfds.features.Sequence(np.int64)}))

      def _split_generators(self, _):
        return {"train": self._generate_examples(0, 30),
                "validation": self._generate_examples(30, 34)}

      def _generate_examples(self, start, stop):
        for i in range(start, stop):
          yield i, {"text": DOCUMENTS[i], "ids": [i, i + 1]}

  Tiny(data_dir=str(folder), file_format="array_record").download_and_prepare()
  return folder


def test_tfds_is_read_by_directory_or_name_without_tensorflow(tfds_dir):
  for cfg in ({"data_dir": str(tfds_dir / "tiny" / "1.0.0")},
              {"data_dir": str(tfds_dir), "builder": "tiny"},
              {"data_dir": str(tfds_dir), "builder": "tiny:1.0.0"}):
    source = sources.build({"name": "tfds", **cfg})
    train, validation = source.records("train"), source.records("validation")
    assert sorted(r["text"] for r in train) == sorted(DOCUMENTS[:30])
    assert sorted(r["text"] for r in validation) == sorted(DOCUMENTS[30:34])
    assert pickle.loads(pickle.dumps(train))[3] == train[3]
  ids = sources.build({"name": "tfds", "data_dir": str(tfds_dir), "builder": "tiny",
                       "field": "ids"}).records("train")
  assert sorted(r["tokens"].tolist() for r in ids) == [[i, i + 1] for i in range(30)]
  part = sources.build({"name": "tfds", "data_dir": str(tfds_dir), "builder": "tiny",
                        "train_split": "train[:50%]", "validation_split": "train[50%:]"})
  assert sorted(r["text"] for split in ("train", "validation") for r in part.records(split)) == sorted(
      DOCUMENTS[:30])
  assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("fields, message", [
    ({"train_split": "other"}, "split 'other'.*'train', 'validation'.*array_record"),
    ({"field": "words"}, "no feature 'words'; it has ids, text. Set `field`"),
    ({"builder": "nothing"}, "tfds nothing.*not found.*array_record"),
    ({"data_dir": "nowhere"}, "'nowhere' is not a directory"),
    ({"builder": None}, "cannot be opened.*dataset_info.json"),
], ids=["split", "feature", "builder", "directory", "no_info"])
def test_tfds_errors_name_the_dataset_and_the_remedy(tfds_dir, fields, message):
  cfg = {"name": "tfds", "data_dir": str(tfds_dir), "builder": "tiny", **fields}
  with pytest.raises(ValueError, match=message) as error:
    sources.build(cfg).records("train")
  assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_empty_fields_are_left_at_their_defaults(tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_text('{"text": "one"}\n{"text": "two"}\n')
  cfg = dict(name="jsonl", path=str(path), validation_path="", field="", data_dir="", builder="",
             holdout_every=-1)
  assert sources.build(cfg) == records_lib.Jsonl(path=str(path))
  with pytest.raises(ValueError, match="no field 'builder'"):
    sources.build(cfg | {"builder": "lm1b"})


def test_a_jsonl_says_its_layout_by_its_first_line(tmp_path):
  message = {"role": "user", "content": "a"}
  cases = {"text": {"it": "one"}, "ids": {"it": [1, 2]}, "chat": {"it": [message]},
           "views": {"it": ["one", "two"]}, "triplets": {"it": ["one", "two", "three"]},
           "answered": {"it": "ask", "reply": "say"}}
  for name, item in cases.items():
    _write_jsonl(tmp_path / "a.jsonl", [item] * 2)
    source = sources.build({"name": "jsonl", "path": str(tmp_path / "a.jsonl"), "field": "it",
                            "answer": "reply" if name == "answered" else "", "holdout_every": 0})
    assert source.layout == name.replace("ids", "text")
    record = source.records("train")[1]
    assert set(record) == {"text": {"text"}, "ids": {"tokens"}, "chat": {"messages"},
                           "views": {"texts"}, "triplets": {"texts"},
                           "answered": {"prompt", "answer", "blank"}}[name]
  _write_jsonl(tmp_path / "a.jsonl", [{"it": "ask", "reply": 3}])
  assert "line 1: expected texts as prompt and answer, got 3" in _error(source.records, "train")


def test_the_layout_of_files_that_are_not_here_is_that_of_their_kind():
  for name, layout in (("jsonl", "text"), ("chat", "chat"), ("arrays", "frames")):
    assert sources.layout_of({"name": name, "path": "nowhere"}) == layout


def test_a_folder_of_text_is_its_txt_files_in_order(tmp_path):
  (tmp_path / "below").mkdir()
  for name, text in (("b.txt", "second\n"), ("below/c.txt", "third\n"), ("a.txt", "first\n"),
                     ("notes.md", "no\n")):
    (tmp_path / name).write_text(text)
  with gzip.open(tmp_path / "d.txt.gz", "wt") as f:
    f.write("fourth\n")
  source = sources.build(dict(name="text", path=str(tmp_path), holdout_every=0))
  assert "".join(r["text"] for r in source.records("train")) == "first\nsecond\nthird\nfourth\n"
  (tmp_path / "empty").mkdir()
  with pytest.raises(ValueError, match="no .txt, .txt.xz, .txt.gz file in .*empty; correct"):
    sources.build(dict(name="text", path=str(tmp_path / "empty")))

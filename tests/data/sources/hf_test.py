"""Data sets of the library `datasets`, from files and folders here; the hub is away."""

import json
import pickle

import numpy as np
import pytest

from mdx.data import pipeline
from mdx.data import sources
from mdx.data import tokenizer as tokenizer_lib

datasets = pytest.importorskip("datasets")

TEXTS = [f"text number {i} " * (1 + i % 3) for i in range(40)]
CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  """A folder of files, one that the library saved, and its cache beside them."""
  folder, patch = tmp_path_factory.mktemp("hf"), pytest.MonkeyPatch()
  patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
  patch.setattr(datasets.utils.logging, "_tqdm_active", False, raising=False)
  rows = datasets.Dataset.from_dict(
      {"text": TEXTS, "messages": [CHAT] * 40, "reply": ["yes"] * 40,
       "label": [i % 2 for i in range(40)]}).cast_column(
           "label", datasets.ClassLabel(names=["bad", "good"]))
  (folder / "parts").mkdir()
  rows.to_parquet(folder / "parts" / "train.parquet")
  rows.select(range(5)).to_parquet(folder / "parts" / "test.parquet")
  datasets.DatasetDict(train=rows, validation=rows.select(range(3))).save_to_disk(folder / "saved")
  (folder / "rows.jsonl").write_text("".join(
      json.dumps({"text": text, "tags": ["X", "O"]}) + "\n" for text in TEXTS))
  yield folder
  patch.undo()


def _records(folder, split="train", name="hf", **fields):
  return sources.build({"name": name, **fields, "path": str(folder / fields["path"])}).records(split)


@pytest.mark.parametrize("path", ["parts", "saved", "rows.jsonl", "parts/train.parquet"])
def test_every_form_of_a_data_set_gives_the_same_texts_with_a_hold_out(folder, path):
  train, held = (_records(folder, split, path=path, holdout_every=10)
                 for split in ("train", "validation"))
  assert [x["text"] for x in train] == [t for i, t in enumerate(TEXTS) if i % 10 != 9]
  assert [x["text"] for x in held] == TEXTS[9::10]
  again = pickle.loads(pickle.dumps(train))
  assert len(again) == 36 and again[3] == train[3]


def test_splits_are_the_data_sets_own_where_they_are_named(folder):
  held = _records(folder, "validation", path="saved", validation_split="validation")
  assert [x["text"] for x in held] == TEXTS[:3]
  assert len(_records(folder, path="saved", validation_split="validation")) == 40
  part = _records(folder, path="parts", train_split="train[:50%]", holdout_every=0)
  assert [x["text"] for x in part] == TEXTS[:20]


def test_conversations_and_answers_are_read_by_their_columns(folder):
  source = sources.build(dict(name="hf", path=str(folder / "parts"), field="messages"))
  assert source.layout == "chat" and source.records("train")[2]["messages"] == CHAT
  source = sources.build(dict(name="hf", path=str(folder / "parts"), answer="reply"))
  assert source.layout == "answered"
  assert source.records("train")[1] == {"prompt": TEXTS[1], "answer": "yes", "blank": ""}


def test_labels_have_their_names(folder):
  found = _records(folder, name="hf_labelled", path="parts", split="test")
  assert [(x["texts"], x["label"]) for x in found] == [
      ([text], ["bad", "good"][i % 2]) for i, text in enumerate(TEXTS[:5])]


def test_a_resumed_run_reads_the_next_rows_in_the_order_of_the_seed(folder):
  cfg = dict(length=64, source=dict(name="hf", path=str(folder / "parts")), packing="pad",
             num_threads=0)
  build = lambda seed: iter(pipeline.build(cfg, tokenizer_lib.build("byte"), split="train",
                                           batch_size=4, seed=seed))
  first, other = build(3), build(4)
  tokens = [next(first)["tokens"] for _ in range(12)]  # more than an epoch of 38 rows
  state = first.get_state()
  after = [next(first)["tokens"] for _ in range(3)]
  fresh = build(3)
  fresh.set_state(json.loads(json.dumps(state)))
  for batch in after:
    np.testing.assert_array_equal(next(fresh)["tokens"], batch)
  assert not np.array_equal(next(other)["tokens"], tokens[0])


@pytest.mark.parametrize("fields, message", [
    (dict(path="gone.parquet"), "there is no such file or folder .*correct data.source.path"),
    (dict(path="parts", field="body"), "no column 'body'; it has text, messages, reply, label"),
    (dict(path="parts", train_split="dev"), "split 'dev': cannot be opened .*check the files, the"),
    (dict(path="saved", train_split="train[:9]"), "it has the splits train, validation, written"),
    (dict(path="rows.jsonl", name="hf_labelled"), "no column 'label'; it has text, tags"),
    (dict(path="rows.jsonl", name="hf_labelled", label="tags", scheme="x"), "scheme is 'x'; choose")])
def test_a_wrong_data_set_column_or_split_is_one_line(folder, fields, message):
  with pytest.raises(ValueError, match=message) as error:
    _records(folder, **fields)
  assert "\n" not in str(error.value)


def test_a_name_without_a_network_is_one_line(monkeypatch):
  def away(*_, **__):
    raise ConnectionError("Couldn't reach 'roneneldan/TinyStories' on the Hub\n(LocalEntryNotFound)")

  monkeypatch.setattr(datasets, "load_dataset", away)
  with pytest.raises(ValueError, match="data set roneneldan/TinyStories, split 'train': cannot be "
                     "opened .ConnectionError: Couldn't.*and the network, or give a folder") as error:
    sources.build(dict(name="hf", path="roneneldan/TinyStories"))
  assert "\n" not in str(error.value)

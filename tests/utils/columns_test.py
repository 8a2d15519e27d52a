"""Columns of Parquet and Arrow files: directories, saved datasets, chats, nulls."""

import json
import pickle

import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest

from mdx.data import sources
from mdx.utils import columns
from mdx.utils import readers

_TEXTS = [f"text {i}" for i in range(10)]
_CHAT = [[{"role": "user", "content": "a"}, {"role": "assistant", "content": f"b{i}"}]
         for i in range(4)]


def _parquet(path, **table):
  path.parent.mkdir(parents=True, exist_ok=True)
  pyarrow.parquet.write_table(pyarrow.table(table), path, row_group_size=3)
  return str(path)


def _arrow(path, is_file=False, **table):
  path.parent.mkdir(parents=True, exist_ok=True)
  table = pyarrow.table(table)
  new = pyarrow.ipc.new_file if is_file else pyarrow.ipc.new_stream
  with new(str(path), table.schema) as writer:
    writer.write_table(table, max_chunksize=3)
  return str(path)


def _saved(folder, *parts, column="text", **state):
  """A folder as `datasets` saves one."""
  names = [f"data-{i:05}-of-{len(parts):05}.arrow" for i in range(len(parts))]
  for name, part in zip(names, parts):
    _arrow(folder / name, **{column: part})
  files = [{"filename": name} for name in names]
  (folder / "state.json").write_text(json.dumps({"_data_files": files} | state))
  (folder / "dataset_info.json").write_text("{}")
  return str(folder)


def _read(source):
  return [readers.raw(record) for record in source.records("train")]


def _source(name, path, **fields):
  return sources.build({"name": name, "path": path, "holdout_every": 0, **fields})


def test_a_directory_stands_for_its_files_in_order(tmp_path):
  for i, folder in enumerate(("a", "b", "a")):
    _parquet(tmp_path / "set" / folder / f"{i}.parquet", text=_TEXTS[3 * i:3 * i + 3])
  (tmp_path / "set" / "README.md").write_text("x")
  expected = [*_TEXTS[:3], *_TEXTS[6:9], *_TEXTS[3:6]]
  assert _read(_source("parquet", str(tmp_path / "set"))) == expected
  assert _read(_source("parquet", str(tmp_path / "s*"))) == expected


@pytest.mark.parametrize("is_file", [False, True], ids=["stream", "file"])
def test_arrow_files_are_read_in_any_order_and_pickled(tmp_path, is_file):
  path = _arrow(tmp_path / "a.arrow", is_file, text=_TEXTS, ids=[[i] for i in range(10)])
  rows = pickle.loads(pickle.dumps(columns.Rows("arrow", path, "text", readers.record)))
  assert [rows[i]["text"] for i in (9, 0, 5, 3)] == [_TEXTS[i] for i in (9, 0, 5, 3)]
  assert len(rows) == 10 and _read(_source("arrow", path, field="ids"))[7] == [7]
  with pytest.raises(ValueError, match="a.arrow: no column 'x' but text, ids"):
    columns.Rows("arrow", path, "x", readers.record)


def test_a_saved_dataset_is_read_by_its_state(tmp_path):
  path = _saved(tmp_path / "saved", _TEXTS[:6], _TEXTS[6:])
  _arrow(tmp_path / "saved" / "cache-1.arrow", text=["stale"])
  assert _read(_source("arrow", path)) == _TEXTS
  (tmp_path / "dataset_dict.json").write_text('{"splits": ["saved"]}')
  with pytest.raises(ValueError, match="dataset of the splits saved; name one, such as .*saved"):
    _source("arrow", str(tmp_path))


@pytest.mark.slow
def test_what_the_library_saves_is_read(tmp_path):
  datasets = pytest.importorskip("datasets")
  whole = datasets.Dataset.from_dict({"text": _TEXTS, "messages": [_CHAT[0]] * 10})
  whole.save_to_disk(str(tmp_path / "saved"), num_shards=2)
  assert _read(_source("arrow", str(tmp_path / "saved"))) == _TEXTS
  chat = _source("chat", str(tmp_path / "saved"))
  assert chat.records("train")[3] == {"messages": _CHAT[0]}


@pytest.mark.parametrize("state, message", [
    ({"_indices_data_files": [{"filename": "x"}]}, "flatten_indices"),
    ({"_data_files": []}, "expected the state of a saved dataset"),
    ({"_data_files": [{"filename": "../a.arrow"}]}, "expected the state"),
    ({"_data_files": [{"filename": ".."}]}, "expected the state"),
    ({"_data_files": [{"filename": ""}]}, "expected the state"),
    ({"_data_files": 5}, "expected the state"), ({"_data_files": ["x"]}, "expected the state")])
def test_the_state_of_a_saved_dataset_is_checked(tmp_path, state, message):
  path = _saved(tmp_path / "saved", _TEXTS, **state)
  with pytest.raises(ValueError, match=message) as error:
    _source("arrow", path)
  assert "saved" in str(error.value) and "\n" not in str(error.value)


def test_directories_without_such_files_and_files_of_the_other_kind_are_refused(tmp_path):
  (tmp_path / "empty").mkdir()
  with pytest.raises(ValueError, match="has no file that ends in .parquet or .arrow"):
    _source("parquet", str(tmp_path / "empty"))
  path = _arrow(tmp_path / "a.arrow", text=_TEXTS)
  with pytest.raises(ValueError, match="a source parquet reads .parquet files"):
    _source("parquet", path)
  _parquet(tmp_path / "a.parquet", text=_TEXTS)
  with pytest.raises(ValueError, match="has Parquet and Arrow files"):
    _source("parquet", str(tmp_path))
  (tmp_path / "bad.arrow").write_bytes(b"no arrow")
  with pytest.raises(ValueError, match="bad.arrow: not an arrow file"):
    _source("arrow", str(tmp_path / "bad.arrow")).records("train")


@pytest.mark.parametrize("name, write", [("parquet", _parquet), ("arrow", _arrow)])
def test_chats_of_columns(tmp_path, name, write):
  path = write(tmp_path / f"a.{name}", messages=_CHAT)
  for source in (_source("chat", path), _source(name, path, field="messages")):
    assert source.layout == "chat"
    assert [r["messages"] for r in source.records("train")] == _CHAT
  mixed = [[{"role": "user", "content": "a", "name": None}, {"role": "assistant", "content": "b"}]]
  path = write(tmp_path / f"b.{name}", messages=mixed)
  assert set(_source("chat", path).records("train")[0]["messages"][0]) == {"role", "content"}
  path = write(tmp_path / f"c.{name}", pairs=[["a", "b"]] * 3)
  assert _source(name, path, field="pairs").records("train")[0] == {"texts": ["a", "b"]}


@pytest.mark.parametrize("name, write", [("parquet", _parquet), ("arrow", _arrow)])
def test_a_null_is_found_when_the_file_is_opened(tmp_path, name, write):
  path = write(tmp_path / f"a.{name}", text=[*_TEXTS[:7], None, None, "z"])
  source = _source(name, path)
  with pytest.raises(ValueError, match=rf"a.{name}, row 7: expected text, got null, as in 2 of 10"):
    source.records("train")
  records = source.unchecked().records("train")
  assert records[6] == {"text": "text 6"} and len(records) == 10
  with pytest.raises(ValueError, match=f"a.{name}, row 8: expected text"):
    records[8]

"""Embeddings of a file are those of encode, also after a kill; a search finds the nearest texts."""

import importlib
import json

import numpy as np
import pytest

from mdx import model as model_lib
from mdx import modes
from mdx.modes import embed
import sentence_models
import tiny

_TEXTS = ["a quick fox", "the dog", "jumps over it", "sleeps", "and then"]


@pytest.fixture(scope="module", autouse=True)
def one_model():
  """The model is loaded, and its program compiled, once."""
  read, loaded = model_lib.load, {}

  def load(path, **options):
    del options
    if path not in loaded:
      loaded[path] = read(path)
    return loaded[path]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(model_lib, "load", load)
    yield load(str(sentence_models.GOLDEN))


def _corpus(path, texts=tuple(_TEXTS)):
  path.write_text("".join(json.dumps(dict(id=f"d{i}", text=text)) + "\n"
                          for i, text in enumerate(texts)))
  return str(path)


def _config(name, **changes):
  config = importlib.import_module(f"mdx.configs.{name}").get_config()
  config.init.checkpoint = str(sentence_models.GOLDEN)
  return tiny.changed(config, {k.replace("__", "."): v for k, v in changes.items()})


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(one_model, tmp_path, monkeypatch):
  monkeypatch.setattr(embed, "_PART", 2)
  config = _config("embed", path=_corpus(tmp_path / "a.jsonl"), id_field="id")
  modes.run("embed", config, str(tmp_path / "whole"))
  whole = np.load(tmp_path / "whole" / "embeddings.npy")
  np.testing.assert_allclose(whole, one_model.encode(_TEXTS), atol=1e-6)
  assert json.loads((tmp_path / "whole" / "ids.json").read_text()) == [f"d{i}" for i in range(5)]
  encode, calls = model_lib.Model.encode, []

  def killed(self, texts, **options):
    calls.append(list(texts))
    if len(calls) == 2:
      raise KeyboardInterrupt
    return encode(self, texts, **options)

  monkeypatch.setattr(model_lib.Model, "encode", killed)
  with pytest.raises(KeyboardInterrupt):
    modes.run("embed", config, str(tmp_path / "cut"))
  assert not (tmp_path / "cut" / "embeddings.npy").exists()
  modes.run("embed", config, str(tmp_path / "cut"))
  assert calls == [_TEXTS[:2], _TEXTS[2:4], _TEXTS[2:4], _TEXTS[4:]]
  names = [p.name for p in (tmp_path / "whole").iterdir()]
  assert sorted(names) == sorted(p.name for p in (tmp_path / "cut").iterdir()) and len(names) == 3
  for name in names:
    assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
  config.embedding.dim = 3
  with pytest.raises(ValueError, match="has embeddings of another model; give a new --workdir"):
    modes.run("embed", config, str(tmp_path / "cut"))


def test_a_search_finds_what_brute_force_finds_and_its_index_is_kept(one_model, tmp_path, capsys):
  workdir = tmp_path / "index"
  config = _config("search", path=_corpus(tmp_path / "a.jsonl"), query="a dog", top_k=3)
  assert modes.run("search", config, str(workdir)) == {"num_rows": 5, "num_queries": 1}
  cosines = one_model.encode(_TEXTS) @ one_model.encode(["a dog"], kind="query")[0]
  best = np.argsort(-cosines)[:3]
  found = json.loads((workdir / "results.jsonl").read_text())["found"]
  assert [x["id"] for x in found] == [f"d{i}" for i in best]
  assert [x["text"] for x in found] == [_TEXTS[i] for i in best]
  np.testing.assert_allclose([x["score"] for x in found], cosines[best], atol=1e-5)
  assert f"d{best[0]}" in capsys.readouterr().out
  (tmp_path / "q.txt").write_text("fox\ndog\n")
  later = _config("search", queries=str(tmp_path / "q.txt"))
  assert modes.run("search", later, str(workdir))["num_queries"] == 2
  assert len((workdir / "results.jsonl").read_text().splitlines()) == 2
  for changes, words in (
      (dict(init__checkpoint=sentence_models.plain(tmp_path / "other"), query="a"), "another model"),
      (dict(embedding__pooling="last", query="a"), "of other options"),
      (dict(path=_corpus(tmp_path / "b.jsonl", ["x"])), "embeddings of another"),
      (dict(path=_corpus(tmp_path / "a.jsonl"), similarity="dot"), "an index with similarity cosine")):
    with pytest.raises(ValueError, match=words):
      modes.run("search", _config("search", **changes), str(workdir))


@pytest.mark.parametrize("name, changes, words", [
    ("embed", dict(), "mode embed needs --config.path"),
    ("embed", dict(path="a.txt", embedding__normalize="maybe"), "choose yes, no"),
    ("embed", dict(path="a.txt", embedding__pooling="men"), "choose from"),
    ("embed", dict(path="a.txt", embedding__dim=-1), "embedding.dim must be"),
    ("search", dict(query="a"), "has no index; build one"),
    ("search", dict(query="  "), "config.query is empty"),
    ("search", dict(query="a", queries="b.txt"), "give one"),
    ("search", dict(query="a", init__checkpoint=""), "the model that embeds"),
    ("search", dict(index="tree"), "config.index is 'tree'")])
def test_what_is_missing_is_said_before_a_model_is_loaded(name, changes, words, tmp_path):
  with pytest.raises(ValueError, match=words):
    modes.run(name, _config(name, **changes), str(tmp_path))

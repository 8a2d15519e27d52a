"""Names of the hub become directories; everything else stays, and what cannot be had is said."""

import builtins
import sys
import types

import pytest

from mdx.utils import hub


@pytest.fixture(autouse=True)
def _library(monkeypatch, tmp_path):
  """A library that gives every revision of one model."""
  calls = []

  def snapshot_download(name, *, revision, allow_patterns):
    calls.append((name, revision))
    if name != "org/model":
      raise FileNotFoundError("cannot find\nit")
    assert "*.safetensors" in allow_patterns and not any("bin" in p for p in allow_patterns)
    return f"/cache/{revision}"

  library = types.ModuleType("huggingface_hub")
  library.snapshot_download = snapshot_download
  monkeypatch.setitem(sys.modules, "huggingface_hub", library)
  monkeypatch.chdir(tmp_path)
  hub._fetched.cache_clear()
  yield calls
  hub._fetched.cache_clear()


def test_a_name_is_downloaded_once_and_a_revision_is_another(_library):
  assert [hub.local("org/model") for _ in range(2)] == ["/cache/None"] * 2
  assert hub.local("org/model@v1.2") == "/cache/v1.2"
  assert _library == [("org/model", None), ("org/model", "v1.2")]


def test_paths_stay_what_they_are(_library, tmp_path):
  (tmp_path / "runs").mkdir()
  for path in ("runs/mistyped", "/abs/olute", "gs://bucket/run", "a/b/c", "name", "", "./org/model"):
    assert hub.local(path) == path
  (tmp_path / "org" / "model").mkdir(parents=True)
  assert hub.local("org/model") == "org/model" and not _library


def test_all_models_of_a_config_are_fetched(_library):
  config = dict(steps=3, init=dict(checkpoint="org/model", adapter="", base=dict(
      init=dict(checkpoint="org/model@v1"))), frozen=dict(
          teacher=dict(checkpoint="org/model@v2"),
          raised=dict(base=dict(init=dict(checkpoint="org/model@v2")))))
  assert hub.localised(config) == dict(steps=3, init=dict(
      checkpoint="/cache/None", adapter="", base=dict(init=dict(checkpoint="/cache/v1"))),
      frozen=dict(teacher=dict(checkpoint="/cache/v2"),
                  raised=dict(base=dict(init=dict(checkpoint="/cache/v2")))))
  assert hub.localised(dict(mode="report")) == dict(mode="report")


def test_what_cannot_be_had_is_one_line(monkeypatch):
  with pytest.raises(ValueError, match=r"org/other is no .* \(FileNotFoundError: cannot find it\)"
                     ) as error:
    hub.local("org/other")
  assert "\n" not in str(error.value)
  real = builtins.__import__

  def missing(name, *args, **kwargs):
    if name == "huggingface_hub":
      raise ImportError(name)
    return real(name, *args, **kwargs)

  monkeypatch.setattr(builtins, "__import__", missing)
  with pytest.raises(ValueError, match=r"pip install 'mdx-lm\[hub\]'"):
    hub.local("org/another")

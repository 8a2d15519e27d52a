"""Directories of sentence-transformers are read in every form, and written so that they are again."""

import json

import numpy as np
import pytest

import mdx
from mdx import modes
from mdx import types
from mdx.interop import sentence_transformers as sentences
from mdx.objectives import encoder
import sentence_models
import tiny

_TEXTS = ["a quick fox", "the dog", "jumps over it and then it sleeps"]


def _export(source, path):
  config = tiny.config("mlm", mode="export", init__checkpoint=source, export__path=str(path),
                       export__format="sentence_transformers")
  modes.run("export", config, str(path) + "_run")
  return str(path)


def test_the_keys_before_release_6_are_read(tmp_path):
  path = sentence_models.plain(
      tmp_path / "old", "Dense", "Normalize", row=dict(max_seq_length=9, do_lower_case=True),
      said=dict(prompts=dict(query="q: ", passage="p: "), default_prompt_name="query"),
      pooling_mode_lasttoken=True, pooling_mode_mean_tokens=False)
  found = sentences.read(path)
  assert found["embedding"] == dict(
      pooling="last", normalize=True, include_prompt=True, max_length=9, lower_case=True,
      default_kind="query", prompts=dict(query="q: ", passage="p: ", document="p: "))
  assert found["dense"] == (dict(num_inputs=16, num_outputs=8, has_bias=True, activation="tanh"),)


def test_a_model_in_a_folder_of_its_own_is_found(tmp_path):
  path = tmp_path / "apart"
  sentence_models.plain(path)
  inner = path / "0_Transformer"
  inner.mkdir()
  for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
    (path / name).rename(inner / name)
  modules = json.loads((path / "modules.json").read_text())
  modules[0]["path"] = "0_Transformer"
  (path / "modules.json").write_text(json.dumps(modules))
  assert mdx.load(str(path)).objective.embedder().settings["max_length"] == 20
  assert sentences.directory_of(inner) == path and sentences.directory_of(path) is None


@pytest.mark.slow
def test_an_export_is_read_again_with_the_same_embeddings(tmp_path):
  path = _export(str(sentence_models.GOLDEN), tmp_path / "out")
  assert sentences.read(path) == sentences.read(sentence_models.GOLDEN)
  found, expected = (mdx.load(p).encode(_TEXTS, kind="query")
                     for p in (path, str(sentence_models.GOLDEN)))
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("modules, pooling, words", [
    (("Dense", "LayerNorm"), {}, "has the modules Transformer, Pooling, Dense, LayerNorm; expected"),
    ((), dict(pooling_mode_mean_tokens=True, pooling_mode_max_tokens=True), "mean and max|max and"),
    ((), dict(pooling_mode="mean_sqrt_len_tokens"), "expected one of cls, mean"),
    ((), dict(pooling_mode="weightedmean", include_prompt=False), "set include_prompt")])
def test_modules_that_are_not_known_are_named(modules, pooling, words, tmp_path):
  with pytest.raises(ValueError, match=words):
    sentences.read(sentence_models.plain(tmp_path / "x", *modules, **pooling))


@pytest.mark.parametrize("changes, words", [
    (dict(pooling="suffix(num_tokens=2)"), "has no pooling"), (dict(dim=3), "has no dim 3"),
    (dict(attention="echo"), "has no attention 'echo'"),
    (dict(prompts=dict(query="{text} so")), "has no prompt '{text} so'")])
def test_settings_that_the_library_lacks_are_not_written(changes, words):
  settings = dict(pooling="mean", prompts={}, default_kind="", attention="", layer=-1, dim=0,
                  normalize=False, max_length=0, lower_case=False, include_prompt=True)
  assert "2_Normalize/config.json" in sentences.written(settings | {"normalize": True}, (), {}, 4, 8)
  with pytest.raises(ValueError, match=words):
    sentences.written(settings | changes, (), {}, 4, 8)


def test_a_model_that_is_only_read_is_not_trained_and_its_maps_are_known():
  with pytest.raises(ValueError, match="activation 'sine'; choose from identity"):
    encoder.Encoder(network=types.Network(None, None, None, 9), dense=(dict(activation="sine"),), attention=dict(name="full"))


def test_training_a_model_that_is_only_read_is_refused(tmp_path):
  config = tiny.config("mlm")
  with config.unlocked():
    config.objective = dict(name="encoder")
  with pytest.raises(ValueError, match="objective encoder reads texts and has no loss"):
    modes.run("train", config, str(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["cls", "max", "weightedmean", "lasttoken"])
def test_the_library_gives_the_same_embeddings_of_an_export(mode, tmp_path):
  library = pytest.importorskip("sentence_transformers")
  source = sentence_models.plain(tmp_path / "in", "Dense", "Normalize", pooling_mode=mode,
                                 said=dict(prompts=dict(query="find ", document="")))
  theirs = library.SentenceTransformer(_export(source, tmp_path / "out"), device="cpu")
  ours = mdx.load(source)
  np.testing.assert_allclose(ours.encode(_TEXTS), theirs.encode(_TEXTS), atol=2e-6)
  np.testing.assert_allclose(ours.encode(_TEXTS, kind="query"), theirs.encode_query(_TEXTS),
                             atol=2e-6)

"""Embeddings are those of sentence-transformers, and their options are what they say."""

import json

import numpy as np
import pytest

import mdx
from mdx import embedding
from mdx import objectives
from mdx import types
from mdx.objectives.causal import ar
import sentence_models

_TEXTS = ["a quick fox", "the dog", "jumps over it and then it sleeps"]


@pytest.fixture(scope="module")
def golden():
  return mdx.load(str(sentence_models.GOLDEN))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
  return mdx.load(sentence_models.plain(tmp_path_factory.mktemp("plain") / "model"))


@pytest.mark.slow
def test_embeddings_are_those_of_the_library_with_its_pooling_prompts_and_maps(golden):
  expected = json.loads((sentence_models.GOLDEN / "embeddings.json").read_text())
  found = golden.encode(expected["texts"])
  assert found.dtype == np.float32 and found.shape == (4, 8)
  np.testing.assert_allclose(found, expected["plain"], atol=2e-6)
  np.testing.assert_allclose(golden.encode(expected["texts"], kind="query"), expected["query"],
                             atol=2e-6)
  np.testing.assert_allclose(golden.encode(expected["texts"][2]), [expected["plain"][2]], atol=2e-6)


def test_several_prompts_are_averaged_and_truncation_is_before_the_length(golden):
  one, two = (golden.encode(_TEXTS, prompt=p, normalize=False) for p in ("say: ", "{text} so"))
  both = golden.encode(_TEXTS, prompt=["say: ", "{text} so"])
  mean = (one + two) / 2
  np.testing.assert_allclose(both, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-6)
  cut = golden.encode(_TEXTS, prompt="say: ", dim=3)
  np.testing.assert_allclose(cut, one[:, :3] / np.linalg.norm(one[:, :3], axis=1, keepdims=True),
                             atol=1e-6)


@pytest.mark.slow
def test_layers_are_averaged_and_the_last_one_is_the_default(plain):
  layers = [plain.encode(_TEXTS, layer=i) for i in (0, 1)]
  np.testing.assert_array_equal(layers[1], plain.encode(_TEXTS))
  assert np.abs(layers[0] - layers[1]).max() > 0.1
  np.testing.assert_allclose(plain.encode(_TEXTS, pooling="last_layers(num_layers=2)"),
                             (layers[0] + layers[1]) / 2, atol=1e-6)


@pytest.mark.slow
def test_a_causal_reading_of_the_first_position_does_not_know_the_text(plain):
  first = plain.encode(_TEXTS, attention="causal", pooling="first")
  np.testing.assert_allclose(first, np.broadcast_to(first[:1], first.shape), atol=1e-6)
  assert np.abs(np.diff(plain.encode(_TEXTS, pooling="first"), axis=0)).max() > 0.1
  assert np.abs(plain.encode(_TEXTS, attention="echo") - plain.encode(_TEXTS)).max() > 0.01


def test_special_tokens_are_put_behind_a_text_and_read(plain):
  found = plain.encode(_TEXTS, pooling="special(ids=(4,))")
  assert found.shape == (3, 16) and np.abs(found).max() > 0


def test_no_texts_are_no_rows(plain):
  assert len(plain.encode([])) == 0


def test_the_identity_is_of_weights_and_options(golden, plain):
  names = [embedding.identity(model, embedding.settings_of(model, **options)) for model, options in (
      (golden, {}), (plain, {}), (plain, dict(pooling="last")), (plain, dict(dim=3)),
      (plain, dict(pooling="mean")))]
  assert len(set(names)) == 4 and names[1] == names[4]


@pytest.mark.parametrize("options, words", [
    (dict(pooling="men"), "choose from"), (dict(poling="mean"), "has no field 'poling'"),
    (dict(attention="sideways"), "attention is 'sideways'"), (dict(layer=2), "none of the 2 layers"),
    (dict(dim=17), "more than the 16 columns"), (dict(max_length=33), "more than the 32"),
    (dict(pooling="latent(num_heads=1)"), "latent has trained parameters"),
    (dict(pooling="last_layers(num_layers=3)"), "averages 3 layers"),
    (dict(pooling="last_layers(num_layers=2)", layer=0), "leave one of them out"),
    (dict(pooling="suffix(num_tokens)"), "cannot be read"), (dict(pooling="suffix"), "give a prompt"),
    (dict(pooling="special(ids=(99,))"), "ids of this model lie in"),
    (dict(kind="title"), "no prompt for texts of the kind 'title'; choose from query, document"),
    (dict(prompt=3), "expected a text, a list of texts"), (dict(prompt="a " * 40), "shorter prompt")])
def test_options_that_do_not_fit_are_refused_in_one_line(plain, options, words):
  with pytest.raises(ValueError, match=words) as error:
    plain.encode(_TEXTS, **options)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [*objectives.OBJECTIVES, *objectives.READ_ONLY])
def test_every_objective_says_how_a_text_is_read(name):
  cls = {**objectives.OBJECTIVES, **objectives.READ_ONLY}[name]
  assert cls.visibility is not types.Objective.visibility or (
      cls.embedder is not types.Objective.embedder)


def test_a_causal_row_begins_with_the_start_token_unless_it_never_does():
  network = types.Network(None, None, None, vocab_size=9)
  starts = [ar.AutoRegressive(network=network, mask_id=8, start=start).embedder().start_ids
            for start in ar.STARTS]
  assert starts == [(8,), (8,), ()]


def test_texts_that_lose_their_end_are_counted_aloud(plain, capsys):
  plain.encode(["the dog", "the dog " * 40])
  assert "1 of 2 texts are longer than the 20 tokens" in " ".join(capsys.readouterr().out.split())

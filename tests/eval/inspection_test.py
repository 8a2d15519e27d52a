"""Rows looked at: stored logits of `transformers`, hidden states under the head, scores by hand."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import tiny

import mdx
from mdx import modes
from mdx.train import progress

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
PARAGRAPH = "It was the age"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  root, found = tmp_path_factory.mktemp("runs"), {}
  for name in ("diffusion", "ar", "mlm"):
    modes.run("train", tiny.config(name, sampler__num_samples=0, eval__baselines=False),
              str(root / name))
    found[name] = mdx.load(str(root / name))
  return found


@pytest.mark.parametrize("name", ["bert", "roberta", "llama"])
def test_logits_are_those_of_transformers_over_the_models_own_ids(name, tmp_path):
  stored = np.load(GOLDEN / f"{name}-tiny" / "logits.npz")
  shutil.copytree(GOLDEN / f"{name}-tiny", tmp_path / name)
  file = tmp_path / name / "config.json"
  file.write_text(json.dumps(json.loads(file.read_text()) | {"mask_token_id": 4}))
  model = mdx.load(str(tmp_path / name))
  rows = list(stored["input_ids"])
  found = model.logits([rows[0][:5], *rows], batch_size=2)
  assert len(rows) > 1 and found[0].shape[0] == 5
  for logits, want in zip(found[1:], stored["logits"], strict=True):
    assert logits.dtype == np.float32
    if model.is_causal:  # theirs are of the next token, ours of the token itself
      logits, want = logits[1:], want[:-1]
    np.testing.assert_allclose(logits[:, :want.shape[1]], want, atol=2e-4)


@pytest.mark.slow
def test_readings_tell_how_many_rows_are_done(models, monkeypatch):
  told = []
  monkeypatch.setattr(progress.Progress, "update", lambda self, step: told.append(step))
  models["mlm"].logits(["age"] * 20, batch_size=2, progress=True)
  assert told[-1] == 20 and len(told) > 1 and told == sorted(set(told))


@pytest.mark.parametrize("name", tiny.first(["diffusion", "ar", "mlm"], 1))
def test_logits_are_the_head_of_the_hidden_states_whatever_the_batch(name, models):
  model = models[name]
  rows = [PARAGRAPH, "age", [1, 2, 3]]
  logits, hidden = model.logits(rows), model.hidden_states(rows, batch_size=2)
  for row, (one, states) in zip(rows, zip(logits, hidden)):
    assert one.shape == (len(states), model.tokenizer.vocab_size)
    with jax.set_mesh(model.mesh):
      head = model.objective.network.head(model.params["model"], states[None], "lm")[0]
    np.testing.assert_allclose(one, np.asarray(head)[:, :one.shape[1]], atol=1e-4)
    np.testing.assert_allclose(model.logits([row])[0], one, atol=1e-5)


def test_scores_of_a_causal_model_sum_to_the_log_likelihood(models):
  model = models["ar"]
  scores = model.score_tokens([PARAGRAPH, "of"])
  np.testing.assert_allclose([s.sum() for s in scores], model.log_likelihood([PARAGRAPH, "of"]),
                             rtol=1e-5)
  np.testing.assert_allclose(model.pseudo_log_likelihood(PARAGRAPH), [scores[0].sum()])


def test_scores_of_other_models_mask_one_token_at_a_time(models):
  for name in ("mlm", "diffusion"):
    model = models[name]
    ids = model.prompt_ids(PARAGRAPH)
    for position in (0, 5, len(ids) - 1):
      masked = ids.copy()
      masked[position] = model.tokenizer.mask_id
      logits = model.logits([masked])[0][position]
      logits[model.tokenizer.mask_id] = -np.inf
      want = jax.nn.log_softmax(logits)[ids[position]]
      assert model.score_tokens([ids])[0][position] == pytest.approx(float(want), abs=1e-5)


def test_masks_are_filled_with_the_most_probable_tokens_and_never_with_the_mask(models):
  model = models["mlm"]
  fills = model.fill_mask("It [MASK]as t[MASK]e", top_k=3)
  assert [len(found) for found in fills] == [3, 3]
  logits = model.logits(["It [MASK]as t[MASK]e"])[0]
  logits[:, model.tokenizer.mask_id] = -np.inf
  probabilities = np.asarray(jax.nn.softmax(logits[3]))
  best = fills[0][0]
  assert best.id == probabilities.argmax() and best.text == model.tokenizer.decode([best.id])
  assert best.probability == pytest.approx(probabilities.max(), rel=1e-4)
  assert sum(fill.probability for fill in model.fill_mask("[MASK]", top_k=10 ** 6)[0]) <= 1.0001


def test_what_cannot_be_read_is_one_line(models):
  for call, message in (
      (lambda: models["mlm"].fill_mask("no mask"), "needs a text with"),
      (lambda: models["ar"].fill_mask("It [MASK]"), "a model that reads both sides"),
      (lambda: models["mlm"].logits([[]]), "row 0 has 0 tokens; expected 1 to 1024"),
      (lambda: models["mlm"].logits([[1] * 2000]), "row 0 has 2000 tokens"),
      (lambda: mdx.load(str(GOLDEN / "electra-discriminator-tiny")), "writes none")):
    with pytest.raises(ValueError, match=message):
      call()

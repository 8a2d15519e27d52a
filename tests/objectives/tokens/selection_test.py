"""Selection: how many tokens, words and spans of a row are corrupted, and which.

References: Devlin et al. 2019, arXiv:1810.04805; Joshi et al. 2020, arXiv:1907.10529.
"""

import jax.numpy as jnp
import numpy as np
import pytest


import oracle
import token_rows
from token_rows import MASK_ID, VOCAB


@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_bernoulli_selects_at_its_rate(rate):
  prepared, weight = token_rows.prepare(token_rows.objective(mask_rate=rate),
                                        token_rows.batch(500, 128))
  assert abs(oracle.z_score(prepared["is_target"].ravel(), rate)) < 4
  assert weight == prepared["is_target"].sum()


def test_exact_count_selects_the_rounded_share_and_at_least_one():
  lengths = np.array([128, 100, 64, 10, 5, 2, 1, 0])
  prepared, weight = token_rows.prepare(token_rows.objective(mask_draw="exact_count"),
                                        token_rows.batch(8, 128, lengths))
  counts = prepared["is_target"].sum(axis=1)
  np.testing.assert_array_equal(counts, [19, 15, 10, 2, 1, 1, 1, 0])
  assert weight == counts.sum()


@pytest.mark.parametrize("mask_draw", ["bernoulli", "exact_count"])
def test_padding_and_prompts_are_never_selected_nor_changed(mask_draw):
  batch = token_rows.batch(300, 40, np.arange(300) % 41)
  prepared, _ = token_rows.prepare(token_rows.objective(mask_draw=mask_draw, mask_rate=0.9), batch)
  outside = ~np.asarray(batch["loss_mask"])
  assert not prepared["is_target"][outside].any()
  kept = ~prepared["is_target"]
  np.testing.assert_array_equal(prepared["noisy_tokens"][kept], np.asarray(batch["tokens"])[kept])


@pytest.mark.slow
def test_a_rows_draws_depend_on_its_index_and_the_step_only():
  objective, batch = token_rows.objective(), token_rows.batch(32, 64)
  one, _ = token_rows.prepare(objective, batch)
  order = np.random.default_rng(1).permutation(32)[:20]
  other, _ = token_rows.prepare(objective, {k: v[order] for k, v in batch.items()})
  for name in one:
    np.testing.assert_array_equal(one[name][order], other[name], err_msg=name)
  again, _ = token_rows.prepare(objective, batch, seed=1)
  assert not np.array_equal(one["is_target"], again["is_target"])


# Ids below 6 begin a word, the others go on with it.
WORDS = np.stack([np.arange(VOCAB) >= 6, np.ones(VOCAB, bool)], axis=1)


def _units(batch):
  tokens, allowed = np.asarray(batch["tokens"]), np.asarray(batch["loss_mask"])
  begins = (tokens < 6) | (np.arange(tokens.shape[1]) == 0)
  units = np.maximum.accumulate(np.where(begins, np.arange(tokens.shape[1]), 0), axis=1)
  return units, begins & allowed, allowed


@pytest.mark.parametrize("mask_draw", ["bernoulli", "exact_count"])
def test_whole_words_are_never_split_and_every_word_is_as_likely_whatever_its_length(mask_draw):
  batch = token_rows.batch(2000, 32, np.arange(2000) % 9 + 24)
  objective = token_rows.objective(unit="whole_word", word_edges=WORDS, mask_rate=0.25,
                                   mask_draw=mask_draw)
  prepared, weight = token_rows.prepare(objective, batch)
  units, begins, allowed = _units(batch)
  selected = prepared["is_target"]
  np.testing.assert_array_equal(
      selected, np.take_along_axis(selected & begins, units, axis=1) & allowed)
  num_words = begins.sum(axis=1)
  if mask_draw == "exact_count":
    np.testing.assert_array_equal((selected & begins).sum(axis=1),
                                  np.maximum(np.round(np.float32(0.25) * num_words), 1))
  else:
    assert abs(oracle.z_score(selected[begins], 0.25)) < 4
  # Words of 1, 2, 3 and 4 or more tokens: as many as there are of each, so is the share of tokens.
  size = np.stack([np.bincount(u[a], minlength=32) for u, a in zip(units, allowed)])[begins]
  kinds = np.minimum(size, 4)
  expected = np.repeat((selected & begins).sum(axis=1) / num_words, num_words)
  counts = [selected[begins][kinds == kind].sum() for kind in range(1, 5)]
  assert oracle.chi_square(counts, [expected[kinds == kind].sum() for kind in range(1, 5)]) > 1e-4
  assert weight == selected.sum() and abs(weight / allowed.sum() - 0.25) < 0.01


@pytest.mark.slow
def test_spans_of_words_have_an_exact_count_of_words_one_fate_and_end_with_a_document():
  batch = token_rows.batch(1000, 64)
  batch["segment_ids"] = jnp.where(jnp.arange(64)[None] < 40, 1, jnp.full((1000, 1), 2))
  objective = token_rows.objective(unit="whole_word", word_edges=WORDS, mask_rate=0.4, span_max=6,
                                   mask_draw="exact_count", replace_together=True,
                                   replace_random_rate=0.0)
  prepared, _ = token_rows.prepare(objective, batch)
  units, begins, _ = _units(batch)
  begins[:, 40] = True
  units = np.maximum.accumulate(np.where(begins, np.arange(64), 0), axis=1)
  selected, masked = prepared["is_target"], prepared["noisy_tokens"] == MASK_ID
  np.testing.assert_array_equal((selected & begins).sum(axis=1),
                                np.round(np.float32(0.4) * begins.sum(axis=1)))
  np.testing.assert_array_equal(selected, np.take_along_axis(selected, units, axis=1))
  within = selected[:, 1:] & selected[:, :-1] & ~begins[:, 1:]
  assert (masked[:, 1:] == masked[:, :-1])[within].all()  # one fate for the positions of a word
  # Neighbouring words mostly lie in one span, with one fate; across documents never.
  across = selected[:, 1:] & selected[:, :-1] & begins[:, 1:]
  same = masked[:, 1:] == masked[:, :-1]
  independent = 0.8 ** 2 + 0.2 ** 2
  assert same[across].mean() > independent + 0.1
  assert abs(same[:, 39][across[:, 39]].mean() - independent) < 0.08


@pytest.mark.parametrize("schedule,middle", [("linear", 0.4), ("cosine", 0.5)])
def test_the_rate_goes_from_the_first_to_the_last(schedule, middle):
  objective = token_rows.objective(mask_rate=0.6, final_mask_rate=0.2, rate_schedule=schedule,
                                   anneal_steps=300, mask_draw="exact_count")
  at = {0: 0.6, 300: 0.2, 1000: 0.2, 2 ** 31 - 1: 0.2}
  between = {"linear": 150, "cosine": 100}[schedule]  # cos(pi / 3) = 1/2
  for step, rate in (at | {between: middle}).items():
    np.testing.assert_allclose(objective.rate(jnp.int32(step)), rate, rtol=1e-5)
  batch = token_rows.batch(4, 100)
  for step in (0, 300):
    prepared, _ = token_rows.prepare(objective, batch, step=step)
    assert (prepared["is_target"].sum(axis=1) == round(100 * at[step])).all()


def test_static_masks_are_the_same_at_every_step_and_wherever_a_row_comes():
  fields = dict(mask_rate=0.3, mask_draw="exact_count")
  batch = token_rows.batch(64, 40)
  moved = {k: v[::-1] for k, v in batch.items()} | {"example_index": jnp.arange(900, 964)}

  def three(objective):
    read = lambda rows, **draw: token_rows.prepare(objective, rows, **draw)[0]
    return read(batch), read(batch, seed=5, step=7), read(moved, seed=6)

  one, other, last = three(token_rows.objective(num_masks=1, **fields))
  for name in ("is_target", "noisy_tokens"):
    np.testing.assert_array_equal(one[name], other[name])
    np.testing.assert_array_equal(one[name], last[name][::-1])
  assert len(np.unique(one["is_target"], axis=0)) == 64  # rows differ
  one, other, last = three(token_rows.objective(**fields))
  assert not (one["is_target"] == other["is_target"]).all(axis=1).any()


def test_each_visit_takes_one_of_n_static_masks_at_random():
  objective, row = token_rows.objective(num_masks=4, mask_rate=0.3), token_rows.batch(1, 40)
  visits = {k: jnp.repeat(v, 800, axis=0) for k, v in row.items()} | {
      "example_index": jnp.arange(800)}
  prepared, _ = token_rows.prepare(objective, visits)
  found, counts = np.unique(prepared["is_target"], axis=0, return_counts=True)
  assert len(found) == 4 and oracle.chi_square(counts, np.ones(4)) > 1e-4


def test_spans_longer_than_what_is_selected_of_a_text_are_refused():
  objective = token_rows.objective(span_max=10, mask_draw="exact_count", mask_rate=0.3,
                                   final_mask_rate=0.15, anneal_steps=10)
  objective.check_length(64)
  with pytest.raises(ValueError, match="span_max 10 exceeds the 9 units that a rate of 0.15 sel"):
    objective.check_length(60)
  token_rows.objective().check_length(1)

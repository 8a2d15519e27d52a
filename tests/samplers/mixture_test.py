"""Mixtures: a row follows the plan it draws, exactly as a sampler of that plan alone."""

import jax.numpy as jnp
import numpy as np
import pytest

from mdx.samplers import confidence
from mdx.samplers import revise
from mdx.utils import rng

import driving

PLANS = ((4, 4), (8, 2))
CANVAS = np.zeros((12, 8), np.int32)
MODEL = driving.Memory(scale=2.0)


def _answer(params, request):
  del params
  return MODEL.answer({}, request)


def _sampler(rule, **fields):
  return rule(mask_id=0, eos_id=1, gen_length=8, **fields)


@pytest.mark.slow
@pytest.mark.parametrize("rule", [confidence.Confidence, revise.RunningConfidence])
def test_every_row_is_decoded_by_the_plan_it_drew(rule):
  mixed = driving.decode(_answer, _sampler(rule, mixture=PLANS), CANVAS)
  alone = [driving.decode(_answer, _sampler(rule, block_length=b, steps=s), CANVAS)
           for b, s in PLANS]
  plan = np.where(mixed.nfe == 4, 0, 1)
  assert set(mixed.nfe) == {2, 4}
  for row, which in enumerate(plan):
    np.testing.assert_array_equal(mixed.tokens[row], alone[which].tokens[row])


def test_rows_with_one_plan_index_follow_one_plan():
  sampler = _sampler(confidence.Confidence, mixture=PLANS)
  draw = lambda index: sampler.init(
      jnp.zeros((64, 8), jnp.int32), jnp.broadcast_to(jnp.arange(8), (64, 8)), driving.keys(64),
      rng.per_example(rng.root(1), index))["plan"]
  each, groups = np.asarray(draw(jnp.arange(64))), np.asarray(draw(jnp.arange(64) // 8))
  assert 16 < each.sum() < 48 and len(set(each[:8])) == 2
  assert np.all(groups.reshape(8, 8) == groups[::8, None]) and set(groups) == {0, 1}


def test_a_plan_that_is_given_is_followed():
  sampler, plan = _sampler(confidence.Confidence, mixture=PLANS), jnp.arange(12) % 2
  found = driving.decode(_answer, sampler, CANVAS, plan=plan)
  assert found.nfe.tolist() == [4, 2] * 6


@pytest.mark.parametrize("fields, message", [
    (dict(mixture=((3, 2),)), "block_length 3 does not divide gen_length 8"),
    (dict(mixture=((4, 3),)), "steps 3 is not divisible by the 2 blocks"),
    (dict(mixture=((4, 4),), cache="dual"), "mixture needs cache none")])
def test_mixtures_without_meaning_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    _sampler(confidence.Confidence, **fields)
  with pytest.raises(ValueError, match="a rule that counts tokens, not Remdm"):
    _sampler(revise.Remdm, mixture=PLANS)

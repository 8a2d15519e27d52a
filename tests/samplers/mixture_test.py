"""Mixtures: a row follows the component it draws, as a sampler of that component alone does."""

import jax.numpy as jnp
import numpy as np
import pytest

from mdx.samplers import confidence
from mdx.samplers import revise
from mdx.utils import rng

import driving
import tiny

COMPONENTS = ((4, 4), (8, 2))
CANVAS = np.zeros((12, 8), np.int32)
MODEL = driving.Memory(scale=2.0)


def _answer(params, request):
  del params
  return MODEL.answer({}, request)


def _sampler(rule, **fields):
  return rule(mask_id=0, eos_id=1, gen_length=8, **fields)


@pytest.mark.parametrize("rule, cache", tiny.mostly_slow([
    (confidence.Confidence, "none"), (revise.RunningConfidence, "none"),
    (confidence.Confidence, "prefix"), (confidence.Confidence, "dual"),
    (revise.RunningConfidence, "dual")], [(confidence.Confidence, "dual")]))
@pytest.mark.slow
def test_every_row_is_decoded_by_the_component_it_drew(rule, cache):
  mixed = driving.decode(_answer, _sampler(rule, mixture=COMPONENTS, cache=cache), CANVAS)
  alone = [driving.decode(_answer, _sampler(rule, block_length=b, steps=s, cache=cache), CANVAS)
           for b, s in COMPONENTS]
  component = np.where(mixed.nfe == 4, 0, 1)
  assert set(mixed.nfe) == {2, 4}
  for row, which in enumerate(component):
    np.testing.assert_array_equal(mixed.tokens[row], alone[which].tokens[row])


def test_rows_with_one_component_index_draw_one_component():
  sampler = _sampler(confidence.Confidence, mixture=COMPONENTS)
  draw = lambda index: sampler.init(
      jnp.zeros((64, 8), jnp.int32), jnp.broadcast_to(jnp.arange(8), (64, 8)), driving.keys(64),
      rng.per_example(rng.root(1), index))["component"]
  each, groups = np.asarray(draw(jnp.arange(64))), np.asarray(draw(jnp.arange(64) // 8))
  assert 16 < each.sum() < 48 and len(set(each[:8])) == 2
  assert np.all(groups.reshape(8, 8) == groups[::8, None]) and set(groups) == {0, 1}


def test_a_component_that_is_given_is_followed():
  sampler, component = _sampler(confidence.Confidence, mixture=COMPONENTS), jnp.arange(12) % 2
  found = driving.decode(_answer, sampler, CANVAS, component=component)
  assert found.nfe.tolist() == [4, 2] * 6


@pytest.mark.parametrize("fields, message", [
    (dict(mixture=((3, 2),)), "block_length 3 does not divide gen_length 8"),
    (dict(mixture=((4, 3),)), "steps 3 is not divisible by the 2 blocks"),
    (dict(mixture=((4, 4),), cache="block"), "mixture needs a rule that counts tokens, and")])
def test_mixtures_without_meaning_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    _sampler(confidence.Confidence, **fields)
  with pytest.raises(ValueError, match="not Remdm with cache none"):
    _sampler(revise.Remdm, mixture=COMPONENTS)

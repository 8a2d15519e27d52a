"""Above the mean: what a step commits, by hand; windows; rewriting; one step is parallel decoding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.samplers import mean_confidence
from mdx.samplers import loop
from mdx.utils import rng

MASK, EOS, LENGTH = 5, 4, 6


def _table(tokens, confidences, is_later=None):
  """Answers with the confidences given for the tokens; others once `is_later` of the canvas."""

  def answer(request):
    def logits(tokens, confidences):
      probs = np.zeros((LENGTH, 6))
      probs[:, :5] = ((1 - np.array(confidences)) / 4)[:, None]
      probs[np.arange(LENGTH), tokens] = confidences
      return jnp.log(jnp.maximum(jnp.asarray(probs, jnp.float32), 1e-9))

    found = jnp.broadcast_to(logits(tokens, confidences), (len(request.tokens), LENGTH, 6))
    if is_later is not None:
      changed = (request.tokens != MASK).any(axis=1)[:, None, None]
      found = jnp.where(changed, logits(*is_later), found)
    return types.Answer(jnp.take_along_axis(found, request.targets[..., None], axis=1, mode="clip"))

  return answer


def _decode(answer, sampler):
  found = jax.jit(lambda: loop.decode(
      answer, sampler, jnp.full((1, LENGTH), MASK), key=rng.root(0), row_index=jnp.arange(1),
      record="canvas"))()
  calls = int(found.nfe[0])
  return [x.tolist() for x in np.asarray(found.trajectory.canvas[0, :calls])] + [
      np.asarray(found.tokens[0]).tolist()]


def _rule(cls=mean_confidence.MeanConfidence, **fields):
  return cls(**dict(mask_id=MASK, eos_id=EOS, gen_length=LENGTH, steps=3, temperature=0.0) | fields)


TOKENS = (0, 1, 2, EOS, 3, 3)
CONFIDENCES = (0.9, 0.4, 0.8, 0.7, 0.99, 0.99)  # behind the end they count nothing; mean 0.7


@pytest.mark.slow
def test_a_step_commits_what_is_above_the_mean_of_the_text_and_the_last_one_the_rest():
  canvases = _decode(_table(TOKENS, CONFIDENCES), _rule())
  assert canvases[1] == [0, MASK, 2, MASK, MASK, MASK]
  assert canvases[2] == [0, MASK, 2, EOS, MASK, MASK]  # of 0.4 and 0.7
  assert canvases[3] == [0, 1, 2, EOS, 3, 3] and len(canvases) == 4
  stopped = _decode(_table(TOKENS, CONFIDENCES), _rule(eos_stop="row"))
  assert stopped[-1] == [0, 1, 2, EOS, EOS, EOS]


def test_equal_confidences_commit_one_and_one_step_commits_all():
  equal = _table(TOKENS, (0.5,) * 6)
  canvases = _decode(equal, _rule())
  assert [sum(x != MASK for x in row) for row in canvases] == [0, 1, 2, 6]
  assert _decode(equal, _rule(steps=1)) == [[MASK] * 6, list(TOKENS)]


def test_blocks_look_at_a_window():
  falling = _table((0, 1, 2, 3, 3, 3), (0.5, 0.6, 0.7, 0.8, 0.85, 0.9))
  # Parts of one position: one, two and three of them, then two from the third on, then all.
  canvases = _decode(falling, _rule(steps=6, blockwise=True))
  assert canvases[1] == [0] + [MASK] * 5
  assert canvases[2] == [0, 1] + [MASK] * 4
  assert canvases[3] == [0, 1, 2] + [MASK] * 3
  assert canvases[4] == [0, 1, 2, 3] + [MASK] * 2
  assert canvases[5][4:] == [MASK, 3] and canvases[6] == [0, 1, 2, 3, 3, 3]


def test_rewriting_replaces_what_stands_and_takes_all_its_steps():
  answer = _table(TOKENS, CONFIDENCES, is_later=((2, 1, 0, EOS, 3, 3), CONFIDENCES))
  kept, rewritten = (_decode(answer, _rule(cls)) for cls in (
      mean_confidence.MeanConfidence, mean_confidence.Rewriting))
  assert kept[-1] == [0, 1, 2, EOS, 3, 3] and rewritten[-1] == [2, 1, 0, EOS, 3, 3]
  assert rewritten[1] == kept[1] and len(rewritten) == 4
  with pytest.raises(ValueError, match="rewriting rewrites to its last step, so eos_stop 'row'"):
    _rule(mean_confidence.Rewriting, eos_stop="row")

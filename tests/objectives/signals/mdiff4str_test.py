"""MDiff4STR: the weights of its draws, what is behind a text, the shared image, and its decoding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import objectives
from mdx import samplers
from mdx import types
from mdx.data import tokenizer as tokenizer_lib
from mdx.networks import transformer
from mdx.samplers import loop
from mdx.utils import rng

TOKENIZER = tokenizer_lib.build("symbols:a b c d")
SPEC = dict(num_layers=1, width=8, num_heads=2, mlp_width=8, position="learned", max_length=5,
            vocab_size=7)
TEXTS = jnp.array([[0, 1, 2, 5, 4], [3, 5, 4, 4, 4], [4] * 5])  # 5 ends a text, 4 pads
ROWS = {"tokens": TEXTS, "loss_mask": jnp.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [0] * 5], bool),
        "patches": jax.random.normal(rng.root(1), (3, 6, 4)), "example_index": jnp.arange(3)}


def _build(context_width=8, **fields):
  network = transformer.Transformer(**SPEC, context_width=context_width).network()
  return objectives.build(dict(name="mdiff4str", channels=4, num_patches=6, num_draws=2,
                               encoder=dict(num_layers=1)) | fields, network, TOKENIZER)


@pytest.fixture(name="model", scope="module")
def _model():
  objective = _build()
  params = objective.init(rng.root(0))
  kernel = params["model"]["layers"]["cross"]["out"]["kernel"]
  params["model"]["layers"]["cross"]["out"]["kernel"] = jax.random.normal(rng.root(4), kernel.shape)
  return objective, params, jax.jit(lambda params, batch: objective(params, batch, types.context(0)))


def _prepared(objective):
  return objective.prepare(None, ROWS, rng.root(2), types.context(0))


@pytest.mark.slow
def test_draws_mask_or_replace_the_text_and_what_is_behind_it_is_a_mask_and_no_target(model):
  batch, weights = _prepared(model[0])
  noisy, target = np.array(batch["noisy_tokens"]), np.array(batch["is_target"])
  mask = TOKENIZER.mask_id
  assert noisy.shape == (3, 4, 5) and weights == {"denoise": 4, "correct": 4}
  is_text = np.array(ROWS["loss_mask"])[:, None]
  assert (noisy[~np.broadcast_to(is_text, noisy.shape)] == mask).all() and not (target & ~is_text).any()
  np.testing.assert_array_equal(noisy[:, :2] == mask, target[:, :2] | ~is_text)
  np.testing.assert_array_equal(target[:, 2:], np.broadcast_to(is_text, (3, 2, 5)))
  assert not np.isin(noisy[:, 2:][target[:, 2:]], (mask, TOKENIZER.pad_id)).any()


def test_the_loss_is_the_mean_over_targets_of_each_draw_read_alone(model):
  objective, params, score = model
  batch, _ = _prepared(objective)
  totals, aux = score(params, batch)
  states = objective.context_of(params, ROWS)
  means = np.zeros((3, 4))
  for i in range(4):
    answer = objective.answer(params, types.Request(batch["noisy_tokens"][:, i], None, context=states))
    nats = -np.take_along_axis(np.array(jax.nn.log_softmax(answer.logits)), TEXTS[..., None], -1)[..., 0]
    target = np.array(batch["is_target"][:, i])
    means[:, i] = np.where(target, nats, 0).sum(1) / np.maximum(target.sum(1), 1)
  assert totals["denoise"] == pytest.approx(means[:, :2].sum(), rel=1e-4)
  assert totals["correct"] == pytest.approx(means[:, 2:].sum(), rel=1e-4)
  assert aux.rows["count"].tolist() == batch["is_target"][:, :2].sum(axis=(1, 2)).tolist()
  assert (np.array(answer.logits)[..., [TOKENIZER.mask_id, TOKENIZER.pad_id]] == -1e30).all()


def test_an_image_is_encoded_once_for_all_draws(model):
  objective, params, _ = model
  batch, _ = _prepared(objective)
  text = str(jax.make_jaxpr(lambda: objective(params, batch, types.context(0))[0])())
  assert text.count("f32[3,6,8]") and "f32[12,6,4]" not in text


@pytest.mark.slow
def test_one_step_is_parallel_and_left_to_right_is_its_argmax_step_by_step(model):
  objective, params, _ = model
  states = objective.context_of(params, ROWS)
  ask = jax.jit(lambda canvas: objective.answer(params, types.Request(
      canvas, None, context=states)).logits.argmax(axis=-1))
  masks = jnp.full((3, 5), TOKENIZER.mask_id)

  def decoded(**fields):
    rule = samplers.build(dict(gen_length=5, temperature=0.0) | fields, objective,
                          mask_id=TOKENIZER.mask_id, eos_id=TOKENIZER.eos_id)
    rows = {"canvas": masks, "row_index": jnp.arange(3), "context": states}
    return jax.jit(lambda: loop.decode_rows(objective, rule, params, rng.root(0), rows, start=0,
                                            record="none").tokens)()

  np.testing.assert_array_equal(decoded(name="mean_confidence", steps=1), ask(masks))
  canvas = masks
  for i in range(5):
    canvas = canvas.at[:, i].set(ask(canvas)[:, i])
  np.testing.assert_array_equal(decoded(name="autoregressive"), canvas)
  np.testing.assert_array_equal(decoded(name="autoregressive", cache="dual", block_length=5), canvas)


@pytest.mark.parametrize("fields, message", [
    (dict(context_width=6), "context_width is 6, and the encoder of images has width 8; set it to 8"),
    (dict(strategies=("half",)), "strategies is .'half',.; expected some of whole, left_to_right"),
    (dict(num_draws=0), "num_draws must be at least 1")])
def test_fields_without_meaning_are_one_line(fields, message):
  with pytest.raises(ValueError, match=message):
    _build(**fields)

"""Masked images: exact counts, hidden pixels stay hidden, losses by hand, and MAE by its own rows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import objectives
from mdx import types
from mdx.data import tokenizer as tokenizer_lib
from mdx.networks import attention
from mdx.networks import heads
from mdx.networks import transformer
from mdx.objectives.signals import mim
from mdx.utils import rng

NETWORK = transformer.Transformer(num_layers=2, width=8, num_heads=2, mlp_width=8, position="none",
                                  vocab_size=4, head="none").network()
ROWS = {"patches": jax.random.normal(rng.root(3), (3, 8, 5)),
        "patch_mask": jnp.array([[True] * 8, [True] * 8, [False] * 8]),
        "segment_ids": jnp.array([[1] * 8, [1] * 8, [0] * 8]), "example_index": jnp.arange(3)}
SIZES = dict(channels=5, num_patches=8)


def _build(name, **fields):
  return objectives.build(dict(name=name, **SIZES, **fields), NETWORK,
                          tokenizer_lib.build("symbols:0"))


def _prepared(objective, rows=ROWS):
  return objective.prepare(None, rows, rng.root(5), types.context(0))


@pytest.fixture(name="run", scope="module", params=["simmim", "mae"])
def _run(request):
  objective = _build(request.param, mask_rate=0.5)
  params = objective.init(rng.root(0))
  return objective, params, jax.jit(lambda params, batch: objective.predict(
      params, batch, types.context(0))[0])


def test_an_exact_number_of_patches_is_masked_in_every_image_and_none_of_padding(run):
  batch, weights = _prepared(run[0])
  assert batch["is_masked"].sum(axis=1).tolist() == [4, 4, 0]
  assert weights["mim"] == 8 * 5
  again, _ = _prepared(run[0], {k: v[1:2] for k, v in ROWS.items()})
  np.testing.assert_array_equal(again["is_masked"][0], batch["is_masked"][1])


def test_predictions_do_not_read_masked_patches_and_read_the_others(run):
  objective, params, predict = run
  batch, _ = _prepared(objective)
  first = predict(params, batch)
  is_masked = batch["is_masked"][..., None]
  hidden = batch | {"patches": jnp.where(is_masked, 9.0, batch["patches"])}
  np.testing.assert_allclose(predict(params, hidden)[:2], first[:2], atol=1e-5)
  seen = batch | {"patches": jnp.where(is_masked, batch["patches"], batch["patches"] + 1)}
  assert jnp.abs(predict(params, seen) - first)[:2].max() > 1e-3


@pytest.mark.parametrize("loss, normalised", [("l1", False), ("l2", True)])
def test_the_loss_is_the_mean_error_of_the_values_of_masked_patches(loss, normalised):
  objective = _build("simmim", mask_rate=0.5, loss=loss, normalised=normalised)
  batch, weights = _prepared(objective)
  predicted = jax.random.normal(rng.root(9), batch["patches"].shape)
  totals, aux = objective.error(predicted, batch)
  targets = np.array(batch["patches"])
  if normalised:
    targets = (targets - targets.mean(-1, keepdims=True)) / targets.std(-1, keepdims=True)
  error = np.array(predicted) - targets
  error = (np.abs(error) if loss == "l1" else error ** 2)[np.array(batch["is_masked"])]
  assert totals["mim"] / weights["mim"] == pytest.approx(error.mean(), rel=1e-4)
  assert aux.rows["count"].tolist() == [20, 20, 0]


@pytest.mark.slow
def test_the_encoder_of_mae_reads_visible_patches_alone_at_their_own_positions(run):
  objective, params, predict = run
  if not isinstance(objective, mim.MAE):
    return
  batch, _ = _prepared(objective)
  row = {k: v[:1] for k, v in batch.items()}
  visible = np.flatnonzero(~np.array(row["is_masked"][0]))
  states = objective.frontend.embed(params["frontend"], row).states[:, visible]
  seen = NETWORK.encode(params["model"], types.Inputs(None, states=states),
                        attention=attention.Full()).last
  own = params["decoder_frontend"]
  whole = jnp.broadcast_to(params["mask"]["token"], (1, 8, 4))
  whole = whole.at[:, visible].set(heads.affine(own, seen)) + own["position"][None]
  hidden = objective.decoder.encode(params["decoder"], types.Inputs(None, states=whole),
                                    attention=attention.Full()).last
  np.testing.assert_allclose(predict(params, batch)[0], heads.affine(params["pixels"], hidden)[0],
                             atol=1e-5)


def test_reconstructions_keep_what_is_visible_and_states_are_of_whole_images(run):
  objective, params, _ = run
  batch, _ = _prepared(objective)
  found = objective.reconstructed(params, batch)
  same = np.isclose(found, batch["patches"]).all(axis=-1)
  np.testing.assert_array_equal(same[:2], ~np.array(batch["is_masked"][:2]))
  assert objective.states(params, ROWS).shape == (3, 8, 8)


@pytest.mark.parametrize("fields, message", [
    (dict(mask_rate=0.01), "mask_rate 0.01 masks all or none of 8 patches; use another"),
    (dict(loss="l3"), "objective.loss must be one of l1, l2|loss is 'l3'"),
    (dict(mask_rate=1.0), "mask_rate"),
    (dict(num_patches=9), "num_patches 9 is not data.length 8")])
def test_fields_without_meaning_are_one_line(fields, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(_build("simmim"), **fields).check_length(8)

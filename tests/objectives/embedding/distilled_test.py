"""Distillation of embeddings: the divergence by hand, and teachers of every kind."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdx import types
from mdx.networks import transformer
from mdx.objectives.embedding import contrastive
from mdx.objectives.embedding import distilled
from mdx.objectives.tokens import mlm
from mdx.utils import rng

NETWORK = transformer.Transformer(num_layers=1, width=16, num_heads=2, mlp_width=16, vocab_size=16,
                                  max_length=8, init_std=1.0, scan_layers=False).network()


def test_the_divergence_is_over_other_rows_that_are_live():
  teacher, student = np.random.default_rng(0).normal(size=(2, 5, 5)).astype(np.float32)
  is_live = np.array([1, 1, 0, 1, 1], bool)
  found = distilled.divergence(teacher, student, is_live)
  for i in np.flatnonzero(is_live):
    others = [j for j in np.flatnonzero(is_live) if j != i]
    p, q = (np.exp(x[i, others]) / np.exp(x[i, others]).sum() for x in (teacher, student))
    assert found[i] == pytest.approx((p * np.log(p / q)).sum(), rel=1e-4)
  np.testing.assert_allclose(distilled.divergence(teacher, teacher, is_live), 0, atol=1e-6)


@pytest.mark.slow
def test_a_student_that_is_its_teacher_has_nothing_to_learn():
  teachers = (None, contrastive.Contrastive(network=NETWORK, mask_id=5),
              mlm.MaskedLM(network=NETWORK, mask_id=5))
  student = distilled.Distilled(network=NETWORK, mask_id=5)
  batch = {"tokens": np.random.default_rng(0).integers(6, 16, (6, 8)).astype(np.int32),
           "segment_ids": np.ones((6, 8), np.int32), "example_index": np.arange(6)}
  batch |= {"other": batch["tokens"], "other_segment_ids": batch["segment_ids"]}

  @jax.jit
  def totals(params, frozen):
    found = []
    for teacher in teachers:
      one, context = dataclasses.replace(student, teacher=teacher), types.context(
          0, {"teacher": frozen})
      rows, _ = one.prepare(params, batch, rng.root(0), context)
      found.append(one(params, rows, context)[0]["teacher"])
    return jnp.stack(found)

  params, other = (student.init(rng.root(seed)) for seed in (0, 1))
  np.testing.assert_allclose(totals(params, params), 0, atol=1e-4)
  found = totals(params, other)
  assert found[0] > 0.1
  np.testing.assert_allclose(found, found[0], rtol=1e-5)


def test_an_export_is_a_contrastive_model_without_its_teacher():
  config = {"name": "distilled", "pooling": "last", "teacher_scale": 2.0, "temperature": 0.1}
  served = distilled.Distilled(network=NETWORK, mask_id=5).served(config)
  assert served == {"name": "contrastive", "pooling": "last", "temperature": 0.1,
                    "learns_temperature": False}


def test_a_run_without_a_teacher_is_refused():
  with pytest.raises(ValueError, match="objective distilled has no teacher; set config.frozen"):
    distilled.Distilled.complete({"batch_size": 4, "frozen": {}}, None)

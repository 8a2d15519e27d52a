"""Questions: exact answers by kind, and their mean."""

import types as python_types

import pytest

from mdx.data import tokenizer as tokenizer_lib
from mdx.data.toys import people
from mdx.eval.evaluators import questions


def test_every_kind_counts_alike_in_the_mean_of_exact_answers(monkeypatch):
  config = dict(data=dict(length=3, source=dict(name="people", num_public=4, num_new=2)),
                eval=dict(questions=dict()))
  parts = python_types.SimpleNamespace(config=config, tokenizer=tokenizer_lib.build(
      people.TOKENIZER))
  monkeypatch.setattr(questions.Questions, "_answers", lambda self, params, pairs: [
      parts.tokenizer.decode(answer) if i == 0 else "" for i, (_, answer) in enumerate(pairs)])
  found = questions.Questions(parts)({}, {}, quick=False)
  assert (found["exact_forward"], found["exact_public_forward"]) == (0.5, 0.25)
  assert found["exact_mean"] == pytest.approx((0.5 + 0.5 + 0.25 + 0.25) / 4)

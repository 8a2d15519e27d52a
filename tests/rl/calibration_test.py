"""Rewards of answers of the base model: drawn once for a problem, the same in any order."""

import json
import types

import numpy as np
import pytest

from mdx.rl import calibration


class _Decoder:
  """Answers of two tokens that depend on the problem and on the identity of the row."""

  def __init__(self):
    self.calls = 0

  def __call__(self, params, examples, iteration, *, row_index):
    self.calls += 1
    assert params == "base" and iteration == 0 and len(examples) == 5
    return types.SimpleNamespace(tokens=np.stack([examples, row_index], axis=1)), {}


class _Tokenizer:
  """Writes tokens as numbers."""

  def ends(self, tokens):
    """None ends a text."""
    return np.zeros(tokens.shape, bool)

  def decode_rows(self, tokens, ends):
    """Numbers with a space between."""
    del ends
    return [" ".join(map(str, row)) for row in tokens]


class _Task:
  """Rewards the remainder of the row's identity, and checks that an answer is to its problem."""

  def score(self, examples, texts):
    """Reward float32 [N]."""
    pairs = [tuple(map(int, text.split())) for text in texts]
    assert [problem for problem, _ in pairs] == [example["number"] for example in examples]
    return {"reward": np.array([row * 7 % 5 for _, row in pairs], np.float32)}


def _calibration(path):
  decoder, examples = _Decoder(), [{"number": i} for i in range(9)]
  return decoder, calibration.Calibration(decoder, "base", _Task(), examples, _Tokenizer(),
                                          num_samples=3, batch_size=5, workdir=path)


def test_rewards_of_a_problem_are_those_of_its_own_answers_in_any_order(tmp_path):
  decoder, one = _calibration(tmp_path)
  found = one(np.array([4, 2, 4]))
  expected = lambda problem: sorted((3 * problem + k) * 7 % 5 for k in range(3))
  np.testing.assert_array_equal(found, [expected(4), expected(2), expected(4)])
  assert found.dtype == np.float32 and decoder.calls == 2  # 6 answers, 5 together
  one(np.array([2, 4]))
  assert decoder.calls == 2
  np.testing.assert_array_equal(one(np.array([2, 7])), [expected(2), expected(7)])


def test_a_run_that_is_resumed_reads_what_it_has(tmp_path):
  _, one = _calibration(tmp_path)
  found = one(np.array([1, 8]))
  assert set(json.loads((tmp_path / "calibration.json").read_text())["rewards"]) == {"1", "8"}
  decoder, other = _calibration(tmp_path)
  np.testing.assert_array_equal(other(np.array([8, 1])), found[::-1])
  assert decoder.calls == 0


def test_a_damaged_file_is_told(tmp_path):
  (tmp_path / "calibration.json").write_text("{")
  with pytest.raises(ValueError, match="calibration.json"):
    _calibration(tmp_path)

"""Task accuracy: every step is scored as its text, once."""

import collections

import numpy as np
import pytest

from mdx.data import chat
from mdx.data import tokenizer as tokenizer_lib
from mdx.eval import tasks

TOKENIZER = tokenizer_lib.build("symbols:a b c d")
EOS = TOKENIZER.eos_id


class _Spell:
  """Right if the completion is the example's word; half a point for its first letter."""

  def __init__(self):
    self.scored = []

  def score(self, examples, completions):
    self.scored += completions
    correct = [e["word"] == c for e, c in zip(examples, completions)]
    reward = [1.0 if ok else 0.5 * (c[:1] == e["word"][:1])
              for ok, e, c in zip(correct, examples, completions)]
    return {"reward": np.array(reward, np.float32), "correct": np.array(correct)}


EXAMPLES = [{"word": "ab"}, {"word": "cd"}, {"word": "ab"}]
PREDICTIONS = np.array([
    [[0, 1, EOS], [0, 1, EOS], [0, 0, EOS]],  # right, right, wrong: over-denoised
    [[0, 1, EOS], [2, 3, EOS], [9, 9, 9]],  # wrong, right; two steps only
    [[1, 1, 1], [0, 3, EOS], [0, 1, EOS]]], np.int32)
NFE = np.array([3, 2, 3], np.int32)
RECORD = collections.namedtuple("RECORD", "prediction nfe")


def test_of_commits_the_verifier_is_asked_once_a_row_and_over_denoising_is_not_known():
  record = collections.namedtuple("Commits", "tokens nfe prediction")
  final = PREDICTIONS[np.arange(3), NFE - 1]
  task = _Spell()
  decode = lambda index: tasks.answers_of(record(final[index], NFE[index], None), TOKENIZER)
  result = tasks.evaluate(decode, task, EXAMPLES, TOKENIZER, 2)
  assert (result.accuracy, result.reward) == (pytest.approx(2 / 3), pytest.approx(2.5 / 3))
  assert result.over_denoising is None and result.over_denoised is None
  assert len(task.scored) == 3


def test_every_step_is_scored_up_to_its_end_of_text_and_equal_ones_once():
  task = _Spell()
  reward, correct = tasks.score_steps(task, EXAMPLES, TOKENIZER, PREDICTIONS, NFE)
  np.testing.assert_array_equal(correct, [[1, 1, 0], [0, 1, 0], [0, 0, 1]])
  np.testing.assert_array_equal(reward, [[1, 1, .5], [0, 1, 0], [0, .5, 1]])
  assert sorted(task.scored) == sorted(["ab", "aa", "ab", "cd", "bbb", "ad", "ab"])


def test_several_predictions_of_a_step_are_scored_in_one_call_and_equal_ones_once():
  task = _Spell()
  order = np.array([[2, 1, 0], [1, 0, 2], [2, 1, 0]])
  several = np.stack([PREDICTIONS, PREDICTIONS[np.arange(3)[:, None], order]], axis=2)
  reward, correct = tasks.score_steps(task, EXAMPLES, TOKENIZER, several, NFE)
  alone = tasks.score_steps(_Spell(), EXAMPLES, TOKENIZER, PREDICTIONS, NFE)[0]
  assert reward.shape == correct.shape == (3, 3, 2)
  np.testing.assert_array_equal(reward[..., 0], alone)
  np.testing.assert_array_equal(reward[..., 1], np.take_along_axis(alone, order, axis=1))
  assert not reward[1, 2].any()  # of a step not taken
  assert sorted(task.scored) == sorted(["ab", "aa", "ab", "cd", "bbb", "ad", "ab"])


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_accuracy_and_over_denoising_do_not_depend_on_the_batches(batch_size):
  decode = lambda index: tasks.answers_of(RECORD(PREDICTIONS[index], NFE[index]), TOKENIZER)
  result = tasks.evaluate(decode, _Spell(), EXAMPLES, TOKENIZER, batch_size)
  assert result.accuracy == pytest.approx(2 / 3) and result.num_examples == 3
  assert result.over_denoising == pytest.approx(1 / 3) and result.nfe == pytest.approx(8 / 3)
  assert result.reward == pytest.approx(2.5 / 3)
  assert result.stderr == pytest.approx((2 / 9 / 3) ** 0.5)
  np.testing.assert_array_equal(result.over_denoised, [True, False, False])


def test_prompts_are_padded_on_the_left_and_positions_begin_with_them():
  prompts = tasks.encode_prompts(["abc", "d"], TOKENIZER)
  rows = prompts.canvas(np.array([1, 0]), 2, TOKENIZER.mask_id)
  pad, mask = TOKENIZER.pad_id, TOKENIZER.mask_id
  np.testing.assert_array_equal(rows["canvas"], [[pad, pad, 3, mask, mask], [0, 1, 2, mask, mask]])
  np.testing.assert_array_equal(rows["segment_ids"], [[0, 0, 1, 1, 1], [1] * 5])
  np.testing.assert_array_equal(rows["positions"], [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]])
  equal = tasks.encode_prompts(["ab", "cd"], TOKENIZER).canvas(np.arange(2), 2, mask)
  assert set(equal) == {"canvas"}


def test_prompts_of_another_vocabulary_or_length_are_refused():
  with pytest.raises(ValueError, match="cannot write the prompts of this task.*trained for it"):
    tasks.encode_prompts(["xyz"], TOKENIZER)
  with pytest.raises(ValueError, match="has 3 tokens, more than 2"):
    tasks.encode_prompts(["abc"], TOKENIZER, max_length=2)


def test_prompts_that_are_too_long_are_cut_on_the_left_where_that_is_wanted():
  prompts = tasks.encode_prompts(["abc", "d", "bacd"], TOKENIZER, max_length=2, cuts=True)
  pad, ids = TOKENIZER.pad_id, TOKENIZER.encode("bcdcd")
  np.testing.assert_array_equal(prompts.tokens, [ids[:2], [pad, ids[2]], ids[3:]])
  assert prompts.lengths.tolist() == [2, 1, 2] and prompts.is_cut.tolist() == [True, False, True]
  assert prompts.select(np.array([1, 2])).is_cut.tolist() == [False, True]
  assert tasks.encode_prompts(["abc"], TOKENIZER, max_length=3, cuts=True).is_cut is None
  with pytest.raises(ValueError, match="has 3 tokens, more than 2"):  # a text to fill in is whole
    tasks.encode_prompts(["aba"], TOKENIZER, max_length=2, cuts=True, blank="a")


def test_blanks_become_masks_and_the_rest_stays():
  prompts = tasks.encode_prompts(["abca", "cabb"], TOKENIZER, blank="a")
  mask = TOKENIZER.mask_id
  rows = prompts.canvas(np.array([1]), 4, mask)
  c, _, b = TOKENIZER.encode("cab")
  assert prompts.start == 0 and rows["canvas"].tolist() == [[c, mask, b, b]]
  assert prompts.select(np.array([1])).tokens.shape == (1, 4)
  with pytest.raises(ValueError, match="one length and a blank of one token, got 1 to 2"):
    tasks.encode_prompts(["a", "ab"], TOKENIZER, blank="a")


def test_chat_prompts_are_what_the_template_makes_of_a_user_s_message():
  chatty = tokenizer_lib.build("asset:chat_bpe512.json", chat_template="asset:chat.jinja")
  prompts = tasks.encode_prompts(["Add 2 and 3."], chatty, prompt_format="chat")
  messages = [{"role": "user", "content": "Add 2 and 3."}]
  np.testing.assert_array_equal(prompts.tokens[0], chat.encode_prompt(chatty, messages))
  assert prompts.lengths[0] > len(chatty.encode("Add 2 and 3."))
  with pytest.raises(ValueError, match="no chat template; set config.tokenizer.chat_template"):
    tasks.encode_prompts(["a"], TOKENIZER, prompt_format="chat")
  with pytest.raises(ValueError, match="set prompt_format to text"):
    tasks.encode_prompts(["a"], chatty, blank="a", prompt_format="chat")

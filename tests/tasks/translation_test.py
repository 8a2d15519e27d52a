"""Translation: whole answers are right, the data are broken as often as they say."""

import numpy as np
import pytest

from mdx import tasks
from mdx.data import task_rows
from mdx.tasks import translation


def test_whole_translations_are_right_and_their_reward_is_the_mean_quality():
  task = translation.Translation()
  score = lambda prompt, *answers: task.score([{"prompt": prompt}] * len(answers), answers)
  found = score("AB=", "ad.", "bf.", "cf.", "ad", "", "da.", "ad..", "a d .")
  np.testing.assert_allclose(found["reward"], [0, 0.75, 1, 0, 0, 0, 0, 0])
  assert found["correct"].tolist() == [True, True, True, False, False, False, False, True]


def test_answers_to_train_on_are_broken_at_the_stated_rates_and_evaluation_is_not():
  task = translation.Translation(empty_rate=0.2, cut_rate=0.3, num_train=1000)
  prompts, answers = zip(*task.training_pairs("train"))
  whole = task.score([{"prompt": p} for p in prompts], answers)["correct"]
  empty = np.array([answer == "" for answer in answers])
  assert len(answers) == 4000
  assert empty.mean() == pytest.approx(0.2, abs=0.03) and whole.mean() == pytest.approx(0.5, abs=0.04)
  cut = [(p, a) for p, a, is_whole in zip(prompts, answers, whole) if a and not is_whole]
  assert all(0 < len(a) < len(p) and "." not in a for p, a in cut)
  choices = np.array([(ord(a[0]) - ord("a")) % 3 for a in answers if a])
  np.testing.assert_allclose(np.bincount(choices) / len(choices), 1 / 3, atol=0.04)
  for example in task.examples("test")[:20]:
    assert task.score([example], [example["answer"]])["correct"][0]


def test_splits_share_no_problem_and_rows_fit():
  task = translation.Translation(num_train=300)
  found = [{e["prompt"] for e in task.examples(split)} for split in ("train", "validation", "test")]
  assert [len(x) for x in found] == [300, 256, 256]
  assert not found[0] & found[1] and not found[0] & found[2] and not found[1] & found[2]
  sizes = task_rows.of_task(task)
  assert sizes.length == 7 + 8 and len(sizes.tokenizer.split()) == 1 + 8 + 24 + 1


@pytest.mark.parametrize("fields, message", [
    (dict(empty_rate=1.0), r"task.empty_rate must lie in \[0, 1\)"),
    (dict(empty_rate=0.5, cut_rate=0.5), "leave no whole answer"),
    (dict(min_length=0), "min_length must be an integer of at least 1"),
    (dict(max_length=2), "max_length must be an integer of at least 3")])
def test_values_without_meaning_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    tasks.build(dict(name="translation") | fields)

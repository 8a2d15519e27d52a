"""Toy images: words of validation are held out, and images are a function of seed and number."""

import numpy as np
import pytest

from mdx.data import sources

FIELDS = dict(name="rendered", num_train=40, num_validation=20)


@pytest.fixture(name="source", scope="module")
def _source():
  return sources.build(FIELDS)


def test_words_of_validation_are_no_words_of_training(source):
  train, held_out = (set(source.vocabulary(split)) for split in ("train", "validation"))
  assert not train & held_out and len(held_out) == pytest.approx(0.15 * len(train | held_out), abs=1)
  assert all(3 <= len(x) <= 8 for x in train)
  assert {x["text"] for x in source.records("validation")} <= held_out


def test_images_are_drawn_alike_from_a_seed_and_otherwise_from_another(source):
  first, again, other = (sources.build(FIELDS | dict(seed=seed)).records("train")[3]
                         for seed in (0, 0, 1))
  assert first["text"] == again["text"] and (first["x"] == again["x"]).all()
  assert not (first["x"] == other["x"]).all()
  plain = sources.build(FIELDS | dict(noise=0.0, bar=0)).records("train")
  grid = source
  bright = [grid.join(plain[i]["x"]).mean() for i in range(40)]
  assert np.corrcoef(bright, [len(plain[i]["text"]) for i in range(40)])[0, 1] > 0.7


def test_a_bar_hides_columns_and_its_rate_is_kept():
  records = sources.build(FIELDS | dict(noise=0.0, bar_rate=0.5)).records("train")
  grid = sources.build(FIELDS)
  barred = [(np.abs(grid.join(x["x"])[..., 0] - 128) < 0.1).all(axis=0).sum() for x in records]
  assert set(barred) == {0, 5} and 0.25 < np.mean(np.array(barred) > 0) < 0.75


def test_lengths_without_words_are_one_line():
  with pytest.raises(ValueError, match="words of 30 to 31 letters a to z; give a longer text"):
    sources.build(FIELDS | dict(shortest=30, longest=31)).records("train")

"""Synthetic speech."""

import numpy as np
import pytest

from mdx.data.toys import phones


def test_phones_are_held_and_followed_as_the_chain_says_and_written_in_the_transcript():
  records = phones.Phones(num_train=50, noise=0.0).records("train")
  for one in records:
    labels = one["frame_labels"]
    path = labels[np.append(True, labels[1:] != labels[:-1])]
    assert one["text"].startswith("".join(phones.LETTERS[i] for i in path))
    runs = np.diff(np.flatnonzero(np.append(np.append(True, labels[1:] != labels[:-1]), True)))
    assert (runs[:-1] >= 2).all() and (runs <= 4).all()
  followers = {}
  for one in records:
    for a, b in zip(one["text"], one["text"][1:]):
      followers.setdefault(a, set()).add(b)
  assert all(len(x) <= 3 for x in followers.values()) and len(followers) == 10


def test_junk_and_the_other_domain_have_their_shares_in_training_alone():
  source = phones.Phones(num_train=400, other_share=0.5, junk_share=0.6)
  records = source.records("train")
  assert all((one["frame_labels"] < 0).sum() == 19 for one in records)
  assert np.mean([one["label"] for one in records]) == pytest.approx(0.5, abs=0.06)
  assert all((one["frame_labels"][one["frame_labels"] >= 0] >= 10).all() == one["label"]
             for one in records)
  held_out = source.records("validation")
  assert all(one["label"] == 0 and (one["frame_labels"] >= 0).all() for one in held_out)
  again = phones.Phones(num_train=400, other_share=0.5, junk_share=0.6)._record(False, 7)
  np.testing.assert_array_equal(again["x"], records[7]["x"])

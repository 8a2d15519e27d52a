"""Toy shapes: classes are even, and told by templates rather than by single pixels."""

import numpy as np
import pytest

from mdx.data import sources
from mdx.data.toys import shapes


def test_classes_are_even_and_images_depend_on_seed_and_number_alone():
  records = sources.build(dict(name="shapes", num_train=80)).records("train")
  labels = [x["label"] for x in records]
  assert np.bincount(labels).tolist() == [10] * shapes.NUM_CLASSES
  again = sources.build(dict(name="shapes", num_train=9)).records("train")
  assert (again[8]["x"] == records[8]["x"]).all() and not (again[0]["x"] == again[8]["x"]).all()


def test_stripes_across_and_along_differ_in_the_direction_of_their_edges():
  source = sources.build(dict(name="shapes", num_train=64, noise=0.0))
  images = [source.join(x["x"])[..., 0] for x in source.records("train")]
  edges = np.array([[np.abs(np.diff(x, axis=axis)).sum() for axis in (0, 1)] for x in images])
  is_across = np.arange(64) % 2 == 1
  assert (edges[is_across, 0] > edges[is_across, 1]).mean() > 0.8
  assert (edges[~is_across, 0] < edges[~is_across, 1]).mean() > 0.8


def test_images_too_small_are_one_line():
  with pytest.raises(ValueError, match="grey images of at least 8 x 8 pixels, got colors 1 and 4 x 4"):
    sources.build(dict(name="shapes", height=4, width=4))

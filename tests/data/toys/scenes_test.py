"""Toy scenes: held-out combinations, texts that say what is drawn, and the controls."""

import numpy as np
import pytest

from mdx.data import sources
from mdx.data.toys import scene_words

FIELDS = dict(name="scenes", num_train=60, num_validation=30)


@pytest.fixture(name="source", scope="module")
def _source():
  return sources.build(FIELDS)


def test_combinations_of_validation_are_no_combinations_of_training(source):
  train, held_out = ({one[:2] for i in range(60) for one in source.objects(split, i)}
                     for split in ("train", "validation"))
  assert len(train) == 12 and len(held_out) == 4 and not train & held_out
  seen = sources.build(FIELDS | dict(held_out=False, most=1))
  assert {one[:2] for i in range(60) for one in seen.objects("validation", i)} <= train
  assert {len(seen.objects("train", i)) for i in range(60)} == {1}
  numbers = [len(source.objects("train", i)) for i in range(60)]
  assert set(numbers) == {1, 2}


def test_an_answer_names_the_objects_in_the_colours_and_quarters_of_the_image():
  source = sources.build(FIELDS | dict(noise=0.0))
  records = source.records("train")
  for i in range(20):
    image, objects = source.join(records[i]["x"]), source.objects("train", i)
    words = records[i]["answer"].replace("left", "left ").replace("right", "right ").split()
    assert len(words) == len(objects)
    for (colour, _, place), word in zip(objects, words):
      row, column = divmod(place, 2)
      middle = image[8 * row + 4, 8 * column + 4]
      on = np.array(list(scene_words.COLOURS.values())[colour], bool)
      assert middle[on].min() > 180 and (on.all() or middle[~on].max() < 10)
      assert list(scene_words.COLOURS)[colour] in word and scene_words.PLACES[place] in word


def test_controls_show_another_scene_or_none_and_texts_have_all_combinations(source):
  own = source.records("train")
  other, blank, texts = (sources.build(FIELDS | dict(shown=shown)) for shown in (
      "other", "blank", "none"))
  assert [x["answer"] for x in other.records("train")] == [x["answer"] for x in own]
  assert not np.allclose(other.records("train")[0]["x"], own[0]["x"], atol=1.0)
  pixels = blank.join(blank.records("train")[0]["x"])
  assert pixels.std() < 25
  assert texts.layout == "answered" and "x" not in texts.records("train")[0]
  found = {one[:2] for i in range(200) for one in texts.objects("validation", i)}
  assert len(found) == 16


@pytest.mark.parametrize("fields, message", [
    (dict(shown="half"), "shown is 'half'; choose from own, other, blank, none"),
    (dict(colors=1), "at least 16 x 16 pixels in 3 colors"), (dict(num_train=1), "at least 2")])
def test_what_does_not_fit_is_one_line(fields, message):
  with pytest.raises(ValueError, match=message):
    sources.build(FIELDS | fields)

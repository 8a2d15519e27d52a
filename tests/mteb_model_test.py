"""mteb accepts a model of mdx and measures what its embeddings say."""

import pathlib

import numpy as np
import pytest

from mdx import mteb_model

mteb = pytest.importorskip("mteb")

_MODEL = pathlib.Path(__file__).parent / "golden" / "sentence-bert-tiny"
_PAIRS = [("a fox", "a fox", 5.0), ("a fox", "the lazy dog", 1.0), ("dogs jump", "dogs jumped", 4.0),
          ("the end", "quick brown", 0.0), ("sleep", "sleeps", 3.5)]


def _task():
  """A similarity task of a few pairs, which is here already."""
  from datasets import Dataset, DatasetDict  # pylint: disable=g-import-not-at-top
  from mteb.abstasks.sts import AbsTaskSTS  # pylint: disable=g-import-not-at-top

  class Local(AbsTaskSTS):
    """Pairs with scores of 0 .. 5."""
    metadata = mteb.TaskMetadata(
        name="Local", description="pairs", type="STS", category="t2t", modalities=["text"],
        eval_splits=["test"], eval_langs=["eng-Latn"], main_score="cosine_spearman",
        dataset=dict(path="local/local", revision="1"))

    def load_data(self, *args, **kwargs):
      first, second, score = zip(*_PAIRS)
      self.dataset = DatasetDict(test=Dataset.from_dict(dict(
          sentence1=list(first), sentence2=list(second), score=list(score))))
      self.data_loaded = True

  return Local()


@pytest.mark.slow
def test_mteb_measures_the_cosines_of_encode(tmp_path):
  model = mteb_model.EmbeddingModel(str(_MODEL), name="mdx/tiny")
  assert isinstance(model, mteb.models.EncoderProtocol)
  found = mteb.evaluate(model, _task(), cache=mteb.ResultCache(tmp_path), raise_error=True)
  scores = found.task_results[0].scores["test"][0]
  first, second = (model.model.encode([pair[i] for pair in _PAIRS]) for i in (0, 1))
  cosines = (first * second).sum(axis=1)
  assert scores["pearson"] == pytest.approx(
      np.corrcoef(cosines, [pair[2] for pair in _PAIRS])[0, 1], abs=1e-5)
  assert found.model_name == "mdx/tiny" and len(found.model_revision) == 16

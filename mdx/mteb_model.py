"""A model of mdx for mteb, which measures embeddings: `mteb.evaluate(EmbeddingModel(PATH), tasks)`.

Contents: EmbeddingModel.

Convention: prompts are those of the model: of the task's name, then of its type, then of the kind
of text (query or document). Needs the extra `embed`.

Reference: Muennighoff et al. 2022, arXiv:2210.07316.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mdx import embedding
from mdx import model as model_lib
from mdx.eval import neighbors

_KINDS = {"query": "query", "document": "document", "passage": "document"}


class EmbeddingModel:
  """The encoder that mteb asks (`mteb.models.EncoderProtocol`)."""

  def __init__(self, model_name: str | model_lib.Model, revision: str | None = None, *,
               device: str | None = None, name: str = "", progress: bool = False, **options: Any):
    """Loads a model.

    Args:
      model_name: path of the model, or the model.
      revision: for the results of mteb; None: a hash of the weights and the options.
      device: not read; mteb passes it.
      name: for the results of mteb, "ORGANISATION/NAME"; "" = of the path.
      progress: whether a terminal shows how many texts are done.
      **options: of `Model.encode`: pooling, prompt, attention, ...

    Raises:
      ValueError: no such model, or an option that does not fit it.
    """
    del device
    self.model = model_lib.load(model_name) if isinstance(model_name, str) else model_name
    self._options, self._progress = options, progress
    settings = embedding.settings_of(self.model, **options)
    self._kinds = settings.prompts
    source = self.model.source.rstrip("/").rpartition("/")[2] or "model"
    self._facts = {"name": name or f"mdx/{source}", "max_tokens": self.model.max_length,
                   "revision": revision or embedding.identity(self.model, settings)}

  @property
  def mteb_model_meta(self) -> Any:
    """Facts of the model that mteb writes beside its results."""
    import mteb  # pylint: disable=g-import-not-at-top  (an extra)
    known = dict.fromkeys(mteb.models.ModelMeta.model_fields)
    return mteb.models.ModelMeta(**known | dict(
        self._facts, loader=None, framework=["JAX"], similarity_fn_name="cosine",
        experiment_kwargs=None, modalities=["text"], model_type=["dense"], loader_kwargs={}))

  def encode(self, inputs: Iterable[Mapping[str, Any]], *, task_metadata: Any, hf_split: str,
             hf_subset: str, prompt_type: Any = None, batch_size: int = 32, **kwargs: Any
             ) -> np.ndarray:
    """Embeddings of the texts of batches, float32 [N, D]."""
    del hf_split, hf_subset, kwargs
    texts = [text for batch in inputs for text in batch["text"]]
    kind = _KINDS[str(getattr(prompt_type, "value", prompt_type))] if prompt_type else ""
    names = [f"{task_metadata.name}-{kind}", task_metadata.name, f"{task_metadata.type}-{kind}",
             task_metadata.type, kind]
    chosen = next((name for name in names if name in self._kinds), kind)
    return self.model.encode(texts, kind=chosen, batch_size=batch_size, progress=self._progress,
                             **self._options)

  def similarity(self, embeddings1: Any, embeddings2: Any) -> np.ndarray:
    """Cosines float32 [N, M]."""
    first, second = (neighbors.prepared(np.atleast_2d(x), "cosine")
                     for x in (embeddings1, embeddings2))
    return first @ second.T

  def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> np.ndarray:
    """Cosines of pairs, float32 [N]."""
    first, second = (neighbors.prepared(np.atleast_2d(x), "cosine")
                     for x in (embeddings1, embeddings2))
    return (first * second).sum(axis=1)

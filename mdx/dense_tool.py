"""Dense retrieval as the tool of a search agent.

Contents: Dense.
"""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
from collections.abc import Sequence

from mdx import config as config_lib
from mdx import model as model_lib
from mdx.eval import neighbors
from mdx.tasks.search import documents as documents_lib
from mdx.tasks.search import tools


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dense(tools.Tool):
  """Documents nearest to a query by the embeddings of a model of mdx.

  Attributes:
    checkpoint: the encoder: a run, an export or a Hugging Face directory.
    index, similarity: as in configs/search.py.
    batch_size: texts embedded together.
  """
  checkpoint: str
  index: str = "exact"
  similarity: str = "cosine"
  batch_size: int = 32

  def __post_init__(self):
    neighbors.check(self.index, self.similarity)
    config_lib.check(self, "task.tool", at_least=dict(batch_size=1))
    if not self.checkpoint:
      raise ValueError("task.tool.checkpoint is empty; give the model that embeds, a run or a "
                       "directory of weights.")

  def build(self, documents: Sequence[documents_lib.Document]) -> None:
    """Loads the model and embeds the documents as they are shown."""
    model = model_lib.load(self.checkpoint)
    vectors = model.encode([d.shown for d in documents], kind="document",
                           batch_size=self.batch_size)
    with tempfile.TemporaryDirectory() as folder:
      index = neighbors.INDEXES[self.index](neighbors.prepared(vectors, self.similarity),
                                            pathlib.Path(folder) / "index")
    # Not fields: no part of what the tool is.
    self.__dict__.update(_model=model, _index=index, _documents=tuple(documents))

  def search(self, queries: Sequence[str], count: int) -> list[list[documents_lib.Document]]:
    """Returns the nearest documents of each query."""
    own = self.__dict__
    asked = own["_model"].encode(list(queries), kind="query", batch_size=self.batch_size)
    _, rows = own["_index"].search(neighbors.prepared(asked, self.similarity),
                                   min(count, len(own["_documents"])))
    return [[own["_documents"][i] for i in row] for row in rows.tolist()]

  def describe(self) -> str:
    """Returns a line on what is searched."""
    return f"{self.checkpoint} over {len(self.__dict__['_documents'])} documents"

r"""The nearest texts of a corpus to a query, by the embeddings of any model that reads text.

Builds the index in the workdir, and answers:
  python -m mdx.main --config=configs/search.py --workdir=runs/index \
    --config.init.checkpoint=all-MiniLM-L6-v2 --config.path=corpus.jsonl \
    --config.query="a lantern on the moor"
Later without --config.path, from the same index. The corpus has the columns id and text. Writes
results.jsonl: for every query the ids, scores and texts that were found, the best first.
"""

from mdx.configs import embed


def get_config(arg=None):
  """No arguments."""
  if arg:
    raise ValueError(f"configs/search.py takes no argument, got {arg!r}.")
  config = embed.get_config()
  del config["kind"]  # texts of the corpus are documents
  config.mode = "search"  # the only one of this config
  config.id_field = "id"  # column of the corpus with the ids, none twice; "" = the rows' numbers
  config.query = ""  # one query
  config.queries = ""  # or a file of them, as `path` is
  config.top_k = 10  # texts that are found for each
  config.index = "exact"  # all products; or faiss (its flat index), hnsw (hnswlib, approximate)
  config.similarity = "cosine"  # of embeddings; or dot
  config.num_shown = 3  # queries whose answers are printed
  return config

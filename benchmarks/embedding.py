"""Texts embedded per CPU-second: mdx against sentence-transformers with the same weights.

  python benchmarks/embedding.py --seconds=60      (needs the extra embed: sentence-transformers)

A BERT of random weights (width 512, 4 layers, 8 heads: BERT-Small) with a WordPiece vocabulary of
the packaged texts; texts of 3 to 150 words, evenly drawn. The sides take turns in one process, all
texts a turn, and are counted by the CPU time of the process. `taskset -c 0` leaves both one core.
"""

import argparse
import pathlib
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import sentence_transformers
from sentence_transformers.sentence_transformer import modules
import tokenizers
import torch
import transformers

import mdx
from mdx import assets
from mdx.utils import malloc
from mdx.utils import readers


def _texts(num):
  words = readers.read_text(assets.path("holmes.txt.xz")).split()
  rng = np.random.default_rng(0)
  lengths, starts = rng.integers(3, 151, num), rng.integers(0, len(words) - 150, num)
  return [" ".join(words[start:start + length]) for start, length in zip(starts, lengths)]


def _model(folder):
  """A directory of sentence-transformers."""
  torch.manual_seed(0)
  pieces = tokenizers.BertWordPieceTokenizer()
  text = pathlib.Path(folder) / "text.txt"
  text.write_text(readers.read_text(assets.path("holmes.txt.xz")))
  pieces.train([str(text)], vocab_size=8000, show_progress=False)
  vocab = pathlib.Path(folder) / "vocab.txt"
  words = pieces.get_vocab()
  vocab.write_text("\n".join(sorted(words, key=words.get)) + "\n")
  transformers.BertTokenizerFast(vocab=str(vocab)).save_pretrained(folder)
  transformers.BertModel(transformers.BertConfig(
      vocab_size=len(words), hidden_size=512, num_hidden_layers=4, num_attention_heads=8,
      intermediate_size=2048)).save_pretrained(folder)
  model = sentence_transformers.SentenceTransformer(modules=[
      modules.Transformer(str(folder), max_seq_length=256), modules.Pooling(512, "mean"),
      modules.Normalize()], device="cpu")
  path = str(pathlib.Path(folder) / "model")
  model.save(path, create_model_card=False)
  return path


def _matmul_rates():
  """GFLOP per CPU-second of float32 products [4096, 512] x [512, 2048], of each side's library."""
  x, w = np.ones((4096, 512), np.float32), np.ones((512, 2048), np.float32)
  product = jax.jit(jnp.matmul)
  sides = {"sentence-transformers": (torch.matmul, torch.tensor(x), torch.tensor(w)),
           "mdx": (lambda x, w: product(x, w).block_until_ready(), jnp.asarray(x), jnp.asarray(w))}
  found = {}
  for name, (run, *arrays) in sides.items():
    run(*arrays)
    seconds = []
    for _ in range(10):
      start = time.process_time()
      run(*arrays)
      seconds.append(time.process_time() - start)
    found[name] = 2e-9 * 4096 * 512 * 2048 / statistics.median(seconds)
  return found


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--seconds", type=float, default=60, help="of all turns, at least three")
  parser.add_argument("--texts", type=int, default=512)
  parser.add_argument("--batch_size", type=int, default=32)
  parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
  args = parser.parse_args()
  torch.set_num_threads(args.threads)
  malloc.tune_cpu()  # as python -m mdx.main
  texts = _texts(args.texts)
  with tempfile.TemporaryDirectory() as folder:
    path = _model(folder)
    theirs = sentence_transformers.SentenceTransformer(path, device="cpu")
    ours = mdx.load(path)
    sides = {"sentence-transformers": lambda: theirs.encode(texts, batch_size=args.batch_size),
             "mdx": lambda: ours.encode(texts, batch_size=args.batch_size)}
    found = {name: run() for name, run in sides.items()}  # compiles, and warms up
    difference = np.abs(found["mdx"] - found["sentence-transformers"]).max()
    spent, began = {name: [] for name in sides}, time.monotonic()
    while time.monotonic() - began < args.seconds or len(spent["mdx"]) < 3:
      for name, run in sides.items():
        start = time.process_time()
        run()
        spent[name].append(time.process_time() - start)
  rates = _matmul_rates()
  for name, seconds in spent.items():
    print(f"{name:<22} {args.texts / statistics.median(seconds):8.1f} texts per CPU-second "
          f"({len(seconds)} turns, {args.texts / max(seconds):.1f} to "
          f"{args.texts / min(seconds):.1f}); matmul {rates[name]:.0f} GFLOP per CPU-second")
  ratios = [a / b for a, b in zip(spent["sentence-transformers"], spent["mdx"])]
  print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); largest "
        f"difference of a component {difference:.1e}")


if __name__ == "__main__":
  main()

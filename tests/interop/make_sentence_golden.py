"""Makes tests/golden/sentence-bert-tiny: python tests/interop/make_sentence_golden.py.

A random BERT of 2 layers in the form of sentence-transformers, and the embeddings that the library
gives (made with sentence-transformers 6.2.0, transformers 5.24.0, torch 2.13.0).
"""

import json
import pathlib
import shutil
import string
import tempfile

import sentence_transformers
from sentence_transformers.sentence_transformer import modules
import torch
import transformers

TEXTS = ["the quick brown fox", "a", "jumps over the lazy dog and then it sleeps", "Upper CASE"]
_OUT = pathlib.Path(__file__).resolve().parents[1] / "golden" / "sentence-bert-tiny"


def main():
  torch.manual_seed(0)
  letters = list(string.ascii_lowercase)
  words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
  with tempfile.TemporaryDirectory() as folder:
    vocab = pathlib.Path(folder) / "vocab.txt"
    vocab.write_text("\n".join(words) + "\n")
    transformers.BertTokenizerFast(vocab=str(vocab)).save_pretrained(folder)
    transformers.BertModel(transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=24, max_position_embeddings=32, initializer_range=0.3)
                           ).save_pretrained(folder)
    body = modules.Transformer(folder, max_seq_length=20)
    shutil.rmtree(_OUT, ignore_errors=True)
    model = sentence_transformers.SentenceTransformer(modules=[
        body, modules.Pooling(16, "mean", include_prompt=False), modules.Dense(16, 8),
        modules.Normalize()], prompts={"query": "find: ", "document": ""})
    model.save(str(_OUT), create_model_card=False)
  golden = {"texts": TEXTS, "plain": model.encode(TEXTS).tolist(),
            "query": model.encode_query(TEXTS).tolist()}
  (_OUT / "embeddings.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
  main()

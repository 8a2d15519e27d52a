"""The commands that train a tokenizer and write array_record files."""

import json
import pathlib

import numpy as np
import pytest

from mdx import assets
from mdx.data import prepare
from mdx.data import sources
from mdx.data import tokenizer as tokenizer_lib

UNICODE = "  Héllo, wörld!\r\n\t漢字 🙂👩‍🚀 [MASK] <mask> [PAD] \0 naïve\n\n"
DOCUMENTS = [f"document {i}, naïve 🙂" for i in range(45)]


def _jsonl(path: pathlib.Path, items) -> str:
  path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
  return f"--input={path}"


def test_the_tokenizer_command_trains_a_usable_one(tmp_path, capsys):
  text = "".join(f"It was number {i}, the café said.\n" for i in range(2000))
  (tmp_path / "text.txt").write_text(text, encoding="utf-8")
  output = tmp_path / "new" / "tokenizer.json"
  prepare.main(["tokenizer", f"--input={tmp_path / 'text.txt'}", f"--output={output}",
                "--vocab_size=300", "--holdout_every=4", "--special=<|end|>"])
  assert f"{output}: 300 ids" in capsys.readouterr().out
  tokenizer = tokenizer_lib.build(str(output))
  assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.mask_id) == (0, 1, 2)
  assert tokenizer.special_texts["<|end|>"] == 3
  ids = tokenizer.encode(text + UNICODE)
  assert tokenizer.decode(ids) == text + UNICODE
  assert len(ids) < len(text) / 2


def test_the_tokenizer_command_learns_from_the_field_and_leaves_out_what_is_held_out(tmp_path):
  # "qxqx" stands in the held-out record only, "zyzy" in the others: one becomes a token.
  given = _jsonl(tmp_path / "a.jsonl", [
      {"body": "qxqx " * 50 if i == 3 else "zyzy " * 50} for i in range(4)])
  output = tmp_path / "tokenizer.json"
  prepare.main(["tokenizer", given, "--field=body", f"--output={output}", "--vocab_size=264",
                "--holdout_every=4"])
  tokenizer = tokenizer_lib.build(str(output))
  assert len(tokenizer.encode("zyzy")) == 1 and len(tokenizer.encode("qxqx")) == 4


@pytest.mark.slow
@pytest.mark.parametrize("name, args", [
    ("holmes_bpe512", ["--input=asset:holmes.txt.xz"]),
    ("snips_bpe2048", ["--input=asset:snips.txt.xz", "--document_chars=1", "--holdout_every=10"]),
    ("chat_bpe512", ["--input=asset:chat.jsonl", "--field=messages"]
     + [f"--special=<|{role}|>" for role in ("system", "user", "assistant")])])
def test_the_tokenizer_command_reproduces_the_packaged_ones(name, args, tmp_path):
  output = tmp_path / "tokenizer.json"
  prepare.main(["tokenizer", *args, f"--output={output}",
                f"--vocab_size={name.rpartition('bpe')[2]}"])
  assert output.read_text() == pathlib.Path(assets.path(f"{name}.json")).read_text()


def test_records_come_back_as_text(tmp_path, capsys):
  output = tmp_path / "out.array_record"
  prepare.main(["records", _jsonl(tmp_path / "a.jsonl", [{"body": d} for d in DOCUMENTS]),
                "--field=body", f"--output={output}"])
  assert "45 records" in (said := capsys.readouterr().out)
  assert "--config.data.source.field=body" in said
  found = sources.build({"name": "array_record", "path": str(output), "field": "body",
                         "holdout_every": 0}).records("train")
  assert [r["text"] for r in found] == DOCUMENTS
  assert [p.name for p in tmp_path.iterdir() if "array" in p.name] == ["out.array_record"]


def test_records_of_text_files_joined_are_the_text_as_ids_of_a_tokenizer(tmp_path):
  text = "\n".join(DOCUMENTS)
  (tmp_path / "a.txt").write_text(text, encoding="utf-8")
  output = tmp_path / "out.array_record"
  prepare.main(["records", f"--input={tmp_path / 'a.txt'}", f"--output={output}",
                "--tokenizer=byte", "--document_chars=100"])
  found = sources.build({"name": "array_record", "path": str(output), "field": "tokens",
                         "holdout_every": 0}).records("train")
  byte = tokenizer_lib.build("byte")
  assert len(found) > 5 and "".join(byte.decode(r["tokens"]) for r in found) == text


@pytest.mark.parametrize("args, message", [
    (["tokenizer", "--input=nothing.txt"], "no data file 'nothing.txt'"),
    (["tokenizer", "--input=asset:holmes.txt.xz", "--vocab_size=100"], "at least 259"),
    (["tokenizer", "--input=asset:holmes.txt.xz", "--special=[EOS]"], "must be distinct"),
    (["records", "--input=asset:chat.jsonl"], "no field 'text' but messages. Set `field`"),
    (["records", "--input=asset:chat.jsonl", "--input=asset:holmes.txt.xz"], "run once for each"),
    (["records", "--input=asset:chat.jsonl", "--field=messages"], "layout 'chat' are not"),
    (["records", "--input=asset:holmes.txt.xz", "--tokenizer=nothing.json"],
     "no tokenizer file 'nothing.json'"),
])
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_written(args, message, tmp_path, capsys):
  with pytest.raises(SystemExit) as error:
    prepare.main([*args, f"--output={tmp_path / 'out'}"])
  assert error.value.code == 2
  said = capsys.readouterr().err.splitlines()
  assert message in said[-1]
  assert not list(tmp_path.iterdir())


def test_help_says_what_the_commands_are(capsys):
  with pytest.raises(SystemExit):
    prepare.main(["--help"])
  assert "tokenizer" in (said := capsys.readouterr().out) and "array_record" in said


def test_ids_in_like_contexts_share_a_cluster(tmp_path, capsys):
  # Vowels stand between consonants, digits between signs.
  draw = np.random.default_rng(0)
  pick = lambda letters: letters[draw.integers(len(letters))]
  texts = ["".join(pick("bcd") + pick("aeo") + pick("fgh") for _ in range(40)) +
           "".join(pick("+-") + pick("123") for _ in range(40)) for _ in range(60)]
  path, out = tmp_path / "in.jsonl", tmp_path / "out.json"
  path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
  arguments = ["clusters", f"--input={path}", f"--output={out}", "--tokenizer=char"]
  prepare.main([*arguments, "--num_clusters=5"])
  found, tokenizer = json.loads(out.read_text()), tokenizer_lib.build("char")
  assert len(found["of_token"]) == tokenizer.vocab_size
  groups = [{found["of_token"][i] for i in tokenizer.encode(letters)}
            for letters in ("aeo", "bcd", "fgh", "123", "+-")]
  assert len(groups) and all(len(group) == 1 for group in groups) and len(set.union(*groups)) == 5
  assert {tokenizer.mask_id, tokenizer.encode("z")[0]} <= set(found["excluded"])
  with pytest.raises(SystemExit):
    prepare.main([*arguments, "--num_clusters=50"])
  assert "13 ids occur, fewer than num_clusters 50" in capsys.readouterr().err.replace(
      "14 ids", "13 ids")

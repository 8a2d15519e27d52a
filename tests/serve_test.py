"""The server: answers are the library's, whoever asks beside, streams add up, errors are one line."""

import concurrent.futures
import json
import threading
import time

import jax
import numpy as np
import pytest
import tiny

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("httpx", reason="the client of the tests")

# pylint: disable=wrong-import-position
from starlette import testclient

from mdx import model as model_lib
from mdx import serve
from mdx.build import setup as setup_lib
from mdx.report import samples
from mdx.serving import batcher as batcher_lib
from mdx.serving import request as request_lib
from mdx.utils import rng

_STEPS = dict(steps=2, temperature=1.0)
_TALK = [{"role": "user", "content": "Say it."}]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  """A model that learned nothing, with a chat template."""
  run = setup_lib.setup(tiny.config("sft", network__max_length=96, network__num_layers=1),
                        str(tmp_path_factory.mktemp("run")))
  params = jax.jit(run.objective.init)(rng.root(0))
  params = jax.tree.map(lambda x, shape: jax.device_put(8 * x, shape.sharding), params,
                        run.shapes.params)  # which prefers some tokens
  return model_lib.Model(objective=run.objective, params=params, tokenizer=run.tokenizer,
                         mesh=run.mesh, max_length=run.spec.max_length, source="tiny",
                         config=run.config, data={})


@pytest.fixture(scope="module")
def client(model):
  """A client of a server that waits long enough to gather requests."""
  server = request_lib.Server(model=model, name="tiny", max_tokens=8, fields=dict(steps=2))
  with testclient.TestClient(serve.make_app(server, batch_size=4, wait_seconds=0.15)) as found:
    yield found


def _asked(client, path="completions", **body):
  return client.post(f"/v1/{path}", json=body)


def _events(response):
  lines = [line for line in response.text.split("\n\n") if line]
  assert lines[-1] == "data: [DONE]" and all(line.startswith("data: ") for line in lines)
  return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_an_answer_is_that_of_the_library_and_of_its_seed_whoever_asks_beside(client, model):
  body = dict(prompt="It was", max_tokens=8, seed=3, **_STEPS)
  alone = _asked(client, **body).json()
  rows = [model.prompt_ids("It was")]
  (_, want), = model.decode(rows, model.sampler(gen_length=8, **_STEPS), batch_size=1,
                            numbers=[batcher_lib.number(3, 0)])
  assert alone["choices"][0]["text"] == want.text and want.text
  assert (alone["object"], alone["model"]) == ("text_completion", "tiny")
  assert alone["usage"]["prompt_tokens"] == len(rows[0])
  with concurrent.futures.ThreadPoolExecutor() as pool:
    others = [pool.submit(_asked, client, **body | dict(prompt=prompt, seed=seed))
              for prompt, seed in (("the", 1), ("It was", 3), ("It was a dark night", 5))]
    texts = [other.result().json()["choices"][0]["text"] for other in others]
  assert texts[1] == want.text and texts[0] != want.text
  assert _asked(client, **body | dict(seed=4)).json()["choices"][0]["text"] != want.text


@pytest.mark.slow
def test_requests_of_equal_settings_are_decoded_together_and_others_apart(model, monkeypatch):
  batches, decode = [], type(model).decode

  def spy(self, rows, sampler, **options):
    batches.append((len(rows), sampler.gen_length))
    return decode(self, rows, sampler, **options)

  monkeypatch.setattr(type(model), "decode", spy)
  batcher = batcher_lib.Batcher(model, batch_size=4, wait_seconds=0.3)
  found, is_full = {}, threading.Event()

  def row(i, length):
    def done(sample):
      found[i] = sample
      if len(found) == 7:
        is_full.set()
    return batcher_lib.Row(ids=np.array([5, 6 + i]), number=i, done=done,
                           sampler=model.sampler(gen_length=length, **_STEPS))

  batcher.put([row(i, 8) for i in range(3)])
  unwanted = row(9, 8)
  unwanted.is_wanted = False
  batcher.put([row(3, 4), unwanted, *(row(i, 8) for i in range(4, 7))])
  assert is_full.wait(60)
  assert batches == [(4, 8), (1, 4), (2, 8)] and sorted(found) == list(range(7))
  assert all(isinstance(one, model_lib.Sample) for one in found.values())
  gone, late, is_late = row(9, 8), row(8, 8), threading.Event()
  late.done = lambda sample: is_late.set()
  batcher.put([gone])
  gone.is_wanted = False
  time.sleep(0.4)  # nobody is left to decode for, and the thread goes on
  batcher.put([late])
  assert is_late.wait(60) and batches[3:] == [(1, 8)]
  batcher.close()
  with pytest.raises(RuntimeError, match="the server is stopping"):
    batcher.put([row(0, 8)])


def test_several_prompts_and_choices_come_in_order_and_chats_by_their_template(client, model):
  body = dict(prompt=["It", [5, 6]], n=2, max_tokens=8, seed=1, **_STEPS)
  found = _asked(client, **body).json()
  assert [one["index"] for one in found["choices"]] == [0, 1, 2, 3]
  assert len({one["text"] for one in found["choices"]}) > 1
  again = _asked(client, **body | dict(prompt="It", n=1)).json()
  assert again["choices"][0]["text"] == found["choices"][0]["text"]
  parts = [{"role": "user", "type": "text", "content": [{"type": "text", "text": "Say it."}]}]
  talk = dict(max_tokens=8, seed=1, model="tiny", **_STEPS)
  said = [_asked(client, "chat/completions", messages=messages, **talk).json()
          for messages in (_TALK, parts)]
  assert said[0]["choices"] == said[1]["choices"]
  message = said[0]["choices"][0]["message"]
  assert message["role"] == "assistant" and said[0]["object"] == "chat.completion"
  plain = _asked(client, prompt=model.prompt_ids(_TALK).tolist(), **talk).json()
  assert plain["choices"][0]["text"] == message["content"]


@pytest.mark.slow
def test_a_stop_string_ends_an_answer_and_says_so(client):
  body = dict(prompt="It was", max_tokens=8, seed=3, **_STEPS)
  whole = _asked(client, **body).json()["choices"][0]["text"]
  for stop in (whole[2:4], [whole[2:4]]):
    one = _asked(client, **body, stop=stop).json()["choices"][0]
    assert one["text"] == whole[:whole.index(whole[2:4])] and one["finish_reason"] == "stop"
  streamed = _events(_asked(client, **body, stop=whole[2:4], stream=True))
  assert "".join(one["choices"][0]["text"] for one in streamed) == whole[:whole.index(whole[2:4])]


@pytest.mark.parametrize("path", [pytest.param("completions", marks=pytest.mark.slow),
                                  "chat/completions"])
@pytest.mark.slow
def test_a_stream_adds_up_to_the_answer(path, client):
  given = dict(messages=_TALK) if "chat" in path else dict(prompt="It was")
  body = dict(given, max_tokens=8, seed=3, n=2, steps=8, block_length=2, temperature=1.0)
  whole = _asked(client, path, **body).json()["choices"]
  events = _events(_asked(client, path, **body, stream=True))
  texts, ends = ["", ""], {}
  for event in events:
    one, = event["choices"]
    said = one["delta"]["content"] if "chat" in path else one["text"]
    texts[one["index"]] += said
    if one["finish_reason"]:
      ends[one["index"]] = one["finish_reason"]
  assert texts == [one["message"]["content"] if "chat" in path else one["text"] for one in whole]
  assert ends == {i: one["finish_reason"] for i, one in enumerate(whole)}
  assert len(events) > 4  # in parts
  if "chat" in path:
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert {event["object"] for event in events} == {"chat.completion.chunk"}


@pytest.mark.slow
def test_a_rule_that_revises_is_streamed_at_its_end(client):
  body = dict(prompt="It", max_tokens=8, seed=3, name="rcr", steps=8)
  events = _events(_asked(client, **body, stream=True))
  assert len(events) == 1
  assert events[0]["choices"][0]["text"] == _asked(client, **body).json()["choices"][0]["text"]


def test_settled_text_ends_before_masks_ends_and_what_may_be_a_stop(model):
  tokenizer = model.tokenizer
  ids = tokenizer.encode("night and day").astype(np.int32)
  mask = np.array([tokenizer.mask_id], np.int32)
  settled = lambda *parts, stop=(): request_lib.settled(np.concatenate(parts), model, stop)
  assert settled(ids, mask, ids) == "night and day" and settled(mask, ids) == ""
  assert settled(ids, np.array([tokenizer.eos_id], np.int32), mask) == "night and day"
  assert settled(ids, mask, stop=("ay!", "y?")) == "night and d"
  assert settled(ids, mask, stop=("and",)) == samples.until("night and day", "and")


@pytest.mark.parametrize("path, body, message, param", [
    ("completions", dict(), "prompt is None; expected a text, ids, or a list", "prompt"),
    ("completions", dict(prompt=[]), r"prompt is \[\]; expected", "prompt"),
    ("completions", dict(prompt=[3.5]), "a prompt is 3.5; expected a text or ids", "prompt"),
    ("completions", dict(prompt=[10**6]), "the id 1000000; ids of this model lie in", "prompt"),
    ("completions", dict(prompt="It", max_tokens=0), "max_tokens is 0; expected a whole", "max_tokens"),
    ("completions", dict(prompt="It", max_tokens=96), "has . tokens; with sampler.gen_length", None),
    ("completions", dict(prompt="It", n=1.5), "n is 1.5; expected a whole number from 1 to 128", "n"),
    ("completions", dict(prompt="It", seed="x"), "seed is 'x'; expected a whole number", "seed"),
    ("completions", dict(prompt="It", stop=[""]), "stop is ..... expected a text or a list", "stop"),
    ("completions", dict(prompt="It", stream="yes"), "stream is 'yes'; expected true", "stream"),
    ("completions", dict(prompt="It", model="gpt"), "'gpt' is not served here; use 'tiny'", "model"),
    ("completions", dict(prompt="It", temprature=1), "unknown key 'temprature'.*temperature",
     "temprature"),
    ("completions", dict(prompt="It", classifier="x"), "unknown key 'classifier'", "classifier"),
    ("completions", dict(prompt="It", logprobs=3), "logprobs = 3 is not supported", "logprobs"),
    ("completions", dict(prompt="It", temperature="hot"), "temperature", None),
    ("completions", dict(prompt="It", temperature=-1), "temperature", None),
    ("completions", dict(prompt="It", name="best"), "best", None),
    ("completions", dict(prompt="It", threshold=0.5, name="confidence"), "threshold", None),
    ("completions", dict(prompt="It", block_length=3), "block_length 3 does not divide", None),
    ("chat/completions", dict(messages="hi"), "messages is 'hi'; expected a list", "messages"),
    ("chat/completions", dict(messages=[{"role": "king", "content": "x"}]), "has the role 'king'",
     "messages"),
    ("chat/completions", dict(messages=[{"role": "user", "content": [{}]}]), "a content is",
     "messages")])
def test_a_request_that_cannot_be_answered_is_one_line(path, body, message, param, client):
  response = _asked(client, path, **body)
  found = response.json()["error"]
  assert response.status_code == 400 and "\n" not in found["message"]
  assert found["type"] == "invalid_request_error" and found["param"] == param
  with pytest.raises(ValueError, match=message):
    raise ValueError(found["message"])


def test_other_bodies_and_errors_within_are_said_too(client, monkeypatch):
  assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"
  for content, message in (("{", "the body is not JSON"), ("[1]", "expected a JSON object")):
    response = client.post("/v1/completions", content=content)
    assert response.status_code == 400 and message in response.json()["error"]["message"]

  def fail(*_, **__):
    raise MemoryError("no\nroom")

  monkeypatch.setattr(model_lib.Model, "decode", fail)
  response = _asked(client, prompt="It")
  assert response.status_code == 500
  assert response.json()["error"] == dict(message="no room", type="server_error", param=None,
                                          code=None)
  events = _events(_asked(client, prompt="It", stream=True))
  assert events[-1]["error"]["message"] == "no room"
  monkeypatch.undo()
  assert _asked(client, prompt="It").status_code == 200  # the thread goes on


@pytest.mark.parametrize("argv, message", [
    (["--checkpoint=absent"], "absent"), (["--checkpoint=x", "steps"], "unknown argument 'steps'"),
    (["--checkpoint=x", "--batch_size=0"], "batch_size is 0 and wait_ms")])
def test_the_command_says_what_is_wrong_in_one_line(argv, message, capsys):
  assert serve.main(argv) == 2
  said = capsys.readouterr().err
  assert said.startswith("mdx: ") and message in said and said.count("\n") == 1


def test_fields_of_the_server_are_checked_when_it_starts(model):
  for fields, message in ((dict(stepz=3), "unknown decoding field 'stepz'.*steps"),
                          (dict(gen_length=3), "unknown decoding field 'gen_length'"),
                          (dict(name="best"), "best")):
    with pytest.raises(ValueError, match=message):
      request_lib.Server(model=model, name="x", fields=fields)

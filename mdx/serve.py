r"""A server of one model for evaluation, with the API of OpenAI (needs the extra `serve`).

Contents: make_app, main.

  python -m mdx.serve --checkpoint=runs/diffusion --port=8000
  curl localhost:8000/v1/completions -d '{"prompt": "It was", "max_tokens": 64, "steps": 32}'

Convention: requests of equal settings are decoded together by one thread (`serving.batcher`); an
answer depends on its request and seed, not on those beside it. For one host and people who trust
each other: there are no keys and no limits of rate.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import contextlib
import importlib.util
import json
import pathlib
import sys
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from mdx import model as model_lib
from mdx.report import samples
from mdx.serving import batcher as batcher_lib
from mdx.serving import request as request_lib


def make_app(server: request_lib.Server, *, batch_size: int = 8, wait_seconds: float = 0.01) -> Any:
  """The ASGI application.

  Args:
    server: what is offered.
    batch_size: most rows that are decoded together.
    wait_seconds: time that a request waits for others.
  """
  from starlette import applications  # pylint: disable=g-import-not-at-top  (an extra)
  from starlette import responses  # pylint: disable=g-import-not-at-top
  from starlette import routing  # pylint: disable=g-import-not-at-top
  began = int(time.time())

  @contextlib.asynccontextmanager
  async def lifespan(app):
    app.state.batcher = batcher_lib.Batcher(server.model, batch_size=batch_size,
                                            wait_seconds=wait_seconds)
    yield
    await asyncio.to_thread(app.state.batcher.close)

  async def models(request):
    del request
    return responses.JSONResponse({"object": "list", "data": [
        {"id": server.name, "object": "model", "created": began, "owned_by": "mdx"}]})

  def endpoint(is_chat):
    async def answer(request):
      try:
        body = await _body(request)
        wanted = await asyncio.to_thread(request_lib.read, body, server, is_chat=is_chat)
        reply = _Reply(server, wanted, is_chat)
        if wanted.is_streamed:
          return responses.StreamingResponse(reply.events(request.app.state.batcher),
                                             media_type="text/event-stream")
        return responses.JSONResponse(await reply.whole(request.app.state.batcher))
      except request_lib.Rejected as error:
        return responses.JSONResponse(request_lib.error(error), status_code=400)
      except Exception as error:  # pylint: disable=broad-except  (said to the client)
        return responses.JSONResponse(request_lib.error(error), status_code=500)
    return answer

  return applications.Starlette(lifespan=lifespan, routes=[
      routing.Route("/v1/models", models),
      routing.Route("/v1/completions", endpoint(False), methods=["POST"]),
      routing.Route("/v1/chat/completions", endpoint(True), methods=["POST"])])


async def _body(request):
  try:
    return json.loads(await request.body())
  except (ValueError, RecursionError):
    raise request_lib.Rejected("the body is not JSON; expected an object.") from None


class _Reply:
  """The reply to one request."""

  def __init__(self, server: request_lib.Server, wanted: request_lib.Wanted, is_chat: bool):
    self._model, self._wanted, self._is_chat = server.model, wanted, is_chat
    kind = "chat.completion" if is_chat else "text_completion"
    self._head = {"id": f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}", "object": kind,
                  "created": int(time.time()), "model": server.name}

  def _rows(self, tell, *, is_watched: bool) -> list[batcher_lib.Row]:
    """The rows to decode, which tell (index, step, sample or error) on the loop of the request."""
    loop, wanted = asyncio.get_running_loop(), self._wanted

    def teller(index):
      return lambda found: _call(loop, tell, index, found)

    return [batcher_lib.Row(
        ids=ids, sampler=wanted.sampler, number=batcher_lib.number(wanted.seed, i),
        done=teller(i), on_step=teller(i) if is_watched else None)
            for i, ids in enumerate(wanted.rows)]

  async def whole(self, batcher: batcher_lib.Batcher) -> dict[str, Any]:
    """The reply in one piece."""
    found: asyncio.Queue = asyncio.Queue()
    rows = self._rows(lambda *told: found.put_nowait(told), is_watched=False)
    batcher.put(rows)
    done: dict[int, model_lib.Sample] = {}
    try:
      while len(done) < len(rows):
        index, one = await found.get()
        if isinstance(one, Exception):
          raise one
        done[index] = one
    finally:
      for row in rows:
        row.is_wanted = False
    ordered = [done[i] for i in range(len(rows))]
    return {**self._head, "choices": [
        request_lib.choice(i, one, self._wanted, self._model, is_chat=self._is_chat)
        for i, one in enumerate(ordered)],
            "usage": request_lib.usage(self._wanted, ordered, self._model)}

  async def events(self, batcher: batcher_lib.Batcher) -> AsyncIterator[str]:
    """The reply as server-sent events: settled text as it comes, of rules that never revise."""
    wanted, found = self._wanted, asyncio.Queue()
    is_final = not wanted.sampler.revises and wanted.sampler.copies == 1
    rows = self._rows(lambda *told: found.put_nowait(told), is_watched=is_final)
    sent, open_rows = [""] * len(rows), set(range(len(rows)))
    try:
      batcher.put(rows)
      for i in range(len(rows) if self._is_chat else 0):
        yield self._event(i, role="assistant", text="")
      while open_rows:
        index, one = await found.get()
        if isinstance(one, Exception):
          yield f"data: {json.dumps(request_lib.error(one))}\n\n"
          break
        is_last = isinstance(one, model_lib.Sample)
        text = samples.until(one.text, wanted.stop) if is_last else (
            request_lib.settled(one.tokens, self._model, wanted.stop))
        if is_last:
          open_rows.discard(index)
        if is_last or (text.startswith(sent[index]) and text != sent[index]):
          reason = None if not is_last else (
              "stop" if request_lib.is_complete(one, text, self._model) else "length")
          yield self._event(index, text=text[len(sent[index]):], reason=reason)
          sent[index] = text
      yield "data: [DONE]\n\n"
    finally:
      for row in rows:
        row.is_wanted = False

  def _event(self, index: int, *, text: str, role: str = "", reason: str | None = None) -> str:
    said: dict[str, Any] = {"text": text}
    if self._is_chat:
      said = {"delta": ({"role": role} if role else {}) | {"content": text}}
    kind = "chat.completion.chunk" if self._is_chat else "text_completion"
    return "data: " + json.dumps({**self._head, "object": kind, "choices": [
        {"index": index, **said, "logprobs": None, "finish_reason": reason}]}) + "\n\n"


def _call(loop, tell, *told) -> None:
  """Tells something on a loop, if it still runs."""
  with contextlib.suppress(RuntimeError):
    loop.call_soon_threadsafe(tell, *told)


def _arguments(argv: Sequence[str] | None):
  parser = argparse.ArgumentParser(prog="mdx.serve", description=(
      "A server of one model with the API of OpenAI. --FIELD=VALUE of a rule of mdx.samplers, and "
      "--name, are what a request that does not say them is decoded with."))
  add = parser.add_argument
  add("--checkpoint", required=True, help="what mdx.load takes: a run, an export, a directory")
  add("--host", default="127.0.0.1", help="address to listen at")
  add("--port", type=int, default=8000, help="port to listen at")
  add("--model_name", default="", help="name of the model; the checkpoint's last part by default")
  add("--batch_size", type=int, default=8, help="most rows that are decoded together")
  add("--wait_ms", type=float, default=10.0, help="time that a request waits for others")
  add("--max_tokens", type=int, default=128, help="of an answer, where a request does not say")
  add("--params", default="", help="ema or raw, of a run")
  add("--dtype", default="", help="of activations; that of training by default")
  known, rest = parser.parse_known_args(argv)
  fields = {}
  for one in rest:
    key, equals, value = one.partition("=")
    if not key.startswith("--") or not equals:
      raise ValueError(f"unknown argument {one!r:.60}; expected --FIELD=VALUE, see --help.")
    try:
      fields[key[2:]] = ast.literal_eval(value)
    except (ValueError, SyntaxError):
      fields[key[2:]] = value
  if known.batch_size < 1 or not known.wait_ms >= 0:
    raise ValueError(f"batch_size is {known.batch_size} and wait_ms {known.wait_ms}; expected at "
                     "least 1 and 0.")
  return known, fields


def main(argv: Sequence[str] | None = None) -> int:
  """Serves until it is interrupted; returns the exit status."""
  try:
    known, fields = _arguments(argv)
    for name in ("starlette", "uvicorn"):
      if importlib.util.find_spec(name) is None:
        raise ValueError(f"{name} is not installed; pip install 'mdx-lm[serve]'.")
    import uvicorn  # pylint: disable=g-import-not-at-top
    model = model_lib.load(known.checkpoint, params=known.params, dtype=known.dtype)
    server = request_lib.Server(
        model=model, name=known.model_name or pathlib.PurePath(known.checkpoint).name,
        max_tokens=known.max_tokens, fields=fields)
  except ValueError as error:
    print(f"mdx: {' '.join(str(error).split())}", file=sys.stderr)
    return 2
  uvicorn.run(make_app(server, batch_size=known.batch_size, wait_seconds=known.wait_ms / 1000),
              host=known.host, port=known.port, log_level="warning")
  return 0


if __name__ == "__main__":
  sys.exit(main())

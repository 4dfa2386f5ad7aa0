"""The HTTP interface: ``/predict``, ``/healthz``, ``/metrics``, and OpenAPI at ``/docs``."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

from xtc_jax import __version__
from xtc_jax.inference.predictor import answers
from xtc_jax.serve.requests import Limits, RefusedError, parse_inputs, read_body
from xtc_jax.serve.runners import Runner
from xtc_jax.serve.worker import TooManyError, Worker

_SECONDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_INPUTS = (1, 2, 4, 8, 16, 32, 64)
_TEXT = {"type": "string"}
_PROBLEMS = {
    400: "not JSON in UTF-8",
    413: "larger than the limits",
    422: "no inputs of this model",
    500: "the model failed",
    503: "too many inputs wait",
}


def make_app(runner: Runner, limits: Limits, most: int) -> Any:
    """The application, a ``fastapi.FastAPI``; its thread begins and ends with its lifespan.

    Args:
      runner: the model.
      limits: of requests.
      most: inputs of a run of the model, where requests wait for it.
    """
    from fastapi import FastAPI, Request, Response
    from fastapi.responses import JSONResponse
    from prometheus_client import generate_latest

    metrics = _metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker = Worker(runner.logits, most if runner.merges else 1, limits.waiting, metrics.batch.observe)
        metrics.waiting.set_function(lambda: worker.waiting)
        app.state.worker, app.state.metrics = worker, metrics
        yield
        await asyncio.to_thread(worker.close)

    app = FastAPI(title="xtc serve", version=__version__, description=_about(runner), lifespan=lifespan)

    app.state.accepted = app.state.answered = 0

    @app.post("/predict", summary="Classify, or rate", openapi_extra=_body_schema(runner), responses=_responses(runner))
    async def predict(request: Request) -> Response:
        began = time.perf_counter()
        app.state.accepted += 1
        status, content = await _answer(request, runner, limits, app.state.worker)
        metrics.requests.labels(str(status)).inc()
        metrics.seconds.observe(time.perf_counter() - began)
        app.state.answered += 1
        return JSONResponse(content, status, {"retry-after": "1"} if status == 503 else None)

    @app.get("/healthz", summary="Whether it answers")
    async def healthz() -> dict[str, str]:
        return {"status": "ok", "runtime": runner.runtime, "version": __version__}

    @app.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def show_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


async def _answer(request: Any, runner: Runner, limits: Limits, worker: Worker) -> tuple[int, dict[str, Any]]:
    """Status and content; what is wrong with a request is told in one sentence, ``detail``."""
    try:
        body = await read_body(request.stream(), request.headers.get("content-length"), limits.body(runner.texts))
        texts = parse_inputs(body, runner.texts, limits)
        logits = await asyncio.wrap_future(worker.submit(texts))
    except RefusedError as refusal:
        return refusal.status, {"detail": refusal.sentence}
    except TooManyError:
        return 503, {"detail": f"More than {limits.waiting} inputs wait; ask again later."}
    except Exception as error:
        return 500, {"detail": f"The model failed ({type(error).__name__})."}
    return 200, {"predictions": [asdict(each) for each in answers(runner.labels, runner.regression, logits)]}


def _metrics() -> SimpleNamespace:
    """Counters in a registry of their own: two applications in one process do not meet."""
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return SimpleNamespace(
        registry=registry,
        requests=Counter("xtc_requests", "Requests to /predict", ["status"], registry=registry),
        seconds=Histogram("xtc_request_seconds", "Seconds of a request", buckets=_SECONDS, registry=registry),
        batch=Histogram("xtc_batch_inputs", "Inputs of one run of the model", buckets=_INPUTS, registry=registry),
        waiting=Gauge("xtc_waiting_inputs", "Inputs that wait for the model", registry=registry),
    )


def _about(runner: Runner) -> str:
    given = "one text" if runner.texts == 1 else "a pair of texts"
    made = "a number" if runner.regression else f"one of: {', '.join(runner.labels)}"
    return f"Takes {given}, cut to {runner.max_length} tokens, and gives {made}."


def _body_schema(runner: Runner) -> dict[str, Any]:
    one = _TEXT if runner.texts == 1 else {"type": "array", "items": _TEXT, "minItems": 2, "maxItems": 2}
    several = {"type": "array", "items": one, "minItems": 1}
    inputs = {"anyOf": [one, several]} if runner.texts == 1 else several
    example = {"inputs": ["a dull mess"] if runner.texts == 1 else [["first", "second"]]}
    schema = {"type": "object", "required": ["inputs"], "properties": {"inputs": inputs}, "example": example}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _responses(runner: Runner) -> dict[int | str, dict[str, Any]]:
    label = {"type": "null"} if runner.regression else {"type": "string", "enum": list(runner.labels)}
    number = {"type": "number"}
    probabilities = {"type": "object", "additionalProperties": number}
    answer = {"type": "object", "properties": {"label": label, "value": number, "probabilities": probabilities}}
    content = {"type": "object", "properties": {"predictions": {"type": "array", "items": answer}}}
    problem = {"type": "object", "properties": {"detail": _TEXT}}
    found = {200: ("One prediction for each input", content)} | {code: (text, problem) for code, text in _PROBLEMS.items()}
    return {
        code: {"description": text, "content": {"application/json": {"schema": schema}}}
        for code, (text, schema) in found.items()
    }

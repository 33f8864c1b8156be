"""The continuous engine: answers as if alone, limits, turns, cancelling, failing, closing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from test_bulk import ROOT, TINY, alone, requests

from olmo.engine.continuous import ContinuousEngine, EngineStoppedError, QueueFullError
from olmo.engine.request import Finish, Piece, Question
from olmo.exceptions import OLMoInputError
from olmo.models.molmo.molmo import Molmo, MolmoConfig


@pytest.fixture(scope="module")
def model() -> Molmo:
    return Molmo(MolmoConfig.load(ROOT / "configs" / "molmo-nano", TINY)).eval()


@pytest.fixture
def engine(model: Molmo) -> Iterator[ContinuousEngine]:
    with ContinuousEngine(model, max_rows=4, max_waiting=64, max_prefill_rows=3) as running:
        yield running


class Listener:
    """Collects the pieces of one request."""

    def __init__(self, n: int = 1) -> None:
        self.pieces: list[Piece] = []
        self._left, self._done = n, threading.Event()

    def __call__(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self._left -= piece.finish is not None
        if not self._left:
            self._done.set()

    def wait(self) -> Listener:
        assert self._done.wait(60), f"no end after {self.pieces}"
        return self

    def text(self, choice: int = 0) -> str:
        return "".join(p.text for p in self.pieces if p.choice == choice)

    def finish(self, choice: int = 0) -> Finish | None:
        return next((p.finish for p in self.pieces if p.choice == choice and p.finish is not None), None)

    def ids(self, choice: int = 0) -> list[int]:
        return [p.token_id for p in self.pieces if p.choice == choice and p.token_id is not None]


def prepared(model: Molmo, request: dict[str, Any]) -> dict[str, Any]:
    return model.config.build_preprocessor(for_inference=True)(request)


def ask(engine: ContinuousEngine, request: dict[str, Any], n: int = 1, client: str = "", **options: Any) -> Listener:
    listener = Listener(n)
    inputs = prepared(engine.model, request)
    engine.submit(Question(inputs, {"max_new_tokens": 6, **options}, n=n, client=client), listener)
    return listener


def test_answers_are_those_given_alone_whenever_they_come(engine: ContinuousEngine, model: Molmo) -> None:
    asked = requests(14)
    wanted = [alone(model, request) for request in asked]
    rng, listeners = np.random.default_rng(0), []
    for request in asked:
        listeners.append(ask(engine, request))
        time.sleep(float(rng.uniform(0, 0.01)))
    assert [listener.wait().text() for listener in listeners] == wanted
    assert {listener.finish() for listener in listeners} <= {Finish.stop, Finish.length}
    counts = engine.counts
    assert counts.n_requests == counts.n_finished == 14
    assert counts.n_new_tokens == sum(len(listener.ids()) for listener in listeners)
    assert counts.n_steps < counts.n_new_tokens, "rows shared steps"


def test_lengths_of_their_own_and_drawn_answers(engine: ContinuousEngine, model: Molmo) -> None:
    asked = requests(6)
    options = [{"max_new_tokens": 2 + i, "do_sample": i % 2 == 1, "seed": i, "top_k": 20} for i in range(6)]
    listeners = [ask(engine, request, **given) for request, given in zip(asked, options, strict=True)]
    for request, given, listener in zip(asked, options, listeners, strict=True):
        tensors = {k: v for k, v in prepared(model, request).items() if isinstance(v, torch.Tensor)}
        out = model.generate(**tensors, **given)
        assert listener.wait().text() == out.text[0]
        assert listener.ids() == out.token_ids[0, : len(listener.ids())].tolist()


def test_the_row_of_a_prompt_is_told_before_its_first_piece(engine: ContinuousEngine, model: Molmo) -> None:
    heard, listeners = [], []
    for number, request in enumerate(requests(5)):
        listener = Listener()
        question = Question(
            prepared(model, request), {"max_new_tokens": 2},
            on_prompt=lambda aux, row, k=number, at=listener: heard.append((k, dict(aux), row, len(at.pieces))),
        )  # fmt: skip
        engine.submit(question, listener)
        listeners.append(listener)
    assert all(listener.wait().finish() is not None for listener in listeners)
    assert sorted(k for k, *_ in heard) == list(range(5)), "each is told once"
    assert all(aux == {} and 0 <= row < 3 and n_pieces == 0 for _, aux, row, n_pieces in heard)


def test_several_answers_to_one_request(engine: ContinuousEngine) -> None:
    listener = ask(engine, requests(2)[1], n=3, do_sample=True, seed=7, max_new_tokens=8).wait()
    texts = [listener.text(choice) for choice in range(3)]
    assert len(set(texts)) > 1
    again = ask(engine, requests(2)[1], n=3, do_sample=True, seed=7, max_new_tokens=8).wait()
    assert [again.text(choice) for choice in range(3)] == texts
    with pytest.raises(OLMoInputError, match="n=5 is out of range; allowed: 1 to 4"):
        ask(engine, requests(1)[0], n=5)


def test_log_probabilities_are_those_of_the_model(engine: ContinuousEngine, model: Molmo) -> None:
    request, listener = requests(2)[1], Listener()
    engine.submit(Question(prepared(model, request), {"max_new_tokens": 5}, n_top_log_probs=3), listener)
    listener.wait()
    tensors = {k: v for k, v in prepared(model, request).items() if isinstance(v, torch.Tensor)}
    out = model.generate(**tensors, max_new_tokens=5, output_scores=True)
    told = [p for p in listener.pieces if p.token_id is not None]
    assert out.scores is not None
    np.testing.assert_allclose([p.log_prob for p in told], out.scores[0, : len(told)].numpy(), atol=1e-4)
    for piece in told:
        assert len(piece.top_log_probs) == 3
        assert piece.top_log_probs[0] == (piece.token_id, pytest.approx(piece.log_prob, abs=1e-6))


def test_stop_strings_end_an_answer_and_are_not_shown(engine: ContinuousEngine, model: Molmo) -> None:
    request = next(r for r in requests(14) if len(alone(model, r)) > 4)
    whole = alone(model, request)
    stop = whole[2:4]
    listener = ask(engine, request, stop_strings=[stop]).wait()
    assert listener.text() == whole[: whole.index(stop)] and listener.finish() is Finish.stop


def test_cancelled_requests_leave_waiting_or_running(model: Molmo) -> None:
    with ContinuousEngine(model, max_rows=1, max_prefill_rows=1) as engine:
        long = {"max_new_tokens": 400, "eos_token_id": []}
        first, second, third = Listener(), Listener(), Listener()
        inputs = prepared(model, requests(1)[0])
        running = engine.submit(Question(inputs, long), first)
        waiting = engine.submit(Question(inputs, long), second)
        while not first.pieces:
            time.sleep(0.001)
        waiting.cancel()
        running.cancel()
        assert first.wait().finish() is Finish.cancelled and second.wait().finish() is Finish.cancelled
        assert not second.ids() and 0 < len(first.ids()) < 400
        engine.submit(Question(inputs, {"max_new_tokens": 3}), third)
        assert third.wait().text() == alone(model, requests(1)[0])[: len(third.text())]
        assert engine.n_running <= 1 and engine.counts.finishes["cancelled"] == 2


def test_requests_that_take_too_long_are_given_up(model: Molmo) -> None:
    with ContinuousEngine(model, max_rows=1, max_prefill_rows=1) as engine:
        inputs, late, behind = prepared(model, requests(1)[0]), Listener(), Listener()
        endless = {"max_new_tokens": 800, "eos_token_id": []}
        engine.submit(Question(inputs, endless, timeout_s=0.15), late)
        engine.submit(Question(inputs, endless, timeout_s=0.05), behind)
        assert late.wait().finish() is Finish.timeout and behind.wait().finish() is Finish.timeout
        assert late.ids() and not behind.ids()


def test_too_many_are_refused_and_clients_take_turns(model: Molmo) -> None:
    with ContinuousEngine(model, max_rows=1, max_waiting=4, max_prefill_rows=1) as engine:
        inputs, first, order = prepared(model, requests(1)[0]), Listener(), []
        blocker = engine.submit(Question(inputs, {"max_new_tokens": 900, "eos_token_id": []}), first)
        while not first.pieces:
            time.sleep(0.001)
        listeners = []
        for client in ("busy", "busy", "busy", "calm"):
            listener = Listener()

            def tell(piece: Piece, client: str = client, listener: Listener = listener) -> None:
                if piece.token_id is not None and not listener.pieces:
                    order.append(client)
                listener(piece)

            listeners.append(listener)
            engine.submit(Question(inputs, {"max_new_tokens": 2}, client=client), tell)
        assert engine.n_waiting == 4
        with pytest.raises(QueueFullError, match="4 requests wait already"):
            engine.submit(Question(inputs), Listener())
        blocker.cancel()
        for listener in listeners:
            listener.wait()
        assert order == ["busy", "calm", "busy", "busy"]


def test_a_request_that_fails_takes_no_other_with_it(engine: ContinuousEngine, model: Molmo) -> None:
    def broken(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("a hook that fails")

    bad, good = Listener(), Listener()
    inputs = prepared(model, requests(2)[1])
    engine.submit(Question(inputs, {"max_new_tokens": 4}, hooks=lambda: [broken]), bad)
    engine.submit(Question(inputs, {"max_new_tokens": 4}), good)
    assert bad.wait().finish() is Finish.error
    assert "a hook that fails" in str(next(p.error for p in bad.pieces if p.error is not None))
    assert good.wait().finish() in (Finish.length, Finish.stop)
    nan = {**inputs, "images": torch.full_like(inputs["images"], float("nan"))}
    spoilt, other = Listener(), Listener()
    engine.submit(Question(nan, {"max_new_tokens": 4}), spoilt)
    engine.submit(Question(inputs, {"max_new_tokens": 4}), other)
    assert spoilt.wait().finish() is Finish.error and other.wait().text() == good.text()
    assert engine.is_alive


@pytest.mark.parametrize(("question", "match"), [
    ({"options": {"max_new_tokens": 0}}, "max_new_tokens"),
    ({"options": {"num_beams": 2}}, "without beams"),
    ({"options": {"colour": "red"}}, "does not know colour"),
    ({"n": 0}, "n=0"),
])  # fmt: skip
def test_wrong_requests_are_refused_at_the_door(
    engine: ContinuousEngine, model: Molmo, question: dict[str, Any], match: str
) -> None:
    with pytest.raises(OLMoInputError, match=match):
        engine.submit(Question(prepared(model, requests(1)[0]), **question), Listener())


def test_closing_drains_or_cancels(model: Molmo) -> None:
    inputs = prepared(model, requests(1)[0])
    engine = ContinuousEngine(model, max_rows=2)
    listeners = [Listener() for _ in range(5)]
    for listener in listeners:
        engine.submit(Question(inputs, {"max_new_tokens": 4}), listener)
    engine.close(drain=True)
    assert all(listener.finish() in (Finish.length, Finish.stop) for listener in listeners)
    with pytest.raises(EngineStoppedError, match="closed"):
        engine.submit(Question(inputs), Listener())
    engine = ContinuousEngine(model, max_rows=1)
    endless = [Listener() for _ in range(3)]
    for listener in endless:
        engine.submit(Question(inputs, {"max_new_tokens": 900, "eos_token_id": []}), listener)
    while not endless[0].pieces:
        time.sleep(0.001)
    engine.close(drain=True, timeout_s=0.05)
    assert [listener.finish() for listener in endless] == [Finish.cancelled] * 3
    assert not engine.is_alive


def test_a_failure_of_the_thread_reaches_everyone(model: Molmo, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ContinuousEngine(model, max_rows=1)
    monkeypatch.setattr(engine, "_running", None)
    listener = Listener()
    engine.submit(Question(prepared(model, requests(1)[0]), {"max_new_tokens": 4}), listener)
    assert listener.wait().finish() is Finish.error
    with pytest.raises(EngineStoppedError, match="the engine stopped"):
        for _ in range(200):
            engine.submit(Question(prepared(model, requests(1)[0])), Listener())
            time.sleep(0.01)
    engine.close()


def test_limits_are_checked(model: Molmo) -> None:
    with pytest.raises(OLMoInputError, match="max_rows=0 is out of range"):
        ContinuousEngine(model, max_rows=0)

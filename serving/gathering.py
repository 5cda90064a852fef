"""Requests that come at a time are worked on at a time: one thread takes whatever waits, as one batch."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from serving.refusal import Refusal

Job = TypeVar("Job")
Result = TypeVar("Result")


class Gatherer(Generic[Job, Result]):
    """A thread that calls `work` with the jobs that have come since its last call, `most` of them or fewer.

    Nobody waits for others to come: a job that comes alone is worked on alone, and those that come meanwhile are the
    next batch. work: gives a result for each job, or an exception in its place, which the one who gave the job gets.
    room: jobs that may wait; beyond that, `submit` refuses.
    """

    def __init__(self, name: str, work: Callable[[Sequence[Job]], Sequence[Result | Exception]], most: int, room: int):
        self._work = work
        self._most = most
        self._waiting: queue.Queue[tuple[Job, Future] | None] = queue.Queue(room)
        self._is_closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> "Future[Result]":
        """The future result of a job. Raises Refusal where too many wait, and after `close`."""
        future: Future[Result] = Future()
        # Under a lock, so that nothing is put behind the mark by which the thread ends.
        with self._lock:
            if self._is_closed:
                raise Refusal(503, "the server is stopping")
            try:
                self._waiting.put_nowait((job, future))
            except queue.Full:
                raise Refusal(503, "too many requests wait; try again in a moment", after=1) from None
        return future

    def close(self) -> None:
        """Return when all that was submitted is done; nothing more is taken."""
        with self._lock:
            is_first = not self._is_closed
            self._is_closed = True
        if is_first:
            self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            jobs = [self._waiting.get()]
            while len(jobs) < self._most and jobs[-1] is not None:
                try:
                    jobs.append(self._waiting.get_nowait())
                except queue.Empty:
                    break
            is_last = jobs[-1] is None
            # Whoever has gone away meanwhile needs no answer.
            alive = [job for job in jobs if job is not None and job[1].set_running_or_notify_cancel()]
            if alive:
                self._answer(alive)

    def _answer(self, jobs: list[tuple[Job, Future]]) -> None:
        try:
            results = self._work([job for job, _ in jobs])
        except Exception as error:  # every one of those who wait has to hear of it, and the thread goes on
            results = [error] * len(jobs)
        for (_, future), result in zip(jobs, results):
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

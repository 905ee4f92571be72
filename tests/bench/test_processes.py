"""Processes with a pipe each: whatever becomes of one, nobody waits for it, and nobody else loses anything."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator

import pytest

from bench.errors import BenchError, DataError
from bench.run import processes


@pytest.fixture
def team() -> Iterator[processes.Processes]:
    """Two processes that import nothing of weight."""
    found = processes.Processes(2, _begin, ())
    yield found
    found.end()
    assert multiprocessing.active_children() == []


def _begin() -> None:
    pass


def _chatter(say: processes.Say, number: int) -> int:
    for _ in range(20):
        say(bytes(1 << 20))
    return number


def _end_itself(say: processes.Say, code: int) -> None:
    os._exit(code)


def _crash(say: processes.Say) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _refuse(say: processes.Say, how: str) -> None:
    if how == "pickle":
        say(lambda: None)
    raise DataError("No.")


def test_a_death_is_heard_at_any_moment_also_in_the_middle_of_a_long_message(team: processes.Processes) -> None:
    """Both wait for room in their pipes, with messages longer than these hold, when they are killed; what is left is
    done by one that takes their place."""
    heard = team.work([processes.Task(_chatter, (number,)) for number in range(4)])
    first = next(heard)
    assert first.kind == "said"
    for child in multiprocessing.active_children():
        os.kill(child.pid or 0, signal.SIGKILL)
    rest = list(heard)
    lost = [told for told in rest if told.kind == "lost"]
    assert {told.content for told in lost} == {-9} and len(lost) >= 2
    assert {told.task for told in rest if told.kind in ("lost", "done")} == set(range(4)), "each has its end"


def test_a_process_that_ends_itself_is_replaced_and_its_task_alone_is_lost(team: processes.Processes) -> None:
    tasks = [processes.Task(_end_itself, (code,)) for code in (0, 3)] + [processes.Task(_chatter, (7,))] * 3
    ends = {told.task: (told.kind, told.content) for told in team.work(tasks) if told.kind != "said"}
    assert ends == {0: ("lost", 0), 1: ("lost", 3), 2: ("done", 7), 3: ("done", 7), 4: ("done", 7)}
    assert len(team) == 2
    crash = list(team.work([processes.Task(_crash, ())]))
    assert [told.kind for told in crash] == ["lost"] and crash[0].content == -signal.SIGSEGV


def test_processes_that_cannot_live_are_a_sentence_and_are_not_started_for_ever() -> None:
    team = processes.Processes(2, os._exit, (7,))
    with pytest.raises(BenchError, match=r"end as soon as they start \(exit code 7\).*--workers 1"):
        for _ in range(10):
            for child in multiprocessing.active_children():
                child.join()
            list(team.work([processes.Task(_chatter, (1,))]))
    team.end()


def test_what_cannot_be_pickled_and_what_is_raised_come_back_as_errors(team: processes.Processes) -> None:
    found = {told.task: told for told in team.work([processes.Task(_refuse, (name,)) for name in ("pickle", "raise")])}
    assert [found[number].kind for number in range(2)] == ["failed", "failed"]
    assert isinstance(found[1].content, DataError)


def test_processes_need_no_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some containers forbid /dev/shm, where locks and queues between processes lie."""

    def forbidden(*_: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("_multiprocessing.SemLock", forbidden)
    team = processes.Processes(1, _begin, ())
    assert [told.kind for told in team.work([processes.Task(_chatter, (1,))])][-1] == "done"
    team.end()


def test_one_that_takes_anothers_place_takes_its_seat() -> None:
    """Of several devices none is left without a process, and none gets two."""
    found = processes.Processes(2, _sit, (), ["one", "two"])
    try:
        heard = list(found.work([processes.Task(_end_itself, (3,)), *[processes.Task(_seat, ())] * 6]))
    finally:
        found.end()
    assert [told.content for told in heard if told.kind == "lost"] == [3]
    assert {told.content for told in heard if told.kind == "done"} == {"one", "two"}


def test_nothing_is_begun_once_it_is_to_stop(team: processes.Processes) -> None:
    heard: list[processes.Heard] = []
    for told in team.work([processes.Task(_chatter, (number,)) for number in range(9)], lambda: bool(heard)):
        heard.append(told)
    assert {told.task for told in heard} <= {0, 1} and team.at_work == set()


_own: list[str] = []


def _sit(seat: str) -> None:
    _own.append(seat)


def _seat(say: processes.Say) -> str:
    time.sleep(0.3)  # so that both have something to do
    return _own[0]

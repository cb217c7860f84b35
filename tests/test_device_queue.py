"""Turns on the device: one piece of work at a time, in one thread where that is asked for."""

import _thread
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from essence.runtime.device_queue import DeviceQueue, in_background

both = pytest.mark.parametrize("one_thread", (False, True))


@both
def test_one_works_at_a_time_and_each_gets_its_answer(one_thread):
    queue, working, most = DeviceQueue(one_thread), [], []

    def work(i):
        working.append(i)
        time.sleep(0.01)
        most.append(len(working))
        working.remove(i)
        return i * i

    with ThreadPoolExecutor(4) as callers:
        assert list(callers.map(lambda i: queue.run(lambda: work(i)), range(12))) == [
            i * i for i in range(12)
        ]
    assert max(most) == 1 and not queue.busy


def test_all_work_is_done_by_one_thread_that_is_nobodys():
    queue = DeviceQueue(single_thread=True)
    with ThreadPoolExecutor(4) as callers:
        threads = {*callers.map(lambda _: queue.run(threading.current_thread), range(12))}
    assert len(threads) == 1 and threads != {threading.current_thread()}
    assert DeviceQueue().run(threading.current_thread) is threading.current_thread()


@both
def test_an_error_is_the_callers_and_the_next_one_may_work(one_thread):
    queue = DeviceQueue(one_thread)
    with pytest.raises(ZeroDivisionError):
        queue.run(lambda: 1 / 0)
    assert not queue.busy and queue.run(lambda: 5) == 5


def test_ctrl_c_waits_for_the_work_under_way():
    """A generator that is closed while it makes its next step raises; so nobody may go on before
    the step has ended.
    """
    queue, ended = DeviceQueue(single_thread=True), []

    def work():
        time.sleep(0.2)  # until the caller waits
        _thread.interrupt_main()
        time.sleep(0.2)
        ended.append(True)

    with pytest.raises(KeyboardInterrupt):
        queue.run(work)
        time.sleep(5)  # where the interruption arrives late
    assert ended and not queue.busy


def test_what_is_done_apart_has_a_thread_that_ends():
    doing = in_background(threading.current_thread)
    thread = doing.result()
    thread.join(10)
    assert thread.daemon and not thread.is_alive()  # and what OpenMP kept for it is gone
    with pytest.raises(ZeroDivisionError):
        in_background(lambda: 1 / 0).result()

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from t2ireid_plugin.utils.signals import Stopped, orderly_stop, stop_together, uninterrupted

BOTH = pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])


@BOTH
def test_a_signal_ends_what_is_under_way(number, status):
    @orderly_stop()
    def work():
        os.kill(os.getpid(), number)
        time.sleep(30)

    with pytest.raises(Stopped, match=f"stopped by {number.name}") as stopped:
        work()
    assert stopped.value.status == status


@BOTH
def test_what_must_not_be_broken_off_is_finished_first(number, status):
    done = []

    @orderly_stop()
    def work():
        with uninterrupted():
            os.kill(os.getpid(), number)
            with uninterrupted():
                done.append("inner")
            done.append("outer")
        done.append("after")

    with pytest.raises(Stopped):
        work()
    assert done == ["inner", "outer"]


def test_what_is_done_on_the_way_out_is_not_broken_off_again():
    done = []

    @orderly_stop()
    def work():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Stopped:
            with uninterrupted():
                done.append("saved")
            raise

    with pytest.raises(Stopped):
        work()
    assert done == ["saved"]


def test_an_error_within_is_not_hidden_by_a_signal():
    @orderly_stop()
    @uninterrupted()
    def work():
        os.kill(os.getpid(), signal.SIGTERM)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_python_drops_stops_at_the_next_step():
    """What is raised within a `__del__` goes nowhere."""

    class Signalling:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)

    done = []

    @orderly_stop()
    def work():
        Signalling()
        done.append("trained on")
        stop_together()
        done.append("and on")

    with pytest.raises(Stopped):
        work()
    assert done == ["trained on"]
    with orderly_stop():  # the next run knows nothing of it
        stop_together()


def test_signals_are_afterwards_what_they_were_before():
    def handlers():
        return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    @orderly_stop()
    def work():
        within.extend(handlers())
        os.kill(os.getpid(), signal.SIGTERM)

    before, within = handlers(), []
    with pytest.raises(Stopped):
        work()
    assert not set(map(id, before)) & set(map(id, within))
    assert handlers() == before
    with orderly_stop():  # and the next run starts afresh
        pass


def test_in_another_thread_it_does_nothing():
    found = []

    def work():
        with orderly_stop(), uninterrupted():
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


def test_torchruns_own_signal_is_not_a_second_one(monkeypatch):
    """Who ends all processes of a machine reaches torchrun, which hands it on, and its processes themselves."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    done = []

    @orderly_stop()
    def work():
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("saved")

    with pytest.raises(Stopped):
        work()
    assert done == ["saved"]


@BOTH
def test_a_second_signal_ends_the_process_at_once(number, status):
    program = (
        "import time; from t2ireid_plugin import stopping; from t2ireid_plugin.utils.signals import *\n"
        "with orderly_stop(), uninterrupted():\n"
        "    print('started', flush=True)\n"
        "    while not stopping._handler.received: time.sleep(0.1)\n"
        "    print('told', flush=True)\n"
        "    for _ in range(600): time.sleep(0.1)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"started\n"
    process.send_signal(number)
    assert process.stdout.readline() == b"told\n"
    assert process.poll() is None
    process.send_signal(number)
    assert process.wait(timeout=20) == status

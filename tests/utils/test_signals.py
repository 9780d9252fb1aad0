import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from t2ireid_plugin.utils.signals import Stopped, check_stop, defer_signals, stop_on_signal

BOTH = pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])


@BOTH
def test_a_signal_ends_what_is_under_way(number, status):
    @stop_on_signal()
    def work():
        os.kill(os.getpid(), number)
        time.sleep(30)

    with pytest.raises(Stopped, match=f"stopped by {number.name}") as stopped:
        work()
    assert stopped.value.status == status


@BOTH
def test_what_must_not_be_broken_off_is_finished_first(number, status):
    done = []

    @stop_on_signal()
    def work():
        with defer_signals():
            os.kill(os.getpid(), number)
            with defer_signals():
                done.append("inner")
            done.append("outer")
        done.append("after")

    with pytest.raises(Stopped):
        work()
    assert done == ["inner", "outer"]


def test_what_is_done_on_the_way_out_is_not_broken_off_again():
    done = []

    @stop_on_signal()
    def work():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Stopped:
            with defer_signals():
                done.append("saved")
            raise

    with pytest.raises(Stopped):
        work()
    assert done == ["saved"]


def test_an_error_within_is_not_hidden_by_a_signal():
    @stop_on_signal()
    @defer_signals()
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

    @stop_on_signal()
    def work():
        Signalling()
        done.append("trained on")
        check_stop()
        done.append("and on")

    with pytest.raises(Stopped):
        work()
    assert done == ["trained on"]
    with stop_on_signal():  # the next run knows nothing of it
        check_stop()


def test_signals_are_afterwards_what_they_were_before():
    def handlers():
        return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    @stop_on_signal()
    def work():
        within.extend(handlers())
        os.kill(os.getpid(), signal.SIGTERM)

    before, within = handlers(), []
    with pytest.raises(Stopped):
        work()
    assert not set(map(id, before)) & set(map(id, within))
    assert handlers() == before
    with stop_on_signal():  # and the next run starts afresh
        pass


def test_in_another_thread_it_does_nothing():
    found = []

    def work():
        with stop_on_signal(), defer_signals():
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

    @stop_on_signal()
    def work():
        with defer_signals():
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

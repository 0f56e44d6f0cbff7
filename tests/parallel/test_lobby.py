"""Processes that don't fit together are told so before JAX connects them."""

import socket
import threading
import time

import pytest

from capjax.parallel import lobby, processes
from capjax.parallel.lobby import LobbyError, enter, receive
from tests.parallel.test_processes import free_port


@pytest.fixture(name="quick", autouse=True)
def make_quick(monkeypatch):
    monkeypatch.setattr(lobby, "_SECONDS", 0.5)


def together(*calls):
    """What each raised, by threads of their own."""
    raised = [None] * len(calls)

    def call(place):
        try:
            calls[place]()
        except LobbyError as error:
            raised[place] = str(error)

    threads = [threading.Thread(target=call, args=(place,)) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return raised


def test_all_go_on_together():
    port = free_port()
    guests = [lambda i=i: enter("localhost", port, 3, i, 9) for i in (2, 1)]
    assert together(*guests, lambda: receive(port, 3, 9)) == [None] * 3
    socket.create_server(("", port)).close()  # JAX's service can have the port at once.


def test_another_number_of_processes_is_told_to_all():
    port = free_port()
    calls = [
        lambda: receive(port, 3, 9),
        lambda: enter("localhost", port, 3, 1, 9),
        lambda: (time.sleep(0.4), enter("localhost", port, 4, 2, 9)),
    ]
    found = together(*calls)
    assert found == [found[0]] * 3
    assert (
        "process 2 has --num_processes=4, and the first process has --num_processes=3" in found[0]
    )


def test_a_taken_number_and_another_program_are_sent_away_and_the_others_go_on():
    port = free_port()

    def other():
        time.sleep(0.3)
        with socket.create_connection(("localhost", port)) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            time.sleep(0.2)

    calls = [
        lambda: receive(port, 3, 9),
        lambda: enter("localhost", port, 3, 1, 9),
        lambda: (time.sleep(0.6), enter("localhost", port, 3, 1, 9)),
        other,
        lambda: (time.sleep(1.5), enter("localhost", port, 3, 2, 9)),
    ]
    first, one, same, _, two = together(*calls)
    assert first is one is two is None
    assert same == "another process has --process_id=1: give each its own"


def test_one_that_died_may_come_again():
    port = free_port()

    def die():
        time.sleep(0.3)
        with socket.create_connection(("localhost", port)) as guest:
            lobby._send(guest, {"process_id": 1, "num_processes": 3})
            assert lobby._read(guest) == {"welcome": True}

    def come(number):
        time.sleep(0.9)
        enter("localhost", port, 3, number, 9)

    calls = [lambda: receive(port, 3, 9), die, lambda: come(1), lambda: come(2)]
    assert together(*calls) == [None] * 4


def test_a_run_that_has_begun_is_left_alone():
    with socket.create_server(("localhost", 0)) as service:
        port = service.getsockname()[1]
        found = together(lambda: enter("localhost", port, 2, 1, 9))
    assert "a run has begun there already" in found[0]


def test_who_does_not_come_is_named():
    assert together(lambda: receive(free_port(), 3, 0.3)) == [
        "processes [1, 2] of 3 did not come in 0.3 s"
    ]


def test_a_port_in_use_is_named():
    with socket.create_server(("", 0)) as service:
        port = service.getsockname()[1]
        with pytest.raises(processes.ProcessesError, match=rf"port {port} can't be used .*another"):
            processes.start(f"localhost:{port}", 2, 0)

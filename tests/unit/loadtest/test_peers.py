"""What peers are started with, and which are chosen."""

import contextlib

import pytest

from loadtest.benches.scaleout import efficiencies, goodput, subject_name
from loadtest.benches.subjects import in_turn, installed
from loadtest.client import Stream
from loadtest.engines import Timing, set_options, simulator_settings
from loadtest.figures import Figures
from loadtest.peers import haproxy, litellm
from loadtest.peers.base import Peer, UnavailableError
from loadtest.peers.installation import ensure_environment, peer_folder
from loadtest.peers.registry import OVER_ENGINES, SIMULATED, WITH_ENGINES, choose


def _unavailable(*_: object) -> str:
    raise UnavailableError("no such version\nand a long log")


def _peer(name: str) -> Peer:
    return Peer(name, lambda: "1.0", lambda *_: contextlib.nullcontext())


def test_haproxy_routes_over_every_engine() -> None:
    text = haproxy.configuration(["http://127.0.0.1:9001", "http://127.0.0.1:9002"], port=8000)

    assert "bind 127.0.0.1:8000" in text
    assert "server e0 127.0.0.1:9001" in text
    assert "server e1 127.0.0.1:9002" in text


def test_litellm_names_one_model_for_all_engines() -> None:
    models = litellm.configuration(["http://a", "http://b"], "sim")["model_list"]

    assert {model["model_name"] for model in models} == {"sim"}
    assert [model["litellm_params"]["api_base"] for model in models] == [
        "http://a/v1",
        "http://b/v1",
    ]


def test_names_of_peers_are_distinct_in_each_bench() -> None:
    for peers in (WITH_ENGINES, OVER_ENGINES, SIMULATED):
        assert len({peer.name for peer in peers}) == len(peers)


def test_chosen_peers_keep_their_order() -> None:
    assert [p.name for p in choose(OVER_ENGINES, ["smg", "galerne"])] == ["galerne", "smg"]
    assert choose(OVER_ENGINES, None) == list(OVER_ENGINES)


def test_an_unknown_peer_is_named() -> None:
    with pytest.raises(ValueError, match="nginx"):
        choose(OVER_ENGINES, ["nginx"])


def test_a_peer_that_cannot_be_installed_is_reported() -> None:
    figures = Figures()

    ready, versions = installed("relay", [Peer("x", _unavailable, None), _peer("y")], figures)

    assert [peer.name for peer in ready] == ["y"]
    assert versions == {"y": "1.0"}
    assert [line.note for line in figures.lines()] == ["skipped: no such version: and a long log"]


def test_subjects_alternate_and_a_broken_one_is_not_tried_again() -> None:
    tried = []

    def measure(peer: Peer) -> None:
        tried.append(peer.name)
        if peer.name == "b":
            _unavailable()

    peers = [_peer(name) for name in "abc"]
    figures = Figures()
    in_turn("relay", peers, figures, restarts=2, measure=measure)

    assert tried == ["a", "b", "c", "c", "a"]
    assert [line.subject for line in figures.lines()] == ["b"]


def test_an_environment_that_is_complete_is_not_touched(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GALERNE_CACHE_DIR", str(tmp_path))
    folder = peer_folder("smg")
    folder.mkdir(parents=True)
    (folder / ".complete").write_text("smg==1.2.3")

    assert ensure_environment("smg", "smg==1.2.3") == "1.2.3"
    assert folder == tmp_path / "peers" / "smg"


def test_simulated_steps_take_the_interval_and_nothing_else() -> None:
    words = set_options(simulator_settings(Timing(overhead_s=0.002, interval_s=0.05)))

    assert "simulator.timing.step_s=0.05" in words
    assert "simulator.timing.decode_s_per_sequence=0" in words


def test_chunks_of_failed_streams_are_no_goodput() -> None:
    streams = [Stream(num_chunks=10, num_in_time=8), Stream(num_chunks=5, num_in_time=5, error="x")]

    assert goodput(streams, 5.0) == (1.6, 3.0)


def test_efficiency_needs_a_single_replica_to_compare_with() -> None:
    figures = Figures()
    figures.add("goodput", subject_name(4), 380.0, unit="chunks/s")

    assert efficiencies(figures, (4,)) == []

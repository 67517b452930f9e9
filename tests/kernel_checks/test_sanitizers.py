"""Which compiler's sanitizers are used."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sanitizers


class Machine:
    """Compilers, and what their sanitizers are worth."""

    def __init__(self) -> None:
        self.clang = ["clang++-19", "clang++-14"]
        self.without_runtime: set[str] = set()
        self.blind = {"clang++-19", "clang++-14"}
        self.missing: set[str] = {"g++-12", "g++-11", "g++-10"}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    machine = Machine()
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(sanitizers, "_clang_newest_first", lambda: machine.clang)
    monkeypatch.setattr(sanitizers, "_links", lambda name, _: name not in machine.without_runtime)
    monkeypatch.setattr(sanitizers, "_sees_races", lambda name: name not in machine.blind)
    monkeypatch.setattr(
        sanitizers.shutil, "which", lambda name: None if name in machine.missing else name
    )
    sanitizers.compiler.cache_clear()
    yield machine
    sanitizers.compiler.cache_clear()


def test_each_sanitizer_has_its_compiler(machine: Machine) -> None:
    assert sanitizers.compiler("thread") == "g++"
    assert sanitizers.compiler("address") == "clang++-19"


def test_clang_without_its_runtime(machine: Machine) -> None:
    machine.without_runtime = {"clang++-19"}
    assert sanitizers.compiler("address") == "clang++-14"
    sanitizers.compiler.cache_clear()
    machine.clang = []
    assert sanitizers.compiler("address") == "g++"


def test_an_older_gcc_beside_one_that_is_blind(machine: Machine) -> None:
    machine.blind.add("g++")
    machine.missing.remove("g++-12")
    assert sanitizers.compiler("thread") == "g++-12"


def test_no_thread_sanitizer_that_sees_races(machine: Machine) -> None:
    machine.blind.add("g++")
    with pytest.raises(RuntimeError, match="no compiler here has a thread sanitizer"):
        sanitizers.compiler("thread")

"""What `make generate` writes is up to date, and a stale file is noticed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    pytest.importorskip("jinja2")
    spec = importlib.util.spec_from_file_location(
        "generate_activations", ROOT / "tools" / "generate_activations.py"
    )
    assert spec is not None
    assert spec.loader is not None
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.syspath_prepend(str(ROOT / "tools"))  # as for a script that is run
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.undo()
    return module


def test_generated_files_are_up_to_date(
    generator: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    generator.main(check=True)
    assert capsys.readouterr().out.strip() == "nothing has changed"


def test_stale_and_missing_files_are_noticed_and_written(
    generator: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    texts = {tmp_path / "fresh.py": "a\n", tmp_path / "stale.py": "b\n", tmp_path / "new.py": "c\n"}
    monkeypatch.setattr(generator, "ROOT", tmp_path)
    monkeypatch.setattr(generator, "rendered", lambda: texts)
    (tmp_path / "fresh.py").write_text("a\n")
    (tmp_path / "stale.py").write_text("an older formula\n")
    with pytest.raises(SystemExit, match=r"out of date, run `make generate`: stale\.py, new\.py"):
        generator.main(check=True)
    assert (tmp_path / "stale.py").read_text() == "an older formula\n", "--check writes nothing"
    generator.main(check=False)
    assert {path: path.read_text() for path in texts} == texts
    generator.main(check=True)

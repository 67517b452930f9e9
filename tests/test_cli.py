"""The command `gradkern`: information, options, and what it says where its packages are missing."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from typer.testing import CliRunner

import gradkern
from gradkern import cli


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.create_app(), list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_installed_command_is_main() -> None:
    (command,) = entry_points(group="console_scripts", name="gradkern")
    assert command.load() is cli.main


def test_help_names_the_commands() -> None:
    code, out, _ = invoke("--help")
    assert code == 0
    assert "info" in out
    assert "demo" in out


def test_info_as_json_is_build_info() -> None:
    code, out, _ = invoke("info", "--json")
    assert code == 0
    assert json.loads(out) == gradkern.build_info()


def test_info_as_table() -> None:
    code, out, _ = invoke("info")
    build = gradkern.build_info()
    assert code == 0
    for value in (build["version"], build["torch_running"], build["cpu_isa"]):
        assert value in out
    assert "CUDA kernels loaded" in out


def test_info_says_why_cuda_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    build = gradkern.build_info()
    cuda = {"built": True, "architectures": ["75", "90"], "loaded": False, "reason": "no driver"}
    monkeypatch.setattr(gradkern, "build_info", lambda: build | {"cuda": cuda})
    _, out, _ = invoke("info")
    assert "75, 90" in out
    assert "no: no driver" in out


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--seed", "-1"], "--seed"),
        (["--seed", "four"], "--seed"),
        (["--output", "nowhere/demo.png"], "--output"),
        (["--output", "demo.docx"], "--output"),
        (["--output", "demo"], "--output"),
    ],
)
def test_bad_options_are_refused_before_training(
    options: list[str], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = invoke("demo", *options)
    assert code == 2
    assert complaint in err
    assert "Training" not in out
    assert not list(tmp_path.iterdir())


def test_missing_packages_name_the_extra(tmp_path: Path) -> None:
    needed_by = {"typer": "info", "rich": "info", "sklearn": "demo", "matplotlib": "demo"}
    processes = {}
    for package, command in needed_by.items():
        program = (
            f"import sys; sys.modules['{package}'] = None; sys.argv = ['gradkern', '{command}']\n"
            "from gradkern.cli import main\n"
            "main()"
        )
        processes[package] = subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
    for package, process in processes.items():
        out, err = process.communicate()
        assert process.returncode == 1
        assert err.count("\n") == 1, err
        assert f"package {package}" in err
        assert 'pip install "gradkern[demo]"' in err
        assert not out


def test_other_missing_module_is_not_explained_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ModuleNotFoundError("No module named 'torch.missing'", name="torch.missing")

    monkeypatch.setattr(cli, "create_app", broken)
    with pytest.raises(ModuleNotFoundError, match=r"torch\.missing"):
        cli.main()

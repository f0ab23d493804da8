"""The command line's own matter: help, names, what is imported when. Commands on data are tested in tests/runs."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mtret.cli import COMMANDS, main
from mtret.commands.completion import BASH, offered

ROOT = Path(__file__).parents[1]
HEAVY = ("jax", "numpy", "flax", "rich.progress", "matplotlib", "scann", "tokenizers")


def python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, env=environment, timeout=120
    )


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("help",)])
def test_the_overview_names_every_command(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    code, out, err = answer(capsys, *arguments)
    assert (code, err) == (0, "")
    for name, command in COMMANDS.items():
        assert f"  {name} " in out
        assert command.purpose in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_all_its_flags_and_an_example_of_them(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    code, out, err = answer(capsys, *name.split(), "--help")
    assert (code, err) == (0, "")
    values = COMMANDS[name].flags()
    for flag in values:
        assert f"  --{flag}\n      {values[flag].help}" in out
    for example in (COMMANDS[name].example, *COMMANDS[name].more):
        assert f"\n  {example}" in out
        flags = [word[2:].split("=")[0] for word in example.split() if word.startswith("--")]
        assert all(flag in values or flag.startswith("config.") for flag in flags)
        assert f"{example} ".startswith(f"mtret {name} ")
    assert ("\nexamples:\n" in out) == bool(COMMANDS[name].more)


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mtret`, as it is here."""
    program = tmp_path / "bin" / "mtret"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m mtret.cli "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


def completed(*words: str) -> list[str]:
    """What bash offers for the last of these words."""
    script = (
        'source /dev/stdin <<< "$SCRIPT"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); compopt() { :; }; _mtret; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    environment = {**os.environ, "SCRIPT": BASH}
    done = subprocess.run(["bash", "-c", script, "bash", *words], capture_output=True, text=True, env=environment)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.usefixtures("on_path")
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_commands_flags_and_their_values(tmp_path: Path) -> None:
    assert completed("mtret", "ev") == ["evaluate"]
    assert completed("mtret", "data", "") == [name.split()[1] for name in COMMANDS if name.startswith("data ")]
    assert completed("mtret", "data", "check", "--s") == ["--suite="]
    assert completed("mtret", "evaluate", "--al") == ["--allow_leakage"]
    assert completed("mtret", "evaluate", "--split", "=") == ["dev", "test"]
    assert completed("mtret", "evaluate", "--split", "=", "t") == ["test"]
    assert completed("mtret", "completion", "") == ["bash", "zsh"]
    (tmp_path / "runs").mkdir()
    assert completed("mtret", "evaluate", "--model", "=", f"{tmp_path}/r") == [f"{tmp_path}/runs"]


def test_every_command_and_flag_is_offered(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(offered("mtret ", COMMANDS)) == {name.split()[0] for name in COMMANDS}
    for name, command in COMMANDS.items():
        values = command.flags()
        found = offered(f"mtret {name} --", COMMANDS)
        assert found == {f"--{each}" + "=" * (not values[each].boolean): values[each].help for each in values}
    assert answer(capsys, "completion", "words", "mtret verify --with=s")[1] == "--with=sentence-transformers:\n"
    assert offered("mtret verify some/fol", COMMANDS) == offered("mtret nothing -", COMMANDS) == {}
    for shell in ("bash", "zsh"):
        code, out, err = answer(capsys, "completion", shell)
        assert (code, err) == (0, "") and " completion words " in out
    assert answer(capsys, "completion", "fish")[0] == 2
    assert answer(capsys, "completion")[2].startswith("mtret: completion: name one shell: ")


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from mtret.cli import main; assert main(['--help']) == main(['train', '--help']) == 0; "
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = python(program)
    assert done.returncode == 0
    assert done.stderr.strip() == "[]"


def test_a_mistake_in_a_name_imports_nothing_heavy_either() -> None:
    done = python(
        "import sys; from mtret.cli import main; "
        "assert main(['trian']) == main(['train', '--workdr=x']) == main(['evaluate', '--split=tset']) == 2; "
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trian",), "mtret: no command 'trian'. Did you mean 'train'? `mtret --help` lists them\n"),
        (("data", "chek"), "mtret: no command 'data chek'. Did you mean 'data check'? `mtret --help` lists them\n"),
        (
            ("train", "--steps=3"),
            "mtret: train: no flag --steps. Did you mean --config.loop.steps? `mtret train --help` lists them\n",
        ),
        (
            ("train", "--wrkdir=x"),
            "mtret: train: no flag --wrkdir. Did you mean 'workdir'? `mtret train --help` lists them\n",
        ),
        (
            ("train", "runs/x"),
            "mtret: train: 'runs/x' is not a flag; write --name=value, `mtret train --help` lists them\n",
        ),
        (
            ("train", "config.seed=3"),
            "mtret: train: 'config.seed=3' is not a flag; write --name=value, `mtret train --help` lists them\n",
        ),
        (("train", "--workdir"), "mtret: train: Missing value for flag --workdir\n"),
        (
            ("train", "--config=configs/quickstart.py"),
            "mtret: --workdir is needed: the run's folder; the same command again resumes\n",
        ),
        (
            ("evaluate", "--seed=x"),
            "mtret: evaluate: flag --seed=x: invalid literal for int() with base 10: 'x'\n",
        ),
        (
            ("report", "--results=x", "--config.seed=1"),
            "mtret: --config.seed=1: only train has a configuration\n",
        ),
    ],
)
def test_mistakes_on_the_command_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert answer(capsys, *arguments) == (2, "", message)


def test_a_missing_workdir_comes_before_the_configuration_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = answer(capsys, "train", "--config=nowhere.py")
    assert (code, err.split(":")[1]) == (2, " --workdir is needed")


def test_a_folder_called_config_is_no_override(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, err = answer(capsys, "train", "--workdir", "config.d/x", "--config=nowhere.py")
    assert err == "mtret: --config: no file 'nowhere.py'.\n"


def test_an_interruption_is_no_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mtret.data.suites.load_suite", interrupt)
    assert answer(capsys, "data", "check", "--suite=x") == (130, "", "mtret: interrupted\n")


def test_an_interruption_that_python_drops_comes_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dropping:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)  # where the exception is raised, and lost

    def work(name: str) -> None:
        Dropping()
        time.sleep(20)

    monkeypatch.setattr("mtret.data.suites.load_suite", work)
    began = time.monotonic()
    assert answer(capsys, "data", "check", "--suite=x") == (130, "", "mtret: interrupted\n")
    assert time.monotonic() - began < 15
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_full_disk_is_no_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise OSError(28, "No space left on device", "/some/file")

    monkeypatch.setattr("mtret.data.suites.load_suite", fail)
    code, _, err = answer(capsys, "data", "check", "--suite=x")
    assert code == 2
    assert err == "mtret: /some/file: No space left on device. Check the path, its permissions and the disk\n"


@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_an_interruption_within_the_text_of_an_exec_has_its_own_exit_code(
    tmp_path: Path, number: signal.Signals, word: str
) -> None:
    """Python notes it as one that nobody caught, and ends `python -m` by it."""
    text = f"import os, time; os.kill(os.getpid(), {int(number)}); time.sleep(30)"
    (tmp_path / "sitecustomize.py").write_text(
        "import sys; from types import SimpleNamespace as Module\n"
        f"sys.modules['mtret.data.suites'] = Module(load_suite=lambda name: exec({text!r}))\n"
        "sys.modules['mtret.data.inspection'] = Module(check=None)\n"
        "sys.modules['mtret.data.holding_out'] = Module(holding_out=None)\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "mtret.cli", "data", "check", "--suite=x"], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (128 + number, f"mtret: {word}\n")


@pytest.mark.parametrize("arguments", [["--help"], ["data", "check", "--suite=x"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_went_away_is_no_traceback(arguments: list[str], unbuffered: str) -> None:
    program = (
        "import sys; from types import SimpleNamespace as Module; from mtret.cli import main; "
        "sys.modules['mtret.data.suites'] = Module(load_suite=lambda name: Module(tasks={})); "
        "sys.modules['mtret.data.inspection'] = Module(check=lambda suite: []); "
        "sys.modules['mtret.data.holding_out'] = Module(holding_out=lambda suite: []); "
        f"sys.exit(main({arguments!r}))"
    )
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=write, stderr=subprocess.PIPE, text=True, env=environment, timeout=60
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_devices_that_are_not_there_are_a_mistake(tmp_path: Path) -> None:
    done = python(
        "import os; os.environ['JAX_PLATFORMS'] = 'nonsense'; import sys; from mtret.cli import main; "
        f"sys.exit(main(['train', '--config={ROOT}/configs/quickstart.py', '--workdir={tmp_path}/run']))"
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("mtret: JAX cannot use the devices it is told to (")
    assert list(tmp_path.iterdir()) == []


def test_the_version_and_the_commands_on_data(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = answer(capsys, "--version")
    assert (code, err) == (0, "") and out.startswith("mtret 0.")
    for arguments in (("data",), ("data", "--help")):
        code, out, err = answer(capsys, *arguments)
        assert (code, err) == (0, "")
        assert "  data import " in out and "  train " not in out


@pytest.mark.parametrize("arguments", [("data", "check", "caf\udce9"), ("train", "--workdir=\ud83d"), ("\udcff",)])
def test_an_argument_that_is_not_utf_8_is_a_mistake(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    code, _, err = answer(capsys, *arguments)
    assert code == 2 and err.count("\n") == 1 and "': is not UTF-8; rename the file or folder" in err


def test_a_text_that_is_not_utf_8_is_a_mistake_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as the name of a file that is listed, or half of a character in JSON."""
    monkeypatch.setattr("mtret.data.suites.load_suite", lambda name: "half \ud83d of it".encode())
    code, _, err = answer(capsys, "data", "check", "--suite=x")
    assert (code, err) == (
        2,
        "mtret: 'half \\ud83d of it': a name or a text that is not UTF-8; correct it and try again\n",
    )


def test_a_home_that_is_not_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a user without an entry, which containers run as."""

    def nobody(number: int) -> None:
        raise KeyError(number)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    code, _, err = answer(capsys, "data", "check", "~/tasks")
    assert (code, err) == (
        2,
        "mtret: ~/tasks: there is no home folder for '~' here; set HOME, or write the whole path\n",
    )
    code, _, err = answer(capsys, "evaluate", "--model=~nobody_of_this_name/x", "--suite=x")
    assert code == 2 and err.startswith("mtret: ~nobody_of_this_name/x: there is no home folder")


def test_a_path_with_a_zero_byte(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = answer(capsys, "data", "check", "a\0b")
    assert (code, err) == (2, "mtret: 'a\\x00b': a path cannot hold the character \\0; correct it\n")

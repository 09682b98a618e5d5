"""The README keeps its word: its program prints what it says, and every name in its tables exists."""
import re
from pathlib import Path

from tinydiff import laws

HERE = Path(__file__).parent.parent
README = (HERE / "README.md").read_text("utf8")


def test_the_program_prints_what_it_says(capsys):
    """To a factor of two: rounding differs between machines, and a training run makes much of it."""
    program, printed = re.search(r"```python\n(.*?)```.*?```text\n(.*?)```", README, re.S).groups()
    assert len(program.splitlines()) == 12
    exec(compile(program, "README.md", "exec"), {})
    number = r"\d+\.\d+"
    got = capsys.readouterr().out
    assert re.sub(number, "", got) == re.sub(number, "", printed)
    for ours, theirs in zip(re.findall(number, got), re.findall(number, printed), strict=True):
        assert 0.5 < float(ours) / float(theirs) < 2


def test_every_file_and_law_in_the_tables_exists():
    table = README[README.index("## Where to read what") : README.index("## Notation")]
    names = re.findall(r"`([\w./]+)`", table)
    files = [n for n in names if "/" in n and not n.startswith("runs")]
    lawful = [n for n in names if "/" not in n and "_" in n]
    assert len(files) > 12 and len(lawful) > 8
    assert all((HERE / name).exists() for name in files), files
    assert all(name in laws.LAWS for name in lawful), lawful


def test_pictures_that_it_shows_exist():
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (HERE / picture).exists(), picture


def test_ci_runs_the_very_command():
    """The command in .ci/run is found in the README, not written twice."""
    assert 'python -m pip install -e ".[test]" && python -m pytest' in README
    assert "README.md" in (HERE / ".ci" / "run").read_text()

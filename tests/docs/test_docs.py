"""The documents are true where a machine can tell: links lead somewhere, commands parse, no machine's paths."""

import ast
import re
import shlex
import subprocess

import pytest

from orchestrator.cli.main import parser
from orchestrator.cluster.remote_args import remote_address
from tests import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(?:sh|bash|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_leads_to_a_file(document):
    targets = [link.partition("#")[0] for link in LINK.findall(document.read_text())]
    broken = [t for t in targets if t and "://" not in t and not (document.parent / t).exists()]
    assert broken == []


def commands():
    for document in DOCUMENTS:
        for block in FENCE.findall(document.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                line = line.strip().removeprefix("$ ").removeprefix(".venv/bin/")
                for part in re.split(r"&&|\|", line):
                    words = part.strip()
                    if words.startswith("meansweep "):
                        yield pytest.param(words, id=f"{document.name}: {words[:60]}")


@pytest.mark.parametrize("line", commands())
def test_every_command_of_the_documents_parses(line):
    words = shlex.split(line, comments=True)[1:]
    words = [word for word in words if word not in (">", "&")]
    command = parser()
    *_, words = remote_address(words)
    if words in (["--help"], ["-h"]):
        return
    with command.make_context("meansweep", list(words), resilient_parsing=False) as context:
        name, sub, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert sub is not None, name
        with sub.make_context(name, rest, parent=context) as inner:
            if hasattr(sub, "resolve_command"):
                name, sub, rest = sub.resolve_command(inner, [*inner._protected_args, *inner.args])
                sub.make_context(name, rest, parent=inner).close()


def test_no_file_names_a_folder_of_one_machine():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    own = re.compile(r"(?<![\w.~-])/(?:work|root)/")
    texts = [path for path in tracked if b"\0" not in (ROOT / path).read_bytes()]
    assert [path for path in texts if own.search((ROOT / path).read_text())] == []


PROMISE = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")


def names_in(path):
    """The tests of a file as pytest names them, `Class::test` for those in a class."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.ClassDef):
            yield from (f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef))


def test_every_promise_names_a_test_that_exists():
    page = (ROOT / "docs/promises.md").read_text()
    named = PROMISE.findall(page)
    there = {file: set(names_in(ROOT / file)) for file in {file for file, _ in named} if (ROOT / file).exists()}
    assert [f"{file}::{test}" for file, test in named if test not in there.get(file, ())] == []
    assert all(test.rpartition("::")[2].startswith("test_") for _, test in named)
    promises = page.split("\n- ")[1:]
    assert [text for text in promises if not PROMISE.search(text) and "(measured)" not in text] == []


def test_promises_are_a_page_for_contributors_alone():
    linking = [document.name for document in DOCUMENTS if "promises.md)" in document.read_text()]
    assert linking == ["CONTRIBUTING.md"]

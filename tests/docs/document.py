"""The commands of a Markdown page, in the order in which a reader would type them.

A block is run if its language is one of these:

    ```sh       lines of a shell, which must succeed
    ```console  commands after "$ ", each with the output that it must have: "..." stands for anything in
                a line, a line that is "..." for any lines; no output given: only success counts
    ```python   a program, which must succeed

unless the comment <!-- not run: WHY --> stands before it. <!-- run: ... --> holds lines of a shell that
readers do not see: what a page takes for granted, such as a running server. Commands in other blocks are
an error, so that none escapes."""

import dataclasses
import re

from markdown_it import MarkdownIt

RUN_LANGUAGES = {"sh", "console", "python"}
_PROGRAMS = ("reprise", "reprised", "reprise-gateway", "helm", "kubectl", "redis-cli", "redis-server", "curl", "grpcurl", "pip",
             "python", "python3", "cmake", "docker", "git", "promtool", "envoy")
_LOOKS_LIKE_A_COMMAND = re.compile(r"^(\$ |tools/\S+\.sh|(%s) (?!\[))" % "|".join(map(re.escape, _PROGRAMS)))
_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\s*$", re.S)
_HIDDEN = re.compile(r"<!-- run:\s(.+?)-->\s*$", re.S)


class PageError(Exception):
    """What a page does that this reader does not allow; names the line."""


@dataclasses.dataclass(frozen=True)
class Command:
    """`text` in `language` (sh or python) from `line` of the page; `expected` output or None."""
    line: int
    language: str
    text: str
    expected: str | None = None


def commands(markdown):
    """All commands of a page. Raises PageError."""
    found = []
    not_run_before = None  # the line of a comment that excuses the next block
    for token in MarkdownIt("commonmark").parse(markdown):
        line = token.map[0] + 1 if token.map else 0
        if token.type == "html_block":
            not_run_before, hidden = _comment(token.content, line)
            if hidden:
                found.append(Command(line, "sh", hidden))
        elif token.type in ("fence", "code_block"):
            language = token.info.split()[0] if token.info.split() else ""
            if language in RUN_LANGUAGES:
                if not_run_before is None:
                    found += _block(language, token.content, line + 1)
            else:
                if not_run_before is not None:
                    raise PageError(f"line {not_run_before}: no block that would be run follows")
                _refuse_commands(language, token.content, line)
            not_run_before = None
        elif not_run_before is not None:
            raise PageError(f"line {not_run_before}: no block follows the comment")
    return found


def _comment(html, line):
    if _NOT_RUN.match(html):
        return line, None
    hidden = _HIDDEN.match(html)
    if hidden:
        return None, hidden[1]
    if re.match(r"<!--\s*(not[ -]?run|run)\b", html):
        raise PageError(f"line {line}: allowed: <!-- not run: WHY --> and <!-- run: COMMANDS -->")
    return None, None


def _block(language, text, line):
    if language != "console":
        return [Command(line, language, text)]
    lines = text.splitlines()
    if not lines or not lines[0].startswith("$ "):
        raise PageError(f"line {line}: a console block begins with a command after \"$ \"")
    found, i = [], 0
    while i < len(lines):
        start = i
        command = [lines[i][2:]]
        while command[-1].endswith("\\") and i + 1 < len(lines):
            i += 1
            command.append(lines[i].removeprefix("> "))
        i += 1
        output = []
        while i < len(lines) and not lines[i].startswith("$ "):
            output.append(lines[i])
            i += 1
        while output and not output[-1].strip():  # an empty line before the next command
            output.pop()
        found.append(Command(line + start, "sh", "\n".join(command), "\n".join(output) if output else None))
    return found


def _refuse_commands(language, text, line):
    if language in ("bash", "shell", "zsh"):
        raise PageError(f"line {line}: the language of commands is sh or console")
    if language:
        return
    for i, content in enumerate(text.splitlines()):
        if _LOOKS_LIKE_A_COMMAND.match(content.strip()):
            raise PageError(f"line {line + i}: a command in a block of no language: {content.strip()!r}; "
                            "allowed: ```sh, ```console, or ```text if it is none")


def output_matches(expected, actual):
    """Whether `actual` is `expected`, in which "..." stands for anything."""
    pattern = ""
    for line in expected.splitlines():
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += r"[^\n]*?".join(re.escape(part) for part in line.rstrip().split("...")) + r"[ \t]*\n"
    return re.fullmatch(pattern, actual.rstrip("\n") + "\n") is not None

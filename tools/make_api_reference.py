#!/usr/bin/env python3
"""Makes docs/api-reference.md from the comments of proto/reprise/v1. Needs grpcio-tools.

    tools/make_api_reference.py            write the page
    tools/make_api_reference.py --check    only say whether it is what it should be
"""

import argparse
import pathlib
import re
import sys
import tempfile
from importlib import resources

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "api-reference.md"
FILES = ["generation", "session", "model", "errors"]
F = descriptor_pb2.FieldDescriptorProto

# Field numbers within descriptors, as paths of comments use them (descriptor.proto).
SERVICE, METHOD, MESSAGE, ENUM, FIELD, VALUE, SYNTAX, NESTED = 6, 2, 4, 5, 2, 2, 12, 3

SCALARS = {F.TYPE_DOUBLE: "double", F.TYPE_FLOAT: "float", F.TYPE_INT64: "int64",
           F.TYPE_UINT64: "uint64", F.TYPE_INT32: "int32", F.TYPE_BOOL: "bool",
           F.TYPE_STRING: "string", F.TYPE_BYTES: "bytes", F.TYPE_UINT32: "uint32"}


def descriptors():
    """The files of the contract with their comments."""
    with tempfile.TemporaryDirectory() as scratch:
        out = pathlib.Path(scratch, "set")
        arguments = ["protoc", f"-I{ROOT / 'proto'}", f"-I{resources.files('grpc_tools') / '_proto'}",
                     "--include_source_info", f"--descriptor_set_out={out}"]
        if protoc.main(arguments + [f"reprise/v1/{name}.proto" for name in FILES]) != 0:
            raise SystemExit("protoc failed")
        return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file


class Page:

    def __init__(self, files):
        self._files = files
        self._lines = []
        self._known = {f".{f.package}.{t.name}" for f in files
                       for t in [*f.message_type, *f.enum_type]}

    def text(self):
        self._lines = [
            "# API reference", "",
            "Made from `proto/reprise/v1` by `tools/make_api_reference.py`: edit the comments there. "
            "[api.md](api.md) says what spans several fields.", ""
        ]
        for file in self._files:
            self._file(file)
        return "\n".join(self._lines).rstrip() + "\n"

    def _file(self, file):
        comments = {tuple(place.path): place for place in file.source_code_info.location}
        name = file.name.rsplit("/", 1)[-1]
        self._add(f"## {name}", paragraph("".join(
            comments[(SYNTAX,)].leading_detached_comments) + comments[(SYNTAX,)].leading_comments))
        for s, service in enumerate(file.service):
            self._add(f"### {service.name}", self._comment(comments, (SERVICE, s)))
            rows = []
            for m, method in enumerate(service.method):
                request, response = self._link(method.input_type), self._link(method.output_type)
                rows.append([f"`{method.name}`",
                             f"{'stream of ' * method.client_streaming}{request}",
                             f"{'stream of ' * method.server_streaming}{response}",
                             self._comment(comments, (SERVICE, s, METHOD, m))])
            self._table(["Call", "Request", "Response", ""], rows)
        for i, message in enumerate(file.message_type):
            self._message(comments, message, (MESSAGE, i), message.name)
        for i, enum in enumerate(file.enum_type):
            self._add(f"### {enum.name}", self._comment(comments, (ENUM, i)))
            self._table(["Value", "Number", ""],
                        [[f"`{value.name}`", str(value.number),
                          self._comment(comments, (ENUM, i, VALUE, v))]
                         for v, value in enumerate(enum.value)])

    def _message(self, comments, message, path, name):
        self._add(f"### {name}", self._comment(comments, path))
        maps = {n.name: n for n in message.nested_type if n.options.map_entry}
        rows = []
        for i, field in enumerate(message.field):
            comment = self._comment(comments, (*path, FIELD, i))
            if field.HasField("oneof_index") and not field.proto3_optional:
                one = f"one of `{message.oneof_decl[field.oneof_index].name}`"
                comment = f"({one}) {comment}".rstrip()
            rows.append([f"`{field.name}`", self._type(field, maps), str(field.number), comment])
        if rows:
            self._table(["Field", "Type", "Number", ""], rows)
        for i, nested in enumerate(message.nested_type):
            if not nested.options.map_entry:
                self._message(comments, nested, (*path, NESTED, i), f"{name}.{nested.name}")

    def _type(self, field, maps):
        entry = maps.get(field.type_name.rsplit(".", 1)[-1])
        if entry is not None:
            key, value = (self._type(part, {}) for part in entry.field)
            return f"map of {key} to {value}"
        text = SCALARS.get(field.type) or self._link(field.type_name)
        if field.label == F.LABEL_REPEATED:
            return f"repeated {text}"
        return f"optional {text}" if field.proto3_optional else text

    def _link(self, type_name):
        name = type_name.rsplit(".", 1)[-1]
        if type_name in self._known:
            return f"[{name}](#{name.lower()})"
        return type_name.lstrip(".")

    def _comment(self, comments, path):
        place = comments.get(tuple(path))
        if place is None:
            return ""
        return paragraph(place.leading_comments + "\n" + place.trailing_comments)

    def _add(self, *paragraphs):
        for text in paragraphs:
            if text:
                self._lines += [text, ""]

    def _table(self, head, rows):
        escape = lambda cell: cell.replace("|", "\\|").replace("\n", " ")
        self._lines += [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
        self._lines += [f"| {' | '.join(map(escape, row))} |" for row in rows]
        self._lines.append("")


def paragraph(comment):
    """A comment's lines as one; angle brackets and braces are text."""
    text = re.sub(r"\s+", " ", comment).strip()
    return text.replace("<", "&lt;")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    by_name = {pathlib.PurePath(file.name).stem: file for file in descriptors()}
    text = Page([by_name[name] for name in FILES]).text()
    if check:
        if not PAGE.exists() or PAGE.read_text() != text:
            sys.exit(f"{PAGE.relative_to(ROOT)} is not what the protos say: run "
                     "tools/make_api_reference.py")
    else:
        PAGE.write_text(text)


if __name__ == "__main__":
    main()

"""A tag of chat templates that training needs, and prompts do not."""

from __future__ import annotations

from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser


class GenerationTag(Extension):
    """`{% generation %} ... {% endgeneration %}`, with which a template marks what the assistant wrote, so that
    training counts its tokens. The text within stays as it is, in a scope of its own as in Transformers."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

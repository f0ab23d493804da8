import pytest

from mtret.data.templates import Templates, render_document
from mtret.errors import UserError


@pytest.mark.parametrize(
    ("title", "text", "rendered"),
    [
        ("VPN", "Needs a token.", "VPN Needs a token."),
        ("VPN", "VPN access needs a token.", "VPN access needs a token."),
        ("token", "Needs a token.", "token Needs a token."),
        ("", "Needs a token.", "Needs a token."),
        ("VPN", "", "VPN"),
        (" ", " \n", ""),
        (" VPN ", " Needs a token.\n", "VPN Needs a token."),
        ("vpn", "VPN access", "vpn VPN access"),
    ],
)
def test_title_is_left_out_where_the_text_begins_with_it(title: str, text: str, rendered: str):
    assert render_document(title, text) == rendered


def test_default_templates():
    templates = Templates()
    assert templates.query_prefix("Find it.") == "Instruct: Find it.\nQuery: "
    assert templates.document_prefix == ""


def test_templates_without_an_instruction_and_with_literal_braces():
    templates = Templates(query="{{q}} query: {query}", document="passage: {document}")
    assert templates.query_prefix("unused") == "{q} query: "
    assert templates.document_prefix == "passage: "


def test_braces_and_placeholders_in_an_instruction_or_a_query_stay_as_they_are():
    templates = Templates()
    assert templates.query_prefix("Return {query} or {{x}} }") == "Instruct: Return {query} or {{x}} }\nQuery: "
    assert templates.query_prefix("{instruction} {0}") == "Instruct: {instruction} {0}\nQuery: "


@pytest.mark.parametrize(
    ("fields", "what", "remedy"),
    [
        ({"query": "{query} {instruction}"}, "must end in {query}", "Move {query} to the end."),
        ({"query": "{instruction}"}, "must end in {query}", "Move {query} to the end."),
        ({"query": "{query} "}, "must end in {query}", "Move {query} to the end."),
        ({"query": "{query}}}"}, "must end in {query}", "Move {query} to the end."),
        ({"query": ""}, "must end in {query}", "Move {query} to the end."),
        ({"query": "{query}{query}"}, "{query} stands in it more than once", "Keep one."),
        ({"query": "{instruction} {instruction} {query}"}, "{instruction} stands in it more than once", "Keep one."),
        ({"query": "{instuction} {query}"}, "unknown placeholder {instuction}", "Did you mean 'instruction'?"),
        ({"query": "{} {query}"}, "unknown placeholder {}", "only {instruction} and {query} can be filled."),
        ({"query": "{instruction:>9}{query}"}, "unknown placeholder {instruction}", "can be filled."),
        ({"query": "{query!r}"}, "unknown placeholder {query}", "can be filled."),
        ({"query": "{ {query}"}, "query template", "Write a literal brace twice"),
        ({"query": "} {query}"}, "query template", "Write a literal brace twice"),
        ({"document": "{query} {document}"}, "unknown placeholder {query}", "only {document} can be filled."),
        ({"document": "text"}, "must end in {document}", "Move {document} to the end."),
    ],
)
def test_templates_that_are_no_flat_prefix_are_refused(fields: dict[str, str], what: str, remedy: str):
    with pytest.raises(UserError) as caught:
        Templates(**fields)
    message = str(caught.value)
    assert message.startswith(f"{next(iter(fields))} template ")
    assert what in message
    assert remedy in message
    assert "\n" not in message

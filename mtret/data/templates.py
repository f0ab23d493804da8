"""How a document, a query and its instruction become the text that the encoder reads."""

from dataclasses import dataclass, replace
from string import Formatter

from mtret.errors import UserError, nearest
from mtret.schema import setting


def render_document(title: str, text: str) -> str:
    """`{title} {text}`, the title left out where the text begins with it."""
    title, text = title.strip(), text.strip()
    return text if text.startswith(title) else f"{title} {text}".strip()


@dataclass(frozen=True)
class Templates:
    """What is written before a query and before a document.

    Both templates end in their text, so that each is a flat prefix, the only form that exported prompts can keep.
    A brace that is meant as such is doubled. Raises UserError for a template that is not such a prefix.
    """

    query: str = "Instruct: {instruction}\nQuery: {query}"
    document: str = "{document}"
    generic: str = "Given a query, retrieve the documents that answer it"  # instruction where no task's is known

    def __post_init__(self) -> None:
        _check(self.query, text="query", known=("instruction", "query"))
        _check(self.document, text="document", known=("document",))

    @property
    def document_prefix(self) -> str:
        return self.document.format(document="")

    def query_prefix(self, instruction: str) -> str:
        return self.query.format(instruction=instruction, query="")


@dataclass(frozen=True)
class TemplateConfig:
    """The templates of a training. None: the default, behind what the encoder's publisher puts before a text; of an
    encoder that mtret trained, its own.

    Raises UserError as `Templates` does.
    """

    query: str | None = setting(
        None,
        'must end in {query}; None: "Instruct: {instruction}\\nQuery: {query}", behind the source\'s own prompt for '
        "queries where it has one; of a source that mtret trained, the source's",
    )
    document: str | None = setting(None, "must end in {document}; None: the source's own prompt for documents, if any")
    generic: str = setting(Templates.generic, 'the instruction of the exported prompt "query"')

    def __post_init__(self) -> None:
        self.over(Templates())

    def over(self, defaults: Templates) -> Templates:
        """These, and `defaults` where there are none."""
        return replace(defaults, **{name: value for name, value in vars(self).items() if value is not None})

    @property
    def chosen(self) -> Templates:
        """Of a run, where all are settled."""
        assert self.query is not None and self.document is not None
        return Templates(self.query, self.document, self.generic)


def _check(template: str, text: str, known: tuple[str, ...]) -> None:
    """Refuses all but literal text and known placeholders, each at most once, with `{text}` at the end."""
    where = f"{text} template {template!r}"
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"{where}: {error}. Write a literal brace twice: {{{{ or }}}}.") from None
    fields = []
    for _, name, specification, conversion in parts:
        if name is None:
            continue
        if name not in known or specification or conversion:
            allowed = " and ".join(f"{{{one}}}" for one in known)
            raise UserError(
                f"{where}: unknown placeholder {{{name}}}; only {allowed} can be filled.{nearest(name, known)}"
            )
        fields.append(name)
    repeated = [name for name in known if fields.count(name) > 1]
    if repeated:
        raise UserError(f"{where}: {{{repeated[0]}}} stands in it more than once. Keep one.")
    # An escaped closing brace at the end also yields a last part, but one without a field.
    if not parts or parts[-1][1] != text:
        raise UserError(
            f"{where}: must end in {{{text}}}, since exported prompts are flat prefixes. Move {{{text}}} to the end."
        )

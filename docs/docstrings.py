"""Extension of griffe: docstrings as they are written here, public names as users import them.

Docstrings have formulas in Sphinx's notation, the lines of references behind bars, and sections
named "Example".
"""

import re
from typing import Any

import griffe

MATH_BLOCK = re.compile(r"^( *)\.\. math::[ \t]*(.*)\n((?:\n|\1[ ]+.*(?:\n|$))*)", re.MULTILINE)
MATH = re.compile(r":math:`([^`]+)`", re.DOTALL)
EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)
LINE = re.compile(r"^( *)\| (.*)$", re.MULTILINE)


def as_markdown(text: str) -> str:
    """A docstring with formulas between dollars and the lines of references kept apart."""

    def block(found: re.Match[str]) -> str:
        indent, formula = found[1], f"{found[2]} {found[3]}"
        return f"\n{indent}$$ {' '.join(formula.split())} $$\n\n"

    text = MATH_BLOCK.sub(block, text)
    text = MATH.sub(lambda found: f"${' '.join(found[1].split())}$", text)
    return LINE.sub(r"\1\2", EXAMPLE.sub(r"\1Examples:", text))


def translate(obj: griffe.Object | griffe.Alias) -> None:
    """Translates the docstring of an object, if it has one."""
    if obj.docstring is not None:
        obj.docstring.value = as_markdown(obj.docstring.value)


def prefer_functions(module: griffe.Module) -> None:
    """Lets `amortized.diagnostics.coverage` be the function, not the module that it comes from."""
    for name, member in list(module.members.items()):
        if member.is_alias:
            source = member.target if name in module.imports and member.resolved else None
        else:
            source = member
            if member.is_module:
                prefer_functions(member)
        hidden = getattr(source, "is_module", False) and not source.is_init_module
        if hidden and name in module.imports and name in source.members:
            translate(source.members[name])  # griffe no longer comes by
            module.members[name] = griffe.Alias(name, source.members[name], parent=module)


class Docstrings(griffe.Extension):
    """Translates every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe when an object has been read."""
        translate(obj)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Called by griffe when all modules have been read."""
        prefer_functions(pkg)

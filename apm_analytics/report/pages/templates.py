"""The pages that we fill in ourselves: templates and style of `assets/`.

In:  a template's name, the filters it uses.
Out: the template, which escapes what is put in and refuses a name that is not there.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2

ASSETS = Path(__file__).parent / "assets"


def template(name: str, filters: Mapping[str, Callable[..., Any]]) -> jinja2.Template:
    """Load a template of `assets/`.

    Parameters
    ----------
    filters : name in the template -> function.

    Raises
    ------
    jinja2.TemplateError
        There is none of that name, or it is no template.

    Examples
    --------
    >>> template("sla.html.j2", {"count": words.count}).render(...)  # doctest: +SKIP
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(name)

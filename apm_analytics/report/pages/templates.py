"""Load the page templates and styles of `assets/`.

In:  the name of a template, its filters.
Out: the template, which escapes values and refuses undefined names.
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
        No such template, or it is not valid.

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

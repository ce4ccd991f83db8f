"""/docs: the paths of this run with their parameters and an example each, from its OpenAPI. One page, no script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from pofx.space import ImageSpace
from pofx.workflows import _page as html

EXAMPLES = {
    "/score": "curl{token} --data-binary @image.png -H 'Content-Type: image/png' \\\n  '{base}/score{convert}'",
    "/outliers": "curl{token} --data-binary @images.npy -H 'Content-Type: application/x-npy' \\\n  {base}/outliers",
    "/encode": "curl{token} --data-binary @images.npy -H 'Content-Type: application/x-npy' \\\n  {base}/encode",
    "/classify": "curl{token} --data-binary @images.npy -H 'Content-Type: application/x-npy' \\\n  {base}/classify",
    "/complete": "curl{token} --data-binary @image.png -H 'Content-Type: image/png' \\\n"
    "  '{base}/complete?keep=top:{rows}&format=png{and_convert}' -o sheet.png",
    "/sample": "curl{token} '{base}/sample?n=16&seed=0&format=png' -o samples.png",
    "/health": "curl {base}/health",
    "/metrics": "curl{token} {base}/metrics",
}


def docs(api: Mapping[str, Any], about: Mapping[str, Any], space: ImageSpace, base: str, token: bool) -> str:
    """The page. `api`: OpenAPI; `about`: what the workers say of the model; base: the address; token: whether one is asked for."""
    coarse = space.levels < 256
    words = {
        "base": base,
        "token": " -H 'Authorization: Bearer TOKEN'" if token else "",
        "convert": "?convert=true" if coarse else "",
        "and_convert": "&convert=true" if coarse else "",
        "rows": str(max(1, space.height // 2)),
    }
    body = [
        html.paragraph(
            f"Images are {space}: PNG or JPEG as they are, .npy of uint8 (n, channels, height, width), or JSON, "
            f'{{"images": n × channels × height × width whole numbers 0 … {space.levels - 1}}}. '
            'Answers are those of the command line, to the last digit. A refusal is {"detail": "why"}.'
        ),
        '<p>For programs: <a href="/openapi.json">/openapi.json</a> (OpenAPI), <a href="/health">/health</a>, <a href="/metrics">/metrics</a>.</p>',
    ]
    for path, operations in api["paths"].items():
        for method, operation in operations.items():
            body.append(html.section(f"{method.upper()} {path}", _operation(operation, EXAMPLES.get(path, "").format(**words), api)))
    cannot = [(f"/{job}", reason) for job, reason in about["cannot"].items()]
    if cannot:
        body.append(html.section("What this run cannot do", html.table(["", ""], cannot, text=[0, 1])))
    return html.page(api["info"]["title"], api["info"]["description"], body)


def _operation(operation: Mapping[str, Any], example: str, api: Mapping[str, Any]) -> str:
    parts = [html.paragraph(operation["summary"]), f"<pre>{escape(example)}</pre>" if example else ""]
    rows = [(p["name"], _form(p["schema"]), p.get("description", "")) for p in operation.get("parameters", [])]
    if rows:
        parts.append(html.table(["parameter", "", ""], rows, text=[1, 2]))
    content = operation["responses"]["200"]["content"]
    forms = [f"{media}{_names(form['schema'], api)}" for media, form in content.items()]
    parts.append(html.paragraph(f"Gives {'; or '.join(forms)}.", "caption"))
    return "\n".join(parts)


def _names(schema: Mapping[str, Any], api: Mapping[str, Any]) -> str:
    """What a JSON answer holds."""
    name = schema.get("$ref", "").rpartition("/")[2]
    return f": {', '.join(api['components']['schemas'][name]['properties'])}" if name else ""


def _form(schema: Mapping[str, Any]) -> str:
    """A type in a few words: "whole number, 1 … 100, default 16"."""
    if "anyOf" in schema:
        schema = {**schema, **schema["anyOf"][0]}
    names = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text"}
    kind = " | ".join(schema["enum"]) if "enum" in schema else names.get(schema.get("type", ""), "")
    least, most = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum", schema.get("exclusiveMaximum"))
    bounds = "" if least is None or most is None or most > 1e15 else f", {least} … {most}"
    default = schema.get("default")
    return f"{kind}{bounds}" + ("" if default is None else f", default {str(default).lower() if isinstance(default, bool) else default}")

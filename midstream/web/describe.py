"""What the server answers, as one page without script, made from its own OpenAPI description."""

from __future__ import annotations

import json
from html import escape
from typing import Any


def page(described: dict[str, Any]) -> str:
    """Every address with what it does and takes; the description itself is at ``/openapi.json``."""
    blocks = [
        f"<h2><code>{escape(method.upper())} {escape(path)}</code></h2><p>{escape(does.get('description', ''))}</p>"
        for path, methods in described["paths"].items()
        for method, does in methods.items()
    ]
    shapes = described.get("components", {}).get("schemas", {})
    blocks += [
        f"<h2>{escape(name)}</h2><pre>{escape(json.dumps(shape, indent=2, ensure_ascii=False))}</pre>"
        for name, shape in shapes.items()
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>midstream: the server</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="stylesheet" href="/static/app.css">'
        '<body class="docs"><main><h1>What this server answers</h1>'
        '<p>Bodies are JSON. The whole description: <a href="/openapi.json">/openapi.json</a>.</p>'
        f"{''.join(blocks)}</main></body></html>"
    )

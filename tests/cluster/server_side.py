"""What the API server would add to an object in the parts that a server-side apply compares whole."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate

SCHEMAS = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
# Fields of such parts that the server leaves out where we do. Not here: apiVersion of fieldRef, divisor of
# resourceFieldRef, protocol of ports.
WITHOUT_DEFAULT = {"containerName", "endPort", "from", "matchExpressions", "matchFields", "onExitCodes",
                   "onPodConditions", "optional", "prefix", "secretRef", "tolerationSeconds", "value", "values"}
GROUPS = {"v1": "core.v1", "apps/v1": "apps.v1", "batch/v1": "batch.v1", "networking.k8s.io/v1": "networking.v1"}


@cache
def definitions(version: str) -> dict[str, Any]:
    """The schemas of a Kubernetes version, by name."""
    return dict(json.loads((SCHEMAS / f"v{version}.0-local" / "_definitions.json").read_text())["$defs"])


def not_spelled_out(item: dict[str, Any], version: str) -> set[str]:
    """The paths of fields that the server may add where a second owner of the part would then conflict with it."""
    name = f"io.k8s.api.{GROUPS[item['apiVersion']]}.{item['kind']}"
    found = walk(item, definitions(version)[name], item["kind"], False, version)
    return {path for path in found if path.rpartition(".")[2] not in WITHOUT_DEFAULT}


def walk(value: Any, schema: dict[str, Any], path: str, is_whole: bool, version: str) -> Iterator[str]:
    """Each field that an object leaves out in a part that is owned whole (atomic), and each missing key of a list."""
    while "$ref" in schema:
        schema = definitions(version)[schema["$ref"].rpartition("/")[2]]
    is_whole = is_whole or "atomic" in (schema.get("x-kubernetes-map-type"), schema.get("x-kubernetes-list-type"))
    if isinstance(value, list):
        keys = schema.get("x-kubernetes-list-map-keys", [])
        for inner in value:
            yield from (f"{path}[].{key}" for key in keys if key not in inner)
            # A list that says nothing is owned whole.
            yield from walk(inner, schema["items"], f"{path}[]", is_whole or not keys, version)
    elif isinstance(value, dict):
        properties = schema.get("properties", {})
        yield from (f"{path}.{name}" for name in properties if is_whole and name not in value)
        for name, inner in value.items():
            below = properties.get(name) or schema.get("additionalProperties") or {}
            yield from walk(inner, below, f"{path}.{name}", is_whole, version)

"""What the Prometheus operator's objects may have, as far as the chart uses them: written after the
operator's API reference (monitoring.coreos.com/v1). Narrower than the operator: a field that is not
here is a mistake, or to be added."""

_TEXT = {"type": "string"}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}
_DURATION = {"type": "string", "pattern": r"^([0-9]+(ms|s|m|h|d|w|y))+$"}


def _object(required=(), **properties):
    return {"type": "object", "properties": properties, "required": list(required),
            "additionalProperties": False}


def _list(items):
    return {"type": "array", "items": items, "minItems": 1}


def _resource(kind, spec):
    return _object(("apiVersion", "kind", "metadata", "spec"),
                   apiVersion={"const": "monitoring.coreos.com/v1"}, kind={"const": kind},
                   metadata=_object(("name",), name=_TEXT, namespace=_TEXT, labels=_TEXTS,
                                    annotations=_TEXTS), spec=spec)


_SELECTOR = _object(("matchLabels",), matchLabels=_TEXTS)
_NAMESPACES = _object((), any={"type": "boolean"}, matchNames=_list(_TEXT))
_ENDPOINT = _object(("port",), port=_TEXT, path={"type": "string", "pattern": "^/"},
                    scheme={"enum": ["http", "https"]}, interval=_DURATION, scrapeTimeout=_DURATION)
_RULE = {
    "oneOf": [
        _object(("record", "expr"), record={"type": "string", "pattern": "^[a-zA-Z_:][a-zA-Z0-9_:]*$"},
                expr=_TEXT, labels=_TEXTS),
        _object(("alert", "expr"), alert=_TEXT, expr=_TEXT, **{"for": _DURATION},
                keep_firing_for=_DURATION, labels=_TEXTS, annotations=_TEXTS),
    ]
}

SCHEMAS = {
    "ServiceMonitor": _resource("ServiceMonitor", _object(
        ("selector", "endpoints"), selector=_SELECTOR, namespaceSelector=_NAMESPACES,
        endpoints=_list(_ENDPOINT))),
    "PodMonitor": _resource("PodMonitor", _object(
        ("selector", "podMetricsEndpoints"), selector=_SELECTOR, namespaceSelector=_NAMESPACES,
        podMetricsEndpoints=_list(_ENDPOINT))),
    "PrometheusRule": _resource("PrometheusRule", _object(
        ("groups",), groups=_list(_object(("name", "rules"), name=_TEXT, interval=_DURATION,
                                          rules=_list(_RULE))))),
}

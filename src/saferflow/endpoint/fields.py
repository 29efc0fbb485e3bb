"""The fields of a request that params set, and their places in params.yaml. Source: ours."""

from saferflow.params import EndpointParams, RequestParams


def sent_fields(request: RequestParams) -> dict[str, float | int | str]:
    """Field -> value, without fields that are null."""
    return request.model_dump(exclude_none=True)


def limit_name(request: RequestParams) -> str:
    """The name of the field that limits an answer."""
    return "max_completion_tokens" if request.max_tokens is None else "max_tokens"


def limit(params: EndpointParams, section: str) -> str:
    """The limit of an answer as params.yaml names it, with its value; `section` is the server's section there."""
    name = limit_name(params.request)
    return f"{section}.request.{name} ({getattr(params.request, name)} tokens)"


def way_out(params: EndpointParams, section: str, field: str) -> str:
    """The remedy where the model does not take a field of the request."""
    request, name = params.request, f"{section}.request"
    if field == limit_name(request):
        other = "max_tokens" if field == "max_completion_tokens" else "max_completion_tokens"
        return f"set {name}.{other} to {getattr(request, field)} and {name}.{field} to null"
    if field in sent_fields(request):
        return f"set {name}.{field} to null, which leaves it out, or to a value that the model takes"
    return f"it is sent with every request, so name a model that takes it in {section}.model"

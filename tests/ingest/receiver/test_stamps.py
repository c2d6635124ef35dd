"""A stamp adds the attributes of a token to every resource, and nothing else."""

import orjson
import otlp_requests
import pytest

from apm_analytics.ingest.receiver.stamps import stamped
from apm_analytics.serve import Refused

GOOD = otlp_requests.traces(1).SerializeToString()


@pytest.mark.parametrize("kind", ["traces", "traces+json"])
def test_a_stamp_changes_nothing_else(kind: str) -> None:
    request = otlp_requests.traces(3)
    request.resource_spans.append(request.resource_spans[0])
    stamp = otlp_requests.attribute("tenant.id", "x")
    expected = type(request)()
    expected.CopyFrom(request)
    for entry in expected.resource_spans:
        entry.resource.attributes.append(stamp)
    if kind == "traces":
        made = stamped(kind, request.SerializeToString(), {"tenant.id": "x"})
        assert type(request).FromString(made) == expected
    else:
        document = orjson.dumps(otlp_requests.as_json(request))
        made = stamped(kind, document, {"tenant.id": "x"})
        assert orjson.loads(made) == otlp_requests.as_json(expected)


@pytest.mark.parametrize(
    ("kind", "payload", "said"),
    [
        ("traces", GOOD[:-3], "resourceSpans"),
        ("traces", b"\x0a\xff\xff\xff\xff\x0f" + GOOD, "resourceSpans: announces"),
        ("traces+json", b"{", "no JSON"),
        ("traces+json", b'{"resourceSpans": 7}', "resourceSpans: found a int, need a list"),
        ("traces+json", b'{"resourceSpans": [{"resource": 7}]}', "resourceSpans: not every"),
        ("traces+json", b'{"resourceSpans": [' + b"[" * 300 + b"]" * 300 + b"]}", "nested"),
    ],
)
def test_what_cannot_be_stamped_is_refused_with_its_field(
    kind: str, payload: bytes, said: str
) -> None:
    with pytest.raises(Refused, match="traces") as refused:
        stamped(kind, payload, {"tenant.id": "x"})
    assert said in str(refused.value)

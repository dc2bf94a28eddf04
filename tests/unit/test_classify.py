"""Classification: every rule, and that the first one that matches decides."""

from __future__ import annotations

import base64
import json
import pickle
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from provider_answers import FailedAnswer, failed_answers, page

from opencode_tasks.errors import (
    AuthenticationError,
    BillingError,
    ContentFilteredError,
    InvalidRequestError,
    MaxOutputTokensError,
    OpenCodeError,
    RateLimitError,
    ServerError,
    UnknownOpenCodeError,
)
from opencode_tasks.outcomes.classify import Context, classify, classify_finish
from opencode_tasks.outcomes.error_message import body_message
from opencode_tasks.outcomes.failure import Failure, read_failure

NOW = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)
HTTP_DATE = "Fri, 01 May 2026 12:01:30 GMT"


def api_error(status: int | None, message: str = "no", **data: Any) -> dict[str, Any]:
    return {"name": "APIError", "data": {"message": message, "statusCode": status, **data}}


def named(name: str, message: str = "no") -> dict[str, Any]:
    return {"name": name, "data": {"message": message}}


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def upstream(status: str, headers: Any = None, body: str = "", reason: str = "") -> dict[str, Any]:
    """A failure as the plugin hands it on: a neutral 400 that carries the provider's own answer."""
    return api_error(
        400,
        "opencode-tasks: see the x-upstream headers",
        responseHeaders={
            "x-upstream-status": status,
            "X-Upstream-Headers": encoded(json.dumps(headers or {})),
            "x-upstream-body": encoded(body),
            "x-upstream-reason": encoded(reason),
        },
    )


def classified(error: dict[str, Any], **known: Any) -> OpenCodeError:
    return classify(read_failure(error), Context(node_id="n", now=NOW, **known))


QUOTA_BODY = json.dumps({"error": {"code": "insufficient_quota", "message": "You exceeded your quota"}})

RULES: list[tuple[str, dict[str, Any], type[OpenCodeError]]] = [
    ("a login is missing", named("ProviderAuthError"), AuthenticationError),
    ("401", api_error(401), AuthenticationError),
    ("403", api_error(403), AuthenticationError),
    ("402", api_error(402), BillingError),
    ("insufficient_quota on a 429", api_error(429, responseBody=QUOTA_BODY), BillingError),
    ("insufficient_quota on a 400", api_error(400, responseBody=QUOTA_BODY), BillingError),
    ("429", api_error(429), RateLimitError),
    ("the context is full", named("ContextOverflowError"), MaxOutputTokensError),
    ("the message is too long", named("MessageOutputLengthError"), MaxOutputTokensError),
    ("filtered", named("ContentFilterError"), ContentFilteredError),
    ("500", api_error(500), ServerError),
    ("503", api_error(503), ServerError),
    ("529 overloaded", api_error(529, "Overloaded"), ServerError),
    ("408", api_error(408), ServerError),
    ("409", api_error(409), ServerError),
    ("a status before retryable", api_error(400, isRetryable=True), InvalidRequestError),
    ("retryable without a status", api_error(None, isRetryable=True), ServerError),
    ("no connection, by the plugin", upstream("0", reason="ECONNREFUSED"), ServerError),
    ("refused", named("UnknownError", "connect ECONNREFUSED 127.0.0.1:1"), ServerError),
    ("reset", named("UnknownError", "read ECONNRESET"), ServerError),
    ("cut", named("UnknownError", "The socket connection was closed unexpectedly"), ServerError),
    ("credit", api_error(400, "Your credit balance is too low"), BillingError),
    ("credits", api_error(400, "Out of credits."), BillingError),
    ("payment", api_error(400, "Payment is required"), BillingError),
    ("subscription", api_error(400, "Your subscription has expired"), BillingError),
    ("billing in an address", api_error(400, "see example.org/billing"), InvalidRequestError),
    ("a refresh", named("UnknownError", "Token refresh failed: 400"), AuthenticationError),
    ("a refresh at xAI", named("UnknownError", "xAI token refresh failed (400): {}"), AuthenticationError),
    ("a refresh later", named("UnknownError", "Token refresh failed: 503"), ServerError),
    ("a refresh at xAI later", named("UnknownError", "xAI token refresh failed (429): {}"), ServerError),
    ("no key", named("UnknownError", "Snowflake Cortex: missing credentials (X)."), AuthenticationError),
    ("no host", named("UnknownError", "Was there a typo in the url or port?"), ServerError),
    ("400", api_error(400), InvalidRequestError),
    ("404", api_error(404), InvalidRequestError),
    ("422", api_error(422), InvalidRequestError),
    ("no status", api_error(None), InvalidRequestError),
    ("the model is unknown", named("UnknownError", "Model not found: fake/nope."), InvalidRequestError),
    ("the model is unknown by name", named("ProviderModelNotFoundError"), InvalidRequestError),
    ("the agent is unknown", named("UnknownError", "Agent not found: x"), InvalidRequestError),
    ("the config is refused", named("ConfigInvalidError"), InvalidRequestError),
    ("the config is no JSON", named("ConfigJsonError"), InvalidRequestError),
    ("an abort", named("MessageAbortedError"), UnknownOpenCodeError),
    ("anything else", named("UnknownError", "what?"), UnknownOpenCodeError),
    ("nothing at all", {}, UnknownOpenCodeError),
    ("quota alone", api_error(400, "Quota of this plan: 5"), InvalidRequestError),
    ("credentials are no credit", api_error(400, "bad credentials"), InvalidRequestError),
    ("billing, not the provider's word", named("UnknownError", "billing failed"), UnknownOpenCodeError),
    # First match wins.
    ("billing words before 401", api_error(401, "insufficient credits"), BillingError),
    ("insufficient_quota before 403", api_error(403, responseBody=QUOTA_BODY), BillingError),
    ("402 before retryable", api_error(402, isRetryable=True), BillingError),
    ("429 before retryable", api_error(429, isRetryable=True), RateLimitError),
    ("429 before billing words", api_error(429, "add credits"), RateLimitError),
    ("500 before billing words", api_error(500, "billing service down"), ServerError),
    (
        "the context before words of a connection",
        named("ContextOverflowError", "timed out"),
        MaxOutputTokensError,
    ),
    ("words of a connection in a 400", api_error(400, "connection refused by policy"), InvalidRequestError),
]


@pytest.mark.parametrize(
    ("data", "is_overload"),
    [
        (api_error(529), True),
        (api_error(503, "The model is overloaded. Please try again later."), True),
        (upstream("503", body='{"error": {"message": "Overloaded"}}'), True),
        (api_error(503), False),
        (api_error(500, "overloaded operator"), False),
    ],
)
def test_a_provider_that_has_too_much_to_do_says_so(data: Any, *, is_overload: bool) -> None:
    error = classified(data)
    assert isinstance(error, ServerError)
    assert error.is_overload is is_overload
    assert pickle.loads(pickle.dumps(error)).is_overload is is_overload


@pytest.mark.parametrize(("error", "expected"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES])
def test_rules(error: dict[str, Any], expected: type[OpenCodeError]) -> None:
    assert type(classified(error)) is expected


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"retry-after": "7"}, "", 7),
        ({"Retry-After": "7"}, "", 7),
        ({"RETRY-AFTER": "0.5"}, "", 0.5),
        ({"retry-after": HTTP_DATE}, "", 90),
        ({"retry-after-ms": "9500", "retry-after": "9"}, "", 9.5),
        ({"Retry-After-Ms": "1500"}, "", 1.5),
        ({}, '{"error": {"details": [{"@type": "x/google.rpc.RetryInfo", "retryDelay": "12s"}]}}', 12),
        ({"retry-after": "soon"}, "", 60),
        ({}, "", 60),
    ],
)
@pytest.mark.parametrize("by_plugin", [False, True])
def test_when_a_rate_limit_resets(
    headers: dict[str, str], body: str, seconds: float, by_plugin: bool
) -> None:
    plain = api_error(429, responseHeaders=headers, responseBody=body)
    error = classified(upstream("429", headers, body) if by_plugin else plain)
    assert isinstance(error, RateLimitError)
    assert error.reset_time == NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(("headers", "seconds"), [({"retry-after": "2"}, 2.0), ({}, None)])
def test_what_a_server_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    error = classified(api_error(503, responseHeaders=headers))
    assert isinstance(error, ServerError)
    assert error.retry_after == seconds


@pytest.mark.parametrize(
    ("at", "seconds"),
    [
        (NOW - timedelta(seconds=1.5), 28.5),
        (NOW + timedelta(hours=1), 30),
        (None, 30),
    ],
)
def test_a_limit_is_counted_from_the_providers_answer(at: datetime | None, seconds: float) -> None:
    """And never from a moment that is still to come, which a clock set back would make of it."""
    error = upstream("429", {"Retry-After": "30"})
    error["data"]["responseHeaders"]["x-upstream-at"] = str(int(at.timestamp() * 1000)) if at else "soon"
    limited = classified(error)
    assert isinstance(limited, RateLimitError)
    assert limited.reset_time == NOW + timedelta(seconds=seconds)


def test_the_providers_own_answer_counts_instead_of_opencodes() -> None:
    body = '{"error": {"message": "Slow down"}}'
    failure = read_failure(upstream("503", {"Retry-After": "2"}, body))
    assert (failure.status, failure.message, failure.body) == (503, "Slow down", body)
    assert failure.headers == {"retry-after": "2"}
    assert not failure.is_retryable
    assert classified(upstream("503", body=body)).raw_message == "HTTP 503: Slow down"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"error": {"message": "a"}}', "a"),
        ('{"error": "b"}', "b"),
        ('{"message": "c"}', "c"),
        ('[{"error": {"message": "d"}}]', "d"),
        ("[]", ""),
        ("not JSON", ""),
        ("null", ""),
        ('{"error": {"message": 5}}', ""),
        ("[" * 100_000, ""),
    ],
)
def test_the_message_in_a_providers_body(body: str, message: str) -> None:
    assert read_failure(upstream("400", body=body)).message == message


def test_a_reason_stands_where_there_was_no_answer() -> None:
    failure = read_failure(upstream("0", reason="unable to connect"))
    assert (failure.status, failure.reason, failure.message) == (0, "unable to connect", "unable to connect")


@pytest.mark.parametrize("broken", ["%%%", "a", "/w==", "é"])
def test_broken_base64_loses_the_words_and_keeps_the_status(broken: str) -> None:
    headers = {f"x-upstream-{name}": broken for name in ("headers", "body", "reason")}
    error = classified(api_error(400, responseHeaders={"x-upstream-status": "429", **headers}))
    assert isinstance(error, RateLimitError)
    assert error.reset_time == NOW + timedelta(seconds=60)


@pytest.mark.parametrize("status", ["", "many", "4x9", "-1", "9" * 5000, None, [], {}])
def test_without_a_readable_upstream_status_opencodes_own_counts(status: Any) -> None:
    failure = read_failure(api_error(404, "own words", responseHeaders={"x-upstream-status": status}))
    assert (failure.status, failure.message) == (404, "own words")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (None, None),
        ("text", None),
        ([1], None),
        (5, None),
        ({"statusCode": True}, None),
        ({"statusCode": "429"}, 429),
        ({"statusCode": 429.5}, None),
        ({"statusCode": 500, "responseHeaders": ["retry-after"]}, 500),
        ({"statusCode": 500, "responseHeaders": "retry-after: 5"}, 500),
        ({"statusCode": 500, "responseHeaders": {"retry-after": None}}, 500),
        ({"statusCode": 500, "responseBody": {"error": 1}}, 500),
        ({"statusCode": 500, "message": {"a": 1}}, 500),
    ],
)
def test_odd_shapes_are_read_past(data: Any, status: int | None) -> None:
    assert read_failure({"name": "APIError", "data": data}).status == status


def test_an_error_tells_who_said_what() -> None:
    error = classified(named("Odd", ""), exit_code=3, stderr="trace")
    assert isinstance(error, UnknownOpenCodeError)
    assert (error.node_id, error.exit_code, error.stderr, error.raw_message) == (
        "n",
        3,
        "trace",
        "opencode reported Odd without a message",
    )
    assert classified(api_error(418, "")).raw_message == "HTTP 418: I'm a Teapot"
    assert (
        classified(api_error(599, "")).raw_message == "HTTP 599: opencode reported APIError without a message"
    )
    assert classified(api_error(400, "", responseBody=" plain \n")).raw_message == "HTTP 400: plain"


@pytest.mark.parametrize("name", ["ContextOverflowError", "MessageOutputLengthError", "ContentFilterError"])
def test_the_partial_text_is_kept(name: str) -> None:
    error = classified(named(name), partial_text="half")
    assert isinstance(error, (MaxOutputTokensError, ContentFilteredError))
    assert error.partial_text == "half"


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("length", MaxOutputTokensError),
        ("content-filter", ContentFilteredError),
        ("error", ServerError),
        ("unknown", ServerError),
        ("other", ServerError),
        ("stop", type(None)),
        ("tool-calls", type(None)),
        ("a reason of next year", type(None)),
        (None, type(None)),
    ],
)
def test_finish_reasons(reason: str | None, expected: type) -> None:
    error = classify_finish(reason, node_id="n", partial_text="half")
    assert type(error) is expected
    if error is not None:
        assert error.partial_text == ("half" if error.reaction.keeps_partial_text else "")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
header_names = st.sampled_from(
    [
        "x-upstream-status",
        "X-Upstream-Body",
        "x-upstream-headers",
        "x-upstream-reason",
        "x-upstream-at",
        "retry-after",
    ]
)
texts = st.text() | st.text().map(encoded) | st.integers(-1, 999).map(str)
datas = st.fixed_dictionaries(
    {},
    optional={
        "message": json_values,
        "statusCode": json_values | st.integers(0, 600),
        "isRetryable": json_values,
        "responseHeaders": json_values | st.dictionaries(header_names, json_values | texts),
        "responseBody": json_values,
    },
)
names = st.sampled_from(sorted({str(rule[1].get("name")) for rule in RULES}))
errors = st.fixed_dictionaries(
    {}, optional={"name": json_values | names, "message": json_values, "data": json_values | datas}
)


@given(errors)
def test_any_json_is_an_error_of_ours(error: dict[str, Any]) -> None:
    found = classified(error)
    assert isinstance(found, OpenCodeError)
    assert isinstance(found.raw_message, str)
    assert str(found)


@given(st.builds(Failure, name=names, message=st.text(), status=st.none() | st.integers(), body=st.text()))
def test_any_failure_is_an_error_of_ours(failure: Failure) -> None:
    assert isinstance(classify(failure, Context(node_id="n", now=NOW)), OpenCodeError)


def by_table(answer: FailedAnswer, **changes: Any) -> OpenCodeError:
    failure = Failure(
        name="APIError",
        message="",
        status=answer.status or 200,
        headers={name.lower(): value for name, value in answer.headers.items()},
        body=answer.text,
        is_exact=True,
        in_stream=answer.status is None,
        at=datetime.now(UTC),
    )
    return classify(replace(failure, **changes), Context(node_id="n", now=datetime.now(UTC)))


@pytest.mark.parametrize("number", range(len(failed_answers())), ids=[one.name for one in failed_answers()])
def test_what_providers_answer(number: int) -> None:
    # Made here, since some state a time that counts from now.
    answer = failed_answers()[number]
    error = by_table(answer)
    assert type(error) is answer.kind
    assert (error.max_attempts == 1) is answer.is_final
    assert error.concerns_all_rows is answer.concerns_all_rows
    if isinstance(error, RateLimitError) and answer.wait_s is not None:
        wait_s = (error.reset_time - datetime.now(UTC)).total_seconds()
        assert wait_s == pytest.approx(answer.wait_s, abs=60)


def reversed_json(value: Any) -> Any:
    """The same JSON with its keys in another order."""
    if isinstance(value, dict):
        return {key: reversed_json(inner) for key, inner in reversed(value.items())}
    return [reversed_json(inner) for inner in value] if isinstance(value, list) else value


JSON_ANSWERS = [answer for answer in failed_answers() if not isinstance(answer.body, str)]


@pytest.mark.parametrize("answer", JSON_ANSWERS, ids=lambda answer: answer.name)
def test_the_order_of_keys_and_further_fields_change_no_class(answer: FailedAnswer) -> None:
    body = json.loads(answer.text)
    assert type(by_table(answer, body=json.dumps(reversed_json(body)))) is answer.kind
    if isinstance(body, dict):
        more = {**body, "request_id": "req_500429", "input": "insufficient balance", "docs": ["rate limit"]}
        assert type(by_table(answer, body=json.dumps(more))) is answer.kind
        assert type(by_table(answer, body=json.dumps([body]))) is answer.kind


@pytest.mark.parametrize(
    ("status", "headers", "body", "words"),
    [
        (407, {}, page("Proxy"), 'HTTP 407: HTML page "Proxy" instead of an answer'),
        (407, {}, "", "Proxy Authentication Required (the proxy or network, not the provider,"),
        (405, {}, page("405 Not Allowed"), "(check the base URL of the provider)"),
        (405, {}, '{"detail": "Method Not Allowed"}', "HTTP 405: Method Not Allowed (check the base URL"),
        (302, {}, "", "HTTP 302: Found (check the base URL"),
        (403, {}, page("Just a moment..."), "(a proxy or a firewall such as Cloudflare or Zscaler answered"),
        (403, {}, page("403 Forbidden"), "not the provider; the API key may be right)"),
        (503, {"CF-Mitigated": "challenge"}, "", "a firewall such as Cloudflare"),
    ],
)
def test_a_message_names_what_is_between_client_and_provider(
    status: int, headers: dict[str, str], body: str, words: str
) -> None:
    assert words in classified(upstream(str(status), headers, body)).raw_message


def test_the_providers_own_refusal_of_a_key_has_no_note() -> None:
    refused = classified(upstream("403", body='{"error": {"message": "No access to this model"}}'))
    assert refused.raw_message == "HTTP 403: No access to this model"


@pytest.mark.parametrize(("status", "kind"), [(429, RateLimitError), (503, ServerError)])
def test_a_wait_of_the_prompt_is_not_the_providers(status: int, kind: type[OpenCodeError]) -> None:
    body = json.dumps({"error": {"message": 'Too busy for "try again in 5 hours"'}})
    error = classified(upstream(str(status), {"retry-after": "5"}, body), prompt="Say: try again in 5 hours")
    assert type(error) is kind
    wait_s = (
        (error.reset_time - NOW).total_seconds() if isinstance(error, RateLimitError) else error.retry_after
    )
    assert wait_s == 5


LANGUAGES = ("配额不足", "Zu viele Anfragen", "リクエストが多すぎます", "")


@pytest.mark.parametrize("message", LANGUAGES)
@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, AuthenticationError), (402, BillingError), (429, RateLimitError), (500, ServerError)],
)
def test_a_message_in_any_language_leaves_the_status_to_decide(
    status: int, kind: type[OpenCodeError], message: str
) -> None:
    assert (
        type(classified(api_error(status, responseBody=json.dumps({"error": {"message": message}})))) is kind
    )


@given(st.sampled_from([answer for answer in failed_answers() if answer.status != 400]), st.text(max_size=40))
def test_no_class_comes_from_a_quotation_of_the_prompt(answer: FailedAnswer, text: str) -> None:
    """A refused request whose message quotes the prompt, which has the words of another failure."""
    words = body_message(answer.text) or "no credit"
    prompt = f"{text} {words}"
    body = json.dumps({"error": {"message": f"1 validation error: input_value={prompt!r}"}})
    failure = Failure(name="APIError", message="", status=400, body=body, is_exact=True)
    assert type(classify(failure, Context(node_id="n", now=NOW, prompt=prompt))) is InvalidRequestError


@pytest.mark.parametrize("seconds", [4e9, 1e17])
def test_a_wait_of_years_is_a_day_and_is_explained(seconds: float) -> None:
    error = classified(upstream("429", {"Retry-After": f"{seconds:.0f}"}))
    assert isinstance(error, RateLimitError)
    assert error.reset_time == NOW + timedelta(days=1)
    assert "one day is used" in error.raw_message

"""The message of a failed row: sentences stay as they are, raw material never reaches the row."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_tasks.outcomes.error_message import MESSAGE_LIMIT, body_message, error_message

NGINX = (
    "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1>"
    "</center>\r\n<hr><center>nginx/1.25.3</center>\r\n</body>\r\n</html>\r\n"
)
CLOUDFLARE = """<!DOCTYPE html>
<!--[if lt IE 7]> <html class="no-js ie6 oldie" lang="en-US"> <![endif]-->
<!--[if gt IE 8]><!--> <html class="no-js" lang="en-US"> <!--<![endif]-->
<head>
<title>api.example.com | 522: Connection timed out</title>
<meta charset="UTF-8" />
<style>body{margin:0;padding:0}</style>
</head>
<body><div id="cf-wrapper"><h1 class="inline-block">Connection timed out</h1>
<span>Error code 522</span> <p>The initial connection between Cloudflare's network and the origin web server
timed out.</p></div></body>
</html>
"""
BLOCKED = CLOUDFLARE.replace(
    "api.example.com | 522: Connection timed out", "Attention Required! | Cloudflare"
)
NO_TITLE = (
    "<!doctype html><html><head><style>h2 {color: red}</style></head>"
    "<body><h2>Gateway is down</h2></body></html>"
)
ZOD = '.\nError message: [\n  {\n    "code": "invalid_union",\n    "message": "Invalid input"\n  }\n]'


def page(title: str, size: str) -> str:
    return f'HTML page "{title}" instead of an answer ({size} characters)'


def quoted(value: Any) -> str:
    return json.dumps(value, indent=2)


OPENAI_401 = (
    "Incorrect API key provided: sk-…A500. You can find your API key at https://platform.example.com."
)
TOO_LARGE = (
    "Request too large for gpt-x in organization org-x on tokens per min (TPM): Limit 30000, Requested "
    "45007. The input or output tokens must be reduced in order to run successfully."
)
MOONSHOT = (
    "Your account org-x <ak-x> is suspended due to insufficient balance, please recharge your account or "
    "check your plan and billing details"
)
ANTHROPIC = (
    "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade."
)
GEMINI = "API key not valid. Please pass a valid API key."
CONTEXT = "max_tokens: 85000 > 64000, which is the maximum allowed number of output tokens for claude-x"

# A provider's body, and the sentence in it, which the row must show exactly.
BODIES: list[tuple[str, Any, str]] = [
    ("OpenAI", {"error": {"message": OPENAI_401, "type": "invalid_request_error", "code": "x"}}, OPENAI_401),
    ("OpenAI, a limit", {"error": {"message": TOO_LARGE, "type": "tokens", "param": None}}, TOO_LARGE),
    (
        "Anthropic",
        {"type": "error", "error": {"type": "invalid_request_error", "message": ANTHROPIC}},
        ANTHROPIC,
    ),
    ("Anthropic, numbers", {"type": "error", "error": {"message": CONTEXT}}, CONTEXT),
    ("Gemini", [{"error": {"code": 400, "message": GEMINI, "status": "INVALID_ARGUMENT"}}], GEMINI),
    (
        "xAI",
        {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: ab***yz."},
        "Incorrect API key provided: ab***yz.",
    ),
    (
        "z.ai",
        {"error": {"code": "1113", "message": "Insufficient balance or no resource package."}},
        "Insufficient balance or no resource package.",
    ),
    ("Moonshot", {"error": {"message": MOONSHOT, "type": "exceeded_current_quota_error"}}, MOONSHOT),
    (
        "LiteLLM",
        {"error": {"message": "Budget has been exceeded! Current cost: 1.03, Max budget: 1.0"}},
        "Budget has been exceeded! Current cost: 1.03, Max budget: 1.0",
    ),
    (
        "llama.cpp",
        {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}},
        "Loading model",
    ),
    (
        "Bedrock",
        {"message": "Too many tokens, please wait before trying again."},
        "Too many tokens, please wait before trying again.",
    ),
    (
        "AWS",
        {"Message": "User is not authorized to perform: bedrock:InvokeModel"},
        "User is not authorized to perform: bedrock:InvokeModel",
    ),
    ("FastAPI", {"detail": "Not Found"}, "Not Found"),
    (
        "FastAPI, a list",
        {"detail": [{"loc": ["body", "x"], "msg": "field required"}]},
        "body.x: field required",
    ),
    ("GraphQL", {"errors": [{"message": "one"}, {"message": "two"}]}, "one; two"),
    (
        "problem details",
        {"title": "Forbidden", "status": 403, "detail": "The key has expired."},
        "The key has expired.",
    ),
    ("beside an error code", {"error": {"code": 400}, "message": "no such thing"}, "no such thing"),
]

SPENT = "Insufficient credits, please top up"
# Shapes that frameworks and gateways put the sentence in.
SHAPES: list[Any] = [
    {"detail": {"error": SPENT}},
    {"detail": {"message": SPENT}},
    {"detail": {"error": {"msg": SPENT, "code": "x"}}},
    {"fault": {"faultstring": SPENT, "detail": {"errorcode": "policies.x"}}},
    {"errors": [SPENT]},
    {"errors": {"account": [SPENT]}},
    {"error": {"error": {"message": SPENT}}},
    {"error": {"message": {"text": SPENT}}},
    {"error": [SPENT]},
    {"message": [SPENT]},
    {"err": {"message": SPENT}},
    {"header": {"code": 403, "message": SPENT}},
    {"errorMessage": SPENT},
    {"errmsg": SPENT, "result": None},
    {"resp_msg": SPENT},
    {"data": {"message": SPENT}},
    {"response": {"message": SPENT}},
    {"result": {"error": {"message": SPENT}}},
    {"details": SPENT},
    {"description": SPENT},
    {"status": {"code": 403, "description": SPENT}},
    {"error": {"code": 403, "details": SPENT}},
    {"error": {"code": 403, "details": [{"reason": SPENT}]}},
    {"error": {"reason": SPENT}},
    {"error": {"message": "", "reason": "NO_CREDIT", "error_description": SPENT}},
    {"error": {"message": "", "metadata": {"raw": SPENT}}},
    # A word and the phrase of a status say less than a sentence.
    {"error": "forbidden", "error_description": SPENT},
    {"statusCode": 402, "error": "Payment Required", "message": SPENT},
    {"error": {"code": "FORBIDDEN", "message": "Forbidden", "details": {"reason": SPENT}}},
    {"message": "failed", "exception": {"message": SPENT}},
    # What the client sent is no message.
    {"error": {"reason": SPENT}, "input": {"message": f"{SPENT} and some more words"}},
    {"detail": {"reason": SPENT, "body": {"error": "a longer text, which is the client's own request"}}},
    {"fault": {"faultstring": SPENT}, "request": {"messages": [{"message": "a text that is longer" * 3}]}},
    {"errors": [SPENT], "user_prompt": {"reason": "a longer text, which is the client's own request"}},
]


@pytest.mark.parametrize(
    ("body", "sentence"), [case[1:] for case in BODIES], ids=[case[0] for case in BODIES]
)
def test_the_sentence_in_a_body_stays_as_it_is(body: Any, sentence: str) -> None:
    assert body_message(json.dumps(body)) == sentence
    assert error_message(json.dumps(body)) == sentence
    assert error_message(quoted(body), is_internal=True) == sentence
    assert error_message(sentence) == sentence


@pytest.mark.parametrize("body", SHAPES, ids=json.dumps)
def test_the_sentence_is_found_in_any_shape(body: Any) -> None:
    assert body_message(json.dumps(body)) == SPENT
    assert body_message(json.dumps([body])) == SPENT


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": "forbidden"}, "forbidden"),
        ({"reason": "NOT_ENOUGH_BALANCE"}, "NOT_ENOUGH_BALANCE"),
        ({"message": "余额不足", "detail": {"reason": "see the page on errors"}}, "余额不足"),
        ({"error_code": 5, "error_id": "an id with words", "docs": ["some more text"]}, ""),
        ({"messages": ["what the client sent"], "input": {"error": "what the client sent"}}, ""),
        ({"error": {"input": "what the client sent", "failed_generation": "what the model said"}}, ""),
    ],
)
def test_a_word_is_a_message_if_there_is_no_sentence(body: Any, message: str) -> None:
    assert body_message(json.dumps(body)) == message


MESSAGES: list[tuple[str, str, str]] = [
    ("nginx", NGINX, page("502 Bad Gateway", "155")),
    (
        "Cloudflare",
        CLOUDFLARE,
        page("api.example.com | 522: Connection timed out", f"{len(CLOUDFLARE) - 1}"),
    ),
    (
        "Cloudflare, blocked",
        BLOCKED,
        page("Attention Required! | Cloudflare", f"{len(BLOCKED) - 1}"),
    ),
    (
        "a page without a title",
        NO_TITLE,
        page("Gateway is down", f"{len(NO_TITLE)}"),
    ),
    (
        "a page that is cut short",
        CLOUDFLARE[:300],
        page("api.example.com | 522: Connection timed out", "300 or more"),
    ),
    (
        "a page after a status phrase",
        f"Forbidden: {NGINX}",
        "Forbidden: " + page("502 Bad Gateway", "155"),
    ),
    (
        "XML",
        '<?xml version="1.0"?><Error><Code>X</Code><Message>Access &amp; more</Message></Error>',
        "Access & more",
    ),
    ("XML without a message", "<Error><Code>X</Code></Error>", "XML document (29 characters)"),
    ("JSON without a message", '{"foo": {"bar": 1}, "b": 2}', "JSON without a message (fields: foo, b)"),
    ("an empty object", "{}", "JSON without a message"),
    ("JSON cut after the message", '{"error":{"message":"it is \\"cut\\"","meta":{"raw":"xx', 'it is "cut"'),
    ("JSON cut before a message", '{"error":{"code":"xx', "broken JSON (20 characters)"),
    ("very deep JSON", "[" * 9_000, "broken JSON (9,000 characters)"),
    (
        "an event of a stream",
        'data: {"error":{"message":"Insufficient credits"}}\n\n',
        "Insufficient credits",
    ),
    (
        "JSON inside a sentence",
        'litellm.RateLimitError: X - {"type":"error","error":{"message":"Overloaded"}}. Group=x',
        "litellm.RateLimitError: X - Overloaded. Group=x",
    ),
    (
        "JSON inside JSON",
        quoted({"error": {"message": quoted({"error": {"message": "The model is overloaded."}})}}),
        "The model is overloaded.",
    ),
    (
        "a page inside JSON",
        quoted({"error": {"message": f"upstream said {NGINX}"}}),
        "upstream said " + page("502 Bad Gateway", "155"),
    ),
    (
        "a long object inside a sentence",
        f"Invalid tool: {json.dumps({'name': 'x' * 80})} is refused",
        "Invalid tool: JSON without a message (fields: name) is refused",
    ),
    (
        "a small schema inside a sentence",
        'Invalid schema: {"type": "array"} needs \'items\'.',
        'Invalid schema: {"type": "array"} needs \'items\'.',
    ),
    ("several lines", "first line\r\n   second line\n\n", "first line second line"),
    ("colours", "\x1b[31mred\x1b[0m and\x00 plain", "red and plain"),
    ("braces of a template", "{column} is missing", "{column} is missing"),
    ("nothing", " \n ", ""),
    (
        "an answer of an unknown form",
        'Type validation failed: Value: {"choices":"none","foo":{"bar":[1,2]}}' + ZOD,
        "the provider's answer cannot be read: JSON of an unknown form",
    ),
    ("an error in an unknown form", 'Type validation failed: Value: {"error":"it broke"}' + ZOD, "it broke"),
    (
        "an answer that is no JSON",
        'AI_JSONParseError: JSON parsing failed: Text: {"id": .\nError message: Unexpected EOF',
        "the provider's answer cannot be read: broken JSON (7 characters)",
    ),
    (
        "an answer that is a page",
        f"JSON parsing failed: Text: {NGINX}.\nError message: JSON Parse error: Unrecognized token '<'",
        "the provider's answer cannot be read: " + page("502 Bad Gateway", f"{len(NGINX)}"),
    ),
]


@pytest.mark.parametrize(
    ("text", "expected"), [case[1:] for case in MESSAGES], ids=[case[0] for case in MESSAGES]
)
def test_raw_text_becomes_a_sentence(text: str, expected: str) -> None:
    assert error_message(text) == expected
    assert error_message(text, is_internal=True) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "TypeError [ERR_INVALID_STATE]: Invalid state: Controller is already closed",
            "the connection to the provider broke",
        ),
        ("TypeError: terminated", "the connection to the provider broke"),
        ("read ECONNRESET", "the connection to the provider broke"),
        (
            "Error: The socket connection was closed unexpectedly. For more information, pass `verbose`",
            "the connection to the provider broke",
        ),
        (
            "Error: Unable to connect. Is the computer able to access the url?",
            "cannot connect to the provider",
        ),
        ("connect ECONNREFUSED 127.0.0.1:1", "cannot connect to the provider"),
        ("TimeoutError: The operation timed out.", "the provider did not answer in time"),
        ("getaddrinfo ENOTFOUND api.example.com", "the provider's host name cannot be resolved"),
        (
            "TypeError: undefined is not an object (evaluating 'a.b')",
            "internal error of opencode: undefined is not an object (evaluating 'a.b')",
        ),
        ("AI_NoOutputGeneratedError: No output generated.", "No output generated."),
        ("Error: Session not found", "Session not found"),
        ("Model not found: fake/nope.", "Model not found: fake/nope."),
        (
            "Provider response headers timed out after 300000ms",
            "Provider response headers timed out after 300000ms",
        ),
    ],
)
def test_exceptions_of_the_runtime_become_sentences(text: str, expected: str) -> None:
    assert error_message(text, is_internal=True) == expected


def test_a_providers_own_words_about_an_exception_stay() -> None:
    text = "BadRequestError: connection pool timed out, ECONNRESET"
    assert error_message(text) == text


def test_a_long_message_is_cut_at_a_word() -> None:
    message = error_message("a sentence with words " * 100)
    assert len(message) <= MESSAGE_LIMIT
    assert message.endswith(("sentence…", "with…", "words…", " a…"))
    assert len(error_message("x" * 5000)) == MESSAGE_LIMIT


fragments = st.lists(
    st.text(max_size=20)
    | st.sampled_from(
        [NGINX, ZOD, "{", "[", '{"error": ', "}", "\n", "Value: ", "TypeError [X]: ", "<title>"]
    ),
    max_size=8,
).map("".join)


@given(fragments, st.booleans())
def test_any_text_becomes_one_short_line(text: str, is_internal: bool) -> None:
    message = error_message(text, is_internal=is_internal)
    assert len(message) <= MESSAGE_LIMIT
    assert message.splitlines() in ([], [message])
    assert "<title>502" not in message
